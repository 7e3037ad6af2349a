// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {ValidatorStaking} from "../src/ValidatorStaking.sol";
import {EpochReport, Info, Keys, Params, Proofs, Registration} from "../src/ValidatorTypes.sol";

/// @notice Stands in for a signature precompile: a signature is good if it begins with the hash of key and message.
contract SignatureDouble {
    uint256 private immutable KEY_BYTES;
    uint256 private immutable SIGNATURE_BYTES;

    constructor(uint256 keyBytes, uint256 signatureBytes) {
        KEY_BYTES = keyBytes;
        SIGNATURE_BYTES = signatureBytes;
    }

    fallback(bytes calldata input) external returns (bytes memory) {
        uint256 end = KEY_BYTES + SIGNATURE_BYTES;
        if (input.length < end) return "";
        bytes32 expected = keccak256(abi.encodePacked(input[:KEY_BYTES], input[end:]));
        return abi.encode(bytes32(input[KEY_BYTES:KEY_BYTES + 32]) == expected ? 1 : 0);
    }
}

/// @notice Stands in for `verifyEquivocation`. A vote is (key hash, height, what it is for).
contract EquivocationDouble {
    fallback(bytes calldata input) external returns (bytes memory) {
        (bytes memory a, bytes memory b) = abi.decode(input, (bytes, bytes));
        (bytes32 keyA, uint64 heightA, bytes32 valueA) = abi.decode(a, (bytes32, uint64, bytes32));
        (bytes32 keyB, uint64 heightB, bytes32 valueB) = abi.decode(b, (bytes32, uint64, bytes32));
        require(keyA == keyB && heightA == heightB && valueA != valueB, "no equivocation");
        return abi.encode(keyA, heightA);
    }
}

