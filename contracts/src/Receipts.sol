// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @notice Receipt v1: what one job was, what came out and what it cost. All fields are static; texts are hashes.
/// The meaning of each field stands in contracts/README.md. The three parts only group the fields for tools that cannot
/// take a struct of 29: the ABI encoding, and so hashStruct, is that of the flat list in RECEIPT_TYPEHASH.
struct Receipt {
    ReceiptKey key;
    ReceiptJob job;
    ReceiptOutcome outcome;
}

struct ReceiptKey {
    uint16 version;
    uint64 chainId;
    address channels;
    address aggregator;
    bytes32 channelId;
    uint64 sequence;
    bytes32 jobId;
}

struct ReceiptJob {
    bytes32 gatewayNode;
    bytes32 providerNode;
    bytes32 modelDigest;
    bytes32 tokenizerDigest;
    bytes32 engineBuild;
    uint16 instructionSet;
    bytes32 requestDigest;
    bytes32 parametersHash;
    bytes32 promptCommitment;
}

struct ReceiptOutcome {
    bytes32 outputDigest;
    bytes32 fingerprintRoot;
    uint64 tokensIn;
    uint64 tokensOut;
    uint8 finishReason;
    uint64 startedAtMs;
    uint32 timeToFirstTokenMs;
    uint32 durationMs;
    uint128 priceIn;
    uint128 priceOut;
    uint128 cost;
    uint128 writtenOff;
    bytes32 errorHash;
}

/// @notice An aggregator's signed promise: this receipt will be in my batch number `batch`. `receipt` is hashStruct(Receipt).
struct IncludeBy {
    bytes32 receipt;
    bytes32 channelId;
    uint64 sequence;
    uint64 batch;
}

/// @notice One level of a path, from the bottom up.
struct PathStep {
    bytes32 sibling;
    uint128 siblingSum;
    uint128 parentSum;
}

/// @notice A leaf with all that its hash covers, and its path to the root. `sum` is what the tree says the leaf's sum is.
struct LeafProof {
    uint32 index;
    uint128 sum;
    Receipt receipt;
    bytes signatures;
    bytes32 pqHash;
    PathStep[] path;
}

/// @notice An inner node `level` steps above the leaves, `index` counted in its level, with its children and the sum its parent states.
struct NodeProof {
    uint8 level;
    uint32 index;
    uint128 sum;
    bytes32 left;
    uint128 leftSum;
    bytes32 right;
    uint128 rightSum;
    PathStep[] path;
}

/// @title Hashes of receipts and of the receipts tree.
library Receipts {
    bytes32 internal constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(uint16 version,uint64 chainId,address channels,address aggregator,bytes32 channelId,uint64 sequence,bytes32 jobId,bytes32 gatewayNode,bytes32 providerNode,bytes32 modelDigest,bytes32 tokenizerDigest,bytes32 engineBuild,uint16 instructionSet,bytes32 requestDigest,bytes32 parametersHash,bytes32 promptCommitment,bytes32 outputDigest,bytes32 fingerprintRoot,uint64 tokensIn,uint64 tokensOut,uint8 finishReason,uint64 startedAtMs,uint32 timeToFirstTokenMs,uint32 durationMs,uint128 priceIn,uint128 priceOut,uint128 cost,uint128 writtenOff,bytes32 errorHash)"
    );
    bytes32 internal constant INCLUDE_BY_TYPEHASH =
        keccak256("IncludeBy(bytes32 receipt,bytes32 channelId,uint64 sequence,uint64 batch)");
    uint8 private constant LEAF_TAG = 0;
    uint8 private constant INNER_TAG = 1;

    /// @dev EIP-712 hashStruct; every field is one word, so the ABI encoding of the struct is its encodeData.
    function hashStruct(Receipt calldata receipt) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_TYPEHASH, receipt));
    }

    function hashStruct(IncludeBy calldata promise_) internal pure returns (bytes32) {
        return keccak256(abi.encode(INCLUDE_BY_TYPEHASH, promise_));
    }

    function leaf(bytes32 receiptHash, bytes32 signaturesHash, bytes32 pqHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(LEAF_TAG, receiptHash, signaturesHash, pqHash));
    }

    function inner(bytes32 left, uint128 leftSum, bytes32 right, uint128 rightSum) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(INNER_TAG, left, leftSum, right, rightSum));
    }

    /// @dev Levels above the leaves: ceil(log2(count)).
    function depthOf(uint32 count) internal pure returns (uint8 depth) {
        while ((uint256(1) << depth) < count) ++depth;
    }

    /// @dev Whether the node (hash, sum) stands at `index` of its level in the tree with this root and sum. The sums on the
    /// way need not add up: a tree that lies about sums has members too.
    function isMember(
        bytes32 root,
        uint128 rootSum,
        bytes32 hash,
        uint128 sum,
        uint32 index,
        PathStep[] calldata path
    ) internal pure returns (bool) {
        if (index >> path.length != 0) return false;
        for (uint256 k = 0; k < path.length; ++k) {
            PathStep calldata step = path[k];
            hash = (index >> k) & 1 == 0
                ? inner(hash, sum, step.sibling, step.siblingSum)
                : inner(step.sibling, step.siblingSum, hash, sum);
            sum = step.parentSum;
        }
        return hash == root && sum == rootSum;
    }

    /// @dev Order of leaves: channel first, then sequence.
    function isBefore(bytes32 channelA, uint64 sequenceA, bytes32 channelB, uint64 sequenceB)
        internal
        pure
        returns (bool)
    {
        return channelA != channelB ? channelA < channelB : sequenceA < sequenceB;
    }
}
