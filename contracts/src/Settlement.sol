// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IFeePool, IPaymentChannels, SignedVoucher} from "./Interfaces.sol";
import {IncludeBy, LeafProof, NodeProof, PathStep, Receipt, Receipts} from "./Receipts.sol";
import {Signatures} from "./Signatures.sol";

/// @title Bonded aggregators settle vouchers (checked and final at once) and post receipt roots (optimistic).
/// @notice Money never depends on a root: vouchers are paid by PaymentChannels. A root stands for `CHALLENGE_SECONDS`, in
/// which one proof of a fault topples its batch and takes the aggregator's whole bond. No owner, no pause.
contract Settlement is EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @notice What an aggregator states about a batch. `number` counts its own batches from 1 without gaps.
    struct Totals {
        uint64 number;
        uint64 epoch;
        uint32 count;
        uint128 sum;
    }

    enum Status {
        None,
        Pending,
        Final,
        Toppled
    }

    /// @notice A batch as `batch(id)` shows it.
    struct Batch {
        bytes32 root;
        uint128 sum;
        uint64 number;
        uint64 epoch;
        address aggregator;
        uint48 submittedAt;
        uint48 finalisableAt;
        uint32 count;
        uint32 openDemands;
        Status status;
    }

    /// @notice `exitAt` 0: active. Batches that are not final keep the bond in place.
    struct Aggregator {
        uint128 bond;
        uint64 exitAt;
        uint64 batches;
        uint64 pending;
    }

    /// @dev A batch in three slots. `openSeconds` after `submittedAt` it can be made final, if no demand is open.
    struct BatchRecord {
        bytes32 root;
        uint128 sum;
        uint32 number;
        uint32 epoch;
        uint64 submittedAt;
        address aggregator;
        uint32 openSeconds;
        uint32 count;
        uint16 openDemands;
        Status status;
    }

    /// @dev An aggregator in one slot.
    struct AggregatorRecord {
        uint128 bond;
        uint64 exitAt;
        uint32 batches;
        uint32 pending;
    }

    enum Fault {
        BadReceipt,
        Disorder,
        Duplicate,
        WrongSum,
        WrongPadding,
        Omission,
        Withheld
    }

    enum DemandState {
        None,
        Open,
        Revealed,
        Refunded
    }

    struct Demand {
        address by;
        uint48 deadline;
        DemandState state;
    }

    /// @notice Everything that differs between chains. Times in seconds, amounts in wei of WTRL.
    struct Parameters {
        uint128 bond;
        uint128 demandBond;
        uint32 challengeSeconds;
        uint32 revealSeconds;
        uint32 unbondingSeconds;
        uint16 reporterBps;
    }

    uint32 public constant COUNT_MAX = 1 << 24;
    uint256 public constant SIGNATURES_BYTES = 130;
    uint16 public constant RECEIPT_VERSION = 1;
    uint16 public constant REPORTER_BPS_MAX = 5_000;
    uint256 private constant BPS = 10_000;

    IERC20 public immutable TOKEN;
    IPaymentChannels public immutable CHANNELS;
    IFeePool public immutable FEE_POOL;
    /// @notice Least bond of an aggregator that submits.
    uint128 public immutable BOND;
    /// @notice What a demand costs if it is answered.
    uint128 public immutable DEMAND_BOND;
    /// @notice How long a root can be challenged.
    uint32 public immutable CHALLENGE_SECONDS;
    /// @notice How long the aggregator has to answer a demand, and how long the answer can be challenged at least.
    uint32 public immutable REVEAL_SECONDS;
    /// @notice How long a bond stays after `requestExit`.
    uint32 public immutable UNBONDING_SECONDS;
    /// @notice The reporter's part of a slashed bond.
    uint16 public immutable REPORTER_BPS;

    /// @notice Number of batches ever submitted; ids run from 1.
    uint64 public batchCount;
    mapping(uint64 batchId => BatchRecord) private _batches;
    mapping(address account => AggregatorRecord) private _aggregators;
    mapping(address aggregator => mapping(uint64 number => uint64 batchId)) public batchIdOf;
    mapping(address aggregator => mapping(bytes32 root => uint64 batchId)) public batchIdOfRoot;
    mapping(uint64 batchId => mapping(uint32 index => Demand)) private _demands;

    event Bonded(address indexed aggregator, uint128 amount, uint128 bond);
    event ExitRequested(address indexed aggregator, uint64 exitAt);
    event BondWithdrawn(address indexed aggregator, uint128 amount);
    event BatchSubmitted(
        uint64 indexed batchId,
        address indexed aggregator,
        bytes32 indexed root,
        uint64 number,
        uint64 epoch,
        uint32 count,
        uint128 sum,
        uint48 finalisableAt
    );
    event VouchersSettled(address indexed aggregator, uint256 given, uint256 paidCount, uint256 paidSum);
    event BatchFinal(uint64 indexed batchId, address indexed aggregator);
    event BatchToppled(
        uint64 indexed batchId, address indexed aggregator, Fault fault, address reporter, uint128 slashed, uint256 reward
    );
    event Demanded(uint64 indexed batchId, uint32 indexed index, address indexed by, uint48 deadline);
    event Revealed(uint64 indexed batchId, uint32 indexed index, address indexed by, bytes32 leaf);
    event DemandRefunded(uint64 indexed batchId, uint32 indexed index, address indexed by);

    error BadParameters();
    error ZeroAmount();
    error NotBonded(address aggregator, uint128 bond, uint128 needed);
    error Exiting(address aggregator, uint64 exitAt);
    error NotExiting(address aggregator);
    error TooEarly(uint64 allowedAt);
    error BatchesPending(uint64 pending);
    error WrongNumber(uint64 expected, uint64 given);
    error WrongEpoch(uint64 current, uint64 given);
    error BadCount(uint32 count, uint32 max);
    error RootSubmitted(uint64 batchId);
    error WrongStatus(uint64 batchId, Status status);
    error WindowOver(uint64 batchId, uint48 endedAt);
    error DemandsOpen(uint64 batchId, uint32 open);
    error NotInBatch(uint64 batchId, uint32 index);
    error NoFault();
    error NotAdjacent(uint32 left, uint32 right);
    error NotEarlier(uint64 batchId, uint64 earlierId);
    error WrongPromise();
    error WrongDemand(uint64 batchId, uint32 index, DemandState state);
    error IndexOutOfRange(uint32 index, uint32 max);

    constructor(IERC20 token, IPaymentChannels channels, IFeePool feePool, Parameters memory p) EIP712("Trellis", "1") {
        bool zero = address(token) == address(0) || address(channels) == address(0) || address(feePool) == address(0)
            || p.bond == 0 || p.demandBond == 0 || p.challengeSeconds == 0 || p.revealSeconds == 0;
        // A bond must outlive every challenge of the last batch it stood for.
        bool short = uint256(p.unbondingSeconds) <= uint256(p.challengeSeconds) + 2 * uint256(p.revealSeconds);
        if (zero || short || p.reporterBps > REPORTER_BPS_MAX) revert BadParameters();
        TOKEN = token;
        CHANNELS = channels;
        FEE_POOL = feePool;
        BOND = p.bond;
        DEMAND_BOND = p.demandBond;
        CHALLENGE_SECONDS = p.challengeSeconds;
        REVEAL_SECONDS = p.revealSeconds;
        UNBONDING_SECONDS = p.unbondingSeconds;
        REPORTER_BPS = p.reporterBps;
    }

    // ---------------------------------------------------------------- aggregators

    /// @notice Adds to the caller's bond; with at least `BOND` it is an aggregator. Takes back a requested exit.
    function register(uint128 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        AggregatorRecord storage a = _aggregators[msg.sender];
        uint128 bond = a.bond + amount;
        a.bond = bond;
        a.exitAt = 0;
        emit Bonded(msg.sender, amount, bond);
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Stops the caller's settling; the bond can be withdrawn after the unbonding time.
    function requestExit() external returns (uint64 exitAt) {
        AggregatorRecord storage a = _aggregators[msg.sender];
        if (a.bond == 0) revert NotBonded(msg.sender, 0, 1);
        if (a.exitAt != 0) revert Exiting(msg.sender, a.exitAt);
        exitAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        a.exitAt = exitAt;
        emit ExitRequested(msg.sender, exitAt);
    }

    /// @notice Pays the bond back once the unbonding time is over and every batch is final or toppled.
    function withdrawBond() external nonReentrant returns (uint128 amount) {
        AggregatorRecord storage a = _aggregators[msg.sender];
        if (a.exitAt == 0) revert NotExiting(msg.sender);
        if (block.timestamp < a.exitAt) revert TooEarly(a.exitAt);
        if (a.pending != 0) revert BatchesPending(a.pending);
        amount = a.bond;
        a.bond = 0;
        a.exitAt = 0;
        emit BondWithdrawn(msg.sender, amount);
        if (amount != 0) TOKEN.safeTransfer(msg.sender, amount);
    }

    // ---------------------------------------------------------------- settling

    /// @notice Posts a root and pays a batch of vouchers. The same number or the same root is taken once.
    function settle(bytes32 receiptsRoot, Totals calldata totals, SignedVoucher[] calldata vouchers)
        external
        nonReentrant
        returns (uint64 batchId)
    {
        _requireBonded();
        batchId = _submit(receiptsRoot, totals);
        if (vouchers.length != 0) _pay(vouchers);
    }

    /// @notice Pays more vouchers than fit beside a root into one transaction.
    function settleVouchers(SignedVoucher[] calldata vouchers) external nonReentrant {
        _requireBonded();
        _pay(vouchers);
    }

    /// @notice Marks a batch that outlived its window as final. Anyone may call.
    function finalise(uint64 batchId) external nonReentrant {
        BatchRecord storage b = _pendingBatch(batchId);
        uint64 finalisableAt = b.submittedAt + b.openSeconds;
        if (block.timestamp < finalisableAt) revert TooEarly(finalisableAt);
        if (b.openDemands != 0) revert DemandsOpen(batchId, b.openDemands);
        b.status = Status.Final;
        --_aggregators[b.aggregator].pending;
        emit BatchFinal(batchId, b.aggregator);
    }

    // ---------------------------------------------------------------- one-step proofs

    /// @notice A leaf whose receipt is not what its signatures say: wrong version, chain, channels contract or aggregator,
    /// no such channel, a signature that is malformed or not by the channel's signer and payee, or a cost other than the leaf's sum.
    function proveBadReceipt(uint64 batchId, LeafProof calldata leaf) external nonReentrant {
        BatchRecord storage b = _pendingBatch(batchId);
        bytes32 structHash = _requireLeaf(b, batchId, leaf);
        if (leaf.sum != leaf.receipt.outcome.cost) return _topple(b, batchId, Fault.WrongSum);
        if (_isGood(b, leaf, structHash)) revert NoFault();
        _topple(b, batchId, Fault.BadReceipt);
    }

    /// @notice Two neighbouring leaves that do not rise: out of order, or the same (channel, sequence) twice.
    function proveDisorder(uint64 batchId, LeafProof calldata left, LeafProof calldata right) external nonReentrant {
        BatchRecord storage b = _pendingBatch(batchId);
        _requireNeighbours(b, batchId, left, right);
        if (_isBefore(left.receipt, right.receipt)) revert NoFault();
        _topple(b, batchId, Fault.Disorder);
    }

    /// @notice The same (channel, sequence) in this batch and in an earlier one of the same aggregator that has not been toppled.
    function proveDuplicate(uint64 batchId, LeafProof calldata leaf, uint64 earlierId, LeafProof calldata earlierLeaf)
        external
        nonReentrant
    {
        BatchRecord storage b = _pendingBatch(batchId);
        BatchRecord storage earlier = _batches[earlierId];
        if (earlierId >= batchId || earlier.aggregator != b.aggregator) revert NotEarlier(batchId, earlierId);
        if (earlier.status == Status.Toppled) revert WrongStatus(earlierId, earlier.status);
        _requireLeaf(b, batchId, leaf);
        _requireLeaf(earlier, earlierId, earlierLeaf);
        Receipt calldata x = leaf.receipt;
        Receipt calldata y = earlierLeaf.receipt;
        if (x.key.channelId != y.key.channelId || x.key.sequence != y.key.sequence) revert NoFault();
        _topple(b, batchId, Fault.Duplicate);
    }

    /// @notice An inner node whose sum is not that of its children.
    function proveWrongSum(uint64 batchId, NodeProof calldata node) external nonReentrant {
        BatchRecord storage b = _pendingBatch(batchId);
        uint8 depth = Receipts.depthOf(b.count);
        bytes32 hash = Receipts.inner(node.left, node.leftSum, node.right, node.rightSum);
        bool placed = node.level != 0 && node.level <= depth && node.path.length == depth - node.level
            && Receipts.isMember(b.root, b.sum, hash, node.sum, node.index, node.path);
        if (!placed) revert NotInBatch(batchId, node.index);
        if (uint256(node.leftSum) + node.rightSum == node.sum) revert NoFault();
        _topple(b, batchId, Fault.WrongSum);
    }

    /// @notice A leaf at or after `count` that is not empty, or an empty one before it.
    function proveWrongPadding(uint64 batchId, uint32 index, bytes32 leaf, uint128 sum, PathStep[] calldata path)
        external
        nonReentrant
    {
        BatchRecord storage b = _pendingBatch(batchId);
        if (!_isLeaf(b, index, leaf, sum, path)) revert NotInBatch(batchId, index);
        bool fault = index >= b.count ? (leaf != bytes32(0) || sum != 0) : leaf == bytes32(0);
        if (!fault) revert NoFault();
        _topple(b, batchId, Fault.WrongPadding);
    }

    /// @notice A promised receipt that is not in the batch: two neighbours around its place, the first leaf if it would stand
    /// before all, the last if after all (then `right` is ignored), or another receipt in its place (as `left`).
    function proveOmission(
        uint64 batchId,
        IncludeBy calldata promise_,
        bytes calldata signature,
        LeafProof calldata left,
        LeafProof calldata right
    ) external nonReentrant {
        BatchRecord storage b = _pendingBatch(batchId);
        if (promise_.batch != b.number) revert WrongPromise();
        bytes32 digest = _hashTypedDataV4(Receipts.hashStruct(promise_));
        if (Signatures.recover(digest, signature) != b.aggregator) revert WrongPromise();
        if (!_isAbsent(b, batchId, promise_, left, right)) revert NoFault();
        _topple(b, batchId, Fault.Omission);
    }

    // ---------------------------------------------------------------- availability

    /// @notice Asks for leaf `index` to be shown on chain, against a bond that the one who shows it gets.
    function demand(uint64 batchId, uint32 index) external nonReentrant {
        BatchRecord storage b = _pendingBatch(batchId);
        uint48 windowEnd = uint48(b.submittedAt) + CHALLENGE_SECONDS;
        if (block.timestamp >= windowEnd) revert WindowOver(batchId, windowEnd);
        uint32 width = uint32(1) << Receipts.depthOf(b.count);
        if (index >= width) revert IndexOutOfRange(index, width - 1);
        DemandState state = _demands[batchId][index].state;
        if (state != DemandState.None) revert WrongDemand(batchId, index, state);
        uint48 deadline = uint48(block.timestamp) + REVEAL_SECONDS;
        _demands[batchId][index] = Demand(msg.sender, deadline, DemandState.Open);
        ++b.openDemands;
        emit Demanded(batchId, index, msg.sender, deadline);
        TOKEN.safeTransferFrom(msg.sender, address(this), DEMAND_BOND);
    }

    /// @notice Shows a demanded leaf with all its data. Anyone may; the caller gets the demand's bond.
    function reveal(uint64 batchId, LeafProof calldata leaf) external nonReentrant {
        BatchRecord storage b = _pendingBatch(batchId);
        bytes32 structHash = _requireLeaf(b, batchId, leaf);
        bytes32 hash = Receipts.leaf(structHash, keccak256(leaf.signatures), leaf.pqHash);
        _answer(b, batchId, leaf.index, hash);
    }

    /// @notice Shows that a demanded leaf after the last receipt is empty.
    function revealPadding(uint64 batchId, uint32 index, PathStep[] calldata path) external nonReentrant {
        BatchRecord storage b = _pendingBatch(batchId);
        if (index < b.count || !_isLeaf(b, index, bytes32(0), 0, path)) revert NotInBatch(batchId, index);
        _answer(b, batchId, index, bytes32(0));
    }

    /// @notice Topples a batch whose aggregator let a demand's deadline pass, and gives the demand's bond back. For a batch
    /// already toppled it only gives the bond back.
    function expireDemand(uint64 batchId, uint32 index) external nonReentrant {
        BatchRecord storage b = _batches[batchId];
        Demand storage d = _demands[batchId][index];
        if (d.state != DemandState.Open) revert WrongDemand(batchId, index, d.state);
        address by = d.by;
        bool toppled = b.status == Status.Toppled;
        if (!toppled && block.timestamp < d.deadline) revert TooEarly(d.deadline);
        d.state = DemandState.Refunded;
        --b.openDemands;
        emit DemandRefunded(batchId, index, by);
        if (!toppled) _toppleFor(b, batchId, Fault.Withheld, by);
        TOKEN.safeTransfer(by, DEMAND_BOND);
    }

    // ---------------------------------------------------------------- views

    /// @notice A batch; status None when there is none.
    function batch(uint64 batchId) external view returns (Batch memory) {
        BatchRecord storage b = _batches[batchId];
        return Batch({
            root: b.root,
            sum: b.sum,
            number: b.number,
            epoch: b.epoch,
            aggregator: b.aggregator,
            submittedAt: uint48(b.submittedAt),
            finalisableAt: uint48(b.submittedAt + b.openSeconds),
            count: b.count,
            openDemands: b.openDemands,
            status: b.status
        });
    }

    /// @notice An aggregator's bond, exit and counts.
    function aggregator(address account) external view returns (Aggregator memory) {
        AggregatorRecord storage a = _aggregators[account];
        return Aggregator(a.bond, a.exitAt, a.batches, a.pending);
    }

    /// @notice The demand for a leaf.
    function demandOf(uint64 batchId, uint32 index) external view returns (Demand memory) {
        return _demands[batchId][index];
    }

    /// @notice hashStruct of a receipt, as it stands in a leaf.
    function receiptHash(Receipt calldata receipt) external pure returns (bytes32) {
        return Receipts.hashStruct(receipt);
    }

    /// @notice What both sides of a job sign.
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32) {
        return _hashTypedDataV4(Receipts.hashStruct(receipt));
    }

    /// @notice What an aggregator signs to promise a receipt's place in a batch.
    function includeByDigest(IncludeBy calldata promise_) external view returns (bytes32) {
        return _hashTypedDataV4(Receipts.hashStruct(promise_));
    }

    // ---------------------------------------------------------------- inside

    function _requireBonded() private view {
        AggregatorRecord storage a = _aggregators[msg.sender];
        if (a.bond < BOND) revert NotBonded(msg.sender, a.bond, BOND);
        if (a.exitAt != 0) revert Exiting(msg.sender, a.exitAt);
    }

    function _submit(bytes32 root, Totals calldata totals) private returns (uint64 batchId) {
        AggregatorRecord storage a = _aggregators[msg.sender];
        uint32 number = a.batches + 1;
        if (totals.number != number) revert WrongNumber(number, totals.number);
        if (totals.count == 0 || totals.count > COUNT_MAX) revert BadCount(totals.count, COUNT_MAX);
        // A transaction sent at the end of an epoch may land in the next one.
        uint64 current = FEE_POOL.currentEpoch();
        if (totals.epoch != current && totals.epoch + 1 != current) revert WrongEpoch(current, totals.epoch);
        uint64 before = batchIdOfRoot[msg.sender][root];
        if (before != 0) revert RootSubmitted(before);
        batchId = ++batchCount;
        a.batches = number;
        ++a.pending;
        batchIdOf[msg.sender][number] = batchId;
        batchIdOfRoot[msg.sender][root] = batchId;
        uint64 submittedAt = uint64(block.timestamp);
        _batches[batchId] = BatchRecord({
            root: root,
            sum: totals.sum,
            number: number,
            epoch: uint32(totals.epoch),
            submittedAt: submittedAt,
            aggregator: msg.sender,
            openSeconds: CHALLENGE_SECONDS,
            count: totals.count,
            openDemands: 0,
            status: Status.Pending
        });
        uint48 finalisableAt = uint48(submittedAt) + CHALLENGE_SECONDS;
        emit BatchSubmitted(batchId, msg.sender, root, number, totals.epoch, totals.count, totals.sum, finalisableAt);
    }

    function _pay(SignedVoucher[] calldata vouchers) private {
        (uint256 paidCount, uint256 paidSum) = CHANNELS.settle(vouchers, msg.sender);
        emit VouchersSettled(msg.sender, vouchers.length, paidCount, paidSum);
    }

    function _pendingBatch(uint64 batchId) private view returns (BatchRecord storage b) {
        b = _batches[batchId];
        if (b.status != Status.Pending) revert WrongStatus(batchId, b.status);
    }

    function _isLeaf(BatchRecord storage b, uint32 index, bytes32 leaf, uint128 sum, PathStep[] calldata path)
        private
        view
        returns (bool)
    {
        return path.length == Receipts.depthOf(b.count) && Receipts.isMember(b.root, b.sum, leaf, sum, index, path);
    }

    /// @dev The leaf is in the batch, among its receipts. Returns the receipt's struct hash.
    function _requireLeaf(BatchRecord storage b, uint64 batchId, LeafProof calldata leaf) private view returns (bytes32 hash) {
        hash = Receipts.hashStruct(leaf.receipt);
        bytes32 leafHash = Receipts.leaf(hash, keccak256(leaf.signatures), leaf.pqHash);
        if (leaf.index >= b.count || !_isLeaf(b, leaf.index, leafHash, leaf.sum, leaf.path)) {
            revert NotInBatch(batchId, leaf.index);
        }
    }

    function _requireNeighbours(BatchRecord storage b, uint64 batchId, LeafProof calldata left, LeafProof calldata right)
        private
        view
    {
        if (right.index != uint256(left.index) + 1) revert NotAdjacent(left.index, right.index);
        _requireLeaf(b, batchId, left);
        _requireLeaf(b, batchId, right);
    }

    function _isGood(BatchRecord storage b, LeafProof calldata leaf, bytes32 hash) private view returns (bool) {
        Receipt calldata r = leaf.receipt;
        if (r.key.version != RECEIPT_VERSION || r.key.chainId != block.chainid) return false;
        if (r.key.channels != address(CHANNELS) || r.key.aggregator != b.aggregator) return false;
        if (leaf.signatures.length != SIGNATURES_BYTES) return false;
        (address signer, address payee) = CHANNELS.keysOf(r.key.channelId);
        if (signer == address(0)) return false;
        bytes32 digest = _hashTypedDataV4(hash);
        return Signatures.recover(digest, leaf.signatures[:65]) == signer
            && Signatures.recover(digest, leaf.signatures[65:]) == payee;
    }

    function _isBefore(Receipt calldata x, Receipt calldata y) private pure returns (bool) {
        return Receipts.isBefore(x.key.channelId, x.key.sequence, y.key.channelId, y.key.sequence);
    }

    function _isAbsent(
        BatchRecord storage b,
        uint64 batchId,
        IncludeBy calldata p,
        LeafProof calldata left,
        LeafProof calldata right
    ) private view returns (bool) {
        bytes32 leftHash = _requireLeaf(b, batchId, left);
        Receipt calldata x = left.receipt;
        if (x.key.channelId == p.channelId && x.key.sequence == p.sequence) return leftHash != p.receipt;
        if (!Receipts.isBefore(x.key.channelId, x.key.sequence, p.channelId, p.sequence)) return left.index == 0;
        if (left.index + 1 == b.count) return true;
        _requireNeighbours(b, batchId, left, right);
        Receipt calldata y = right.receipt;
        return Receipts.isBefore(p.channelId, p.sequence, y.key.channelId, y.key.sequence);
    }

    function _answer(BatchRecord storage b, uint64 batchId, uint32 index, bytes32 leaf) private {
        Demand storage d = _demands[batchId][index];
        if (d.state != DemandState.Open) revert WrongDemand(batchId, index, d.state);
        d.state = DemandState.Revealed;
        --b.openDemands;
        // What has just been shown must be open to challenge for as long as an answer may take.
        uint32 openSeconds = uint32(block.timestamp - b.submittedAt) + REVEAL_SECONDS;
        if (b.openSeconds < openSeconds) b.openSeconds = openSeconds;
        emit Revealed(batchId, index, msg.sender, leaf);
        TOKEN.safeTransfer(msg.sender, DEMAND_BOND);
    }

    function _topple(BatchRecord storage b, uint64 batchId, Fault fault) private {
        _toppleFor(b, batchId, fault, msg.sender);
    }

    /// @dev Takes the whole bond: part to the reporter, the rest to the providers' bucket of the fee pool.
    function _toppleFor(BatchRecord storage b, uint64 batchId, Fault fault, address reporter) private {
        b.status = Status.Toppled;
        address account = b.aggregator;
        AggregatorRecord storage a = _aggregators[account];
        uint128 slashed = a.bond;
        a.bond = 0;
        --a.pending;
        uint256 reward = uint256(slashed) * REPORTER_BPS / BPS;
        emit BatchToppled(batchId, account, fault, reporter, slashed, reward);
        FEE_POOL.forfeit(account);
        if (slashed == 0) return;
        FEE_POOL.creditSlashed(address(TOKEN), slashed - reward);
        TOKEN.safeTransfer(address(FEE_POOL), slashed - reward);
        TOKEN.safeTransfer(reporter, reward);
    }
}
