// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StakingBase} from "./StakingBase.sol";
import {ValidatorStaking} from "../src/ValidatorStaking.sol";
import {Info, UnbondingEntry} from "../src/ValidatorTypes.sol";

/// @notice Does anything anyone may do with stake, and keeps its own books of what should have happened.
contract StakingHandler is StakingBase {
    struct Price {
        uint256 tokens;
        uint256 shares;
    }

    address[4] public validators = [address(0xF001), address(0xF002), address(0xF003), address(0xF004)];
    address[7] public actors =
        [address(0xF001), address(0xF002), address(0xF003), address(0xF004), ALICE, BOB, CAROL];
    /// @notice Coins that came in as stake and as reserve, and went out.
    uint256 public staked;
    uint256 public funded;
    uint256 public paidOut;
    /// @notice What epochs have paid.
    uint256 public rewards;
    bool public priceFell;
    bool public unequalSlash;
    uint256 private _rotations;

    constructor() {
        _deployRegistry();
        _fundReserve(3_000 ether);
        funded = 3_000 ether;
        for (uint256 i = 0; i < 4; ++i) {
            _register(validators[i], MIN_STAKE * (i + 1), uint16(i * 3_333));
            staked += MIN_STAKE * (i + 1);
        }
    }

    function registryContract() external view returns (ValidatorStaking) {
        return registry;
    }

    /// @dev The worth of a share never falls, whatever is done, but by a slash.
    modifier pricesHold() {
        Price[4] memory before;
        for (uint256 i = 0; i < 4; ++i) {
            before[i] = _price(validators[i]);
        }
        _;
        for (uint256 i = 0; i < 4; ++i) {
            Price memory now_ = _price(validators[i]);
            if (now_.shares == 0) continue;
            if (now_.tokens * before[i].shares < before[i].tokens * now_.shares) priceFell = true;
        }
    }

    function delegate(uint256 who, uint256 to, uint96 amount) external pricesHold {
        (address actor, address validator) = (actors[who % 7], validators[to % 4]);
        Info memory i = registry.info(validator);
        if (i.tombstoned || i.leaving) return;
        uint256 value = uint256(amount) % (2 * MIN_STAKE) + 1 ether;
        vm.deal(actor, value);
        vm.prank(actor);
        try registry.delegate{value: value}(validator) {
            staked += value;
        } catch {}
        vm.deal(actor, 0);
    }

    function undelegate(uint256 who, uint256 from, uint96 amount, bool all) external pricesHold {
        (address actor, address validator) = (actors[who % 7], validators[from % 4]);
        uint256 worth = _worth(validator, actor);
        if (worth == 0 || registry.unbondingOf(validator, actor).length == 32) return;
        _undelegate(actor, validator, all ? type(uint256).max : uint256(amount) % worth + 1);
    }

    function withdraw(uint256 who, uint256 from) external pricesHold {
        (address actor, address validator) = (actors[who % 7], validators[from % 4]);
        UnbondingEntry[] memory list = registry.unbondingOf(validator, actor);
        if (list.length == 0 || list[0].releaseAt > block.timestamp) return;
        paidOut += _withdraw(actor, validator);
        require(registry.unbondingOf(validator, actor).length < list.length, "still there");
        vm.deal(actor, 0);
    }

    function endEpoch(uint256 seed) external pricesHold {
        uint256 n = seed % 6;
        address[] memory members = new address[](n);
        uint32[] memory signed = new uint32[](n);
        uint64[] memory powers = new uint64[](n);
        for (uint256 i = 0; i < n; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            members[i] = actors[seed % 7];
            signed[i] = uint32((seed >> 8) % 80);
            powers[i] = uint64((seed >> 16) % 10_000_000);
        }
        uint256 before = registry.totalActive();
        vm.warp(block.timestamp + 15);
        _endEpoch(members, signed, powers);
        rewards += registry.totalActive() - before;
    }

    function report(uint256 whom, uint8 chance) external {
        // Out of four validators too few would be left if it happened often.
        if (chance % 8 != 0) return;
        address validator = validators[whom % 4];
        Info memory before = registry.info(validator);
        if (before.tombstoned) return;
        _report(before.voteKeyHash, uint64(block.number));
        Info memory i = registry.info(validator);
        uint256 own = before.own * 9 / 10;
        uint256 delegated = before.delegated * 9 / 10;
        if (_apart(own, i.own) > 2 || _apart(delegated, i.delegated) > 2) unequalSlash = true;
    }

    function rotate(uint256 whom) external pricesHold {
        address validator = validators[whom % 4];
        Info memory i = registry.info(validator);
        if (i.tombstoned || i.leaving) return;
        _rotate(validator, _keys(keccak256(abi.encode("rotation", ++_rotations))));
    }

    function leave(uint256 whom, uint8 chance) external pricesHold {
        address validator = validators[whom % 4];
        if (chance % 16 != 0) return;
        vm.prank(validator);
        try registry.leave() {} catch {}
    }

    function claim(bool treasury) external pricesHold {
        address account = treasury ? TREASURY : REPORTER;
        vm.prank(account);
        paidOut += registry.claim();
    }

    function wait_(uint8 seconds_) external {
        vm.warp(block.timestamp + seconds_ % 100);
    }

    function _price(address validator) private view returns (Price memory) {
        Info memory i = registry.info(validator);
        return Price(i.own + i.delegated, i.shares);
    }

    function _apart(uint256 a, uint256 b) private pure returns (uint256) {
        return a > b ? a - b : b - a;
    }
}

