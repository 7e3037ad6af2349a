// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IFeePool} from "./Interfaces.sol";

/// @title Providers' stake in WTRL: tiers, an unbonding queue, and a hook for the slasher.
/// @notice A position belongs to an account and names one NodeId. The chain cannot check a NodeId's keys: a reader takes a
/// position for a node's only if the node's record, signed by its keys, names this account. One position serves one node.
contract ProviderStaking is Ownable2Step {
    using SafeERC20 for IERC20;

    struct Tier {
        uint128 minStake;
        uint64 minAgeSeconds;
    }

    struct Unbonding {
        uint128 amount;
        uint64 releaseAt;
    }

    struct Position {
        bytes32 nodeId;
        uint128 active;
        uint64 since;
    }

    uint256 public constant UNBONDING_ENTRIES_MAX = 32;
    uint256 public constant TIERS_MAX = 16;
    uint16 private constant BPS = 10_000;

    /// @notice The staked token.
    IERC20 public immutable TOKEN;
    /// @notice Where slashed stake goes.
    IFeePool public immutable FEE_POOL;
    /// @notice How long stake stays slashable after `unstake`.
    uint64 public immutable UNBONDING_SECONDS;

    /// @notice Who may slash; set by the owner (a timelock).
    address public slasher;
    /// @notice All active stake.
    uint256 public totalActive;
    /// @notice All stake that is unbonding or waits to be withdrawn.
    uint256 public totalUnbonding;

    Tier[] private _tiers;
    mapping(address account => Position) private _positions;
    mapping(address account => Unbonding[]) private _queues;
    mapping(address account => uint256) private _heads;

    event Staked(address indexed account, bytes32 indexed nodeId, uint128 amount, uint128 active);
    event Unstaked(address indexed account, uint128 amount, uint64 releaseAt, uint128 active);
    event StakeWithdrawn(address indexed account, uint256 amount);
    event Slashed(
        address indexed account, bytes32 indexed evidence, uint16 bps, uint256 fromActive, uint256 fromUnbonding
    );
    event SlasherChanged(address indexed slasher);

    error ZeroAmount();
    error ZeroAddress();
    error ZeroNodeId();
    error BadTiers();
    error OtherNode(bytes32 bound, bytes32 given);
    error StakeTooSmall(uint128 asked, uint128 active);
    error QueueFull(uint256 max);
    error NothingReleased();
    error NotSlasher(address caller);
    error BadBps(uint16 bps);

    /// @param table thresholds from low to high; tier n (from 1) is the highest whose stake and age a position has, 0 is none.
    constructor(IERC20 token, IFeePool feePool, uint64 unbondingSeconds, Tier[] memory table, address owner_)
        Ownable(owner_)
    {
        if (address(token) == address(0) || address(feePool) == address(0)) revert ZeroAddress();
        if (table.length == 0 || table.length > TIERS_MAX) revert BadTiers();
        for (uint256 i = 0; i < table.length; ++i) {
            if (table[i].minStake == 0 || (i != 0 && table[i].minStake <= table[i - 1].minStake)) revert BadTiers();
            _tiers.push(table[i]);
        }
        TOKEN = token;
        FEE_POOL = feePool;
        UNBONDING_SECONDS = unbondingSeconds;
    }

    function setSlasher(address slasher_) external onlyOwner {
        slasher = slasher_;
        emit SlasherChanged(slasher_);
    }

    /// @notice Adds to the caller's position for `nodeId`. Another node can be named only once the position is empty.
    function stake(bytes32 nodeId, uint128 amount) external {
        if (amount == 0) revert ZeroAmount();
        if (nodeId == bytes32(0)) revert ZeroNodeId();
        Position storage p = _positions[msg.sender];
        uint128 active = p.active;
        if (active == 0) {
            // Stake that still unbonds answers for the old node, so the position is not empty before it is withdrawn.
            if (p.nodeId != nodeId && p.nodeId != bytes32(0) && _waiting(msg.sender) != 0) {
                revert OtherNode(p.nodeId, nodeId);
            }
            p.nodeId = nodeId;
        } else if (p.nodeId != nodeId) {
            revert OtherNode(p.nodeId, nodeId);
        }
        // Age is weighted by stake: new stake is as young as it is.
        uint256 total = uint256(active) + amount;
        p.since = uint64((uint256(p.since) * active + block.timestamp * amount + total - 1) / total);
        p.active = active + amount;
        totalActive += amount;
        emit Staked(msg.sender, nodeId, amount, active + amount);
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Moves `amount` from active stake into the queue. It stays slashable until it is released.
    function unstake(uint128 amount) external returns (uint64 releaseAt) {
        if (amount == 0) revert ZeroAmount();
        Position storage p = _positions[msg.sender];
        uint128 active = p.active;
        if (amount > active) revert StakeTooSmall(amount, active);
        if (_waiting(msg.sender) >= UNBONDING_ENTRIES_MAX) revert QueueFull(UNBONDING_ENTRIES_MAX);
        releaseAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        p.active = active - amount;
        totalActive -= amount;
        totalUnbonding += amount;
        _queues[msg.sender].push(Unbonding(amount, releaseAt));
        emit Unstaked(msg.sender, amount, releaseAt, active - amount);
    }

    /// @notice Pays the caller every entry that has been released.
    function withdraw() external returns (uint256 amount) {
        Unbonding[] storage queue = _queues[msg.sender];
        uint256 head = _heads[msg.sender];
        uint256 end = queue.length;
        uint256 first = head;
        while (head < end && queue[head].releaseAt <= block.timestamp) {
            amount += queue[head].amount;
            delete queue[head];
            ++head;
        }
        if (head == first) revert NothingReleased();
        _heads[msg.sender] = head;
        totalUnbonding -= amount;
        emit StakeWithdrawn(msg.sender, amount);
        if (amount != 0) TOKEN.safeTransfer(msg.sender, amount);
    }

    /// @notice Takes `bps` of an account's active stake and of each entry not yet released, to the fee pool. Only the slasher.
    function slash(address account, uint16 bps, bytes32 evidence) external returns (uint256 taken) {
        if (msg.sender != slasher) revert NotSlasher(msg.sender);
        if (bps == 0 || bps > BPS) revert BadBps(bps);
        Position storage p = _positions[account];
        uint128 fromActive = uint128(uint256(p.active) * bps / BPS);
        p.active -= fromActive;
        uint256 fromUnbonding = _slashQueue(account, bps);
        taken = fromActive + fromUnbonding;
        totalActive -= fromActive;
        totalUnbonding -= fromUnbonding;
        emit Slashed(account, evidence, bps, fromActive, fromUnbonding);
        if (taken != 0) {
            FEE_POOL.creditSlashed(address(TOKEN), taken);
            TOKEN.safeTransfer(address(FEE_POOL), taken);
        }
    }

    /// @notice Tier of an account now, 0 for none.
    function tierOf(address account) external view returns (uint8 tier) {
        Position storage p = _positions[account];
        if (p.active == 0) return 0;
        uint256 age = block.timestamp - p.since;
        for (uint256 i = _tiers.length; i > 0; --i) {
            if (p.active >= _tiers[i - 1].minStake && age >= _tiers[i - 1].minAgeSeconds) return uint8(i);
        }
    }

    /// @notice An account's node, active stake and the stake-weighted time it has been there since.
    function positionOf(address account) external view returns (Position memory) {
        return _positions[account];
    }

    /// @notice Entries that have not been withdrawn, oldest first.
    function unbondingOf(address account) external view returns (Unbonding[] memory entries) {
        uint256 head = _heads[account];
        uint256 n = _queues[account].length - head;
        entries = new Unbonding[](n);
        for (uint256 i = 0; i < n; ++i) {
            entries[i] = _queues[account][head + i];
        }
    }

    /// @notice The table of tiers, low to high.
    function tiers() external view returns (Tier[] memory) {
        return _tiers;
    }

    function _slashQueue(address account, uint16 bps) private returns (uint256 taken) {
        Unbonding[] storage queue = _queues[account];
        uint256 end = queue.length;
        for (uint256 i = _heads[account]; i < end; ++i) {
            Unbonding storage entry = queue[i];
            if (entry.releaseAt <= block.timestamp) continue;
            uint128 part = uint128(uint256(entry.amount) * bps / BPS);
            entry.amount -= part;
            taken += part;
        }
    }

    function _waiting(address account) private view returns (uint256) {
        return _queues[account].length - _heads[account];
    }
}
