// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {UnbondingEntry} from "./ValidatorTypes.sol";

/// @title Stake of validators and their delegators in the native coin: shares, the unbonding queue, slashing.
/// @notice A validator's pool holds its own stake and what is delegated to it; an account holds shares of it. Rewards raise
/// the value of a share, a slash lowers it. A pool is slashed at most once, because its validator is out for ever then:
/// so an unbonding entry needs only its own dates to know what it lost.
abstract contract ValidatorPools {
    using Checkpoints for Checkpoints.Trace208;

    /// @dev While there are shares there are tokens, and without shares there are none. `slashedAt` 0: never slashed.
    struct Pool {
        uint128 tokens;
        uint128 shares;
        uint128 unbonding;
        uint48 slashedAt;
    }

    /// @dev `afterSlash`: made of stake that had been slashed already.
    struct Entry {
        uint128 amount;
        uint64 releaseAt;
        bool afterSlash;
    }

    /// @dev Entries before `head` have been withdrawn.
    struct Queue {
        uint256 head;
        Entry[] entries;
    }

    uint256 public constant MIN_DELEGATION = 1 ether;
    uint256 public constant UNBONDING_ENTRIES_MAX = 32;
    uint256 public constant DELEGATIONS_MAX = 32;
    uint256 internal constant BPS = 10_000;
    /// @dev A deposit that could lose more than one part in so many to rounding is refused.
    uint256 private constant ROUNDING_PARTS = 1e9;

    /// @notice How long stake stays slashable after it was unbonded.
    uint64 public immutable UNBONDING_SECONDS;

    /// @notice All active stake.
    uint256 public totalActive;
    /// @notice All stake that is unbonding or waits to be withdrawn.
    uint256 public totalUnbonding;
    /// @notice All rewards for reports and slashed stake that nobody has claimed yet.
    uint256 public totalClaimable;
    /// @notice What `claim` pays an account.
    mapping(address account => uint256) public claimable;

    mapping(address validator => Pool) private _pools;
    mapping(address delegator => mapping(address validator => uint256)) private _shares;
    mapping(address delegator => address[]) private _delegations;
    mapping(address delegator => mapping(address validator => Queue)) private _queues;
    /// @dev All that was ever unbonded from a validator, by time.
    mapping(address validator => Checkpoints.Trace208) private _unbonded;

    event Delegated(address indexed validator, address indexed delegator, uint256 amount, uint256 shares);
    event Undelegated(
        address indexed validator, address indexed delegator, uint256 amount, uint256 shares, uint64 releaseAt
    );
    event Withdrawn(address indexed validator, address indexed delegator, uint256 amount);
    event Claimed(address indexed account, uint256 amount);

    error DelegationTooSmall(uint256 asked, uint256 minimum);
    error StakeTooSmall(uint256 asked, uint256 held);
    error ZeroAmount();
    error ShareTooDear(uint256 price, uint256 amount);
    error TooManyDelegations(uint256 max);
    error QueueFull(uint256 max);
    error NothingReleased();
    error NativeTransferFailed(address to, uint256 amount);

    constructor(uint64 unbondingSeconds) {
        UNBONDING_SECONDS = unbondingSeconds;
    }

    /// @notice Moves `amount` of the caller's stake with a validator into the queue; the highest number means all of it.
    /// It stays slashable until it is released.
    function undelegate(address validator, uint256 amount) external returns (uint64 releaseAt) {
        uint256 held = _shares[msg.sender][validator];
        Pool storage pool = _pools[validator];
        uint256 worth = _worth(pool, held);
        if (amount != type(uint256).max && amount > worth) revert StakeTooSmall(amount, worth);
        if (amount >= worth) return _unbond(validator, msg.sender, held, worth);
        uint256 shares = Math.ceilDiv(amount * pool.shares, pool.tokens);
        // The last share takes what is left, so that no tokens stay without an owner.
        return _unbond(validator, msg.sender, shares, shares == held ? worth : amount);
    }

    /// @notice Pays the caller every released entry of its queue with a validator.
    function withdraw(address validator) external returns (uint256 amount) {
        Queue storage queue = _queues[msg.sender][validator];
        Pool storage pool = _pools[validator];
        uint256 head = queue.head;
        uint256 end = queue.entries.length;
        uint256 first = head;
        while (head < end && queue.entries[head].releaseAt <= block.timestamp) {
            amount += _payable(pool, queue.entries[head]);
            delete queue.entries[head];
            ++head;
        }
        if (head == first) revert NothingReleased();
        queue.head = head;
        pool.unbonding -= uint128(amount);
        totalUnbonding -= amount;
        emit Withdrawn(validator, msg.sender, amount);
        _payCaller(amount);
    }

    /// @notice Pays the caller what reports have earned it, if anything. The treasury gets its part in this way too.
    function claim() external returns (uint256 amount) {
        amount = claimable[msg.sender];
        if (amount > 0) {
            claimable[msg.sender] = 0;
            totalClaimable -= amount;
            emit Claimed(msg.sender, amount);
            _payCaller(amount);
        }
    }

    /// @notice What the contract holds beyond stake and claims: rewards are paid from it.
    function reserve() public view returns (uint256) {
        uint256 owed = totalActive + totalUnbonding + totalClaimable;
        // Never the case; but the end of an epoch must not fail for it.
        return address(this).balance > owed ? address(this).balance - owed : 0;
    }

    /// @notice An account's active stake with a validator: shares and what they are worth.
    function delegation(address validator, address delegator) public view returns (uint256 shares, uint256 amount) {
        shares = _shares[delegator][validator];
        amount = _worth(_pools[validator], shares);
    }

    /// @notice The validators an account has active stake with.
    function delegationsOf(address account) external view returns (address[] memory) {
        return _delegations[account];
    }

    /// @notice All active stake of an account, its own bond included.
    function stakedBy(address account) external view returns (uint256 amount) {
        address[] memory list = _delegations[account];
        for (uint256 i = 0; i < list.length; ++i) {
            (, uint256 part) = delegation(list[i], account);
            amount += part;
        }
    }

    /// @notice Entries that have not been withdrawn, oldest first, with what a slash has left of them.
    function unbondingOf(address validator, address delegator) external view returns (UnbondingEntry[] memory list) {
        Queue storage queue = _queues[delegator][validator];
        uint256 head = queue.head;
        list = new UnbondingEntry[](queue.entries.length - head);
        for (uint256 i = 0; i < list.length; ++i) {
            Entry memory entry = queue.entries[head + i];
            list[i] = UnbondingEntry(_payable(_pools[validator], entry), entry.releaseAt);
        }
    }

    /// @dev Books `amount`, which came with the call, as stake of `delegator`.
    function _deposit(address validator, address delegator, uint256 amount) internal {
        if (amount < MIN_DELEGATION) revert DelegationTooSmall(amount, MIN_DELEGATION);
        Pool storage pool = _pools[validator];
        (uint256 tokens, uint256 total) = (pool.tokens, pool.shares);
        // Rewards into a pool of next to no shares could make one share worth more than a deposit. What rounding takes from
        // a deposit is less than one share.
        if (tokens * ROUNDING_PARTS > amount * total && total != 0) revert ShareTooDear(tokens / total, amount);
        uint256 shares = total == 0 ? amount : amount * total / tokens;
        _addShares(validator, delegator, shares);
        pool.tokens = SafeCast.toUint128(tokens + amount);
        totalActive += amount;
        emit Delegated(validator, delegator, amount, shares);
    }

    /// @dev Burns `shares` and queues `amount`, which they are worth.
    function _unbond(address validator, address delegator, uint256 shares, uint256 amount)
        internal
        returns (uint64 releaseAt)
    {
        if (amount == 0) revert ZeroAmount();
        Queue storage queue = _queues[delegator][validator];
        if (queue.entries.length - queue.head >= UNBONDING_ENTRIES_MAX) revert QueueFull(UNBONDING_ENTRIES_MAX);
        Pool storage pool = _pools[validator];
        _burnShares(validator, delegator, shares);
        pool.tokens -= uint128(amount);
        pool.unbonding += uint128(amount);
        totalActive -= amount;
        totalUnbonding += amount;
        releaseAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        queue.entries.push(Entry(uint128(amount), releaseAt, pool.slashedAt != 0));
        Checkpoints.Trace208 storage unbonded = _unbonded[validator];
        // slither-disable-next-line unused-return
        unbonded.push(uint48(block.timestamp), unbonded.latest() + uint208(amount));
        emit Undelegated(validator, delegator, amount, shares, releaseAt);
    }

    /// @dev Adds a reward to a pool with shares; `commission` of it becomes own stake of the validator.
    function _reward(address validator, uint256 amount, uint256 commission) internal {
        Pool storage pool = _pools[validator];
        uint256 tokens = pool.tokens + (amount - commission);
        uint256 shares = commission * pool.shares / tokens;
        if (shares != 0) _addShares(validator, validator, shares);
        pool.tokens = uint128(tokens + commission);
        totalActive += amount;
    }

    /// @dev Takes `bps` of the pool and of every entry that is not yet released. At most once for a validator.
    function _slash(address validator, uint256 bps) internal returns (uint256 fromActive, uint256 fromUnbonding) {
        Pool storage pool = _pools[validator];
        fromActive = pool.tokens * bps / BPS;
        Checkpoints.Trace208 storage unbonded = _unbonded[validator];
        uint256 released =
            block.timestamp < UNBONDING_SECONDS ? 0 : unbonded.upperLookup(uint48(block.timestamp - UNBONDING_SECONDS));
        fromUnbonding = (unbonded.latest() - released) * bps / BPS;
        pool.slashedAt = uint48(block.timestamp);
        pool.tokens -= uint128(fromActive);
        pool.unbonding -= uint128(fromUnbonding);
        totalActive -= fromActive;
        totalUnbonding -= fromUnbonding;
    }

    /// @dev Books `amount` for an account to claim: nobody is paid from within another's transaction.
    function _credit(address account, uint256 amount) internal {
        claimable[account] += amount;
        totalClaimable += amount;
    }

    function _isSlashed(address validator) internal view returns (bool) {
        return _pools[validator].slashedAt != 0;
    }

    function _pool(address validator) internal view returns (Pool memory) {
        return _pools[validator];
    }

    /// @dev Share of an entry that was slashed, in hundredths of a percent.
    function _slashedBps() internal view virtual returns (uint256);

    function _addShares(address validator, address delegator, uint256 shares) private {
        uint256 held = _shares[delegator][validator];
        if (held == 0) {
            address[] storage list = _delegations[delegator];
            if (list.length >= DELEGATIONS_MAX) revert TooManyDelegations(DELEGATIONS_MAX);
            list.push(validator);
        }
        _shares[delegator][validator] = held + shares;
        _pools[validator].shares += SafeCast.toUint128(shares);
    }

    function _burnShares(address validator, address delegator, uint256 shares) private {
        uint256 left = _shares[delegator][validator] - shares;
        _shares[delegator][validator] = left;
        _pools[validator].shares -= uint128(shares);
        if (left != 0) return;
        address[] storage list = _delegations[delegator];
        uint256 last = list.length - 1;
        for (uint256 i = 0; i < last; ++i) {
            if (list[i] == validator) {
                list[i] = list[last];
                break;
            }
        }
        list.pop();
    }

    function _payCaller(uint256 amount) private {
        // Slither takes the caller for arbitrary, because it is not named in the external function.
        // slither-disable-next-line arbitrary-send-eth
        (bool sent,) = msg.sender.call{value: amount}("");
        if (!sent) revert NativeTransferFailed(msg.sender, amount);
    }

    function _payable(Pool storage pool, Entry memory entry) private view returns (uint256) {
        uint256 slashedAt = pool.slashedAt;
        bool slashed = slashedAt != 0 && !entry.afterSlash && entry.releaseAt > slashedAt;
        return slashed ? entry.amount * (BPS - _slashedBps()) / BPS : entry.amount;
    }

    function _worth(Pool storage pool, uint256 shares) private view returns (uint256) {
        return shares == 0 ? 0 : shares * pool.tokens / pool.shares;
    }
}
