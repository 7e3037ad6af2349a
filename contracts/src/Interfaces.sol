// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @notice One voucher as it is given in bulk: signature in EIP-2098 form.
struct SignedVoucher {
    bytes32 channelId;
    uint128 cumulativeAmount;
    bytes32 r;
    bytes32 vs;
}

/// @notice What PaymentChannels, Settlement and ProviderStaking need of the fee pool.
interface IFeePool {
    /// @notice Books `amount` of `token`, sent by PaymentChannels. `caller` is who called PaymentChannels, `aggregator` whom it named.
    function credit(address token, uint256 amount, address caller, address aggregator) external;

    /// @notice Books slashed `amount` of `token`, sent by Settlement or ProviderStaking, to the providers' bucket.
    function creditSlashed(address token, uint256 amount) external;

    /// @notice Takes away an aggregator's unclaimed shares up to the current epoch.
    function forfeit(address aggregator) external;

    /// @notice Number of the running epoch: time since 1970 divided by the epoch's length.
    function currentEpoch() external view returns (uint64);
}

/// @notice What Settlement needs of PaymentChannels.
interface IPaymentChannels {
    /// @notice The keys that sign for a channel: voucher signer and payee; zero when there is no such channel.
    function keysOf(bytes32 channelId) external view returns (address signer, address payee);

    /// @notice Pays a batch of vouchers; bad ones are skipped. Returns how many paid and how much.
    function settle(SignedVoucher[] calldata vouchers, address aggregator)
        external
        returns (uint256 paidCount, uint256 paidSum);
}
