// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StakingBase} from "./StakingBase.sol";
import {ValidatorKeys} from "../src/ValidatorKeys.sol";
import {ValidatorPools} from "../src/ValidatorPools.sol";
import {ValidatorStaking} from "../src/ValidatorStaking.sol";
import {Info} from "../src/ValidatorTypes.sol";

/// @notice Refuses every payment.
contract Refuser {
    function run(ValidatorStaking registry, address validator) external payable {
        registry.delegate{value: msg.value}(validator);
        registry.undelegate(validator, msg.value);
    }

    function withdraw(ValidatorStaking registry, address validator) external {
        registry.withdraw(validator);
    }

    function report(ValidatorStaking registry, bytes calldata a, bytes calldata b) external {
        registry.reportEquivocation(a, b);
    }

    function claim(ValidatorStaking registry) external {
        registry.claim();
    }
}

/// @notice Comes back for more while it is being paid.
contract Reenterer {
    ValidatorStaking private immutable REGISTRY;
    address private immutable VALIDATOR;
    uint256 public refused;

    constructor(ValidatorStaking registry, address validator) {
        REGISTRY = registry;
        VALIDATOR = validator;
    }

    receive() external payable {
        try REGISTRY.withdraw(VALIDATOR) {} catch {
            ++refused;
        }
        require(REGISTRY.claim() == 0, "paid twice");
        try REGISTRY.undelegate(VALIDATOR, 1) {} catch {
            ++refused;
        }
    }

    function enter() external payable {
        REGISTRY.delegate{value: msg.value}(VALIDATOR);
        REGISTRY.undelegate(VALIDATOR, type(uint256).max);
    }

    function report(bytes calldata a, bytes calldata b) external {
        REGISTRY.reportEquivocation(a, b);
    }

    function withdraw() external {
        REGISTRY.withdraw(VALIDATOR);
    }

    function claim() external returns (uint256) {
        return REGISTRY.claim();
    }
}

