// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Batches} from "./Batches.sol";
import {FeePool} from "../src/FeePool.sol";
import {SignedVoucher} from "../src/Interfaces.sol";

contract FeePoolTest is Batches {
    address private constant DISTRIBUTOR = address(0xD157);

    function setUp() public {
        _setUpBatches(100);
        vm.prank(OWNER);
        pool.setDistributor(DISTRIBUTOR);
    }

    // row: MKT-54
    function test_a_settled_fee_is_split_forty_twenty_forty() public {
        uint64 epoch = pool.currentEpoch();
        SignedVoucher[] memory vouchers = _one(_compact(SIGNER_KEY, ids[0], 100 * TRL));
        vm.prank(aggregator);
        settlement.settleVouchers(vouchers);
        assertEq(pool.aggregatorShare(epoch, address(wtrl), aggregator), TRL * 40 / 100, "aggregator");
        assertEq(pool.accrued(epoch, address(wtrl), FeePool.Bucket.Relays), TRL * 20 / 100, "relays");
        assertEq(pool.accrued(epoch, address(wtrl), FeePool.Bucket.Providers), TRL * 40 / 100, "providers");
    }

    function test_a_redeemed_fee_has_no_aggregator_and_nobody_can_name_itself() public {
        uint64 epoch = pool.currentEpoch();
        channels.redeem(ids[0], 50 * TRL, _voucher(ids[0], 50 * TRL));
        channels.settle(_one(_compact(SIGNER_KEY, ids[1], 50 * TRL)), address(this));
        assertEq(pool.aggregatorShare(epoch, address(wtrl), address(this)), 0, "nobody");
        assertEq(pool.accrued(epoch, address(wtrl), FeePool.Bucket.Relays), TRL * 20 / 100, "relays");
        assertEq(pool.accrued(epoch, address(wtrl), FeePool.Bucket.Providers), TRL * 80 / 100, "providers");
    }

    function testFuzz_no_wei_of_a_fee_is_lost(uint96 amount) public {
        uint128 gross = uint128(amount) % (1_000 * TRL);
        uint64 epoch = pool.currentEpoch();
        SignedVoucher[] memory vouchers = _one(_compact(SIGNER_KEY, ids[0], gross));
        vm.prank(aggregator);
        settlement.settleVouchers(vouchers);
        uint256 booked = pool.aggregatorShare(epoch, address(wtrl), aggregator)
            + pool.accrued(epoch, address(wtrl), FeePool.Bucket.Relays)
            + pool.accrued(epoch, address(wtrl), FeePool.Bucket.Providers);
        assertEq(booked, wtrl.balanceOf(address(pool)), "booked is held");
        assertEq(booked, uint256(gross) / 100, "one percent");
    }

    function test_an_aggregator_claims_once_and_only_after_its_batches_can_no_longer_fall() public {
        uint64 epoch = pool.currentEpoch();
        SignedVoucher[] memory vouchers = _one(_compact(SIGNER_KEY, ids[0], 100 * TRL));
        vm.prank(aggregator);
        settlement.settleVouchers(vouchers);
        uint64 claimableAt = (epoch + 1) * 60 + 30;
        vm.warp(claimableAt - 1);
        vm.expectRevert(abi.encodeWithSelector(FeePool.TooEarly.selector, claimableAt));
        pool.claim(epoch, address(wtrl), aggregator);
        vm.warp(claimableAt);
        uint256 before = wtrl.balanceOf(aggregator);
        assertEq(pool.claim(epoch, address(wtrl), aggregator), TRL * 40 / 100, "claimed");
        assertEq(pool.claim(epoch, address(wtrl), aggregator), 0, "once");
        assertEq(wtrl.balanceOf(aggregator) - before, TRL * 40 / 100, "paid");
    }

    function test_only_the_distributor_takes_a_bucket_and_not_more_than_is_in_it() public {
        uint64 epoch = pool.currentEpoch();
        channels.redeem(ids[0], 50 * TRL, _voucher(ids[0], 50 * TRL));
        vm.expectRevert(abi.encodeWithSelector(FeePool.NotAuthorised.selector, address(this)));
        pool.distribute(epoch, address(wtrl), FeePool.Bucket.Relays, address(this), 1);
        vm.startPrank(DISTRIBUTOR);
        vm.expectRevert(abi.encodeWithSelector(FeePool.BucketTooSmall.selector, TRL, TRL / 10));
        pool.distribute(epoch, address(wtrl), FeePool.Bucket.Relays, PAYOUT, TRL);
        uint256 before = wtrl.balanceOf(PAYOUT);
        pool.distribute(epoch, address(wtrl), FeePool.Bucket.Relays, PAYOUT, TRL / 10);
        vm.stopPrank();
        assertEq(wtrl.balanceOf(PAYOUT) - before, TRL / 10, "paid");
        assertEq(pool.accrued(epoch, address(wtrl), FeePool.Bucket.Relays), 0, "empty");
    }

    function test_only_the_wired_contracts_book() public {
        vm.expectRevert(abi.encodeWithSelector(FeePool.NotAuthorised.selector, address(this)));
        pool.credit(address(wtrl), 1, address(settlement), address(this));
        vm.expectRevert(abi.encodeWithSelector(FeePool.NotAuthorised.selector, address(this)));
        pool.creditSlashed(address(wtrl), 1);
        vm.expectRevert(abi.encodeWithSelector(FeePool.NotAuthorised.selector, address(this)));
        pool.forfeit(aggregator);
        vm.expectRevert(abi.encodeWithSelector(FeePool.AlreadyInitialized.selector));
        pool.initialize(address(1), address(2), address(3));
        vm.prank(REPORTER);
        vm.expectRevert(abi.encodeWithSelector(FeePool.NotAuthorised.selector, REPORTER));
        pool.initialize(address(1), address(2), address(3));
        vm.expectRevert();
        pool.setDistributor(address(this));
    }
}
