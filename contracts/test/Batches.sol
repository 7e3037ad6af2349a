// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {ReceiptsTree, Tree} from "./ReceiptsTree.sol";
import {Settlement} from "../src/Settlement.sol";
import {SignedVoucher} from "../src/Interfaces.sol";
import {IncludeBy, LeafProof, Receipt} from "../src/Receipts.sol";

/// @notice Makes signed receipts and batches of them.
abstract contract Batches is Base {
    using ReceiptsTree for Tree;

    /// @notice A batch as its aggregator has it.
    struct Made {
        Receipt[] receipts;
        bytes[] signatures;
        Tree tree;
        uint64 id;
    }

    bytes32[2] internal ids;

    function _setUpBatches(uint16 feeBps) internal {
        _deploy(feeBps);
        bytes32 a = _open("a", 1_000 * TRL);
        bytes32 b = _open("b", 1_000 * TRL);
        ids = a < b ? [a, b] : [b, a];
        vm.prank(aggregator);
        settlement.register(100 * TRL);
    }

    function _receipt(bytes32 channelId, uint64 sequence, uint128 cost) internal view returns (Receipt memory r) {
        r.key.version = 1;
        r.key.chainId = uint64(block.chainid);
        r.key.channels = address(channels);
        r.key.aggregator = aggregator;
        r.key.channelId = channelId;
        r.key.sequence = sequence;
        r.key.jobId = keccak256(abi.encode(channelId, sequence));
        r.outcome.tokensIn = 10;
        r.outcome.tokensOut = 20;
        r.outcome.finishReason = 1;
        r.outcome.cost = cost;
    }

    function _signBoth(Receipt memory r) internal view returns (bytes memory) {
        bytes32 digest = settlement.receiptDigest(r);
        return bytes.concat(_sign(SIGNER_KEY, digest), _sign(PAYEE_KEY, digest));
    }

    /// @dev `count` good receipts: the first half in the lower channel, sequences 10, 20, ... from `base`.
    function _good(uint256 count, uint64 base) internal view returns (Made memory made) {
        made.receipts = new Receipt[](count);
        made.signatures = new bytes[](count);
        for (uint256 i = 0; i < count; ++i) {
            bytes32 channelId = i < count / 2 ? ids[0] : ids[1];
            made.receipts[i] = _receipt(channelId, base + uint64(i + 1) * 10, uint128(1_000 + i));
            made.signatures[i] = _signBoth(made.receipts[i]);
        }
        _plant(made);
    }

    function _plant(Made memory made) internal view {
        bytes32[] memory leaves = new bytes32[](made.receipts.length);
        uint128[] memory costs = new uint128[](made.receipts.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            leaves[i] = _leaf(made, i);
            costs[i] = made.receipts[i].outcome.cost;
        }
        made.tree = ReceiptsTree.build(leaves, costs);
    }

    function _leaf(Made memory made, uint256 i) internal view returns (bytes32) {
        return keccak256(
            bytes.concat(
                hex"00", settlement.receiptHash(made.receipts[i]), keccak256(made.signatures[i]), keccak256("")
            )
        );
    }

    function _submit(Made memory made) internal {
        made.id = _submit(made.tree.root(), made.tree.sum(), uint32(made.receipts.length));
    }

    function _submit(bytes32 root, uint128 sum, uint32 count) internal returns (uint64) {
        uint64 number = settlement.aggregator(aggregator).batches + 1;
        Settlement.Totals memory totals = Settlement.Totals(number, pool.currentEpoch(), count, sum);
        SignedVoucher[] memory none = new SignedVoucher[](0);
        vm.prank(aggregator);
        return settlement.settle(root, totals, none);
    }

    function _proof(Made memory made, uint32 i) internal pure returns (LeafProof memory) {
        return LeafProof(
            i, made.tree.sums[0][i], made.receipts[i], made.signatures[i], keccak256(""), made.tree.path(0, i)
        );
    }

    function _promise(bytes32 receipt, bytes32 channelId, uint64 sequence, uint64 number)
        internal
        view
        returns (IncludeBy memory p, bytes memory signature)
    {
        p = IncludeBy(receipt, channelId, sequence, number);
        signature = _sign(AGGREGATOR_KEY, settlement.includeByDigest(p));
    }

    function _assertStatus(uint64 id, Settlement.Status status) internal view {
        assertEq(uint256(settlement.batch(id).status), uint256(status), "status");
    }
}