/// @notice Evidence of equivocation: who is slashed, how much, and who is not.
contract ValidatorSlashingTest is StakingBase {
    bytes32 private aliceKey;

    function setUp() public {
        _deployRegistry();
        aliceKey = _hash(_keys(_seed(ALICE)));
        _register(ALICE, MIN_STAKE, 1_000);
        vm.deal(REPORTER, 0);
    }

    // row: CHN-13
    function test_an_equivocation_costs_a_tenth_of_own_and_delegated_stake_and_bans_for_ever() public {
        _delegate(BOB, ALICE, 400_000 ether);
        _report(aliceKey, 1);
        assertEq(_worth(ALICE, ALICE), MIN_STAKE * 9 / 10, "own");
        assertEq(_worth(ALICE, BOB), 360_000 ether, "delegated");
        Info memory i = registry.info(ALICE);
        require(i.tombstoned && !i.candidate, "out");
        uint256 taken = 140_000 ether;
        assertEq(registry.claimable(REPORTER), taken / 20, "reporter");
        assertEq(registry.claimable(TREASURY), taken - taken / 20, "treasury");
        vm.deal(ALICE, MIN_STAKE);
        vm.startPrank(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.IsTombstoned.selector, ALICE));
        registry.stake{value: MIN_STAKE}();
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.IsTombstoned.selector, ALICE));
        registry.unjail();
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.IsTombstoned.selector, ALICE));
        registry.leave();
        vm.stopPrank();
        vm.prank(REPORTER);
        assertEq(registry.claim(), taken / 20, "paid");
        vm.prank(REPORTER);
        assertEq(registry.claim(), 0, "once");
        vm.prank(TREASURY);
        registry.claim();
        assertEq(REPORTER.balance + TREASURY.balance, taken, "all of it");
    }

    // row: CHN-13
    function test_delegators_of_a_banned_validator_leave_with_the_rest_and_are_not_slashed_again() public {
        _delegate(BOB, ALICE, 1_000 ether);
        _report(aliceKey, 1);
        _undelegate(BOB, ALICE, type(uint256).max);
        bytes memory a = _vote(aliceKey, 2, "a");
        bytes memory b = _vote(aliceKey, 2, "b");
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.IsTombstoned.selector, ALICE));
        registry.reportEquivocation(a, b);
        vm.warp(START + UNBONDING);
        assertEq(_withdraw(BOB, ALICE), 900 ether, "in the same second as the slash, and not twice");
        _undelegate(ALICE, ALICE, type(uint256).max);
        vm.warp(START + 2 * UNBONDING);
        assertEq(_withdraw(ALICE, ALICE), MIN_STAKE * 9 / 10, "own");
        assertEq(registry.totalActive() + registry.totalUnbonding(), 0, "nobody has anything left");
    }

    // row: CHN-13
    function test_unbonding_stake_is_slashed_until_it_is_released() public {
        _delegate(BOB, ALICE, 100 ether);
        _delegate(CAROL, ALICE, 100 ether);
        _undelegate(BOB, ALICE, 40 ether);
        vm.warp(START + 1);
        _undelegate(CAROL, ALICE, 100 ether);
        vm.warp(START + 60);
        _undelegate(BOB, ALICE, 60 ether);
        vm.warp(START + UNBONDING);
        uint64 height = 10 * EPOCH_BLOCKS;
        _report(aliceKey, height);
        assertEq(registry.info(ALICE).unbonding, 40 ether + 90 ether + 54 ether, "what is left");
        assertEq(registry.unbondingOf(ALICE, BOB)[0].amount, 40 ether, "released in this second: whole");
        assertEq(registry.unbondingOf(ALICE, BOB)[1].amount, 54 ether, "not released");
        assertEq(_withdraw(BOB, ALICE), 40 ether, "whole");
        vm.warp(START + 60 + UNBONDING);
        assertEq(_withdraw(BOB, ALICE), 54 ether, "slashed");
        assertEq(_withdraw(CAROL, ALICE), 90 ether, "one second too late");
        assertEq(registry.totalUnbonding(), 0, "nothing left");
    }

    // row: CHN-14
    function test_who_leaves_can_be_slashed_until_the_stake_is_released() public {
        vm.prank(ALICE);
        registry.leave();
        vm.warp(START + EVIDENCE_AGE);
        _report(aliceKey, 1);
        vm.warp(START + UNBONDING);
        assertEq(_withdraw(ALICE, ALICE), MIN_STAKE * 9 / 10, "a tenth less");
    }

    // row: CHN-13
    function test_evidence_is_taken_for_its_age_after_the_epoch_began() public {
        vm.warp(START + 15);
        _endEpoch(BOB, 0);
        vm.warp(START + EVIDENCE_AGE + 1);
        bytes memory a = _vote(aliceKey, EPOCH_BLOCKS, "a");
        bytes memory b = _vote(aliceKey, EPOCH_BLOCKS, "b");
        vm.expectRevert(
            abi.encodeWithSelector(
                ValidatorStaking.EvidenceTooOld.selector, START + EVIDENCE_AGE, START + EVIDENCE_AGE + 1
            )
        );
        registry.reportEquivocation(a, b);
        vm.warp(START + 15 + EVIDENCE_AGE);
        _report(aliceKey, EPOCH_BLOCKS + 1);
        require(registry.info(ALICE).tombstoned, "the first block of the epoch after is young enough");
    }

    function test_evidence_of_an_epoch_that_lasts_too_long_is_still_taken() public {
        vm.warp(START + 10 * EVIDENCE_AGE);
        _report(aliceKey, 1);
        require(registry.info(ALICE).tombstoned, "a chain that stood still forgives nothing");
    }

    // row: CHN-14
    function test_a_rotated_key_answers_within_the_evidence_age_for_what_it_signed_while_in_use() public {
        _rotate(ALICE, _keys("second"));
        vm.warp(START + 15);
        _endEpoch(ALICE, 60);
        vm.warp(START + EVIDENCE_AGE);
        _report(aliceKey, 5);
        require(registry.info(ALICE).tombstoned, "slashed for the old key");
    }

    // row: CHN-14
    function test_a_rotated_key_does_not_answer_after_the_evidence_age() public {
        _rotate(ALICE, _keys("second"));
        _endEpoch(ALICE, 60);
        vm.warp(START + EVIDENCE_AGE + 1);
        bytes memory a = _vote(aliceKey, 5, "a");
        bytes memory b = _vote(aliceKey, 5, "b");
        vm.expectRevert(
            abi.encodeWithSelector(
                ValidatorStaking.EvidenceTooOld.selector, START + EVIDENCE_AGE, START + EVIDENCE_AGE + 1
            )
        );
        registry.reportEquivocation(a, b);
    }

    // row: CHN-14
    function test_a_stolen_key_that_was_rotated_away_cannot_be_used_against_its_owner() public {
        _rotate(ALICE, _keys("second"));
        uint64 last = 2 * EPOCH_BLOCKS;
        bytes memory a = _vote(aliceKey, last + 1, "a");
        bytes memory b = _vote(aliceKey, last + 1, "b");
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.KeyRetired.selector, aliceKey, last, last + 1));
        registry.reportEquivocation(a, b);
        _report(aliceKey, last);
        require(registry.info(ALICE).tombstoned, "the epoch after the rotation may still be signed with the old key");
    }

    // row: CHN-14
    function test_the_new_key_answers_after_a_rotation() public {
        _rotate(ALICE, _keys("second"));
        _rotate(ALICE, _postQuantumKeys("third"));
        _report(_hash(_postQuantumKeys("third")), 1_000_000);
        require(registry.info(ALICE).tombstoned, "slashed");
    }

    // row: CHN-13
    function test_what_is_no_equivocation_or_of_an_unknown_key_is_refused() public {
        bytes memory a = _vote(aliceKey, 1, "a");
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.NotEquivocation.selector));
        registry.reportEquivocation(a, a);
        bytes32 nobody = keccak256("nobody");
        a = _vote(nobody, 1, "a");
        bytes memory b = _vote(nobody, 1, "b");
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.UnknownKey.selector, nobody));
        registry.reportEquivocation(a, b);
    }

    function test_who_refuses_payments_harms_only_itself() public {
        Refuser refuser = new Refuser();
        vm.deal(address(this), 10 ether);
        refuser.run{value: 10 ether}(registry, ALICE);
        refuser.report(registry, _vote(aliceKey, 1, "a"), _vote(aliceKey, 1, "b"));
        require(registry.info(ALICE).tombstoned, "the report counts");
        vm.expectRevert(
            abi.encodeWithSelector(
                ValidatorPools.NativeTransferFailed.selector, address(refuser), registry.claimable(address(refuser))
            )
        );
        refuser.claim(registry);
        vm.warp(START + UNBONDING);
        vm.expectRevert(
            abi.encodeWithSelector(ValidatorPools.NativeTransferFailed.selector, address(refuser), 9 ether)
        );
        refuser.withdraw(registry, ALICE);
        assertEq(registry.unbondingOf(ALICE, address(refuser)).length, 1, "it can try again");
    }

    function test_a_receiver_that_comes_back_is_paid_once() public {
        Reenterer reenterer = new Reenterer(registry, ALICE);
        vm.deal(address(this), 10 ether);
        reenterer.enter{value: 10 ether}();
        vm.warp(START + UNBONDING);
        reenterer.withdraw();
        assertEq(address(reenterer).balance, 10 ether, "once");
        assertEq(reenterer.refused(), 2, "both attempts were refused");
        reenterer.report(_vote(aliceKey, 10_000, "a"), _vote(aliceKey, 10_000, "b"));
        uint256 reward = registry.claimable(address(reenterer));
        assertEq(reenterer.claim(), reward, "reward");
        assertEq(address(reenterer).balance, 10 ether + reward, "once again");
    }

    // row: CHN-13
    function testFuzz_a_slash_takes_the_same_part_of_everybody_and_leaves_every_wei_somewhere(
        uint96 own,
        uint96 first,
        uint96 second,
        uint96 out,
        uint8 epochs
    ) public {
        _fundReserve(10_000 ether);
        _deposits(own, first, second);
        for (uint256 i = 0; i < epochs % 4; ++i) {
            _endEpoch(ALICE, 60);
        }
        uint256 bob = _worth(ALICE, BOB);
        uint256 leaving = uint256(out) % bob + 1;
        _undelegate(BOB, ALICE, leaving);
        leaving = registry.unbondingOf(ALICE, BOB)[0].amount;
        bob = _worth(ALICE, BOB);
        (uint256 alice, uint256 carol) = (_worth(ALICE, ALICE), _worth(ALICE, CAROL));
        uint256 balance = address(registry).balance;
        uint256 reserve = registry.reserve();
        _report(aliceKey, 1_000_000);
        _isTenthLess(alice, _worth(ALICE, ALICE));
        _isTenthLess(bob, _worth(ALICE, BOB));
        _isTenthLess(carol, _worth(ALICE, CAROL));
        _isTenthLess(leaving, registry.unbondingOf(ALICE, BOB)[0].amount);
        assertEq(registry.reserve(), reserve, "the reserve is as it was");
        assertEq(address(registry).balance, balance, "nothing has left yet");
        _everybodyLeaves();
        require(registry.totalActive() == 0 && registry.totalUnbonding() <= 8, "dust of rounding only");
        require(address(registry).balance >= reserve, "nobody was paid from the reserve");
    }

    function _deposits(uint256 own, uint256 first, uint256 second) private {
        vm.deal(ALICE, 1 ether + own);
        vm.prank(ALICE);
        registry.stake{value: 1 ether + own}();
        _delegate(BOB, ALICE, 1 ether + first);
        _delegate(CAROL, ALICE, 1 ether + second);
    }

    function _everybodyLeaves() private {
        address[3] memory all = [ALICE, BOB, CAROL];
        for (uint256 i = 0; i < 3; ++i) {
            if (_worth(ALICE, all[i]) != 0) _undelegate(all[i], ALICE, type(uint256).max);
        }
        vm.warp(START + UNBONDING);
        for (uint256 i = 0; i < 3; ++i) {
            _withdraw(all[i], ALICE);
        }
        vm.prank(REPORTER);
        registry.claim();
        vm.prank(TREASURY);
        registry.claim();
    }

    function _isTenthLess(uint256 before, uint256 now_) private pure {
        uint256 expected = before * 9 / 10;
        require(now_ <= expected + 2 && now_ + 2 >= expected, "not a tenth");
    }
}