/// @notice A staking contract with the precompiles' stand-ins, and the chain's part in it.
abstract contract StakingBase is Base {
    address internal constant SYSTEM = 0xffffFFFfFFffffffffffffffFfFFFfffFFFfFFfE;
    address internal constant TREASURY = address(0x7EA5);
    uint256 internal constant MIN_STAKE = 1_000_000 ether;
    uint256 internal constant EPOCH_REWARD = 1_000 ether;
    uint64 internal constant EPOCH_BLOCKS = 60;
    uint64 internal constant UNBONDING = 120;
    uint64 internal constant EVIDENCE_AGE = 60;
    uint64 internal constant JAIL = 30;

    address internal constant ALICE = address(0xA11CE);
    address internal constant BOB = address(0xB0B);
    address internal constant CAROL = address(0xCA401);
    address internal constant DAVE = address(0xDA7E);

    ValidatorStaking internal registry;

    function _deployRegistry() internal {
        vm.warp(START);
        vm.roll(0);
        registry = new ValidatorStaking(_params());
        vm.etch(address(0x747201), address(new SignatureDouble(1_312, 2_420)).code);
        vm.etch(address(0x747203), address(new EquivocationDouble()).code);
        vm.etch(address(0x747204), address(new SignatureDouble(96, 48)).code);
        vm.etch(address(0x747205), address(new SignatureDouble(32, 64)).code);
        vm.roll(1);
    }

    function _params() internal pure returns (Params memory) {
        return Params({
            minStake: MIN_STAKE,
            unbondingSeconds: UNBONDING,
            evidenceAgeSeconds: EVIDENCE_AGE,
            jailSeconds: JAIL,
            slashBps: 1_000,
            reporterBps: 500,
            seats: 100,
            epochBlocks: EPOCH_BLOCKS,
            epochReward: EPOCH_REWARD,
            epochsPerHalving: 10,
            treasury: TREASURY,
            keyDomain: keccak256("trellis/key/1")
        });
    }

    /// @dev `length` bytes that differ by `seed`.
    function _bytes(bytes32 seed, uint256 length) internal pure returns (bytes memory data) {
        data = new bytes(length);
        for (uint256 i = 0; i < length; i += 32) {
            bytes32 word = keccak256(abi.encode(seed, i));
            for (uint256 j = i; j < length && j < i + 32; ++j) {
                data[j] = word[j - i];
            }
        }
    }

    function _keys(bytes32 seed) internal pure returns (Keys memory) {
        return Keys(0, _bytes(seed, 32), _bytes(seed ^ bytes32(uint256(1)), 96), _bytes(seed ^ bytes32(uint256(2)), 1_312));
    }

    function _postQuantumKeys(bytes32 seed) internal pure returns (Keys memory keys) {
        keys = _keys(seed);
        keys.scheme = 1;
        keys.vote = _bytes(seed, 1_312);
    }

    function _hash(Keys memory keys) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(keys.scheme, keys.vote));
    }

    function _proofs(address validator, Keys memory keys) internal view returns (Proofs memory) {
        return Proofs(
            _prove(validator, 0, keys.vote, keys.scheme == 0 ? 64 : 2_420),
            _prove(validator, 1, keys.bls, 48),
            _prove(validator, 2, keys.mldsa44, 2_420)
        );
    }

    function _prove(address validator, uint8 kind, bytes memory key, uint256 length)
        private
        view
        returns (bytes memory signature)
    {
        signature = new bytes(length);
        bytes32 word = keccak256(abi.encodePacked(key, registry.proofDigest(validator, kind, key)));
        assembly ("memory-safe") {
            mstore(add(signature, 32), word)
        }
    }

    function _seed(address validator) internal pure returns (bytes32) {
        return keccak256(abi.encode("keys", validator));
    }

    function _register(address validator, uint256 amount, uint16 commissionBps) internal {
        Keys memory keys = _keys(_seed(validator));
        Proofs memory proofs = _proofs(validator, keys);
        vm.deal(validator, validator.balance + amount);
        vm.prank(validator);
        registry.register{value: amount}(keys, proofs, commissionBps);
    }

    function _rotate(address validator, Keys memory keys) internal {
        Proofs memory proofs = _proofs(validator, keys);
        vm.prank(validator);
        registry.rotateKey(keys, proofs);
    }

    function _delegate(address delegator, address validator, uint256 amount) internal {
        vm.deal(delegator, delegator.balance + amount);
        vm.prank(delegator);
        registry.delegate{value: amount}(validator);
    }

    function _undelegate(address delegator, address validator, uint256 amount) internal {
        vm.prank(delegator);
        registry.undelegate(validator, amount);
    }

    function _withdraw(address delegator, address validator) internal returns (uint256) {
        vm.prank(delegator);
        return registry.withdraw(validator);
    }

    /// @dev Goes to the epoch's last block and makes the chain's call.
    function _endEpoch(address[] memory members, uint32[] memory signed, uint64[] memory powers) internal {
        uint64 epoch = registry.lastEpoch() + 1;
        vm.roll(epoch * EPOCH_BLOCKS);
        vm.prank(SYSTEM);
        registry.endEpoch(
            EpochReport(epoch, uint32(EPOCH_BLOCKS), members, signed, powers, keccak256(abi.encode(epoch + 1)), members)
        );
        vm.roll(epoch * EPOCH_BLOCKS + 1);
    }

    /// @dev An epoch with one member.
    function _endEpoch(address member, uint32 signed) internal {
        address[] memory members = new address[](1);
        uint32[] memory blocks = new uint32[](1);
        uint64[] memory powers = new uint64[](1);
        (members[0], blocks[0], powers[0]) = (member, signed, 1_000_000);
        _endEpoch(members, blocks, powers);
    }

    function _fundReserve(uint256 amount) internal {
        vm.deal(address(this), amount);
        registry.fund{value: amount}();
    }

    function _vote(bytes32 keyHash, uint64 height, bytes32 value) internal pure returns (bytes memory) {
        return abi.encode(keyHash, height, value);
    }

    function _report(bytes32 keyHash, uint64 height) internal {
        bytes memory a = _vote(keyHash, height, "a");
        bytes memory b = _vote(keyHash, height, "b");
        vm.prank(REPORTER);
        registry.reportEquivocation(a, b);
    }

    function _worth(address validator, address delegator) internal view returns (uint256 amount) {
        (, amount) = registry.delegation(validator, delegator);
    }

    function _candidate(address validator) internal view returns (bool) {
        return registry.info(validator).candidate;
    }
}
