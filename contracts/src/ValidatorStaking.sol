// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ValidatorKeys} from "./ValidatorKeys.sol";
import {ValidatorPools} from "./ValidatorPools.sol";
import {Candidate, EpochReport, Info, Keys, Params, Proofs, Registration} from "./ValidatorTypes.sol";

/// @title Validators of the chain: bonds and delegations in the native coin, committee candidates, rewards, slashing.
/// @notice The chain takes each epoch's committee from `candidates`, and tells by a system call at the end of each epoch
/// who signed. Epoch n is the blocks (n - 1) * EPOCH_BLOCKS + 1 to n * EPOCH_BLOCKS. No owner, no pause, no upgrade.
contract ValidatorStaking is ValidatorKeys, ValidatorPools {
    /// @dev `jailedUntil` 0: not jailed. A jailed validator stays so until it asks.
    struct Validator {
        uint16 commissionBps;
        bool leaving;
        uint64 jailedUntil;
        uint64 commissionRaisedIn;
    }

    /// @notice Who makes system calls.
    address public constant SYSTEM = 0xffffFFFfFFffffffffffffffFfFFFfffFFFfFFfE;
    /// @notice A committee member that signed less of an epoch's blocks is jailed.
    uint256 public constant MIN_SIGNED_BPS = 5_000;
    /// @notice A commission rises by at most so much in an epoch.
    uint16 public constant COMMISSION_RAISE_MAX_BPS = 500;

    /// @notice The own stake a validator must have to be a candidate.
    uint256 public immutable MIN_STAKE;
    /// @notice Evidence about an ended epoch that began longer ago is refused.
    uint64 public immutable EVIDENCE_AGE_SECONDS;
    /// @notice How long a validator that did not sign stays out at least.
    uint64 public immutable JAIL_SECONDS;
    /// @notice What an equivocation costs, of own and delegated stake alike.
    uint16 public immutable SLASH_BPS;
    /// @notice What the reporter gets of slashed stake.
    uint16 public immutable REPORTER_BPS;
    /// @notice Seats of the active committee, for the chain.
    uint32 public immutable SEATS;
    /// @notice Blocks of an epoch.
    uint64 public immutable EPOCH_BLOCKS;
    /// @notice Emission of an epoch before the first halving.
    uint256 public immutable EPOCH_REWARD;
    /// @notice Epochs after which the emission halves.
    uint64 public immutable EPOCHS_PER_HALVING;
    /// @notice Who can claim the rest of slashed stake.
    address public immutable TREASURY;

    /// @notice The last epoch that has ended.
    uint64 public lastEpoch;
    /// @notice When an epoch ended, 0 if it has not; epoch 0 is the genesis block.
    mapping(uint64 epoch => uint64) public epochEndedAt;
    /// @notice Root of the committee that signs an epoch, as the chain computed it; 0 for the first epoch.
    mapping(uint64 epoch => bytes32) public committeeRoot;

    address[] private _validators;
    mapping(address validator => Validator) private _states;

    event Registered(address indexed validator, uint256 stake, uint16 commissionBps);
    event CommissionChanged(address indexed validator, uint16 oldBps, uint16 newBps);
    event Left(address indexed validator);
    event Jailed(address indexed validator, uint64 indexed epoch, uint64 until, uint32 signed, uint32 blocks);
    event Unjailed(address indexed validator);
    event Rewarded(address indexed validator, uint64 indexed epoch, uint256 amount, uint256 commission);
    event EpochEnded(uint64 indexed epoch, uint256 paid, bytes32 nextCommitteeRoot, address[] nextMembers);
    event Slashed(
        address indexed validator,
        address indexed reporter,
        bytes32 indexed voteKeyHash,
        uint64 height,
        uint256 fromActive,
        uint256 fromUnbonding,
        uint256 reporterReward
    );
    event Funded(address indexed from, uint256 amount);

    error BadParams();
    error NotGenesis(uint256 blockNumber);
    error StakeUnderMinimum(uint256 asked, uint256 minimum);
    error WrongValue(uint256 expected, uint256 actual);
    error AlreadyRegistered(address validator);
    error NotRegistered(address validator);
    error IsLeaving(address validator);
    error IsTombstoned(address validator);
    error NotJailed(address validator);
    error JailedUntil(uint64 until, uint256 timestamp);
    error CommissionTooHigh(uint256 asked, uint256 max);
    error CommissionRaisedAlready(uint64 epoch);
    error NotSystem(address caller);
    error EpochOutOfOrder(uint64 expected, uint64 actual);
    error EvidenceTooOld(uint256 acceptedUntil, uint256 timestamp);

    constructor(Params memory p) ValidatorKeys(p.keyDomain) ValidatorPools(p.unbondingSeconds) {
        // Stake that was there at an offence must still be there when evidence of it is taken.
        if (p.unbondingSeconds <= p.evidenceAgeSeconds || p.unbondingSeconds > type(uint32).max) revert BadParams();
        if (p.slashBps == 0 || p.slashBps >= BPS || p.reporterBps > BPS) revert BadParams();
        if (p.epochBlocks == 0 || p.epochsPerHalving == 0 || p.seats == 0) revert BadParams();
        if (p.minStake < MIN_DELEGATION || p.epochReward > type(uint128).max) revert BadParams();
        if (p.jailSeconds > type(uint32).max || p.treasury == address(0)) revert BadParams();
        MIN_STAKE = p.minStake;
        EVIDENCE_AGE_SECONDS = p.evidenceAgeSeconds;
        JAIL_SECONDS = p.jailSeconds;
        SLASH_BPS = p.slashBps;
        REPORTER_BPS = p.reporterBps;
        SEATS = p.seats;
        EPOCH_BLOCKS = p.epochBlocks;
        EPOCH_REWARD = p.epochReward;
        EPOCHS_PER_HALVING = p.epochsPerHalving;
        TREASURY = p.treasury;
        epochEndedAt[0] = uint64(block.timestamp);
    }

    /// @notice Registers the validators of the genesis file, without proofs; checkpoint keys may be left out. Only in block 0.
    function genesisRegister(Registration[] calldata list) external payable {
        if (block.number != 0) revert NotGenesis(block.number);
        uint256 sum = 0;
        for (uint256 i = 0; i < list.length; ++i) {
            sum += list[i].stake;
            _checkLengths(list[i].keys, true);
            _register(list[i].validator, list[i].keys, list[i].stake, list[i].commissionBps);
        }
        if (sum != msg.value) revert WrongValue(sum, msg.value);
    }

    /// @notice Makes the caller a validator with the coin that came with the call as its own stake.
    function register(Keys calldata keys, Proofs calldata proofs, uint16 commissionBps) external payable {
        _checkLengths(keys, false);
        _checkProofs(msg.sender, keys, proofs);
        _register(msg.sender, keys, msg.value, commissionBps);
    }

    /// @notice Adds to the caller's own stake.
    function stake() external payable {
        _checkOpen(msg.sender);
        _deposit(msg.sender, msg.sender, msg.value);
    }

    /// @notice Adds to the caller's stake with a validator. It is slashed with the validator's own.
    function delegate(address validator) external payable {
        _checkOpen(validator);
        _deposit(validator, msg.sender, msg.value);
    }

    /// @notice Adds to the reserve that rewards are paid from.
    function fund() external payable {
        emit Funded(msg.sender, msg.value);
    }

    /// @notice Sets the caller's share of what its delegators earn. It rises once an epoch, by at most 5 %.
    function setCommission(uint16 bps) external {
        _checkOpen(msg.sender);
        Validator storage v = _states[msg.sender];
        uint16 old = v.commissionBps;
        if (bps > old) {
            uint256 max = old + COMMISSION_RAISE_MAX_BPS > BPS ? BPS : old + COMMISSION_RAISE_MAX_BPS;
            if (bps > max) revert CommissionTooHigh(bps, max);
            // One more than the epoch, so that 0 means never.
            uint64 mark = currentEpoch() + 1;
            if (v.commissionRaisedIn >= mark) revert CommissionRaisedAlready(mark - 1);
            v.commissionRaisedIn = mark;
        }
        v.commissionBps = bps;
        emit CommissionChanged(msg.sender, old, bps);
    }

    /// @notice Replaces all of the caller's keys; the chain uses them from the next epoch. The old vote key answers for what
    /// it signs until the end of the next epoch, as long as evidence of that is taken.
    function rotateKey(Keys calldata keys, Proofs calldata proofs) external {
        _checkOpen(msg.sender);
        _checkLengths(keys, false);
        _checkProofs(msg.sender, keys, proofs);
        _setKeys(msg.sender, keys, (currentEpoch() + 1) * EPOCH_BLOCKS);
    }

    /// @notice Takes the caller out of the candidates for good and unbonds its own stake. To come back: another account.
    function leave() external {
        _checkOpen(msg.sender);
        _states[msg.sender].leaving = true;
        (uint256 shares, uint256 own) = delegation(msg.sender, msg.sender);
        if (own != 0) _unbond(msg.sender, msg.sender, shares, own);
        emit Left(msg.sender);
    }

    /// @notice Makes the caller a candidate again after its time in jail.
    function unjail() external {
        _checkOpen(msg.sender);
        Validator storage v = _states[msg.sender];
        uint64 until = v.jailedUntil;
        if (until == 0) revert NotJailed(msg.sender);
        if (block.timestamp < until) revert JailedUntil(until, block.timestamp);
        (, uint256 own) = delegation(msg.sender, msg.sender);
        if (own < MIN_STAKE) revert StakeUnderMinimum(own, MIN_STAKE);
        v.jailedUntil = 0;
        emit Unjailed(msg.sender);
    }

    /// @notice Slashes the validator that signed two conflicting messages, both given in the chain's wire form, and bans it
    /// for ever. Anyone may call; the reward waits for `claim`.
    function reportEquivocation(bytes calldata a, bytes calldata b) external {
        (bytes32 keyHash, uint64 height) = _verifyEquivocation(a, b);
        address validator = _holderAt(keyHash, height);
        if (_isSlashed(validator)) revert IsTombstoned(validator);
        _checkAge(height);
        (uint256 fromActive, uint256 fromUnbonding) = _slash(validator, SLASH_BPS);
        uint256 taken = fromActive + fromUnbonding;
        uint256 reward = taken * REPORTER_BPS / BPS;
        _credit(msg.sender, reward);
        _credit(TREASURY, taken - reward);
        emit Slashed(validator, msg.sender, keyHash, height, fromActive, fromUnbonding, reward);
    }

    /// @notice The chain's system call in the last block of an epoch: pays the emission, jails who did not sign, keeps what
    /// evidence needs. Members it does not know, or that are out, are passed over.
    function endEpoch(EpochReport calldata report) external {
        if (msg.sender != SYSTEM) revert NotSystem(msg.sender);
        if (report.epoch <= lastEpoch) revert EpochOutOfOrder(lastEpoch + 1, report.epoch);
        lastEpoch = report.epoch;
        epochEndedAt[report.epoch] = uint64(block.timestamp);
        committeeRoot[report.epoch + 1] = report.nextCommitteeRoot;
        uint256 paid = _settleMembers(report);
        emit EpochEnded(report.epoch, paid, report.nextCommitteeRoot, report.nextMembers);
    }

    /// @notice Those of the registered validators `start` to `start + count - 1` that may be chosen now, and how many are
    /// registered in all: pages end there.
    function candidates(uint256 start, uint256 count) external view returns (Candidate[] memory page, uint256 total) {
        (address[] memory list, uint256 all) = validators(start, count);
        page = new Candidate[](list.length);
        uint256 n = 0;
        for (uint256 i = 0; i < list.length; ++i) {
            if (!_isCandidate(list[i])) continue;
            Keys memory keys = _keysOf(list[i]);
            page[n++] = Candidate(list[i], keys.scheme, keys.vote, keys.bls, keys.mldsa44, _pool(list[i]).tokens);
        }
        assembly ("memory-safe") {
            mstore(page, n)
        }
        return (page, all);
    }

    /// @notice The registered validators `start` to `start + count - 1` in the order they came, and how many there are.
    function validators(uint256 start, uint256 count) public view returns (address[] memory page, uint256 total) {
        total = _validators.length;
        if (start > total) start = total;
        if (count > total - start) count = total - start;
        page = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            page[i] = _validators[start + i];
        }
    }

    /// @notice Everything there is to show about a validator.
    function info(address validator) external view returns (Info memory i) {
        if (!_isRegistered(validator)) return i;
        Validator memory v = _states[validator];
        Pool memory pool = _pool(validator);
        i.registered = true;
        i.candidate = _isCandidate(validator);
        i.tombstoned = pool.slashedAt != 0;
        i.leaving = v.leaving;
        i.jailedUntil = v.jailedUntil;
        i.commissionBps = v.commissionBps;
        (i.ownShares, i.own) = delegation(validator, validator);
        i.delegated = pool.tokens - i.own;
        i.unbonding = pool.unbonding;
        i.shares = pool.shares;
        i.voteKeyHash = _voteKeyHash(validator);
        i.keys = _keysOf(validator);
    }

    /// @notice Number of the running epoch.
    function currentEpoch() public view returns (uint64) {
        return _epochOf(uint64(block.number));
    }

    /// @notice What all validators together can earn in an epoch.
    function emission(uint64 epoch) public view returns (uint256) {
        return EPOCH_REWARD >> (epoch / EPOCHS_PER_HALVING);
    }

    function _slashedBps() internal view override returns (uint256) {
        return SLASH_BPS;
    }

    function _register(address validator, Keys calldata keys, uint256 amount, uint16 commissionBps) private {
        if (amount < MIN_STAKE) revert StakeUnderMinimum(amount, MIN_STAKE);
        if (commissionBps > BPS) revert CommissionTooHigh(commissionBps, BPS);
        if (_isRegistered(validator)) revert AlreadyRegistered(validator);
        _validators.push(validator);
        _states[validator].commissionBps = commissionBps;
        emit Registered(validator, amount, commissionBps);
        _deposit(validator, validator, amount);
        _setKeys(validator, keys, 0);
    }

    /// @dev Pays each member by power and blocks signed. What members that did not sign would have got stays in the reserve.
    function _settleMembers(EpochReport calldata report) private returns (uint256 paid) {
        uint256 n = _shortest(report);
        uint256 power = 0;
        for (uint256 i = 0; i < n; ++i) {
            power += report.powers[i];
        }
        uint256 budget = emission(report.epoch);
        uint256 held = reserve();
        if (budget > held) budget = held;
        uint256 whole = power * report.blocks;
        if (whole == 0) return 0;
        for (uint256 i = 0; i < n; ++i) {
            address member = report.members[i];
            uint32 signed = report.signed[i] > report.blocks ? report.blocks : report.signed[i];
            if (!_isRegistered(member) || _isSlashed(member)) continue;
            paid += _rewardMember(member, report.epoch, budget * report.powers[i] * signed / whole);
            if (signed * BPS < report.blocks * MIN_SIGNED_BPS) _jail(member, report, signed);
        }
    }

    /// @dev A report with lists of different lengths must not halt the chain.
    function _shortest(EpochReport calldata report) private pure returns (uint256 n) {
        n = report.members.length;
        if (report.signed.length < n) n = report.signed.length;
        if (report.powers.length < n) n = report.powers.length;
    }

    /// @dev Without shares nobody is left who could own a reward.
    function _rewardMember(address member, uint64 epoch, uint256 amount) private returns (uint256 paid) {
        if (amount > 0 && _pool(member).shares > 0) {
            (uint256 ownShares,) = delegation(member, member);
            // A validator without own stake risks nothing and earns no commission.
            uint256 commission = ownShares == 0 ? 0 : amount * _states[member].commissionBps / BPS;
            _reward(member, amount, commission);
            emit Rewarded(member, epoch, amount, commission);
            paid = amount;
        }
    }

    function _jail(address member, EpochReport calldata report, uint32 signed) private {
        uint64 until = uint64(block.timestamp) + JAIL_SECONDS;
        _states[member].jailedUntil = until;
        emit Jailed(member, report.epoch, until, signed, report.blocks);
    }

    /// @dev Registered, and not on its way out in one way or the other.
    function _checkOpen(address validator) private view {
        if (!_isRegistered(validator)) revert NotRegistered(validator);
        if (_isSlashed(validator)) revert IsTombstoned(validator);
        if (_states[validator].leaving) revert IsLeaving(validator);
    }

    /// @dev The age counts from the epoch's beginning: whoever unbonds in it must not be released before evidence ends.
    /// Votes of the epoch that runs, however long it does, and of those to come are never too old.
    function _checkAge(uint64 height) private view {
        uint64 epoch = _epochOf(height);
        if (epoch > lastEpoch) return;
        uint256 until = epochEndedAt[epoch > 0 ? epoch - 1 : 0] + EVIDENCE_AGE_SECONDS;
        if (block.timestamp > until) revert EvidenceTooOld(until, block.timestamp);
    }

    function _isCandidate(address validator) private view returns (bool) {
        Validator memory v = _states[validator];
        if (v.leaving || v.jailedUntil != 0 || _isSlashed(validator)) return false;
        (, uint256 own) = delegation(validator, validator);
        return own >= MIN_STAKE;
    }

    function _epochOf(uint64 height) private view returns (uint64) {
        return uint64((uint256(height) + EPOCH_BLOCKS - 1) / EPOCH_BLOCKS);
    }
}
