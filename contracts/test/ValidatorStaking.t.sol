// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StakingBase} from "./StakingBase.sol";
import {ValidatorKeys} from "../src/ValidatorKeys.sol";
import {ValidatorPools} from "../src/ValidatorPools.sol";
import {ValidatorStaking} from "../src/ValidatorStaking.sol";
import {Candidate, Info, Keys, Params, Proofs, Registration} from "../src/ValidatorTypes.sol";

/// @notice Registration, delegation, keys, commission and leaving.
contract ValidatorStakingTest is StakingBase {
    function setUp() public {
        _deployRegistry();
    }

    // row: CHN-11
    function test_a_stake_under_the_minimum_is_refused_with_the_minimum() public {
        Keys memory keys = _keys(_seed(ALICE));
        Proofs memory proofs = _proofs(ALICE, keys);
        vm.deal(ALICE, MIN_STAKE);
        vm.prank(ALICE);
        vm.expectRevert(
            abi.encodeWithSelector(ValidatorStaking.StakeUnderMinimum.selector, MIN_STAKE - 1, MIN_STAKE)
        );
        registry.register{value: MIN_STAKE - 1}(keys, proofs, 500);
    }

    // row: CHN-11
    function test_registered_validators_are_candidates_with_their_keys_and_all_their_stake() public {
        _register(ALICE, MIN_STAKE, 500);
        _register(BOB, 2 * MIN_STAKE, 0);
        _delegate(CAROL, BOB, 10 ether);
        (Candidate[] memory list, uint256 total) = registry.candidates(0, 10);
        assertEq(total, 2, "registered");
        assertEq(list.length, 2, "candidates");
        assertEq(list[1].validator, BOB, "in the order they came");
        assertEq(list[1].stake, 2 * MIN_STAKE + 10 ether, "own and delegated");
        Keys memory keys = _keys(_seed(BOB));
        assertEq(list[1].scheme, 0, "scheme");
        assertEq(keccak256(list[1].vote), keccak256(keys.vote), "vote key");
        assertEq(keccak256(list[1].bls), keccak256(keys.bls), "BLS key");
        assertEq(keccak256(list[1].mldsa44), keccak256(keys.mldsa44), "ML-DSA key");
        assertEq(registry.validatorOf(_hash(keys)), BOB, "holder of the key");
    }

    function test_pages_of_candidates_end_where_the_list_ends() public {
        _register(ALICE, MIN_STAKE, 0);
        _register(BOB, MIN_STAKE, 0);
        _register(CAROL, MIN_STAKE, 0);
        vm.prank(BOB);
        registry.leave();
        (Candidate[] memory list, uint256 total) = registry.candidates(1, 2);
        assertEq(list.length, 1, "who left is passed over");
        assertEq(list[0].validator, CAROL, "third");
        assertEq(total, 3, "total");
        (list, total) = registry.candidates(3, 1);
        assertEq(list.length, 0, "past the end");
        (list, total) = registry.candidates(type(uint256).max, type(uint256).max);
        assertEq(list.length, 0, "far past the end");
        (list, total) = registry.candidates(1, type(uint256).max);
        assertEq(list.length, 1, "a count beyond the end");
    }

    // row: CHN-11
    function test_genesis_validators_need_no_proofs_and_only_block_0_takes_them() public {
        Registration[] memory list = new Registration[](2);
        list[0] = Registration(ALICE, Keys(0, _bytes("a", 32), "", ""), MIN_STAKE, 100);
        list[1] = Registration(BOB, _postQuantumKeys("b"), 2 * MIN_STAKE, 200);
        vm.deal(address(this), 6 * MIN_STAKE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.NotGenesis.selector, 1));
        registry.genesisRegister{value: 3 * MIN_STAKE}(list);
        vm.roll(0);
        vm.expectRevert(
            abi.encodeWithSelector(ValidatorStaking.WrongValue.selector, 3 * MIN_STAKE, 3 * MIN_STAKE - 1)
        );
        registry.genesisRegister{value: 3 * MIN_STAKE - 1}(list);
        registry.genesisRegister{value: 3 * MIN_STAKE}(list);
        (Candidate[] memory page,) = registry.candidates(0, 10);
        assertEq(page[0].vote.length, 32, "Ed25519");
        assertEq(page[0].bls.length, 0, "no BLS key");
        assertEq(page[1].scheme, 1, "ML-DSA-44");
        assertEq(page[1].vote.length, 1_312, "ML-DSA-44 vote key");
        assertEq(page[1].stake, 2 * MIN_STAKE, "stake");
        assertEq(registry.reserve(), 0, "all of it is stake");
    }

    function test_a_genesis_validator_brings_its_checkpoint_keys_later_and_keeps_its_vote_key() public {
        vm.roll(0);
        Keys memory keys = _keys(_seed(ALICE));
        Registration[] memory list = new Registration[](1);
        list[0] = Registration(ALICE, Keys(0, keys.vote, "", ""), MIN_STAKE, 0);
        vm.deal(address(this), MIN_STAKE);
        registry.genesisRegister{value: MIN_STAKE}(list);
        vm.roll(1);
        _rotate(ALICE, keys);
        assertEq(registry.info(ALICE).keys.bls.length, 96, "BLS key");
        _report(_hash(keys), 10_000);
        require(registry.info(ALICE).tombstoned, "the same vote key is still in use");
    }

    // row: CHN-15
    function test_each_key_must_prove_its_possession_for_this_account() public {
        Keys memory keys = _keys(_seed(ALICE));
        vm.deal(ALICE, 10 * MIN_STAKE);
        vm.startPrank(ALICE);
        for (uint8 kind = 0; kind < 3; ++kind) {
            Proofs memory proofs = _proofs(ALICE, keys);
            Proofs memory stolen = _proofs(BOB, keys);
            if (kind == 0) proofs.vote = stolen.vote;
            if (kind == 1) proofs.bls = stolen.bls;
            if (kind == 2) proofs.mldsa44 = stolen.mldsa44;
            vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.BadProof.selector, kind));
            registry.register{value: MIN_STAKE}(keys, proofs, 0);
        }
        vm.stopPrank();
    }

    function test_keys_and_proofs_of_a_wrong_length_are_refused() public {
        Keys memory keys = _keys(_seed(ALICE));
        Proofs memory proofs = _proofs(ALICE, keys);
        vm.deal(ALICE, 10 * MIN_STAKE);
        vm.startPrank(ALICE);
        Keys memory bad = Keys(2, keys.vote, keys.bls, keys.mldsa44);
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.UnknownScheme.selector, 2));
        registry.register{value: MIN_STAKE}(bad, proofs, 0);
        bad = Keys(1, keys.vote, keys.bls, keys.mldsa44);
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.WrongLength.selector, 0, 1_312, 32));
        registry.register{value: MIN_STAKE}(bad, proofs, 0);
        bad = Keys(0, keys.vote, "", keys.mldsa44);
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.WrongLength.selector, 1, 96, 0));
        registry.register{value: MIN_STAKE}(bad, proofs, 0);
        proofs.mldsa44 = bytes.concat(proofs.mldsa44, hex"00");
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.WrongLength.selector, 2, 2_420, 2_421));
        registry.register{value: MIN_STAKE}(keys, proofs, 0);
        vm.stopPrank();
    }

    function test_without_the_precompiles_no_proof_is_good() public {
        Keys memory keys = _keys(_seed(ALICE));
        Proofs memory proofs = _proofs(ALICE, keys);
        vm.etch(address(0x747204), "");
        vm.deal(ALICE, MIN_STAKE);
        vm.prank(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.BadProof.selector, 1));
        registry.register{value: MIN_STAKE}(keys, proofs, 0);
        vm.etch(address(0x747203), "");
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.NotEquivocation.selector));
        registry.reportEquivocation("a", "b");
    }

    // row: CHN-15
    function test_post_quantum_vote_keys_register() public {
        Keys memory keys = _postQuantumKeys("pq");
        Proofs memory proofs = _proofs(ALICE, keys);
        vm.deal(ALICE, MIN_STAKE);
        vm.prank(ALICE);
        registry.register{value: MIN_STAKE}(keys, proofs, 0);
        Info memory i = registry.info(ALICE);
        assertEq(i.keys.scheme, 1, "scheme");
        assertEq(keccak256(i.keys.vote), keccak256(keys.vote), "key");
        assertEq(i.voteKeyHash, _hash(keys), "hash");
    }

    function test_a_vote_key_serves_one_validator_for_ever() public {
        _register(ALICE, MIN_STAKE, 0);
        Keys memory first = _keys(_seed(ALICE));
        Proofs memory proofs = _proofs(BOB, first);
        vm.deal(BOB, MIN_STAKE);
        vm.prank(BOB);
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.KeyTaken.selector, _hash(first), ALICE));
        registry.register{value: MIN_STAKE}(first, proofs, 0);
        _rotate(ALICE, _keys("second"));
        proofs = _proofs(ALICE, first);
        vm.prank(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorKeys.KeyTaken.selector, _hash(first), ALICE));
        registry.rotateKey(first, proofs);
    }

    function test_an_account_registers_once() public {
        _register(ALICE, MIN_STAKE, 0);
        Keys memory keys = _keys("other");
        Proofs memory proofs = _proofs(ALICE, keys);
        vm.deal(ALICE, MIN_STAKE);
        vm.prank(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.AlreadyRegistered.selector, ALICE));
        registry.register{value: MIN_STAKE}(keys, proofs, 0);
    }

    // row: CHN-14
    function test_candidates_show_a_rotated_key_at_once() public {
        _register(ALICE, MIN_STAKE, 0);
        _rotate(ALICE, _postQuantumKeys("second"));
        (Candidate[] memory list,) = registry.candidates(0, 1);
        assertEq(list[0].scheme, 1, "scheme");
        assertEq(keccak256(list[0].vote), keccak256(_bytes("second", 1_312)), "key");
    }

    // row: CHN-14
    function test_own_stake_under_the_minimum_drops_out_and_comes_back() public {
        _register(ALICE, MIN_STAKE, 0);
        _delegate(BOB, ALICE, MIN_STAKE);
        _undelegate(ALICE, ALICE, 1 ether);
        require(!_candidate(ALICE), "delegations do not count for the minimum");
        vm.deal(ALICE, 1 ether);
        vm.prank(ALICE);
        registry.stake{value: 1 ether}();
        require(_candidate(ALICE), "back");
    }

    // row: CHN-14
    function test_a_validator_leaves_and_gets_its_stake_after_the_unbonding_time() public {
        _register(ALICE, MIN_STAKE, 0);
        _delegate(BOB, ALICE, 5 ether);
        vm.prank(ALICE);
        registry.leave();
        require(!_candidate(ALICE), "no candidate");
        assertEq(registry.info(ALICE).own, 0, "all is unbonding");
        vm.warp(START + UNBONDING - 1);
        vm.prank(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorPools.NothingReleased.selector));
        registry.withdraw(ALICE);
        vm.warp(START + UNBONDING);
        assertEq(_withdraw(ALICE, ALICE), MIN_STAKE, "whole");
        vm.deal(CAROL, 5 ether);
        vm.prank(CAROL);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.IsLeaving.selector, ALICE));
        registry.delegate{value: 5 ether}(ALICE);
        vm.prank(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.IsLeaving.selector, ALICE));
        registry.leave();
        _undelegate(BOB, ALICE, type(uint256).max);
        vm.warp(START + 2 * UNBONDING);
        assertEq(_withdraw(BOB, ALICE), 5 ether, "delegators leave when they like");
    }

    function test_only_registered_validators_take_stake() public {
        vm.deal(BOB, 5 ether);
        vm.startPrank(BOB);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.NotRegistered.selector, ALICE));
        registry.delegate{value: 5 ether}(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.NotRegistered.selector, BOB));
        registry.stake{value: 5 ether}();
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.NotRegistered.selector, BOB));
        registry.leave();
        vm.stopPrank();
        require(!registry.info(ALICE).registered, "unknown");
    }

    function test_a_delegation_is_at_least_1_trl() public {
        _register(ALICE, MIN_STAKE, 0);
        vm.deal(BOB, 1 ether);
        vm.prank(BOB);
        vm.expectRevert(abi.encodeWithSelector(ValidatorPools.DelegationTooSmall.selector, 1 ether - 1, 1 ether));
        registry.delegate{value: 1 ether - 1}(ALICE);
    }

    function test_undelegating_more_than_there_is_or_nothing_is_refused() public {
        _register(ALICE, MIN_STAKE, 0);
        _delegate(BOB, ALICE, 5 ether);
        vm.startPrank(BOB);
        vm.expectRevert(abi.encodeWithSelector(ValidatorPools.StakeTooSmall.selector, 6 ether, 5 ether));
        registry.undelegate(ALICE, 6 ether);
        vm.expectRevert(abi.encodeWithSelector(ValidatorPools.ZeroAmount.selector));
        registry.undelegate(ALICE, 0);
        vm.stopPrank();
        vm.prank(CAROL);
        vm.expectRevert(abi.encodeWithSelector(ValidatorPools.ZeroAmount.selector));
        registry.undelegate(ALICE, type(uint256).max);
    }

    function test_the_unbonding_queue_is_bounded() public {
        _register(ALICE, MIN_STAKE, 0);
        _delegate(BOB, ALICE, 100 ether);
        vm.startPrank(BOB);
        for (uint256 i = 0; i < 32; ++i) {
            registry.undelegate(ALICE, 1 ether);
        }
        vm.expectRevert(abi.encodeWithSelector(ValidatorPools.QueueFull.selector, 32));
        registry.undelegate(ALICE, 1 ether);
        assertEq(registry.unbondingOf(ALICE, BOB).length, 32, "waiting");
        vm.warp(START + UNBONDING);
        assertEq(registry.withdraw(ALICE), 32 ether, "all");
        registry.undelegate(ALICE, 1 ether);
        vm.stopPrank();
        assertEq(registry.unbondingOf(ALICE, BOB)[0].amount, 1 ether, "the one that waits");
    }

    function test_an_account_has_stake_with_at_most_32_validators() public {
        for (uint256 i = 0; i < 33; ++i) {
            _register(address(uint160(0x1000 + i)), MIN_STAKE, 0);
        }
        for (uint256 i = 0; i < 32; ++i) {
            _delegate(BOB, address(uint160(0x1000 + i)), (i + 1) * 1 ether);
        }
        assertEq(registry.stakedBy(BOB), 32 * 33 / 2 * 1 ether, "votes of all of it");
        vm.deal(BOB, 1 ether);
        vm.prank(BOB);
        vm.expectRevert(abi.encodeWithSelector(ValidatorPools.TooManyDelegations.selector, 32));
        registry.delegate{value: 1 ether}(address(0x1020));
        _undelegate(BOB, address(0x1003), type(uint256).max);
        _delegate(BOB, address(0x1020), 1 ether);
        assertEq(registry.delegationsOf(BOB).length, 32, "one for another");
        assertEq(registry.stakedBy(BOB), (32 * 33 / 2 - 4 + 1) * 1 ether, "unbonding stake does not vote");
    }

    // row: CHN-18
    function test_own_bond_and_delegations_vote_once() public {
        _register(ALICE, MIN_STAKE, 0);
        _register(BOB, MIN_STAKE, 0);
        _delegate(ALICE, BOB, 7 ether);
        assertEq(registry.stakedBy(ALICE), MIN_STAKE + 7 ether, "both");
        assertEq(registry.stakedBy(BOB), MIN_STAKE, "a delegation votes for its owner");
    }

    function test_a_commission_rises_once_an_epoch_and_slowly_and_falls_freely() public {
        _register(ALICE, MIN_STAKE, 1_000);
        vm.startPrank(ALICE);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.CommissionTooHigh.selector, 1_501, 1_500));
        registry.setCommission(1_501);
        registry.setCommission(1_500);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.CommissionRaisedAlready.selector, 1));
        registry.setCommission(1_501);
        registry.setCommission(0);
        vm.roll(EPOCH_BLOCKS + 1);
        registry.setCommission(500);
        vm.stopPrank();
        assertEq(registry.info(ALICE).commissionBps, 500, "second epoch");
        _register(BOB, MIN_STAKE, 9_900);
        vm.startPrank(BOB);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.CommissionTooHigh.selector, 10_001, 10_000));
        registry.setCommission(10_001);
        registry.setCommission(10_000);
        vm.stopPrank();
        Keys memory keys = _keys(_seed(CAROL));
        Proofs memory proofs = _proofs(CAROL, keys);
        vm.deal(CAROL, MIN_STAKE);
        vm.prank(CAROL);
        vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.CommissionTooHigh.selector, 10_001, 10_000));
        registry.register{value: MIN_STAKE}(keys, proofs, 10_001);
    }

    function test_bad_parameters_are_refused() public {
        for (uint256 i = 0; i < 11; ++i) {
            Params memory p = _params();
            if (i == 0) p.unbondingSeconds = p.evidenceAgeSeconds;
            if (i == 1) p.slashBps = 0;
            if (i == 2) p.slashBps = 10_000;
            if (i == 3) p.reporterBps = 10_001;
            if (i == 4) p.epochBlocks = 0;
            if (i == 5) p.epochsPerHalving = 0;
            if (i == 6) p.seats = 0;
            if (i == 7) p.minStake = 1 ether - 1;
            if (i == 8) p.treasury = address(0);
            if (i == 9) p.epochReward = uint256(type(uint128).max) + 1;
            if (i == 10) p.jailSeconds = uint64(type(uint32).max) + 1;
            vm.expectRevert(abi.encodeWithSelector(ValidatorStaking.BadParams.selector));
            new ValidatorStaking(p);
        }
    }

    function test_parameters_are_as_deployed() public view {
        assertEq(registry.MIN_STAKE(), MIN_STAKE, "minimum");
        assertEq(registry.UNBONDING_SECONDS(), UNBONDING, "unbonding");
        assertEq(registry.SEATS(), 100, "seats");
        assertEq(registry.EPOCH_BLOCKS(), EPOCH_BLOCKS, "epoch");
        assertEq(registry.epochEndedAt(0), START, "genesis");
        assertEq(registry.currentEpoch(), 1, "block 1");
    }

    function test_the_code_fits_the_limit_of_a_contract() public view {
        require(address(registry).code.length <= 24_576, "EIP-170");
    }
}
