// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {LeafProof, NodeProof, PathStep, Receipt} from "../src/Receipts.sol";

/// @notice A receipts tree in memory, written apart from the contract's library; nodes can be changed to make faults.
/// `hashes[k]` and `sums[k]` are level k, leaves first. `stated[k]` are the sums the level above states.
struct Tree {
    bytes32[][] hashes;
    uint128[][] sums;
}

library ReceiptsTree {
    function depthOf(uint256 count) internal pure returns (uint256 depth) {
        uint256 width = 1;
        while (width < count) {
            width *= 2;
            ++depth;
        }
    }

    /// @dev Leaves with their sums, padded; inner nodes over what the leaves say.
    function build(bytes32[] memory leaves, uint128[] memory costs) internal pure returns (Tree memory tree) {
        uint256 depth = depthOf(leaves.length);
        tree.hashes = new bytes32[][](depth + 1);
        tree.sums = new uint128[][](depth + 1);
        tree.hashes[0] = new bytes32[](1 << depth);
        tree.sums[0] = new uint128[](1 << depth);
        for (uint256 i = 0; i < leaves.length; ++i) {
            tree.hashes[0][i] = leaves[i];
            tree.sums[0][i] = costs[i];
        }
        for (uint256 k = 1; k <= depth; ++k) {
            tree.hashes[k] = new bytes32[](1 << (depth - k));
            tree.sums[k] = new uint128[](1 << (depth - k));
            for (uint256 i = 0; i < tree.hashes[k].length; ++i) {
                tree.sums[k][i] = tree.sums[k - 1][2 * i] + tree.sums[k - 1][2 * i + 1];
            }
        }
        rehash(tree);
    }

    /// @dev Hashes the inner nodes again over the sums as they stand, right or wrong.
    function rehash(Tree memory tree) internal pure {
        for (uint256 k = 1; k < tree.hashes.length; ++k) {
            for (uint256 i = 0; i < tree.hashes[k].length; ++i) {
                tree.hashes[k][i] = keccak256(
                    bytes.concat(
                        hex"01",
                        tree.hashes[k - 1][2 * i],
                        bytes16(tree.sums[k - 1][2 * i]),
                        tree.hashes[k - 1][2 * i + 1],
                        bytes16(tree.sums[k - 1][2 * i + 1])
                    )
                );
            }
        }
    }

    function root(Tree memory tree) internal pure returns (bytes32) {
        return tree.hashes[tree.hashes.length - 1][0];
    }

    function sum(Tree memory tree) internal pure returns (uint128) {
        return tree.sums[tree.sums.length - 1][0];
    }

    function path(Tree memory tree, uint256 level, uint256 index) internal pure returns (PathStep[] memory steps) {
        uint256 depth = tree.hashes.length - 1;
        steps = new PathStep[](depth - level);
        for (uint256 k = level; k < depth; ++k) {
            steps[k - level] = PathStep(tree.hashes[k][index ^ 1], tree.sums[k][index ^ 1], tree.sums[k + 1][index / 2]);
            index /= 2;
        }
    }

    function node(Tree memory tree, uint8 level, uint32 index) internal pure returns (NodeProof memory) {
        uint256 l = uint256(index) * 2;
        return NodeProof(
            level,
            index,
            tree.sums[level][index],
            tree.hashes[level - 1][l],
            tree.sums[level - 1][l],
            tree.hashes[level - 1][l + 1],
            tree.sums[level - 1][l + 1],
            path(tree, level, index)
        );
    }
}
