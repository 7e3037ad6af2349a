// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {WTRL} from "../src/WTRL.sol";
import {FeePool} from "../src/FeePool.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {Settlement} from "../src/Settlement.sol";
import {ProviderStaking} from "../src/ProviderStaking.sol";
import {SignedVoucher} from "../src/Interfaces.sol";

/// @notice The cheatcodes these tests use.
interface Vm {
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function warp(uint256 timestamp) external;
    function roll(uint256 blockNumber) external;
    function chainId(uint256 id) external;
    function prank(address sender) external;
    function startPrank(address sender) external;
    function stopPrank() external;
    function deal(address account, uint256 amount) external;
    function etch(address account, bytes calldata code) external;
    function assume(bool condition) external pure;
    function expectRevert() external;
    function expectPartialRevert(bytes4 selector) external;
    function expectRevert(bytes4 selector) external;
    function expectRevert(bytes calldata data) external;
    function expectEmit(bool, bool, bool, bool) external;
    function readFile(string calldata path) external view returns (string memory);
    function parseJsonBytes32(string calldata json, string calldata key) external pure returns (bytes32);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function parseJsonAddress(string calldata json, string calldata key) external pure returns (address);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function snapshotValue(string calldata group, string calldata name, uint256 value) external;
    function toString(uint256 value) external pure returns (string memory);
}

/// @notice Everything deployed and wired as on a chain, with named actors.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint128 internal constant TRL = 1e18;
    uint256 internal constant PAYER_KEY = 0xA11CE;
    uint256 internal constant SIGNER_KEY = 0x516E4;
    uint256 internal constant PAYEE_KEY = 0xB0B;
    uint256 internal constant AGGREGATOR_KEY = 0xA66;
    address internal constant PAYOUT = address(0x9A107);
    address internal constant OWNER = address(0x0E4);
    address internal constant REPORTER = address(0x4E904);
    uint64 internal constant START = 1_790_000_000;

    address internal payer;
    address internal signer;
    address internal payee;
    address internal aggregator;

    WTRL internal wtrl;
    FeePool internal pool;
    PaymentChannels internal channels;
    Settlement internal settlement;
    ProviderStaking internal staking;

    function _deploy(uint16 feeBps) internal {
        vm.warp(START);
        payer = vm.addr(PAYER_KEY);
        signer = vm.addr(SIGNER_KEY);
        payee = vm.addr(PAYEE_KEY);
        aggregator = vm.addr(AGGREGATOR_KEY);
        wtrl = new WTRL();
        pool = new FeePool(60, 30, OWNER);
        channels = new PaymentChannels(feeBps, pool);
        settlement = new Settlement(wtrl, channels, pool, Settlement.Parameters(100 * TRL, TRL / 100, 10, 10, 120, 3_000));
        ProviderStaking.Tier[] memory tiers = new ProviderStaking.Tier[](3);
        tiers[0] = ProviderStaking.Tier(100 * TRL, 0);
        tiers[1] = ProviderStaking.Tier(1_000 * TRL, 100);
        tiers[2] = ProviderStaking.Tier(10_000 * TRL, 700);
        staking = new ProviderStaking(wtrl, pool, 120, tiers, OWNER);
        pool.initialize(address(channels), address(settlement), address(staking));
        _fund(payer);
        _fund(aggregator);
        _fund(REPORTER);
    }

    function _fund(address account) internal {
        vm.deal(account, 1_000_000 * TRL);
        vm.startPrank(account);
        wtrl.deposit{value: 500_000 * TRL}();
        wtrl.approve(address(channels), type(uint256).max);
        wtrl.approve(address(settlement), type(uint256).max);
        wtrl.approve(address(staking), type(uint256).max);
        vm.stopPrank();
    }

    function _terms(bytes32 salt) internal view returns (PaymentChannels.Terms memory) {
        return PaymentChannels.Terms(payee, PAYOUT, signer, address(wtrl), 10, uint64(block.timestamp) + 1_000, salt);
    }

    function _open(bytes32 salt, uint128 deposit) internal returns (bytes32) {
        PaymentChannels.Terms memory terms = _terms(salt);
        vm.prank(payer);
        return channels.open(terms, deposit);
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function _voucher(bytes32 id, uint128 amount) internal view returns (bytes memory) {
        return _sign(SIGNER_KEY, channels.voucherDigest(id, amount));
    }

    function _compact(uint256 key, bytes32 id, uint128 amount) internal view returns (SignedVoucher memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, channels.voucherDigest(id, amount));
        return SignedVoucher(id, amount, r, s | bytes32(uint256(v - 27) << 255));
    }

    function _one(SignedVoucher memory voucher) internal pure returns (SignedVoucher[] memory list) {
        list = new SignedVoucher[](1);
        list[0] = voucher;
    }

    function assertEq(uint256 a, uint256 b, string memory what) internal pure {
        if (a != b) revert(string.concat(what, ": ", vm.toString(a), " != ", vm.toString(b)));
    }

    function assertEq(bytes32 a, bytes32 b, string memory what) internal pure {
        require(a == b, what);
    }

    function assertEq(address a, address b, string memory what) internal pure {
        require(a == b, what);
    }
}
