// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IFeePool, IPaymentChannels, SignedVoucher} from "./Interfaces.sol";
import {Signatures} from "./Signatures.sol";

/// @title One-way payment channels in ERC-20 tokens with cumulative vouchers.
/// @notice No owner, no pause, no upgrade. A channel pays only out of its own deposit and only to its own payout address.
/// Both doors, `redeem` and `settle`, write the same `paid`, so that a voucher pays once whatever the order.
/// A voucher above the deposit pays what is there; the same voucher pays the rest after a top-up.
contract PaymentChannels is IPaymentChannels, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @notice What is fixed when a channel opens, besides its payer. All of it is in the channel id.
    struct Terms {
        address payee;
        address payout;
        address signer;
        address token;
        uint32 challengePeriodSeconds;
        uint64 expiry;
        bytes32 salt;
    }

    enum State {
        None,
        Open,
        Closing,
        Closed
    }

    /// @notice A channel as `channel(id)` shows it. `paid` is gross (the fee included); after closing, `deposit - paid` went back to the payer.
    struct Channel {
        State state;
        address payer;
        address payee;
        address payout;
        address signer;
        address token;
        uint32 challengePeriodSeconds;
        uint64 expiry;
        uint64 closingAt;
        uint128 deposit;
        uint128 paid;
    }

    enum SkipReason {
        UnknownChannel,
        Closed,
        BadSignature,
        NothingDue,
        PayoutFailed
    }

    /// @dev Packed so that paying a voucher reads two slots; tokens and payout addresses are numbered, so that a batch reads
    /// each of them once. `closingAt`: 0 open, CLOSED closed, else the time from which `finishClose` works.
    struct Record {
        address signer;
        uint24 tokenIndex;
        uint32 payoutIndex;
        uint40 closingAt;
        uint128 deposit;
        uint128 paid;
        address payer;
        uint32 challengePeriodSeconds;
        uint64 expiry;
        address payee;
    }

    /// @dev Where a batch stands: a group is a run of vouchers with one token and one payout address, paid by one transfer.
    struct Run {
        address token;
        uint24 tokenIndex;
        uint32 payoutIndex;
        uint256 groupStart;
        uint256 groupGross;
        uint256 groupFee;
        uint256 tokenFee;
        uint256 paidCount;
        uint256 paidSum;
    }

    bytes32 public constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 cumulativeAmount)");
    bytes32 public constant CLOSE_TYPEHASH = keccak256("CloseAgreement(bytes32 channelId,uint128 cumulativeAmount)");
    uint32 public constant CHALLENGE_PERIOD_SECONDS_MAX = 90 days;
    uint16 public constant FEE_BPS_MAX = 1_000;
    uint40 private constant CLOSED = type(uint40).max;
    uint256 private constant BPS = 10_000;

    /// @notice Fee on every payout, in hundredths of a percent.
    uint16 public immutable FEE_BPS;
    /// @notice Where the fee goes.
    IFeePool public immutable FEE_POOL;

    mapping(bytes32 channelId => Record) private _channels;
    mapping(uint24 index => address token) private _tokens;
    mapping(address token => uint24 index) private _tokenIndexes;
    mapping(uint32 index => address payout) private _payouts;
    mapping(address payout => uint32 index) private _payoutIndexes;
    uint24 private _tokenCount;
    uint32 private _payoutCount;
    /// @notice Fees whose transfer to the pool failed; `sendFees` tries again.
    mapping(address token => uint256) public unsentFees;

    event ChannelOpened(
        bytes32 indexed channelId, address indexed payer, address indexed payee, Terms terms, uint128 deposit
    );
    event ChannelToppedUp(bytes32 indexed channelId, address indexed from, uint128 amount, uint128 deposit);
    /// @notice `paid` is the channel's figure after the payment; the payout address got `gross - fee`.
    event VoucherPaid(bytes32 indexed channelId, uint128 paid, uint128 gross, uint128 fee);
    event VoucherSkipped(bytes32 indexed channelId, uint128 cumulativeAmount, SkipReason reason);
    event ChannelClosing(bytes32 indexed channelId, uint64 closingAt);
    event ChannelClosed(bytes32 indexed channelId, uint128 paid, uint128 returned);
    event FeesUnsent(address indexed token, uint256 amount);
    event FeesSent(address indexed token, uint256 amount);

    error ZeroAddress();
    error ZeroAmount();
    error FeeTooHigh(uint16 feeBps, uint16 max);
    error BadPayout(address payout);
    error BadChallengePeriod(uint32 given, uint32 max);
    error BadExpiry(uint64 expiry, uint64 now_);
    error ChannelExists(bytes32 channelId);
    error UnknownChannel(bytes32 channelId);
    error WrongState(bytes32 channelId, State state);
    error NotPayer(address caller, address payer);
    error NotPayee(address caller, address payee);
    error BadVoucherSignature(address expected, address recovered);
    error BadCloseSignature(address expected, address recovered);
    error AmountBelowPaid(uint128 amount, uint128 paid);
    error AmountAboveDeposit(uint128 amount, uint128 deposit);
    error TooEarly(uint64 allowedAt);
    error TokenTookFee(uint256 expected, uint256 received);

    constructor(uint16 feeBps, IFeePool feePool) EIP712("Trellis", "1") {
        if (feeBps > FEE_BPS_MAX) revert FeeTooHigh(feeBps, FEE_BPS_MAX);
        if (address(feePool) == address(0)) revert ZeroAddress();
        FEE_BPS = feeBps;
        FEE_POOL = feePool;
    }

    // ---------------------------------------------------------------- opening

    /// @notice Opens a channel from the caller and pulls `deposit` of the token.
    function open(Terms calldata terms, uint128 deposit) external nonReentrant returns (bytes32 channelId) {
        return _open(terms, deposit);
    }

    /// @notice `open` with the token's permit, so that one transaction is enough. A used permit with enough allowance is fine.
    function openWithPermit(Terms calldata terms, uint128 deposit, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
        returns (bytes32 channelId)
    {
        // Somebody may have sent the permit before us; then the allowance is there and the pull below works.
        try IERC20Permit(terms.token).permit(msg.sender, address(this), deposit, deadline, v, r, s) {} catch {}
        return _open(terms, deposit);
    }

    /// @notice Adds to a channel's deposit. Anyone may; what is left at the end goes to the payer.
    function topUp(bytes32 channelId, uint128 amount) external nonReentrant {
        Record storage c = _existing(channelId);
        if (c.closingAt != 0) revert WrongState(channelId, _stateOf(c));
        uint128 total = c.deposit + amount;
        c.deposit = total;
        emit ChannelToppedUp(channelId, msg.sender, amount, total);
        _pull(_tokens[c.tokenIndex], amount);
    }

    // ---------------------------------------------------------------- paying

    /// @notice Door one: pays what a voucher adds to what was paid. Anyone may bring it; the money goes to the payout address.
    /// Returns the gross amount, 0 if the voucher adds nothing.
    function redeem(bytes32 channelId, uint128 cumulativeAmount, bytes calldata signature)
        external
        nonReentrant
        returns (uint128 gross)
    {
        Record storage c = _existing(channelId);
        if (c.closingAt == CLOSED) revert WrongState(channelId, State.Closed);
        _checkVoucher(c, channelId, cumulativeAmount, signature);
        return _payOne(c, channelId, cumulativeAmount);
    }

    /// @notice Door two: pays many vouchers. A bad one is skipped with an event and never stops the others. Anyone may call;
    /// the pool gives a share to `aggregator` only if Settlement is the caller.
    // The guard keeps every writing function shut while the pool books the fees of one token between two others.
    // slither-disable-next-line reentrancy-no-eth
    function settle(SignedVoucher[] calldata vouchers, address aggregator)
        external
        nonReentrant
        returns (uint256 paidCount, uint256 paidSum)
    {
        bytes32 domain = _domainSeparatorV4();
        // What each voucher moves: the channel's new `paid` above, the gross amount below, 128 bits each; 0 for nothing.
        uint256[] memory dues = new uint256[](vouchers.length);
        Run memory run = Run(address(0), 0, 0, 0, 0, 0, 0, 0, 0);
        for (uint256 i = 0; i < vouchers.length; ++i) {
            _settleOne(vouchers, i, domain, dues, run, aggregator);
        }
        _payGroup(vouchers, vouchers.length, dues, run);
        _sendFee(run.token, run.tokenFee, aggregator);
        return (run.paidCount, run.paidSum);
    }

    /// @notice Sends fees to the pool whose transfer failed before.
    function sendFees(address token) external nonReentrant {
        uint256 amount = unsentFees[token];
        if (amount == 0) revert ZeroAmount();
        unsentFees[token] = 0;
        emit FeesSent(token, amount);
        IERC20(token).safeTransfer(address(FEE_POOL), amount);
    }

    // ---------------------------------------------------------------- closing

    /// @notice Closes at once, at an amount both sides signed. Anyone may bring the agreement.
    function closeCooperative(
        bytes32 channelId,
        uint128 cumulativeAmount,
        bytes calldata signerSignature,
        bytes calldata payeeSignature
    ) external nonReentrant {
        Record storage c = _existing(channelId);
        if (c.closingAt == CLOSED) revert WrongState(channelId, State.Closed);
        bytes32 digest = closeDigest(channelId, cumulativeAmount);
        address recovered = Signatures.recover(digest, signerSignature);
        if (recovered != c.signer) revert BadCloseSignature(c.signer, recovered);
        recovered = Signatures.recover(digest, payeeSignature);
        if (recovered != c.payee) revert BadCloseSignature(c.payee, recovered);
        if (cumulativeAmount < c.paid) revert AmountBelowPaid(cumulativeAmount, c.paid);
        if (cumulativeAmount > c.deposit) revert AmountAboveDeposit(cumulativeAmount, c.deposit);
        _close(c, channelId, cumulativeAmount);
    }

    /// @notice The payee closes at once with its last voucher; with amount 0 and no signature, at what was paid.
    function closeByPayee(bytes32 channelId, uint128 cumulativeAmount, bytes calldata signature) external nonReentrant {
        Record storage c = _existing(channelId);
        if (c.closingAt == CLOSED) revert WrongState(channelId, State.Closed);
        if (msg.sender != c.payee) revert NotPayee(msg.sender, c.payee);
        if (cumulativeAmount != 0) _checkVoucher(c, channelId, cumulativeAmount, signature);
        _close(c, channelId, cumulativeAmount);
    }

    /// @notice The payer begins to close. Until `closingAt` and after it, up to `finishClose`, a higher voucher still pays.
    function startClose(bytes32 channelId) external nonReentrant {
        Record storage c = _existing(channelId);
        if (c.closingAt != 0) revert WrongState(channelId, _stateOf(c));
        if (msg.sender != c.payer) revert NotPayer(msg.sender, c.payer);
        uint40 closingAt = uint40(block.timestamp) + c.challengePeriodSeconds;
        c.closingAt = closingAt;
        emit ChannelClosing(channelId, closingAt);
    }

    /// @notice Ends a close begun by the payer once the challenge period is over. Anyone may call.
    function finishClose(bytes32 channelId) external nonReentrant {
        Record storage c = _existing(channelId);
        uint40 closingAt = c.closingAt;
        if (closingAt == 0 || closingAt == CLOSED) revert WrongState(channelId, _stateOf(c));
        if (block.timestamp < closingAt) revert TooEarly(closingAt);
        _close(c, channelId, 0);
    }

    /// @notice The payer takes the rest after the expiry.
    function reclaim(bytes32 channelId) external nonReentrant {
        Record storage c = _existing(channelId);
        if (c.closingAt == CLOSED) revert WrongState(channelId, State.Closed);
        if (msg.sender != c.payer) revert NotPayer(msg.sender, c.payer);
        if (block.timestamp < c.expiry) revert TooEarly(c.expiry);
        _close(c, channelId, 0);
    }

    // ---------------------------------------------------------------- views

    /// @notice Everything about a channel; state None when there is none.
    function channel(bytes32 channelId) external view returns (Channel memory) {
        Record storage c = _channels[channelId];
        return Channel({
            state: _stateOf(c),
            payer: c.payer,
            payee: c.payee,
            payout: _payouts[c.payoutIndex],
            signer: c.signer,
            token: _tokens[c.tokenIndex],
            challengePeriodSeconds: c.challengePeriodSeconds,
            expiry: c.expiry,
            closingAt: c.closingAt,
            deposit: c.deposit,
            paid: c.paid
        });
    }

    /// @inheritdoc IPaymentChannels
    function keysOf(bytes32 channelId) external view returns (address signer, address payee) {
        Record storage c = _channels[channelId];
        return (c.signer, c.payee);
    }

    /// @notice What has been paid out of a channel, gross.
    function paid(bytes32 channelId) external view returns (uint128) {
        return _channels[channelId].paid;
    }

    /// @notice The id of the channel that `payer` opens with `terms`.
    function channelIdOf(address payer, Terms calldata terms) public view returns (bytes32) {
        return keccak256(abi.encode(payer, terms, block.chainid, address(this)));
    }

    /// @notice What the channel's signer signs to pay.
    function voucherDigest(bytes32 channelId, uint128 cumulativeAmount) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(VOUCHER_TYPEHASH, channelId, cumulativeAmount)));
    }

    /// @notice What the channel's signer and its payee sign to close at once.
    function closeDigest(bytes32 channelId, uint128 cumulativeAmount) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(CLOSE_TYPEHASH, channelId, cumulativeAmount)));
    }

    // ---------------------------------------------------------------- inside

    function _open(Terms calldata terms, uint128 deposit) private returns (bytes32 channelId) {
        _checkTerms(terms);
        if (deposit == 0) revert ZeroAmount();
        channelId = channelIdOf(msg.sender, terms);
        Record storage c = _channels[channelId];
        if (c.payer != address(0)) revert ChannelExists(channelId);
        c.signer = terms.signer;
        c.tokenIndex = _tokenIndex(terms.token);
        c.payoutIndex = _payoutIndex(terms.payout);
        c.challengePeriodSeconds = terms.challengePeriodSeconds;
        c.expiry = terms.expiry;
        c.deposit = deposit;
        c.payer = msg.sender;
        c.payee = terms.payee;
        emit ChannelOpened(channelId, msg.sender, terms.payee, terms, deposit);
        _pull(terms.token, deposit);
    }

    function _checkTerms(Terms calldata terms) private view {
        if (terms.payee == address(0) || terms.signer == address(0) || terms.token.code.length == 0) {
            revert ZeroAddress();
        }
        if (terms.payout == address(0) || terms.payout == address(this)) revert BadPayout(terms.payout);
        if (terms.challengePeriodSeconds == 0 || terms.challengePeriodSeconds > CHALLENGE_PERIOD_SECONDS_MAX) {
            revert BadChallengePeriod(terms.challengePeriodSeconds, CHALLENGE_PERIOD_SECONDS_MAX);
        }
        if (terms.expiry <= block.timestamp) revert BadExpiry(terms.expiry, uint64(block.timestamp));
    }

    function _tokenIndex(address token) private returns (uint24 index) {
        index = _tokenIndexes[token];
        if (index == 0) {
            index = ++_tokenCount;
            _tokenIndexes[token] = index;
            _tokens[index] = token;
        }
    }

    function _payoutIndex(address payout) private returns (uint32 index) {
        index = _payoutIndexes[payout];
        if (index == 0) {
            index = ++_payoutCount;
            _payoutIndexes[payout] = index;
            _payouts[index] = payout;
        }
    }

    /// @dev The deposit is a promise of exactly that much; a token that takes a fee on the way is refused.
    function _pull(address token, uint128 amount) private {
        if (amount == 0) revert ZeroAmount();
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != amount) revert TokenTookFee(amount, received);
    }

    function _settleOne(
        SignedVoucher[] calldata vouchers,
        uint256 i,
        bytes32 domain,
        uint256[] memory dues,
        Run memory run,
        address aggregator
    ) private {
        SignedVoucher calldata voucher = vouchers[i];
        Record storage c = _channels[voucher.channelId];
        address signer = c.signer;
        if (signer == address(0)) return _skip(voucher, SkipReason.UnknownChannel);
        if (c.closingAt == CLOSED) return _skip(voucher, SkipReason.Closed);
        if (_recoverVoucher(domain, voucher) != signer) return _skip(voucher, SkipReason.BadSignature);
        (uint128 newPaid, uint128 gross) = _take(c, voucher.cumulativeAmount);
        if (gross == 0) return _skip(voucher, SkipReason.NothingDue);
        dues[i] = (uint256(newPaid) << 128) | gross;
        (uint24 tokenIndex, uint32 payoutIndex) = (c.tokenIndex, c.payoutIndex);
        if (payoutIndex != run.payoutIndex || tokenIndex != run.tokenIndex) {
            _payGroup(vouchers, i, dues, run);
            run.groupStart = i;
            run.payoutIndex = payoutIndex;
            if (tokenIndex != run.tokenIndex) {
                _sendFee(run.token, run.tokenFee, aggregator);
                run.tokenFee = 0;
                run.tokenIndex = tokenIndex;
                run.token = _tokens[tokenIndex];
            }
        }
        run.groupGross += gross;
        run.groupFee += _feeOf(newPaid, gross);
    }

    /// @dev Pays the open group by one transfer. If the token refuses, the group's channels stand as before and its vouchers
    /// count as skipped.
    function _payGroup(SignedVoucher[] calldata vouchers, uint256 end, uint256[] memory dues, Run memory run) private {
        (uint256 gross, uint256 fee) = (run.groupGross, run.groupFee);
        if (gross == 0) return;
        (run.groupGross, run.groupFee) = (0, 0);
        bool sent = IERC20(run.token).trySafeTransfer(_payouts[run.payoutIndex], gross - fee);
        for (uint256 i = run.groupStart; i < end; ++i) {
            (uint128 newPaid, uint128 due) = (uint128(dues[i] >> 128), uint128(dues[i]));
            if (due == 0) continue;
            SignedVoucher calldata voucher = vouchers[i];
            if (sent) {
                ++run.paidCount;
                emit VoucherPaid(voucher.channelId, newPaid, due, _feeOf(newPaid, due));
            } else {
                _channels[voucher.channelId].paid -= due;
                _skip(voucher, SkipReason.PayoutFailed);
            }
        }
        if (sent) {
            run.paidSum += gross;
            run.tokenFee += fee;
        }
    }

    function _payOne(Record storage c, bytes32 channelId, uint128 cumulativeAmount) private returns (uint128) {
        (uint128 newPaid, uint128 gross) = _take(c, cumulativeAmount);
        if (gross == 0) return 0;
        address token = _tokens[c.tokenIndex];
        uint128 fee = _feeOf(newPaid, gross);
        emit VoucherPaid(channelId, newPaid, gross, fee);
        IERC20(token).safeTransfer(_payouts[c.payoutIndex], gross - fee);
        _sendFee(token, fee, address(0));
        return gross;
    }

    /// @dev Writes `paid` and says what that moves; nothing moves if the voucher adds nothing.
    function _take(Record storage c, uint128 cumulativeAmount) private returns (uint128 newPaid, uint128 gross) {
        (uint128 deposit, uint128 before) = (c.deposit, c.paid);
        newPaid = cumulativeAmount < deposit ? cumulativeAmount : deposit;
        if (newPaid <= before) return (before, 0);
        c.paid = newPaid;
        return (newPaid, newPaid - before);
    }

    /// @dev The fee on the last `gross` of `newPaid`: a difference of floor(paid * bps), so that the sum does not depend on the steps.
    function _feeOf(uint128 newPaid, uint128 gross) private view returns (uint128) {
        return uint128(uint256(newPaid) * FEE_BPS / BPS - uint256(newPaid - gross) * FEE_BPS / BPS);
    }

    /// @dev A fee that cannot be sent stays here and never stops a payment.
    function _sendFee(address token, uint256 fee, address aggregator) private {
        if (fee == 0) return;
        if (!IERC20(token).trySafeTransfer(address(FEE_POOL), fee)) {
            unsentFees[token] += fee;
            emit FeesUnsent(token, fee);
        }
        FEE_POOL.credit(token, fee, msg.sender, aggregator);
    }

    /// @dev Pays up to `cumulativeAmount`, marks the channel closed and gives the rest back.
    function _close(Record storage c, bytes32 channelId, uint128 cumulativeAmount) private {
        c.closingAt = CLOSED;
        _payOne(c, channelId, cumulativeAmount);
        (uint128 deposit, uint128 paid_) = (c.deposit, c.paid);
        uint128 rest = deposit - paid_;
        emit ChannelClosed(channelId, paid_, rest);
        if (rest != 0) IERC20(_tokens[c.tokenIndex]).safeTransfer(c.payer, rest);
    }

    function _skip(SignedVoucher calldata voucher, SkipReason reason) private {
        emit VoucherSkipped(voucher.channelId, voucher.cumulativeAmount, reason);
    }

    function _existing(bytes32 channelId) private view returns (Record storage c) {
        c = _channels[channelId];
        if (c.payer == address(0)) revert UnknownChannel(channelId);
    }

    function _stateOf(Record storage c) private view returns (State) {
        if (c.payer == address(0)) return State.None;
        if (c.closingAt == 0) return State.Open;
        return c.closingAt == CLOSED ? State.Closed : State.Closing;
    }

    function _checkVoucher(Record storage c, bytes32 channelId, uint128 cumulativeAmount, bytes calldata signature)
        private
        view
    {
        address recovered = Signatures.recover(voucherDigest(channelId, cumulativeAmount), signature);
        if (recovered != c.signer) revert BadVoucherSignature(c.signer, recovered);
    }

    function _recoverVoucher(bytes32 domain, SignedVoucher calldata voucher) private pure returns (address) {
        bytes32 hash = keccak256(abi.encode(VOUCHER_TYPEHASH, voucher.channelId, voucher.cumulativeAmount));
        return Signatures.recoverCompact(MessageHashUtils.toTypedDataHash(domain, hash), voucher.r, voucher.vs);
    }
}
