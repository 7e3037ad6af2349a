// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @notice Everything that differs between chains. Times in seconds, amounts in wei of TRL.
struct Params {
    uint256 minStake;
    uint64 unbondingSeconds;
    uint64 evidenceAgeSeconds;
    uint64 jailSeconds;
    uint16 slashBps;
    uint16 reporterBps;
    uint32 seats;
    uint64 epochBlocks;
    uint256 epochReward;
    uint64 epochsPerHalving;
    address treasury;
    bytes32 keyDomain;
}

/// @notice A validator's public keys. `scheme` says what `vote` is: 0 Ed25519 (32 bytes), 1 ML-DSA-44 (1,312 bytes).
/// `bls` (96 bytes, G2 compressed) and `mldsa44` (1,312 bytes) sign checkpoints.
struct Keys {
    uint8 scheme;
    bytes vote;
    bytes bls;
    bytes mldsa44;
}

/// @notice Signatures of the three keys over `proofDigest`.
struct Proofs {
    bytes vote;
    bytes bls;
    bytes mldsa44;
}

/// @notice A validator of the genesis file.
struct Registration {
    address validator;
    Keys keys;
    uint256 stake;
    uint16 commissionBps;
}

/// @notice A validator that may be chosen. `stake` is own and delegated stake.
struct Candidate {
    address validator;
    uint8 scheme;
    bytes vote;
    bytes bls;
    bytes mldsa44;
    uint256 stake;
}

/// @notice What the chain says at the end of an epoch. `members`, `signed` (blocks of the epoch a member signed) and
/// `powers` are about the committee of the epoch that ends, the rest about the next one.
struct EpochReport {
    uint64 epoch;
    uint32 blocks;
    address[] members;
    uint32[] signed;
    uint64[] powers;
    bytes32 nextCommitteeRoot;
    address[] nextMembers;
}

/// @notice Stake on its way out, as it would be paid now.
struct UnbondingEntry {
    uint256 amount;
    uint64 releaseAt;
}

/// @notice Everything there is to show about a validator. Amounts in wei; `jailedUntil` 0: not jailed.
struct Info {
    bool registered;
    bool candidate;
    bool tombstoned;
    bool leaving;
    uint64 jailedUntil;
    uint16 commissionBps;
    uint256 own;
    uint256 delegated;
    uint256 unbonding;
    uint256 shares;
    uint256 ownShares;
    bytes32 voteKeyHash;
    Keys keys;
}
