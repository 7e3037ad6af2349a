// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {SignedVoucher} from "../src/Interfaces.sol";

/// @notice Does anything anyone may do with channels, and keeps its own books of what should have happened.
contract Handler is Base {
    bytes32[] public ids;
    uint256 public deposited;
    uint256 public returned;
    /// @notice Highest voucher that may have paid, by channel.
    mapping(bytes32 => uint128) public highest;
    mapping(bytes32 => uint128) public lastPaid;
    mapping(string => uint256) public calls;

    constructor() {
        _deploy(137);
    }

    function token() external view returns (uint256 held, uint256 payout, uint256 fees) {
        return (wtrl.balanceOf(address(channels)), wtrl.balanceOf(PAYOUT), wtrl.balanceOf(address(pool)));
    }

    function channelsContract() external view returns (PaymentChannels) {
        return channels;
    }

    function count() external view returns (uint256) {
        return ids.length;
    }

    function open(uint96 amount, uint16 life) external {
        if (ids.length == 12) return;
        uint128 deposit = uint128(amount) % (1_000 * TRL) + 1;
        PaymentChannels.Terms memory terms = _terms(bytes32(ids.length));
        terms.expiry = uint64(block.timestamp) + life + 1;
        vm.prank(payer);
        ids.push(channels.open(terms, deposit));
        deposited += deposit;
        ++calls["open"];
    }

    function topUp(uint256 pick, uint96 amount) external {
        (bytes32 id, PaymentChannels.Channel memory c) = _pick(pick);
        if (c.state != PaymentChannels.State.Open) return;
        uint128 more = uint128(amount) % (100 * TRL) + 1;
        vm.prank(payer);
        channels.topUp(id, more);
        deposited += more;
        ++calls["topUp"];
    }

    function redeem(uint256 pick, uint128 amount) external {
        (bytes32 id, PaymentChannels.Channel memory c) = _pick(pick);
        if (c.state != PaymentChannels.State.Open && c.state != PaymentChannels.State.Closing) return;
        uint128 cumulative = amount % (2 * c.deposit);
        channels.redeem(id, cumulative, _voucher(id, cumulative));
        _signed(id, cumulative);
        ++calls["redeem"];
    }

    function settle(uint256 seed, uint128 amount) external {
        if (ids.length == 0) return;
        SignedVoucher[] memory list = new SignedVoucher[](6);
        for (uint256 i = 0; i < 6; ++i) {
            (bytes32 id, PaymentChannels.Channel memory c) = _pick(uint256(keccak256(abi.encode(seed, i))));
            uint128 cumulative = uint128(uint256(keccak256(abi.encode(amount, i))) % (2 * uint256(c.deposit)));
            bool bad = (seed >> i) & 3 == 0;
            list[i] = _compact(bad ? PAYEE_KEY : SIGNER_KEY, id, cumulative);
            if (!bad && c.state != PaymentChannels.State.Closed) _signed(id, cumulative);
        }
        channels.settle(list, aggregator);
        ++calls["settle"];
    }

    function close(uint256 pick, uint128 amount, uint8 how) external {
        (bytes32 id, PaymentChannels.Channel memory c) = _pick(pick);
        if (c.state == PaymentChannels.State.None || c.state == PaymentChannels.State.Closed) return;
        uint256 before = wtrl.balanceOf(payer);
        uint128 cumulative = c.paid + amount % (c.deposit - c.paid + 1);
        if (how % 4 == 0) {
            bytes32 digest = channels.closeDigest(id, cumulative);
            channels.closeCooperative(id, cumulative, _sign(SIGNER_KEY, digest), _sign(PAYEE_KEY, digest));
            _signed(id, cumulative);
        } else if (how % 4 == 1) {
            bytes memory signature = _voucher(id, cumulative);
            vm.prank(payee);
            channels.closeByPayee(id, cumulative, signature);
            _signed(id, cumulative);
        } else if (how % 4 == 2) {
            if (c.state == PaymentChannels.State.Open) {
                vm.prank(payer);
                channels.startClose(id);
            } else if (block.timestamp >= c.closingAt) {
                channels.finishClose(id);
            }
        } else if (block.timestamp >= c.expiry) {
            vm.prank(payer);
            channels.reclaim(id);
        }
        returned += wtrl.balanceOf(payer) - before;
        ++calls["close"];
    }

    function wait_(uint8 seconds_) external {
        vm.warp(block.timestamp + seconds_ % 20);
    }

    function _signed(bytes32 id, uint128 cumulative) private {
        if (cumulative > highest[id]) highest[id] = cumulative;
    }

    function _pick(uint256 pick) private view returns (bytes32 id, PaymentChannels.Channel memory c) {
        if (ids.length == 0) return (id, c);
        id = ids[pick % ids.length];
        c = channels.channel(id);
    }

    /// @notice True while no channel's `paid` has fallen since the last look.
    function look() external returns (bool rising) {
        rising = true;
        for (uint256 i = 0; i < ids.length; ++i) {
            uint128 now_ = channels.paid(ids[i]);
            if (now_ < lastPaid[ids[i]]) rising = false;
            lastPaid[ids[i]] = now_;
        }
    }
}

contract InvariantsTest is Base {
    Handler private handler;

    function setUp() public {
        handler = new Handler();
    }

    function targetContracts() external view returns (address[] memory list) {
        list = new address[](1);
        list[0] = address(handler);
    }

    // row: GOV-20
    function invariant_deposits_are_paid_fees_locked_and_returned() external view {
        PaymentChannels c = handler.channelsContract();
        (uint256 held, uint256 payout, uint256 fees) = handler.token();
        uint256 locked = 0;
        uint256 gross = 0;
        uint256 back = 0;
        for (uint256 i = 0; i < handler.count(); ++i) {
            PaymentChannels.Channel memory x = c.channel(handler.ids(i));
            gross += x.paid;
            if (x.state == PaymentChannels.State.Closed) back += x.deposit - x.paid;
            else locked += x.deposit - x.paid;
        }
        assertEq(held, locked, "what is held is what is locked");
        assertEq(payout + fees, gross, "what left is net and fees");
        assertEq(handler.returned(), back, "what went back");
        assertEq(handler.deposited(), payout + fees + locked + back, "deposits");
    }

    function invariant_a_channel_pays_the_highest_voucher_and_no_more_than_its_deposit() external view {
        PaymentChannels c = handler.channelsContract();
        for (uint256 i = 0; i < handler.count(); ++i) {
            bytes32 id = handler.ids(i);
            PaymentChannels.Channel memory x = c.channel(id);
            require(x.paid <= x.deposit, "beyond the deposit");
            require(x.paid <= handler.highest(id), "beyond the highest voucher");
        }
    }

    function invariant_paid_never_falls() external {
        require(handler.look(), "paid fell");
    }
}
