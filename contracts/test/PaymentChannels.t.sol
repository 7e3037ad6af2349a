// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {FeeToken, PickyToken, ReenteringToken} from "./Tokens.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {SignedVoucher} from "../src/Interfaces.sol";

contract PaymentChannelsTest is Base {
    uint256 private constant N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    function setUp() public {
        _deploy(100);
    }

    function test_opening_records_every_term() public {
        bytes32 id = _open("a", 5 * TRL);
        PaymentChannels.Terms memory t = _terms("a");
        assertEq(id, channels.channelIdOf(payer, t), "id");
        assertEq(
            id,
            keccak256(
                abi.encode(
                    payer, t.payee, t.payout, t.signer, t.token, t.challengePeriodSeconds, t.expiry, t.salt, block.chainid, channels
                )
            ),
            "id by hand"
        );
        PaymentChannels.Channel memory c = channels.channel(id);
        assertEq(uint256(c.state), uint256(PaymentChannels.State.Open), "state");
        assertEq(c.payer, payer, "payer");
        assertEq(c.payee, t.payee, "payee");
        assertEq(c.payout, t.payout, "payout");
        assertEq(c.signer, t.signer, "signer");
        assertEq(c.token, t.token, "token");
        assertEq(c.challengePeriodSeconds, t.challengePeriodSeconds, "period");
        assertEq(c.expiry, t.expiry, "expiry");
        assertEq(c.deposit, 5 * TRL, "deposit");
        assertEq(c.paid, 0, "paid");
        assertEq(wtrl.balanceOf(address(channels)), 5 * TRL, "held");
    }

    function test_the_same_terms_open_once_even_after_the_close() public {
        bytes32 id = _open("a", TRL);
        PaymentChannels.Terms memory t = _terms("a");
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.ChannelExists.selector, id));
        channels.open(t, TRL);
        vm.prank(payee);
        channels.closeByPayee(id, 0, "");
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.ChannelExists.selector, id));
        channels.open(t, TRL);
    }

    function test_bad_terms_are_refused() public {
        PaymentChannels.Terms memory t = _terms("a");
        t.payee = address(0);
        _refused(t, PaymentChannels.ZeroAddress.selector);
        t = _terms("a");
        t.signer = address(0);
        _refused(t, PaymentChannels.ZeroAddress.selector);
        t = _terms("a");
        t.token = address(0x1234);
        _refused(t, PaymentChannels.ZeroAddress.selector);
        t = _terms("a");
        t.payout = address(channels);
        _refused(t, PaymentChannels.BadPayout.selector);
        t = _terms("a");
        t.challengePeriodSeconds = 0;
        _refused(t, PaymentChannels.BadChallengePeriod.selector);
        t = _terms("a");
        t.challengePeriodSeconds = 91 days;
        _refused(t, PaymentChannels.BadChallengePeriod.selector);
        t = _terms("a");
        t.expiry = uint64(block.timestamp);
        _refused(t, PaymentChannels.BadExpiry.selector);
    }

    // row: MKT-32
    function test_a_permit_opens_in_one_transaction() public {
        vm.prank(payer);
        wtrl.approve(address(channels), 0);
        PaymentChannels.Terms memory t = _terms("p");
        bytes32 typeHash = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash =
            keccak256(abi.encode(typeHash, payer, address(channels), uint256(TRL), uint256(0), type(uint256).max));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", wtrl.DOMAIN_SEPARATOR(), structHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, digest);
        vm.prank(payer);
        bytes32 id = channels.openWithPermit(t, TRL, type(uint256).max, v, r, s);
        assertEq(channels.channel(id).deposit, TRL, "deposit");
    }

    // row: MKT-30, MKT-41
    function test_both_doors_pay_a_voucher_once() public {
        bytes32 id = _open("a", 10 * TRL);
        channels.redeem(id, 3 * TRL, _voucher(id, 3 * TRL));
        (uint256 n, uint256 sum) = channels.settle(_one(_compact(SIGNER_KEY, id, 3 * TRL)), address(0));
        assertEq(n + sum, 0, "nothing left through door two");
        (n, sum) = channels.settle(_one(_compact(SIGNER_KEY, id, 5 * TRL)), address(0));
        assertEq(n, 1, "one paid");
        assertEq(sum, 2 * TRL, "the difference");
        assertEq(channels.redeem(id, 5 * TRL, _voucher(id, 5 * TRL)), 0, "nothing left through door one");
        assertEq(channels.redeem(id, 4 * TRL, _voucher(id, 4 * TRL)), 0, "an older voucher");
        assertEq(wtrl.balanceOf(PAYOUT), 5 * TRL * 99 / 100, "net");
        assertEq(wtrl.balanceOf(address(pool)), 5 * TRL / 100, "fee");
        assertEq(channels.paid(id), 5 * TRL, "paid");
    }

    // row: MKT-41
    function testFuzz_any_steps_through_both_doors_pay_the_highest_voucher(uint128[8] calldata amounts, uint8 doors)
        public
    {
        bytes32 id = _open("f", 7 * TRL + 123);
        uint128 highest = 0;
        for (uint256 i = 0; i < amounts.length; ++i) {
            uint128 amount = amounts[i] % (9 * TRL);
            if ((doors >> i) & 1 == 0) channels.redeem(id, amount, _voucher(id, amount));
            else channels.settle(_one(_compact(SIGNER_KEY, id, amount)), address(this));
            if (amount > highest) highest = amount;
            uint128 due = highest > 7 * TRL + 123 ? 7 * TRL + 123 : highest;
            assertEq(channels.paid(id), due, "paid");
            assertEq(wtrl.balanceOf(address(pool)), uint256(due) * 100 / 10_000, "fee depends on the sum only");
            assertEq(wtrl.balanceOf(PAYOUT), due - uint256(due) * 100 / 10_000, "net");
        }
    }

    function test_a_voucher_above_the_deposit_pays_what_is_there_and_the_rest_after_a_top_up() public {
        bytes32 id = _open("a", 2 * TRL);
        bytes memory signature = _voucher(id, 3 * TRL);
        assertEq(channels.redeem(id, 3 * TRL, signature), 2 * TRL, "capped");
        vm.prank(payer);
        channels.topUp(id, 5 * TRL);
        assertEq(channels.redeem(id, 3 * TRL, signature), TRL, "rest");
        assertEq(channels.channel(id).deposit, 7 * TRL, "deposit");
    }

    // row: MKT-30
    function test_a_voucher_by_another_key_or_for_another_channel_is_refused() public {
        bytes32 id = _open("a", TRL);
        bytes32 other = _open("b", TRL);
        bytes memory wrongKey = _sign(PAYEE_KEY, channels.voucherDigest(id, TRL));
        vm.expectPartialRevert(PaymentChannels.BadVoucherSignature.selector);
        channels.redeem(id, TRL, wrongKey);
        bytes memory otherChannel = _voucher(other, TRL);
        vm.expectPartialRevert(PaymentChannels.BadVoucherSignature.selector);
        channels.redeem(id, TRL, otherChannel);
        bytes memory otherAmount = _voucher(id, TRL - 1);
        vm.expectPartialRevert(PaymentChannels.BadVoucherSignature.selector);
        channels.redeem(id, TRL, otherAmount);
        bytes memory agreement = _sign(SIGNER_KEY, channels.closeDigest(id, TRL));
        vm.expectPartialRevert(PaymentChannels.BadVoucherSignature.selector);
        channels.redeem(id, TRL, agreement);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.UnknownChannel.selector, bytes32("none")));
        channels.redeem("none", TRL, wrongKey);
    }

    function test_a_voucher_of_another_chain_is_refused() public {
        bytes32 id = _open("a", TRL);
        bytes memory signature = _voucher(id, TRL);
        vm.chainId(99);
        vm.expectPartialRevert(PaymentChannels.BadVoucherSignature.selector);
        channels.redeem(id, TRL, signature);
    }

    function test_a_high_s_a_short_and_an_odd_v_signature_are_refused() public {
        bytes32 id = _open("a", TRL);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(SIGNER_KEY, channels.voucherDigest(id, TRL));
        bytes memory high = abi.encodePacked(r, bytes32(N - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        vm.expectPartialRevert(PaymentChannels.BadVoucherSignature.selector);
        channels.redeem(id, TRL, high);
        vm.expectPartialRevert(PaymentChannels.BadVoucherSignature.selector);
        channels.redeem(id, TRL, abi.encodePacked(r, s));
        vm.expectPartialRevert(PaymentChannels.BadVoucherSignature.selector);
        channels.redeem(id, TRL, abi.encodePacked(r, s, v - 27));
        assertEq(channels.redeem(id, TRL, abi.encodePacked(r, s, v)), TRL, "the right one");
    }

    // row: MKT-41
    function test_one_bad_voucher_never_stops_the_others() public {
        bytes32 a = _open("a", 10 * TRL);
        bytes32 b = _open("b", 10 * TRL);
        bytes32 closed = _open("c", 10 * TRL);
        vm.prank(payee);
        channels.closeByPayee(closed, 0, "");
        SignedVoucher[] memory list = new SignedVoucher[](7);
        list[0] = _compact(SIGNER_KEY, a, TRL);
        list[1] = _compact(PAYEE_KEY, b, TRL);
        list[2] = _compact(SIGNER_KEY, "unknown", TRL);
        list[3] = _compact(SIGNER_KEY, closed, TRL);
        list[4] = _compact(SIGNER_KEY, a, TRL);
        list[5] = _compact(SIGNER_KEY, b, 2 * TRL);
        list[6] = _compact(SIGNER_KEY, a, 4 * TRL);
        for (uint256 i = 1; i <= 4; ++i) {
            vm.expectEmit(true, true, true, true);
            emit PaymentChannels.VoucherSkipped(
                list[i].channelId,
                list[i].cumulativeAmount,
                [
                    PaymentChannels.SkipReason.BadSignature,
                    PaymentChannels.SkipReason.UnknownChannel,
                    PaymentChannels.SkipReason.Closed,
                    PaymentChannels.SkipReason.NothingDue
                ][i - 1]
            );
        }
        (uint256 n, uint256 sum) = channels.settle(list, address(0));
        assertEq(n, 3, "paid");
        assertEq(sum, 6 * TRL, "sum");
        assertEq(channels.paid(a), 4 * TRL, "a");
        assertEq(channels.paid(b), 2 * TRL, "b");
        assertEq(wtrl.balanceOf(PAYOUT), 6 * TRL * 99 / 100, "net");
    }

    function test_a_refusing_token_leaves_its_channels_as_they_were() public {
        PickyToken picky = new PickyToken();
        picky.mint(payer, 100 * TRL);
        vm.startPrank(payer);
        picky.approve(address(channels), type(uint256).max);
        PaymentChannels.Terms memory t = _terms("x");
        t.token = address(picky);
        bytes32 x = channels.open(t, 10 * TRL);
        t.salt = "y";
        t.payout = address(0xF00D);
        bytes32 y = channels.open(t, 10 * TRL);
        vm.stopPrank();
        bytes32 a = _open("a", 10 * TRL);
        picky.refuse(PAYOUT);
        SignedVoucher[] memory list = new SignedVoucher[](4);
        list[0] = _compact(SIGNER_KEY, x, TRL);
        list[1] = _compact(SIGNER_KEY, x, 2 * TRL);
        list[2] = _compact(SIGNER_KEY, y, 3 * TRL);
        list[3] = _compact(SIGNER_KEY, a, 4 * TRL);
        (uint256 n, uint256 sum) = channels.settle(list, address(0));
        assertEq(n, 2, "paid");
        assertEq(sum, 7 * TRL, "sum");
        assertEq(channels.paid(x), 0, "x as before");
        assertEq(picky.balanceOf(address(0xF00D)), 3 * TRL * 99 / 100, "y paid");
        picky.refuse(address(0));
        channels.redeem(x, 2 * TRL, _voucher(x, 2 * TRL));
        assertEq(picky.balanceOf(PAYOUT), 2 * TRL * 99 / 100, "x later");
    }

    function test_a_fee_that_cannot_be_sent_waits_and_the_payment_goes_through() public {
        PickyToken picky = new PickyToken();
        picky.mint(payer, 100 * TRL);
        PaymentChannels.Terms memory t = _terms("x");
        t.token = address(picky);
        vm.startPrank(payer);
        picky.approve(address(channels), type(uint256).max);
        bytes32 x = channels.open(t, 10 * TRL);
        vm.stopPrank();
        picky.refuse(address(pool));
        channels.redeem(x, TRL, _voucher(x, TRL));
        assertEq(channels.unsentFees(address(picky)), TRL / 100, "waits");
        picky.refuse(address(0));
        channels.sendFees(address(picky));
        assertEq(picky.balanceOf(address(pool)), TRL / 100, "sent");
        vm.expectRevert(PaymentChannels.ZeroAmount.selector);
        channels.sendFees(address(picky));
    }

    function test_a_token_that_takes_a_fee_is_refused() public {
        FeeToken token = new FeeToken();
        token.mint(payer, 100 * TRL);
        PaymentChannels.Terms memory t = _terms("x");
        t.token = address(token);
        vm.startPrank(payer);
        token.approve(address(channels), type(uint256).max);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.TokenTookFee.selector, TRL, TRL - TRL / 100));
        channels.open(t, TRL);
        vm.stopPrank();
    }

    function test_a_reentering_token_gets_nothing_twice() public {
        ReenteringToken token = new ReenteringToken();
        token.mint(payer, 100 * TRL);
        PaymentChannels.Terms memory t = _terms("x");
        t.token = address(token);
        vm.startPrank(payer);
        token.approve(address(channels), type(uint256).max);
        bytes32 x = channels.open(t, 10 * TRL);
        vm.stopPrank();
        token.arm(address(channels), abi.encodeCall(channels.redeem, (x, 2 * TRL, _voucher(x, 2 * TRL))));
        channels.redeem(x, TRL, _voucher(x, TRL));
        require(token.refused(), "the inner call was refused");
        assertEq(channels.paid(x), TRL, "paid once");
    }

    // row: MKT-30
    function test_a_cooperative_close_pays_the_agreed_amount_and_returns_the_rest() public {
        bytes32 id = _open("a", 10 * TRL);
        channels.redeem(id, TRL, _voucher(id, TRL));
        uint256 before = wtrl.balanceOf(payer);
        bytes memory a = _sign(SIGNER_KEY, channels.closeDigest(id, 4 * TRL));
        bytes memory b = _sign(PAYEE_KEY, channels.closeDigest(id, 4 * TRL));
        vm.expectPartialRevert(PaymentChannels.BadCloseSignature.selector);
        channels.closeCooperative(id, 4 * TRL, b, a);
        vm.expectPartialRevert(PaymentChannels.BadCloseSignature.selector);
        channels.closeCooperative(id, 4 * TRL, a, a);
        channels.closeCooperative(id, 4 * TRL, a, b);
        assertEq(wtrl.balanceOf(payer) - before, 6 * TRL, "returned");
        assertEq(wtrl.balanceOf(PAYOUT), 4 * TRL * 99 / 100, "net");
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.WrongState.selector, id, PaymentChannels.State.Closed));
        channels.closeCooperative(id, 4 * TRL, a, b);
        bytes memory later = _voucher(id, 9 * TRL);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.WrongState.selector, id, PaymentChannels.State.Closed));
        channels.redeem(id, 9 * TRL, later);
    }

    function test_a_cooperative_close_stays_between_paid_and_deposit() public {
        bytes32 id = _open("a", 10 * TRL);
        channels.redeem(id, 2 * TRL, _voucher(id, 2 * TRL));
        bytes memory a = _sign(SIGNER_KEY, channels.closeDigest(id, TRL));
        bytes memory b = _sign(PAYEE_KEY, channels.closeDigest(id, TRL));
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.AmountBelowPaid.selector, TRL, 2 * TRL));
        channels.closeCooperative(id, TRL, a, b);
        a = _sign(SIGNER_KEY, channels.closeDigest(id, 11 * TRL));
        b = _sign(PAYEE_KEY, channels.closeDigest(id, 11 * TRL));
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.AmountAboveDeposit.selector, 11 * TRL, 10 * TRL));
        channels.closeCooperative(id, 11 * TRL, a, b);
    }

    // row: MKT-30
    function test_the_payee_closes_at_once_with_its_last_voucher() public {
        bytes32 id = _open("a", 10 * TRL);
        bytes memory signature = _voucher(id, 3 * TRL);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.NotPayee.selector, address(this), payee));
        channels.closeByPayee(id, 3 * TRL, signature);
        vm.prank(payee);
        vm.expectPartialRevert(PaymentChannels.BadVoucherSignature.selector);
        channels.closeByPayee(id, 4 * TRL, signature);
        uint256 before = wtrl.balanceOf(payer);
        vm.prank(payee);
        channels.closeByPayee(id, 3 * TRL, signature);
        assertEq(wtrl.balanceOf(payer) - before, 7 * TRL, "returned");
        assertEq(wtrl.balanceOf(PAYOUT), 3 * TRL * 99 / 100, "net");
    }

    // row: MKT-30
    function test_a_higher_voucher_wins_while_the_payer_closes() public {
        bytes32 id = _open("a", 10 * TRL);
        channels.redeem(id, TRL, _voucher(id, TRL));
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.NotPayer.selector, address(this), payer));
        channels.startClose(id);
        vm.prank(payer);
        channels.startClose(id);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.WrongState.selector, id, PaymentChannels.State.Closing));
        channels.startClose(id);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.WrongState.selector, id, PaymentChannels.State.Closing));
        channels.topUp(id, TRL);
        vm.warp(block.timestamp + 9);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.TooEarly.selector, START + 10));
        channels.finishClose(id);
        channels.redeem(id, 6 * TRL, _voucher(id, 6 * TRL));
        vm.warp(START + 10);
        uint256 before = wtrl.balanceOf(payer);
        channels.finishClose(id);
        assertEq(wtrl.balanceOf(payer) - before, 4 * TRL, "returned");
        assertEq(uint256(channels.channel(id).state), uint256(PaymentChannels.State.Closed), "closed");
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.WrongState.selector, id, PaymentChannels.State.Closed));
        channels.finishClose(id);
    }

    function test_nobody_finishes_a_close_that_was_not_begun() public {
        bytes32 id = _open("a", TRL);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.WrongState.selector, id, PaymentChannels.State.Open));
        channels.finishClose(id);
    }

    // row: MKT-30
    function test_the_payer_takes_the_rest_only_after_the_expiry() public {
        bytes32 id = _open("a", 10 * TRL);
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.TooEarly.selector, START + 1_000));
        channels.reclaim(id);
        vm.warp(START + 1_000);
        channels.redeem(id, TRL, _voucher(id, TRL));
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.NotPayer.selector, address(this), payer));
        channels.reclaim(id);
        uint256 before = wtrl.balanceOf(payer);
        vm.prank(payer);
        channels.reclaim(id);
        assertEq(wtrl.balanceOf(payer) - before, 9 * TRL, "returned");
        vm.prank(payer);
        vm.expectRevert(abi.encodeWithSelector(PaymentChannels.WrongState.selector, id, PaymentChannels.State.Closed));
        channels.reclaim(id);
    }

    function test_a_deposit_beyond_128_bits_is_refused() public {
        bytes32 id = _open("a", TRL);
        vm.prank(payer);
        vm.expectRevert();
        channels.topUp(id, type(uint128).max);
        assertEq(channels.channel(id).deposit, TRL, "deposit");
    }

    function test_a_channel_without_fee_pays_in_full() public {
        _deploy(0);
        bytes32 id = _open("a", TRL);
        channels.redeem(id, TRL, _voucher(id, TRL));
        assertEq(wtrl.balanceOf(PAYOUT), TRL, "all of it");
        assertEq(wtrl.balanceOf(address(pool)), 0, "no fee");
    }

    function _refused(PaymentChannels.Terms memory t, bytes4 selector) private {
        vm.prank(payer);
        (bool ok, bytes memory data) = address(channels).call(abi.encodeCall(channels.open, (t, TRL)));
        require(!ok && bytes4(data) == selector, "refused for its reason");
    }
}
