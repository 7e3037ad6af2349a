// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StakingBase} from "./StakingBase.sol";
import {ValidatorPools} from "../src/ValidatorPools.sol";
import {ValidatorStaking} from "../src/ValidatorStaking.sol";
import {EpochReport, Info} from "../src/ValidatorTypes.sol";

/// @notice The end of an epoch: rewards, jail, what the contract remembers.
contract ValidatorEpochsTest is StakingBase {
    function setUp() public {
        _deployRegistry();
        _fundReserve(100_000 ether);
    }

    // row: CHN-14
    function test_only_the_chain_ends_an_epoch_and_each_once() public {
        EpochReport memory report;
        report.epoch = 1;
        report.blocks = 60;
        report.nextCommitteeRoot = "root";
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.NotSystem.selector, address(this)));
        registry.endEpoch(report);
        vm.startPrank(SYSTEM);
        vm.warp(START + 15);
        registry.endEpoch(report);
        assertEq(registry.committeeRoot(2), "root", "the next epoch's");
        assertEq(registry.committeeRoot(1), 0, "the first is in the genesis file");
        assertEq(registry.epochEndedAt(1), START + 15, "end");
        assertEq(registry.lastEpoch(), 1, "last");
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.EpochOutOfOrder.selector, 2, 1));
        registry.endEpoch(report);
        vm.stopPrank();
    }

    // row: CHN-18
    function test_members_are_paid_by_power_and_blocks_signed() public {
        _register(ALICE, 3 * MIN_STAKE, 0);
        _register(BOB, MIN_STAKE, 0);
        (address[] memory members, uint32[] memory signed, uint64[] memory powers) = _two();
        signed[1] = 45;
        uint256 reserve = registry.reserve();
        _endEpoch(members, signed, powers);
        assertEq(_worth(ALICE, ALICE), 3 * MIN_STAKE + EPOCH_REWARD * 3 / 4, "three quarters of the power");
        assertEq(_worth(BOB, BOB), MIN_STAKE + EPOCH_REWARD / 4 * 45 / 60, "of 60 blocks it signed 45");
        assertEq(registry.reserve(), reserve - EPOCH_REWARD * 15 / 16, "the rest stays in the reserve");
    }

    // row: CHN-18
    function test_delegators_earn_in_proportion_less_commission() public {
        _register(ALICE, MIN_STAKE, 1_000);
        _delegate(BOB, ALICE, 3 * MIN_STAKE);
        _endEpoch(ALICE, 60);
        assertEq(_worth(ALICE, BOB), 3 * MIN_STAKE + 675 ether, "three quarters of 900");
        require(_near(_worth(ALICE, ALICE), MIN_STAKE + 225 ether + 100 ether), "a quarter and the commission");
        Info memory i = registry.info(ALICE);
        assertEq(i.own + i.delegated, 4 * MIN_STAKE + EPOCH_REWARD, "all of it is in the pool");
    }

    // row: CHN-18
    function test_emission_halves_and_ends_with_the_reserve() public {
        assertEq(registry.emission(0), EPOCH_REWARD, "first");
        assertEq(registry.emission(9), EPOCH_REWARD, "before the halving");
        assertEq(registry.emission(10), EPOCH_REWARD / 2, "halved");
        assertEq(registry.emission(20), EPOCH_REWARD / 4, "halved again");
        assertEq(registry.emission(type(uint64).max), 0, "ends");
        _register(ALICE, MIN_STAKE, 0);
        uint256 all = registry.reserve();
        for (uint256 i = 0; i < 150; ++i) {
            _endEpoch(ALICE, 60);
        }
        uint256 paid = _worth(ALICE, ALICE) - MIN_STAKE;
        require(paid <= 19 * EPOCH_REWARD && paid > 19 * EPOCH_REWARD - 1 ether, "nine, and ten halves, quarters...");
        assertEq(registry.reserve(), all - paid, "from the reserve");
    }

    // row: CHN-18
    function test_a_short_reserve_pays_what_is_there_and_never_stakes() public {
        _deployRegistry();
        _fundReserve(EPOCH_REWARD / 3);
        _register(ALICE, MIN_STAKE, 0);
        _delegate(BOB, ALICE, MIN_STAKE);
        _endEpoch(ALICE, 60);
        assertEq(registry.reserve(), 0, "spent");
        assertEq(registry.totalActive(), 2 * MIN_STAKE + EPOCH_REWARD / 3, "paid");
        _endEpoch(ALICE, 60);
        assertEq(registry.totalActive(), 2 * MIN_STAKE + EPOCH_REWARD / 3, "nothing more");
        _undelegate(ALICE, ALICE, type(uint256).max);
        _undelegate(BOB, ALICE, type(uint256).max);
        vm.warp(START + UNBONDING);
        _withdraw(ALICE, ALICE);
        _withdraw(BOB, ALICE);
        assertEq(address(registry).balance, 0, "everybody got everything");
    }

    // row: CHN-13
    function test_who_signs_less_than_half_is_jailed_and_not_slashed() public {
        _register(ALICE, 3 * MIN_STAKE, 0);
        _register(BOB, MIN_STAKE, 0);
        (address[] memory members, uint32[] memory signed, uint64[] memory powers) = _two();
        (signed[0], signed[1]) = (30, 29);
        _endEpoch(members, signed, powers);
        require(_candidate(ALICE), "half is enough");
        require(!_candidate(BOB), "less is not");
        require(_worth(BOB, BOB) > MIN_STAKE, "it keeps its stake and earns for what it signed");
        assertEq(registry.info(BOB).jailedUntil, START + JAIL, "until");
    }

    // row: CHN-14
    function test_jail_ends_when_the_time_is_over_and_the_validator_asks_with_enough_stake() public {
        _register(ALICE, MIN_STAKE, 0);
        vm.startPrank(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.NotJailed.selector, ALICE));
        registry.unjail();
        vm.stopPrank();
        _endEpoch(ALICE, 0);
        vm.prank(ALICE);
        vm.expectRevert(
            abi.encodeWithSelector(ValidatorStaking.JailedUntil.selector, START + JAIL, START)
        );
        registry.unjail();
        vm.warp(START + JAIL);
        _undelegate(ALICE, ALICE, 1 ether);
        vm.prank(ALICE);
        vm.expectRevert(
            abi.encodeWithSelector(ValidatorStaking.StakeUnderMinimum.selector, MIN_STAKE - 1 ether, MIN_STAKE)
        );
        registry.unjail();
        require(!_candidate(ALICE), "time alone does not end it");
        vm.deal(ALICE, 1 ether);
        vm.startPrank(ALICE);
        registry.stake{value: 1 ether}();
        registry.unjail();
        vm.stopPrank();
        require(_candidate(ALICE), "back");
    }

    function test_members_that_are_unknown_tombstoned_leaving_or_named_twice_do_not_stop_the_chain() public {
        _register(ALICE, MIN_STAKE, 0);
        _register(BOB, MIN_STAKE, 0);
        _register(CAROL, MIN_STAKE, 10_000);
        _report(_hash(_keys(_seed(BOB))), 1);
        vm.prank(CAROL);
        registry.leave();
        address[] memory members = new address[](6);
        uint32[] memory signed = new uint32[](6);
        uint64[] memory powers = new uint64[](6);
        (members[0], members[1], members[2]) = (ALICE, BOB, CAROL);
        (members[3], members[4], members[5]) = (address(0), ALICE, DAVE);
        for (uint256 i = 0; i < 6; ++i) {
            (signed[i], powers[i]) = (type(uint32).max, type(uint64).max);
        }
        uint256 before = registry.totalActive();
        _endEpoch(members, signed, powers);
        uint256 paid = registry.totalActive() - before;
        assertEq(paid, EPOCH_REWARD / 6 * 2, "a place's share for each of the known, no more than the emission");
        assertEq(_worth(ALICE, ALICE), MIN_STAKE + paid, "to the one that is left");
    }

    function test_a_report_with_lists_of_different_lengths_or_none_does_not_stop_the_chain() public {
        _register(ALICE, MIN_STAKE, 0);
        _endEpoch(new address[](0), new uint32[](0), new uint64[](0));
        address[] memory members = new address[](3);
        members[0] = ALICE;
        _endEpoch(members, new uint32[](1), new uint64[](2));
        assertEq(registry.lastEpoch(), 2, "both are over");
        assertEq(registry.totalActive(), MIN_STAKE, "nothing paid");
    }

    function testFuzz_no_report_stops_the_chain_or_pays_more_than_the_emission(
        address[] memory members,
        uint32[] memory signed,
        uint64[] memory powers,
        uint32 blocks,
        uint64 epoch
    ) public {
        _register(ALICE, MIN_STAKE, 500);
        _register(BOB, MIN_STAKE, 10_000);
        for (uint256 i = 0; i < members.length; ++i) {
            uint256 pick = uint160(members[i]) % 3;
            if (pick != 2) members[i] = pick == 0 ? ALICE : BOB;
        }
        vm.assume(epoch != 0 && epoch != type(uint64).max);
        uint256 reserve = registry.reserve();
        vm.prank(SYSTEM);
        registry.endEpoch(EpochReport(epoch, blocks, members, signed, powers, "root", members));
        require(reserve - registry.reserve() <= registry.emission(epoch), "more than the emission");
        require(registry.totalActive() <= 2 * MIN_STAKE + registry.emission(epoch), "booked more than paid");
    }

    function test_the_last_share_takes_what_is_left() public {
        _register(ALICE, MIN_STAKE, 0);
        _endEpoch(ALICE, 60);
        // With shares dearer than a wei, all of them are needed for one wei less than all.
        _undelegate(ALICE, ALICE, MIN_STAKE + EPOCH_REWARD - 1);
        assertEq(registry.unbondingOf(ALICE, ALICE)[0].amount, MIN_STAKE + EPOCH_REWARD, "all");
        assertEq(registry.totalActive(), 0, "no tokens without an owner");
        assertEq(registry.info(ALICE).shares, 0, "no shares");
        assertEq(registry.delegationsOf(ALICE).length, 0, "no stake");
    }

    function test_a_validator_without_own_stake_earns_no_commission() public {
        _register(ALICE, MIN_STAKE, 10_000);
        _delegate(BOB, ALICE, MIN_STAKE);
        _undelegate(ALICE, ALICE, type(uint256).max);
        _endEpoch(ALICE, 60);
        assertEq(_worth(ALICE, BOB), MIN_STAKE + EPOCH_REWARD, "all to the delegator");
        assertEq(registry.delegationsOf(ALICE).length, 0, "no shares from nowhere");
    }

    function test_rewards_of_a_pool_without_shares_stay_in_the_reserve() public {
        _register(ALICE, MIN_STAKE, 0);
        _undelegate(ALICE, ALICE, type(uint256).max);
        uint256 reserve = registry.reserve();
        _endEpoch(ALICE, 60);
        assertEq(registry.reserve(), reserve, "kept");
        vm.deal(ALICE, MIN_STAKE);
        vm.prank(ALICE);
        registry.stake{value: MIN_STAKE}();
        assertEq(_worth(ALICE, ALICE), MIN_STAKE, "a new beginning");
    }

    /// @dev The attacker keeps one share (1 wei), lets a reward make it dear, and waits for a delegator whom rounding robs.
    function test_the_first_depositor_cannot_make_a_share_dear_and_rob_the_next() public {
        _register(ALICE, MIN_STAKE, 0);
        _undelegate(ALICE, ALICE, MIN_STAKE - 1);
        _endEpoch(ALICE, 60);
        assertEq(_worth(ALICE, ALICE), EPOCH_REWARD + 1, "one share");
        vm.deal(BOB, 2 * EPOCH_REWARD);
        vm.prank(BOB);
        vm.expectRevert(
            abi.encodeWithSelector(ValidatorPools.ShareTooDear.selector, EPOCH_REWARD + 1, 2 * EPOCH_REWARD)
        );
        registry.delegate{value: 2 * EPOCH_REWARD}(ALICE);
    }

    function testFuzz_a_deposit_never_loses_more_than_a_billionth(uint256 left, bool large, uint256 amount, uint8 epochs) public {
        _register(ALICE, MIN_STAKE, 0);
        _undelegate(ALICE, ALICE, MIN_STAKE - left % (large ? MIN_STAKE : 1e15));
        for (uint256 i = 0; i < epochs % 4; ++i) {
            _endEpoch(ALICE, 60);
        }
        amount = 1 ether + amount % (10 * MIN_STAKE);
        vm.deal(BOB, amount);
        vm.prank(BOB);
        try registry.delegate{value: amount}(ALICE) {
            uint256 worth = _worth(ALICE, BOB);
            require(worth <= amount && worth >= amount - amount / 1e9, "robbed");
        } catch {
            Info memory i = registry.info(ALICE);
            require(i.own * 1e9 > amount * i.ownShares, "refused for no reason");
        }
    }

    function _two() private pure returns (address[] memory members, uint32[] memory signed, uint64[] memory powers) {
        members = new address[](2);
        signed = new uint32[](2);
        powers = new uint64[](2);
        (members[0], members[1]) = (ALICE, BOB);
        (signed[0], signed[1]) = (60, 60);
        (powers[0], powers[1]) = (3_000_000, 1_000_000);
    }

    function _near(uint256 a, uint256 b) private pure returns (bool) {
        return a > b ? a - b <= 2 : b - a <= 2;
    }
}
