// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Batches} from "./Batches.sol";
import {ReceiptsTree, Tree} from "./ReceiptsTree.sol";
import {Settlement} from "../src/Settlement.sol";
import {SignedVoucher} from "../src/Interfaces.sol";
import {IncludeBy, LeafProof, NodeProof, PathStep, Receipt} from "../src/Receipts.sol";

contract SettlementTest is Batches {
    using ReceiptsTree for Tree;

    function setUp() public {
        _setUpBatches(100);
    }

    // ------------------------------------------------------------ aggregators

    function test_an_aggregator_exits_only_after_unbonding_and_with_no_batch_pending() public {
        Made memory made = _good(3, 0);
        _submit(made);
        vm.startPrank(aggregator);
        vm.expectRevert(abi.encodeWithSelector(Settlement.NotExiting.selector, aggregator));
        settlement.withdrawBond();
        settlement.requestExit();
        Settlement.Totals memory totals = Settlement.Totals(2, pool.currentEpoch(), 1, 0);
        SignedVoucher[] memory none = new SignedVoucher[](0);
        vm.expectRevert(abi.encodeWithSelector(Settlement.Exiting.selector, aggregator, START + 120));
        settlement.settle("root", totals, none);
        vm.expectRevert(abi.encodeWithSelector(Settlement.TooEarly.selector, START + 120));
        settlement.withdrawBond();
        vm.warp(START + 120);
        vm.expectRevert(abi.encodeWithSelector(Settlement.BatchesPending.selector, 1));
        settlement.withdrawBond();
        settlement.finalise(made.id);
        uint256 before = wtrl.balanceOf(aggregator);
        settlement.withdrawBond();
        assertEq(wtrl.balanceOf(aggregator) - before, 100 * TRL, "bond");
        vm.stopPrank();
    }

    function test_only_a_bonded_aggregator_settles() public {
        Settlement.Totals memory totals = Settlement.Totals(1, pool.currentEpoch(), 1, 0);
        SignedVoucher[] memory none = new SignedVoucher[](0);
        vm.expectRevert(abi.encodeWithSelector(Settlement.NotBonded.selector, address(this), 0, 100 * TRL));
        settlement.settle("root", totals, none);
        vm.expectRevert(abi.encodeWithSelector(Settlement.NotBonded.selector, address(this), 0, 100 * TRL));
        settlement.settleVouchers(none);
    }

    // ------------------------------------------------------------ settling

    function test_a_batch_pays_its_vouchers_at_once_and_its_root_waits() public {
        Made memory made = _good(5, 0);
        SignedVoucher[] memory vouchers = new SignedVoucher[](3);
        vouchers[0] = _compact(SIGNER_KEY, ids[0], 3 * TRL);
        vouchers[1] = _compact(PAYEE_KEY, ids[1], 3 * TRL);
        vouchers[2] = _compact(SIGNER_KEY, ids[1], 2 * TRL);
        Settlement.Totals memory totals = Settlement.Totals(1, pool.currentEpoch(), 5, made.tree.sum());
        bytes32 root = made.tree.root();
        vm.prank(aggregator);
        uint64 id = settlement.settle(root, totals, vouchers);
        assertEq(wtrl.balanceOf(PAYOUT), 5 * TRL * 99 / 100, "paid at once");
        assertEq(pool.aggregatorShare(pool.currentEpoch(), address(wtrl), aggregator), 5 * TRL / 100 * 40 / 100, "share");
        _assertStatus(id, Settlement.Status.Pending);
        vm.expectRevert(abi.encodeWithSelector(Settlement.TooEarly.selector, START + 10));
        settlement.finalise(id);
        vm.warp(START + 10);
        settlement.finalise(id);
        _assertStatus(id, Settlement.Status.Final);
        vm.expectRevert(abi.encodeWithSelector(Settlement.WrongStatus.selector, id, Settlement.Status.Final));
        settlement.finalise(id);
    }

    // row: MKT-40
    function test_a_batch_is_taken_once() public {
        Made memory made = _good(3, 0);
        _submit(made);
        bytes32 root = made.tree.root();
        uint64 epoch = pool.currentEpoch();
        SignedVoucher[] memory none = new SignedVoucher[](0);
        vm.startPrank(aggregator);
        vm.expectRevert(abi.encodeWithSelector(Settlement.WrongNumber.selector, 2, 1));
        settlement.settle(root, Settlement.Totals(1, epoch, 3, 3_003), none);
        vm.expectRevert(abi.encodeWithSelector(Settlement.RootSubmitted.selector, made.id));
        settlement.settle(root, Settlement.Totals(2, epoch, 3, 3_003), none);
        vm.expectRevert(abi.encodeWithSelector(Settlement.WrongNumber.selector, 2, 3));
        settlement.settle("x", Settlement.Totals(3, epoch, 3, 3_003), none);
        vm.expectRevert(abi.encodeWithSelector(Settlement.BadCount.selector, 0, 1 << 24));
        settlement.settle("x", Settlement.Totals(2, epoch, 0, 0), none);
        vm.expectRevert(abi.encodeWithSelector(Settlement.WrongEpoch.selector, epoch, epoch + 1));
        settlement.settle("x", Settlement.Totals(2, epoch + 1, 1, 0), none);
        vm.expectRevert(abi.encodeWithSelector(Settlement.WrongEpoch.selector, epoch, epoch - 2));
        settlement.settle("x", Settlement.Totals(2, epoch - 2, 1, 0), none);
        vm.stopPrank();
    }

    // ------------------------------------------------------------ each proof topples a bad batch

    function test_a_toppled_batch_costs_the_whole_bond_and_the_unclaimed_fees() public {
        SignedVoucher[] memory vouchers = _one(_compact(SIGNER_KEY, ids[0], 100 * TRL));
        vm.prank(aggregator);
        settlement.settleVouchers(vouchers);
        Made memory made = _good(4, 0);
        made.signatures[2][3] ^= 0x01;
        _plant(made);
        _submit(made);
        LeafProof memory leaf = _proof(made, 2);
        uint256 reporterBefore = wtrl.balanceOf(REPORTER);
        uint256 poolBefore = wtrl.balanceOf(address(pool));
        vm.prank(REPORTER);
        settlement.proveBadReceipt(made.id, leaf);
        _assertStatus(made.id, Settlement.Status.Toppled);
        assertEq(wtrl.balanceOf(REPORTER) - reporterBefore, 30 * TRL, "reward");
        assertEq(wtrl.balanceOf(address(pool)) - poolBefore, 70 * TRL, "rest");
        assertEq(settlement.aggregator(aggregator).bond, 0, "bond");
        uint64 epoch = pool.currentEpoch();
        vm.warp(START + 200);
        assertEq(pool.claim(epoch, address(wtrl), aggregator), 0, "forfeited");
        vm.expectRevert(abi.encodeWithSelector(Settlement.WrongStatus.selector, made.id, Settlement.Status.Toppled));
        settlement.proveBadReceipt(made.id, leaf);
        vm.expectRevert(abi.encodeWithSelector(Settlement.WrongStatus.selector, made.id, Settlement.Status.Toppled));
        settlement.finalise(made.id);
    }

    // row: MKT-41
    function test_every_bad_signature_or_wrong_binding_topples() public {
        for (uint256 kind = 0; kind < 9; ++kind) {
            _rebond();
            Made memory made = _good(4, uint64(kind) * 1_000);
            Receipt memory r = made.receipts[1];
            if (kind == 0) r.key.version = 2;
            if (kind == 1) r.key.chainId += 1;
            if (kind == 2) r.key.channels = address(this);
            if (kind == 3) r.key.aggregator = REPORTER;
            if (kind == 4) r.key.channelId = bytes32(uint256(ids[0]) - 1);
            made.signatures[1] = _signBoth(r);
            if (kind == 5) made.signatures[1] = bytes.concat(made.signatures[1], hex"00");
            if (kind == 6) made.signatures[1] = made.signatures[0];
            bytes32 digest = settlement.receiptDigest(r);
            if (kind == 7) made.signatures[1] = bytes.concat(_sign(PAYEE_KEY, digest), _sign(PAYEE_KEY, digest));
            if (kind == 8) made.signatures[1] = bytes.concat(_sign(SIGNER_KEY, digest), _sign(SIGNER_KEY, digest));
            _plant(made);
            _submit(made);
            settlement.proveBadReceipt(made.id, _proof(made, 1));
            _assertStatus(made.id, Settlement.Status.Toppled);
        }
    }

    function test_a_leaf_whose_sum_is_not_its_cost_topples() public {
        Made memory made = _good(5, 0);
        made.tree.sums[0][3] += 1;
        made.tree.sums[1][1] += 1;
        made.tree.sums[2][0] += 1;
        made.tree.sums[3][0] += 1;
        made.tree.rehash();
        _submit(made);
        settlement.proveBadReceipt(made.id, _proof(made, 3));
        _assertStatus(made.id, Settlement.Status.Toppled);
    }

    // row: MKT-41
    function test_a_wrong_sum_at_any_level_topples() public {
        for (uint8 level = 1; level <= 3; ++level) {
            _rebond();
            Made memory made = _good(5, uint64(level) * 1_000);
            made.tree.sums[level][0] += 7;
            for (uint256 k = uint256(level) + 1; k <= 3; ++k) {
                made.tree.sums[k][0] += 7;
            }
            made.tree.rehash();
            _submit(made);
            settlement.proveWrongSum(made.id, made.tree.node(level, 0));
            _assertStatus(made.id, Settlement.Status.Toppled);
        }
    }

    function test_a_sum_that_overflows_topples() public {
        Made memory made = _good(2, 0);
        made.receipts[0].outcome.cost = type(uint128).max;
        made.receipts[1].outcome.cost = 2;
        bytes32[] memory leaves = new bytes32[](2);
        (leaves[0], leaves[1]) = (_leaf(made, 0), _leaf(made, 1));
        made.tree = ReceiptsTree.build(leaves, new uint128[](2));
        (made.tree.sums[0][0], made.tree.sums[0][1], made.tree.sums[1][0]) = (type(uint128).max, 2, 1);
        made.tree.rehash();
        _submit(made);
        settlement.proveWrongSum(made.id, made.tree.node(1, 0));
        _assertStatus(made.id, Settlement.Status.Toppled);
    }

    // row: MKT-41
    function test_neighbours_out_of_order_or_equal_topple() public {
        for (uint256 kind = 0; kind < 3; ++kind) {
            _rebond();
            Made memory made = _good(6, uint64(kind) * 1_000);
            if (kind == 0) made.receipts[1].key.sequence = made.receipts[0].key.sequence - 1;
            if (kind == 1) made.receipts[1].key.sequence = made.receipts[0].key.sequence;
            if (kind == 2) made.receipts[0].key.channelId = ids[1];
            for (uint256 i = 0; i < 2; ++i) {
                made.signatures[i] = _signBoth(made.receipts[i]);
            }
            _plant(made);
            _submit(made);
            settlement.proveDisorder(made.id, _proof(made, 0), _proof(made, 1));
            _assertStatus(made.id, Settlement.Status.Toppled);
        }
    }

    // row: MKT-41
    function test_a_receipt_in_two_batches_topples_the_later() public {
        Made memory first = _good(3, 0);
        _submit(first);
        Made memory second = _good(5, 0);
        _submit(second);
        vm.expectRevert(abi.encodeWithSelector(Settlement.NotEarlier.selector, first.id, second.id));
        settlement.proveDuplicate(first.id, _proof(first, 0), second.id, _proof(second, 0));
        vm.expectRevert(abi.encodeWithSelector(Settlement.NoFault.selector));
        settlement.proveDuplicate(second.id, _proof(second, 1), first.id, _proof(first, 0));
        settlement.proveDuplicate(second.id, _proof(second, 0), first.id, _proof(first, 0));
        _assertStatus(second.id, Settlement.Status.Toppled);
        _assertStatus(first.id, Settlement.Status.Pending);
    }

    function test_a_receipt_of_a_toppled_batch_may_come_again() public {
        Made memory first = _good(3, 0);
        first.signatures[2][0] ^= 0x01;
        _plant(first);
        _submit(first);
        settlement.proveBadReceipt(first.id, _proof(first, 2));
        _rebond();
        Made memory second = _good(3, 0);
        _submit(second);
        vm.expectRevert(abi.encodeWithSelector(Settlement.WrongStatus.selector, first.id, Settlement.Status.Toppled));
        settlement.proveDuplicate(second.id, _proof(second, 0), first.id, _proof(first, 0));
    }

    function test_wrong_padding_topples() public {
        Made memory made = _good(5, 0);
        made.tree.hashes[0][6] = bytes32("not empty");
        made.tree.rehash();
        _submit(made);
        settlement.proveWrongPadding(made.id, 6, bytes32("not empty"), 0, made.tree.path(0, 6));
        _assertStatus(made.id, Settlement.Status.Toppled);
        _rebond();
        made = _good(5, 1_000);
        made.tree.hashes[0][2] = bytes32(0);
        made.tree.rehash();
        _submit(made);
        settlement.proveWrongPadding(made.id, 2, bytes32(0), made.tree.sums[0][2], made.tree.path(0, 2));
        _assertStatus(made.id, Settlement.Status.Toppled);
    }

    // row: MKT-41
    function test_a_promised_receipt_that_is_absent_topples() public {
        // Before the first leaf, between two, after the last, and another receipt in its place.
        _omits(ids[0], 5, 0);
        _omits(ids[0], 25, 1);
        _omits(ids[1], 61, 5);
        _omits(ids[0], 20, 1);
    }

    function _omits(bytes32 channelId, uint64 sequence, uint32 left) private {
        _rebond();
        uint64 number = settlement.aggregator(aggregator).batches + 1;
        Made memory made = _good(6, number * 1_000);
        _submit(made);
        (IncludeBy memory p, bytes memory signature) =
            _promise("promised", channelId, number * 1_000 + sequence, number);
        LeafProof memory first = _proof(made, left);
        LeafProof memory second = _proof(made, left == 5 ? 0 : left + 1);
        settlement.proveOmission(made.id, p, signature, first, second);
        _assertStatus(made.id, Settlement.Status.Toppled);
    }

    // row: MKT-41, MKT-42
    function test_a_withheld_leaf_topples_and_the_demander_gets_its_bond_back() public {
        Made memory made = _good(5, 0);
        _submit(made);
        uint256 before = wtrl.balanceOf(REPORTER);
        vm.prank(REPORTER);
        settlement.demand(made.id, 3);
        vm.expectRevert(abi.encodeWithSelector(Settlement.TooEarly.selector, START + 10));
        settlement.expireDemand(made.id, 3);
        vm.warp(START + 10);
        vm.expectRevert(abi.encodeWithSelector(Settlement.DemandsOpen.selector, made.id, 1));
        settlement.finalise(made.id);
        settlement.expireDemand(made.id, 3);
        _assertStatus(made.id, Settlement.Status.Toppled);
        assertEq(wtrl.balanceOf(REPORTER) - before, 30 * TRL, "reward to the demander");
    }

    function test_a_batch_of_one_can_be_toppled() public {
        Made memory made = _good(1, 0);
        made.signatures[0][0] ^= 0x01;
        _plant(made);
        _submit(made);
        settlement.proveBadReceipt(made.id, _proof(made, 0));
        _assertStatus(made.id, Settlement.Status.Toppled);
        _rebond();
        made = _good(1, 1_000);
        _submit(made);
        uint64 number = settlement.batch(made.id).number;
        (IncludeBy memory p, bytes memory signature) = _promise("promised", ids[0], 1, number);
        settlement.proveOmission(made.id, p, signature, _proof(made, 0), _proof(made, 0));
        _assertStatus(made.id, Settlement.Status.Toppled);
    }

    // ------------------------------------------------------------ availability

    function test_a_revealed_leaf_pays_the_revealer_and_keeps_the_batch_open_for_challenge() public {
        Made memory made = _good(5, 0);
        _submit(made);
        vm.warp(START + 9);
        vm.startPrank(REPORTER);
        settlement.demand(made.id, 3);
        settlement.demand(made.id, 6);
        vm.expectRevert(
            abi.encodeWithSelector(Settlement.WrongDemand.selector, made.id, 3, Settlement.DemandState.Open)
        );
        settlement.demand(made.id, 3);
        vm.expectRevert(abi.encodeWithSelector(Settlement.IndexOutOfRange.selector, 8, 7));
        settlement.demand(made.id, 8);
        vm.stopPrank();
        vm.warp(START + 12);
        vm.prank(REPORTER);
        vm.expectRevert(abi.encodeWithSelector(Settlement.WindowOver.selector, made.id, START + 10));
        settlement.demand(made.id, 4);
        uint256 before = wtrl.balanceOf(aggregator);
        LeafProof memory leaf = _proof(made, 3);
        PathStep[] memory path = made.tree.path(0, 6);
        vm.startPrank(aggregator);
        settlement.reveal(made.id, leaf);
        settlement.revealPadding(made.id, 6, path);
        vm.stopPrank();
        assertEq(wtrl.balanceOf(aggregator) - before, 2 * TRL / 100, "both bonds");
        vm.expectRevert(abi.encodeWithSelector(Settlement.TooEarly.selector, START + 22));
        settlement.finalise(made.id);
        vm.warp(START + 22);
        settlement.finalise(made.id);
        _assertStatus(made.id, Settlement.Status.Final);
    }

    function test_an_open_demand_on_a_toppled_batch_gives_its_bond_back() public {
        Made memory made = _good(4, 0);
        made.signatures[2][3] ^= 0x01;
        _plant(made);
        _submit(made);
        uint256 before = wtrl.balanceOf(REPORTER);
        vm.prank(REPORTER);
        settlement.demand(made.id, 1);
        settlement.proveBadReceipt(made.id, _proof(made, 2));
        settlement.expireDemand(made.id, 1);
        assertEq(wtrl.balanceOf(REPORTER), before, "bond back, no reward");
        vm.expectRevert(
            abi.encodeWithSelector(Settlement.WrongDemand.selector, made.id, 1, Settlement.DemandState.Refunded)
        );
        settlement.expireDemand(made.id, 1);
    }

    // ------------------------------------------------------------ no proof topples a good batch

    // row: MKT-41
    function testFuzz_no_proof_topples_a_good_batch(uint8 countSeed, uint8 place, uint64 pick) public {
        uint32 count = uint32(countSeed % 9) + 1;
        uint32 i = place % count;
        Made memory made = _good(count, 0);
        _submit(made);
        _fails(abi.encodeCall(settlement.proveBadReceipt, (made.id, _proof(made, i))));
        uint32 next = (i + 1) % count;
        _fails(abi.encodeCall(settlement.proveDisorder, (made.id, _proof(made, i), _proof(made, next))));
        _fails(abi.encodeCall(settlement.proveDisorder, (made.id, _proof(made, next), _proof(made, i))));
        _fails(abi.encodeCall(settlement.proveDuplicate, (made.id, _proof(made, i), made.id, _proof(made, i))));
        for (uint8 level = 1; level < made.tree.hashes.length; ++level) {
            uint32 index = place % uint32(made.tree.hashes[level].length);
            _fails(abi.encodeCall(settlement.proveWrongSum, (made.id, made.tree.node(level, index))));
        }
        uint32 wide = place % uint32(made.tree.hashes[0].length);
        _fails(
            abi.encodeCall(
                settlement.proveWrongPadding,
                (made.id, wide, made.tree.hashes[0][wide], made.tree.sums[0][wide], made.tree.path(0, wide))
            )
        );
        _failsToOmit(made, i, next, pick);
        _assertStatus(made.id, Settlement.Status.Pending);
        vm.warp(START + 10);
        settlement.finalise(made.id);
    }

    /// @dev A receipt that is in the batch was promised: no pair of leaves shows it absent.
    function _failsToOmit(Made memory made, uint32 i, uint32 next, uint64 pick) private {
        uint256 k = pick % made.receipts.length;
        (IncludeBy memory p, bytes memory signature) = _promiseOf(made, k);
        _failsOmission(made, p, signature, i, next);
        _failsOmission(made, p, signature, k == 0 ? 0 : uint32(k) - 1, uint32(k));
        // Absent, but promised for another batch, or by somebody else.
        (p, signature) = _promise("promised", ids[0], 1, 7);
        _failsOmission(made, p, signature, 0, next);
        p.batch = settlement.batch(made.id).number;
        signature = _sign(PAYER_KEY, settlement.includeByDigest(p));
        _failsOmission(made, p, signature, 0, next);
    }

    function _promiseOf(Made memory made, uint256 k) private view returns (IncludeBy memory, bytes memory) {
        Receipt memory r = made.receipts[k];
        uint64 number = settlement.batch(made.id).number;
        return _promise(settlement.receiptHash(r), r.key.channelId, r.key.sequence, number);
    }

    function _failsOmission(Made memory made, IncludeBy memory p, bytes memory signature, uint32 i, uint32 j) private {
        LeafProof memory left = _proof(made, i);
        LeafProof memory right = _proof(made, j);
        _fails(abi.encodeCall(settlement.proveOmission, (made.id, p, signature, left, right)));
    }

    function testFuzz_a_forged_proof_is_not_in_the_batch(uint8 countSeed, uint8 place, uint8 what) public {
        uint32 count = uint32(countSeed % 8) + 2;
        uint32 i = place % count;
        Made memory made = _good(count, 0);
        _submit(made);
        LeafProof memory leaf = _proof(made, i);
        uint256 kind = what % 6;
        if (kind == 0) leaf.receipt.outcome.cost += 1;
        if (kind == 1) leaf.sum += 1;
        if (kind == 2) leaf.signatures[0] ^= 0x01;
        if (kind == 3) leaf.index ^= 1;
        if (kind == 4) leaf.path[0].siblingSum += 1;
        if (kind == 5) leaf.path[leaf.path.length - 1].parentSum += 1;
        (bool ok, bytes memory data) =
            address(settlement).call(abi.encodeCall(settlement.proveBadReceipt, (made.id, leaf)));
        require(!ok && bytes4(data) == Settlement.NotInBatch.selector, "not in the batch");
        NodeProof memory node = made.tree.node(1, i / 2);
        if (kind == 0) node.leftSum += 1;
        if (kind == 1) node.sum += 1;
        if (kind == 2) node.level = 2;
        if (kind == 3) node.index ^= 1;
        if (kind == 4) node.level = 0;
        if (kind == 5) (node.left, node.right) = (node.right, node.left);
        (ok,) = address(settlement).call(abi.encodeCall(settlement.proveWrongSum, (made.id, node)));
        require(!ok, "no node");
    }

    function _fails(bytes memory data) private {
        (bool ok,) = address(settlement).call(data);
        require(!ok, "a good batch was toppled");
    }

    function _rebond() private {
        if (settlement.aggregator(aggregator).bond != 0) return;
        vm.prank(aggregator);
        settlement.register(100 * TRL);
    }
}