contract ValidatorInvariantsTest is StakingBase {
    StakingHandler private handler;

    function setUp() public {
        handler = new StakingHandler();
        registry = handler.registryContract();
    }

    function targetContracts() external view returns (address[] memory list) {
        list = new address[](1);
        list[0] = address(handler);
    }

    // row: CHN-18
    function invariant_every_wei_is_stake_unbonding_a_claim_or_reserve_and_stake_has_owners() external view {
        _poolsUnbondingClaimsAndReserveAreTheBalance();
        _accountsOwnWhatThePoolsHoldAndNoMore();
        _votesAreTheActiveStake();
    }

    // row: CHN-13
    function invariant_a_share_loses_only_by_a_slash_of_all_alike_and_rewards_are_at_most_the_emission() external view {
        require(!handler.priceFell(), "a share lost worth without a slash");
        require(!handler.unequalSlash(), "own and delegated stake were not slashed alike");
        uint256 most = 0;
        for (uint64 i = 1; i <= registry.lastEpoch(); ++i) {
            most += registry.emission(i);
        }
        require(handler.rewards() <= most, "more than the emission");
    }

    function _poolsUnbondingClaimsAndReserveAreTheBalance() private view {
        uint256 active = 0;
        uint256 unbonding = 0;
        for (uint256 i = 0; i < 4; ++i) {
            Info memory x = registry.info(handler.validators(i));
            active += x.own + x.delegated;
            unbonding += x.unbonding;
        }
        assertEq(active, registry.totalActive(), "active");
        assertEq(unbonding, registry.totalUnbonding(), "unbonding");
        assertEq(
            registry.claimable(TREASURY) + registry.claimable(REPORTER), registry.totalClaimable(), "claims"
        );
        uint256 reserve = handler.funded() - handler.rewards();
        assertEq(registry.reserve(), reserve, "the reserve has paid the rewards and nothing else");
        assertEq(
            address(registry).balance, active + unbonding + registry.totalClaimable() + reserve, "balance"
        );
        assertEq(
            address(registry).balance, handler.staked() + handler.funded() - handler.paidOut(), "in and out"
        );
    }

    function _accountsOwnWhatThePoolsHoldAndNoMore() private view {
        for (uint256 i = 0; i < 4; ++i) {
            address validator = handler.validators(i);
            Info memory x = registry.info(validator);
            (uint256 worth, uint256 shares, uint256 waiting, uint256 entries) = _owned(validator);
            assertEq(shares, x.shares, "shares");
            require(worth <= x.own + x.delegated, "more than the pool");
            require(worth + 7 >= x.own + x.delegated, "an owner for every wei, but for rounding");
            require(waiting <= x.unbonding, "more waits than there is");
            require(x.tombstoned || waiting == x.unbonding, "less waits than there is");
            // A slash may leave a wei for each entry it took from.
            require(waiting + 7 * 32 >= x.unbonding && entries <= 7 * 32, "more than dust is lost");
        }
    }

    function _votesAreTheActiveStake() private view {
        uint256 votes = 0;
        for (uint256 i = 0; i < 7; ++i) {
            votes += registry.stakedBy(handler.actors(i));
        }
        require(votes <= registry.totalActive() && votes + 28 >= registry.totalActive(), "votes");
    }

    function _owned(address validator)
        private
        view
        returns (uint256 worth, uint256 shares, uint256 waiting, uint256 entries)
    {
        for (uint256 i = 0; i < 7; ++i) {
            address actor = handler.actors(i);
            (uint256 s, uint256 w) = registry.delegation(validator, actor);
            (shares, worth) = (shares + s, worth + w);
            UnbondingEntry[] memory list = registry.unbondingOf(validator, actor);
            entries += list.length;
            for (uint256 j = 0; j < list.length; ++j) {
                waiting += list[j].amount;
            }
        }
    }
}
