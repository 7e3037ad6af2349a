// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {Settlement} from "../src/Settlement.sol";
import {SignedVoucher} from "../src/Interfaces.sol";

/// @notice Gas of settling a batch as real transactions cost it: execution, 21,000 and the calldata. Four channels (of four
/// gateways) belong to one provider and stand side by side in the batch; each has paid before, its payout address holds
/// some of the token, and the epoch has seen a batch. The `apart` figures have a provider for each channel.
/// A transaction holds at most 2^24 gas (EIP-7825), so more than 500 vouchers go in several.
contract GasTest is Base {
    uint256 private constant CHANNELS = 1_000;
    uint256 private constant VOUCHERS_PER_TRANSACTION = 500;

    SignedVoucher[] private vouchers;
    SignedVoucher[] private apart;
    bool private _apart;

    function setUp() public {
        _deploy(100);
        vm.deal(payer, 10_000_000 * TRL);
        vm.startPrank(payer);
        wtrl.deposit{value: 1_000_000 * TRL}();
        for (uint256 i = 0; i < CHANNELS; ++i) {
            vouchers.push(_used(i, i / 4));
        }
        for (uint256 i = CHANNELS; i < CHANNELS + 400; ++i) {
            apart.push(_used(i, i));
        }
        vm.stopPrank();
        vm.prank(aggregator);
        settlement.register(100 * TRL);
        Settlement.Totals memory totals = Settlement.Totals(1, pool.currentEpoch(), 1, 0);
        SignedVoucher[] memory one = _one(_compact(SIGNER_KEY, vouchers[0].channelId, TRL / 4));
        vm.prank(aggregator);
        settlement.settle("earlier", totals, one);
    }

    /// @dev A channel that has paid to its provider, with its next voucher.
    function _used(uint256 i, uint256 provider) private returns (SignedVoucher memory) {
        PaymentChannels.Terms memory terms = _terms(bytes32(i));
        terms.payout = address(uint160(uint256(keccak256(abi.encode("payout", provider)))));
        bytes32 id = channels.open(terms, 10 * TRL);
        channels.redeem(id, TRL / 100, _voucher(id, TRL / 100));
        return _compact(SIGNER_KEY, id, TRL / 3 + uint128(i));
    }

    function test_gas_of_10_channels() public {
        _settle(10, 1_000);
    }

    function test_gas_of_40_channels_is_under_1100_per_receipt_of_1000() public {
        require(_settle(40, 1_000) < 1_100 * 1_000, "under 1,100 a receipt");
    }

    function test_gas_of_400_channels_of_400_providers_is_under_140_per_receipt_of_100000() public {
        _apart = true;
        require(_settle(400, 100_000) < 140 * 100_000, "under 140 a receipt");
    }

    function test_gas_of_100_channels() public {
        _settle(100, 10_000);
    }

    // row: MKT-43
    function test_gas_of_400_channels_is_under_100_per_receipt_of_100000() public {
        require(_settle(400, 100_000) < 100 * 100_000, "under 100 a receipt");
    }

    function test_gas_of_1000_channels() public {
        _settle(1_000, 100_000);
    }

    /// @dev Total gas of a batch with the first `n` channels; written to the snapshot.
    function _settle(uint256 n, uint32 receipts) private returns (uint256 gas) {
        for (uint256 from = 0; from < n; from += VOUCHERS_PER_TRANSACTION) {
            uint256 end = from + VOUCHERS_PER_TRANSACTION < n ? from + VOUCHERS_PER_TRANSACTION : n;
            SignedVoucher[] memory part = new SignedVoucher[](end - from);
            for (uint256 i = from; i < end; ++i) {
                part[i - from] = _apart ? apart[i] : vouchers[i];
            }
            bytes memory data = from == 0
                ? abi.encodeCall(
                    settlement.settle,
                    (keccak256("root"), Settlement.Totals(2, pool.currentEpoch(), receipts, 10_000 * TRL), part)
                )
                : abi.encodeCall(settlement.settleVouchers, (part));
            uint256 used = _transaction(data);
            require(used < 1 << 24, "fits into a transaction");
            gas += used;
        }
        string memory name = string.concat(vm.toString(n), _apart ? " channels apart" : " channels");
        vm.snapshotValue("settle", name, gas);
        vm.snapshotValue("settle", string.concat(name, ", per channel"), gas / n);
        vm.snapshotValue(
            "settle", string.concat(name, ", per receipt of ", vm.toString(receipts)), gas / receipts
        );
        for (uint256 i = 0; i < n; ++i) {
            SignedVoucher memory voucher = _apart ? apart[i] : vouchers[i];
            assertEq(channels.paid(voucher.channelId), voucher.cumulativeAmount, "paid");
        }
    }

    function _transaction(bytes memory data) private returns (uint256) {
        uint256 zeros = 0;
        for (uint256 i = 0; i < data.length; ++i) {
            if (data[i] == 0) ++zeros;
        }
        uint256 tokens = zeros + 4 * (data.length - zeros);
        vm.prank(aggregator);
        uint256 before = gasleft();
        (bool ok,) = address(settlement).call(data);
        uint256 used = before - gasleft() + 4 * tokens;
        require(ok, "settled");
        return 21_000 + (used > 10 * tokens ? used : 10 * tokens);
    }
}
