// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {FeePool} from "../src/FeePool.sol";
import {ProviderStaking} from "../src/ProviderStaking.sol";

contract ProviderStakingTest is Base {
    address private constant SLASHER = address(0x51A5);
    bytes32 private constant NODE = keccak256("node");

    function setUp() public {
        _deploy(0);
        vm.prank(OWNER);
        staking.setSlasher(SLASHER);
    }

    // row: MKT-50
    function test_tiers_follow_stake_and_age() public {
        _stake(50 * TRL);
        assertEq(staking.tierOf(payer), 0, "below the first");
        _stake(50 * TRL);
        assertEq(staking.tierOf(payer), 1, "first");
        _stake(900 * TRL);
        assertEq(staking.tierOf(payer), 1, "enough for the second, too young");
        vm.warp(START + 100);
        assertEq(staking.tierOf(payer), 2, "second");
        _stake(9_000 * TRL);
        assertEq(staking.tierOf(payer), 1, "new stake is as young as it is");
        vm.warp(START + 800);
        assertEq(staking.tierOf(payer), 3, "third");
        vm.prank(payer);
        staking.unstake(9_950 * TRL);
        assertEq(staking.tierOf(payer), 0, "unbonding stake gives no tier");
    }

    // row: MKT-56
    function test_entries_leave_the_queue_in_their_own_time() public {
        _stake(100 * TRL);
        vm.startPrank(payer);
        staking.unstake(10 * TRL);
        vm.warp(START + 60);
        staking.unstake(20 * TRL);
        vm.expectRevert(abi.encodeWithSelector(ProviderStaking.NothingReleased.selector));
        staking.withdraw();
        vm.warp(START + 120);
        assertEq(staking.withdraw(), 10 * TRL, "first");
        assertEq(staking.unbondingOf(payer).length, 1, "one left");
        vm.warp(START + 180);
        assertEq(staking.withdraw(), 20 * TRL, "second");
        vm.expectRevert(abi.encodeWithSelector(ProviderStaking.StakeTooSmall.selector, 71 * TRL, 70 * TRL));
        staking.unstake(71 * TRL);
        vm.stopPrank();
        assertEq(wtrl.balanceOf(address(staking)), 70 * TRL, "rest");
    }

    function test_the_queue_is_bounded() public {
        _stake(100 * TRL);
        vm.startPrank(payer);
        for (uint256 i = 0; i < 32; ++i) {
            staking.unstake(TRL);
        }
        vm.expectRevert(abi.encodeWithSelector(ProviderStaking.QueueFull.selector, 32));
        staking.unstake(TRL);
        vm.warp(START + 120);
        assertEq(staking.withdraw(), 32 * TRL, "all");
        staking.unstake(TRL);
        vm.stopPrank();
    }

    // row: MKT-56
    function test_slashing_takes_active_and_unbonding_stake_but_not_what_is_released() public {
        _stake(100 * TRL);
        vm.prank(payer);
        staking.unstake(10 * TRL);
        vm.warp(START + 60);
        vm.prank(payer);
        staking.unstake(20 * TRL);
        vm.warp(START + 130);
        uint64 epoch = pool.currentEpoch();
        vm.prank(SLASHER);
        assertEq(staking.slash(payer, 50, "canary"), 90 * TRL * 50 / 10_000, "half a percent of 70 and 20");
        assertEq(wtrl.balanceOf(address(pool)), 90 * TRL * 50 / 10_000, "to the pool");
        assertEq(
            pool.accrued(epoch, address(wtrl), FeePool.Bucket.Providers), 90 * TRL * 50 / 10_000, "booked"
        );
        vm.prank(payer);
        assertEq(staking.withdraw(), 10 * TRL, "released stake is whole");
        vm.expectRevert(abi.encodeWithSelector(ProviderStaking.NotSlasher.selector, address(this)));
        staking.slash(payer, 50, "canary");
        vm.startPrank(SLASHER);
        vm.expectRevert(abi.encodeWithSelector(ProviderStaking.BadBps.selector, 10_001));
        staking.slash(payer, 10_001, "x");
        vm.stopPrank();
    }

    function test_a_position_serves_one_node_until_it_is_empty() public {
        _stake(10 * TRL);
        vm.startPrank(payer);
        vm.expectRevert(abi.encodeWithSelector(ProviderStaking.OtherNode.selector, NODE, bytes32("other")));
        staking.stake("other", TRL);
        staking.unstake(10 * TRL);
        vm.expectRevert(abi.encodeWithSelector(ProviderStaking.OtherNode.selector, NODE, bytes32("other")));
        staking.stake("other", TRL);
        vm.warp(START + 120);
        staking.withdraw();
        staking.stake("other", TRL);
        vm.stopPrank();
        assertEq(staking.positionOf(payer).nodeId, bytes32("other"), "moved");
    }

    function testFuzz_every_wei_is_staked_waiting_slashed_or_withdrawn(uint96 amount, uint96 out, uint16 bps, bool wait)
        public
    {
        uint128 staked = uint128(amount) % (400_000 * TRL) + 1;
        uint128 leaving = uint128(out) % staked + 1;
        uint16 cut = bps % 10_000 + 1;
        _stake(staked);
        vm.prank(payer);
        staking.unstake(leaving);
        vm.prank(SLASHER);
        uint256 slashed = staking.slash(payer, cut, "fraud");
        uint256 withdrawn = 0;
        if (wait) {
            vm.warp(START + 120);
            vm.prank(payer);
            withdrawn = staking.withdraw();
        }
        assertEq(staking.totalActive() + staking.totalUnbonding() + slashed + withdrawn, staked, "all of it");
        assertEq(wtrl.balanceOf(address(staking)), staking.totalActive() + staking.totalUnbonding(), "held");
        assertEq(wtrl.balanceOf(address(pool)), slashed, "slashed");
    }

    function _stake(uint128 amount) private {
        vm.prank(payer);
        staking.stake(NODE, amount);
    }
}
