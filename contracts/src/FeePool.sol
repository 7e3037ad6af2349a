// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IFeePool} from "./Interfaces.sol";

/// @title Fees of all channels, split per epoch: 40 % aggregator, 20 % relays, 40 % providers.
/// @notice Aggregators claim their share themselves. The relays' and providers' buckets only accrue here; the
/// distributor (set by the owner, a timelock) takes them out to pay rewards. A share that has no aggregator (a voucher
/// redeemed directly), a forfeited share and slashed stake go to the providers' bucket.
contract FeePool is IFeePool, Ownable2Step {
    using SafeERC20 for IERC20;

    enum Bucket {
        Relays,
        Providers
    }

    struct Buckets {
        uint128 relays;
        uint128 providers;
    }

    uint256 public constant AGGREGATOR_BPS = 4_000;
    uint256 public constant RELAY_BPS = 2_000;
    uint256 private constant BPS = 10_000;

    /// @notice Length of an epoch in seconds.
    uint64 public immutable EPOCH_SECONDS;
    /// @notice Seconds after an epoch's end before its aggregator shares can be claimed; longer than a batch can be challenged.
    uint64 public immutable CLAIM_DELAY_SECONDS;
    address private immutable DEPLOYER;

    /// @notice Wired once by the deployer.
    address public channels;
    address public settlement;
    address public staking;
    /// @notice Who may take out the relays' and providers' buckets.
    address public distributor;

    /// @notice Unclaimed share by epoch, token and aggregator.
    mapping(uint64 epoch => mapping(address token => mapping(address aggregator => uint256))) public aggregatorShare;
    /// @dev What has accrued and has not been taken out, by epoch and token.
    mapping(uint64 epoch => mapping(address token => Buckets)) private _buckets;
    /// @notice Shares of an aggregator from epochs below this number are forfeited.
    mapping(address aggregator => uint64) public forfeitedBelow;

    event Initialized(address channels, address settlement, address staking);
    event DistributorChanged(address indexed distributor);
    event FeesCredited(uint64 indexed epoch, address indexed token, address indexed aggregator, uint256 amount);
    event SlashCredited(uint64 indexed epoch, address indexed token, uint256 amount);
    event Forfeited(address indexed aggregator, uint64 belowEpoch);
    event ShareClaimed(uint64 indexed epoch, address indexed token, address indexed aggregator, uint256 amount);
    event ShareForfeited(uint64 indexed epoch, address indexed token, address indexed aggregator, uint256 amount);
    event Distributed(uint64 indexed epoch, address indexed token, Bucket bucket, address to, uint256 amount);

    error NotAuthorised(address caller);
    error AlreadyInitialized();
    error ZeroAddress();
    error ZeroEpoch();
    error TooEarly(uint64 claimableAt);
    error BucketTooSmall(uint256 asked, uint256 accrued);

    constructor(uint64 epochSeconds, uint64 claimDelaySeconds, address owner_) Ownable(owner_) {
        if (epochSeconds == 0) revert ZeroEpoch();
        EPOCH_SECONDS = epochSeconds;
        CLAIM_DELAY_SECONDS = claimDelaySeconds;
        DEPLOYER = msg.sender;
    }

    /// @notice Names the contracts that may credit fees. The deployer calls it once, after deploying them.
    function initialize(address channels_, address settlement_, address staking_) external {
        if (msg.sender != DEPLOYER) revert NotAuthorised(msg.sender);
        if (channels != address(0)) revert AlreadyInitialized();
        if (channels_ == address(0) || settlement_ == address(0) || staking_ == address(0)) revert ZeroAddress();
        channels = channels_;
        settlement = settlement_;
        staking = staking_;
        emit Initialized(channels_, settlement_, staking_);
    }

    function setDistributor(address distributor_) external onlyOwner {
        distributor = distributor_;
        emit DistributorChanged(distributor_);
    }

    /// @inheritdoc IFeePool
    function credit(address token, uint256 amount, address caller, address aggregator) external {
        if (msg.sender != channels) revert NotAuthorised(msg.sender);
        // Only Settlement knows who is a bonded aggregator; whoever else calls PaymentChannels names nobody.
        address beneficiary = caller == settlement ? aggregator : address(0);
        uint64 epoch = currentEpoch();
        uint256 share = beneficiary == address(0) ? 0 : amount * AGGREGATOR_BPS / BPS;
        uint256 relays = amount * RELAY_BPS / BPS;
        if (share != 0) aggregatorShare[epoch][token][beneficiary] += share;
        Buckets storage b = _buckets[epoch][token];
        (uint128 oldRelays, uint128 oldProviders) = (b.relays, b.providers);
        b.relays = _add(oldRelays, relays);
        b.providers = _add(oldProviders, amount - share - relays);
        emit FeesCredited(epoch, token, beneficiary, amount);
    }

    /// @inheritdoc IFeePool
    function creditSlashed(address token, uint256 amount) external {
        if (msg.sender != settlement && msg.sender != staking) revert NotAuthorised(msg.sender);
        uint64 epoch = currentEpoch();
        _addToProviders(epoch, token, amount);
        emit SlashCredited(epoch, token, amount);
    }

    /// @inheritdoc IFeePool
    function forfeit(address aggregator) external {
        if (msg.sender != settlement) revert NotAuthorised(msg.sender);
        uint64 below = currentEpoch() + 1;
        forfeitedBelow[aggregator] = below;
        emit Forfeited(aggregator, below);
    }

    /// @notice Pays an aggregator its share of an epoch, or moves it to the providers' bucket if it was forfeited. Anyone may call.
    function claim(uint64 epoch, address token, address aggregator) external returns (uint256 paid) {
        uint256 amount = aggregatorShare[epoch][token][aggregator];
        if (amount == 0) return 0;
        if (epoch < forfeitedBelow[aggregator]) {
            aggregatorShare[epoch][token][aggregator] = 0;
            _addToProviders(currentEpoch(), token, amount);
            emit ShareForfeited(epoch, token, aggregator, amount);
            return 0;
        }
        uint64 claimableAt = (epoch + 1) * EPOCH_SECONDS + CLAIM_DELAY_SECONDS;
        if (block.timestamp < claimableAt) revert TooEarly(claimableAt);
        aggregatorShare[epoch][token][aggregator] = 0;
        emit ShareClaimed(epoch, token, aggregator, amount);
        IERC20(token).safeTransfer(aggregator, amount);
        return amount;
    }

    /// @notice Takes `amount` out of a bucket. Only the distributor.
    function distribute(uint64 epoch, address token, Bucket bucket, address to, uint256 amount) external {
        if (msg.sender != distributor) revert NotAuthorised(msg.sender);
        uint256 available = accrued(epoch, token, bucket);
        if (amount > available) revert BucketTooSmall(amount, available);
        Buckets storage b = _buckets[epoch][token];
        if (bucket == Bucket.Relays) b.relays = uint128(available - amount);
        else b.providers = uint128(available - amount);
        emit Distributed(epoch, token, bucket, to, amount);
        IERC20(token).safeTransfer(to, amount);
    }

    /// @notice What has accrued and has not been taken out of a bucket.
    function accrued(uint64 epoch, address token, Bucket bucket) public view returns (uint256) {
        Buckets storage b = _buckets[epoch][token];
        return bucket == Bucket.Relays ? b.relays : b.providers;
    }

    /// @inheritdoc IFeePool
    function currentEpoch() public view returns (uint64) {
        return uint64(block.timestamp) / EPOCH_SECONDS;
    }

    function _addToProviders(uint64 epoch, address token, uint256 amount) private {
        Buckets storage b = _buckets[epoch][token];
        b.providers = _add(b.providers, amount);
    }

    /// @dev A bucket that is full stays full: a token that prints itself cannot make a payment fail.
    function _add(uint128 bucket, uint256 amount) private pure returns (uint128) {
        uint256 sum = bucket + amount;
        return sum > type(uint128).max ? type(uint128).max : uint128(sum);
    }
}
