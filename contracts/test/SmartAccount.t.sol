// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {PackedUserOperation} from "@openzeppelin/contracts/interfaces/IERC4337.sol";
import {Execution} from "@openzeppelin/contracts/interfaces/draft-IERC7579.sol";
import {Account as AccountBase} from "@openzeppelin/contracts/account/Account.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SmartAccount} from "../src/SmartAccount.sol";
import {SmartAccountFactory} from "../src/SmartAccountFactory.sol";
import {MlDsa44Verifier} from "../src/MlDsa44Verifier.sol";
import {HybridVerifier} from "../src/HybridVerifier.sol";
import {SignatureDouble, StakingBase} from "./StakingBase.sol";
import {PickyToken} from "./Tokens.sol";

/// @notice Notes who called it with what, and calls back when it was armed.
contract Callee {
    uint256 public number;
    address public caller;
    uint256 public gasSeen;
    address private _target;
    bytes private _data;

    error Refused(uint256 number);

    function set(uint256 next) external payable {
        if (next == 0) revert Refused(next);
        (number, caller, gasSeen) = (next, msg.sender, gasleft());
    }

    function arm(address target, bytes calldata data) external {
        (_target, _data) = (target, data);
    }

    receive() external payable {
        if (_target == address(0)) return;
        (bool done, bytes memory reason) = _target.call(_data);
        if (done) return;
        assembly ("memory-safe") {
            revert(add(reason, 32), mload(reason))
        }
    }
}

/// @notice An account of an ML-DSA-44 key, with the precompile's stand-in.
abstract contract AccountBaseTest is StakingBase {
    address internal constant RELAYER = address(0x4E1A);
    address internal constant SHOP = address(0x5109);
    address internal constant ENTRY_POINT = 0x433709009B8330FDa32311DF1C2AFA402eD8D009;
    uint256 internal constant OWNER_KEY = 0x0B0B;

    SmartAccountFactory internal factory;
    address internal mlDsa;
    address internal hybrid;
    bytes internal key;
    bytes internal ownerSigner;
    SmartAccount internal account;
    Callee internal callee;

    function _deployAccount() internal {
        vm.warp(START);
        vm.etch(address(0x747201), address(new SignatureDouble(1_312, 2_420)).code);
        factory = new SmartAccountFactory(new SmartAccount());
        mlDsa = address(new MlDsa44Verifier());
        hybrid = address(new HybridVerifier());
        key = _bytes("owner", 1_312);
        ownerSigner = bytes.concat(bytes20(mlDsa), key);
        account = SmartAccount(payable(factory.create(ownerSigner, 0)));
        vm.deal(address(account), 10 ether);
        callee = new Callee();
    }

    /// @dev What the stand-in takes for a signature.
    function _quantum(bytes memory signerKey, bytes32 hash) internal pure returns (bytes memory signature) {
        signature = new bytes(2_420);
        bytes32 word = keccak256(abi.encodePacked(signerKey, hash));
        assembly ("memory-safe") {
            mstore(add(signature, 32), word)
        }
    }

    function _one(address target, uint256 value, bytes memory data)
        internal
        pure
        returns (SmartAccount.Call[] memory calls)
    {
        calls = new SmartAccount.Call[](1);
        calls[0] = SmartAccount.Call(target, value, data);
    }

    function _next() internal view returns (SmartAccount.Terms memory) {
        return SmartAccount.Terms(account.nonce(), START + 60, address(0), 0, 0);
    }

    function _signed(SmartAccount.Call[] memory calls, SmartAccount.Terms memory terms)
        internal
        view
        returns (bytes memory)
    {
        return _quantum(key, account.executeDigest(calls, terms));
    }

    function _bring(SmartAccount.Call[] memory calls, SmartAccount.Terms memory terms) internal {
        bytes memory signature = _signed(calls, terms);
        vm.prank(RELAYER);
        account.executeSigned(calls, terms, signature);
    }

    function _refused(
        SmartAccount.Call[] memory calls,
        SmartAccount.Terms memory terms,
        bytes memory signature,
        bytes memory reason
    ) internal {
        vm.expectRevert(reason);
        vm.prank(RELAYER);
        account.executeSigned(calls, terms, signature);
    }
}

contract SmartAccountTest is AccountBaseTest {
    function setUp() public {
        _deployAccount();
    }

    // row: CHN-21
    function test_an_account_is_where_it_was_said_to_be_and_keeps_what_it_was_paid_before() public {
        address at_ = factory.addressOf(ownerSigner, "second");
        vm.deal(at_, 3 ether);
        require(at_.code.length == 0, "not there yet");
        assertEq(factory.create(ownerSigner, "second"), at_, "where it was said to be");
        assertEq(at_.balance, 3 ether, "paid before");
        assertEq(factory.create(ownerSigner, "second"), at_, "making it again changes nothing");
        assertEq(keccak256(SmartAccount(payable(at_)).signer()), keccak256(ownerSigner), "its owner");
        require(factory.addressOf(bytes.concat(ownerSigner, "x"), "second") != at_, "another signer, another address");
        vm.expectRevert(abi.encodeWithSelector(SmartAccountFactory.SignerTooShort.selector, 20, 19));
        factory.create(new bytes(19), 0);
    }

    // row: CHN-21
    function test_anybody_brings_what_the_owner_signed_and_is_paid_the_fee_that_was_signed() public {
        SmartAccount.Call[] memory calls = new SmartAccount.Call[](2);
        calls[0] = SmartAccount.Call(SHOP, 2 ether, "");
        calls[1] = SmartAccount.Call(address(callee), 1 ether, abi.encodeCall(callee.set, (7)));
        SmartAccount.Terms memory terms = _next();
        terms.fee = 0.5 ether;
        _bring(calls, terms);
        assertEq(SHOP.balance, 2 ether, "the shop");
        assertEq(callee.number(), 7, "the call");
        assertEq(callee.caller(), address(account), "the account calls");
        assertEq(RELAYER.balance, 0.5 ether, "the fee");
        assertEq(address(account).balance, 6.5 ether, "the rest");
        assertEq(account.nonce(), 1, "one more");
    }

    // row: CHN-21
    function test_a_call_is_taken_once_and_in_order() public {
        SmartAccount.Call[] memory calls = _one(SHOP, 1 ether, "");
        SmartAccount.Terms memory terms = _next();
        bytes memory signature = _signed(calls, terms);
        _bring(calls, terms);
        _refused(calls, terms, signature, abi.encodeWithSelector(SmartAccount.WrongNonce.selector, 1, 0));
        terms.nonce = 2;
        bytes memory reason = abi.encodeWithSelector(SmartAccount.WrongNonce.selector, 1, 2);
        _refused(calls, terms, _signed(calls, terms), reason);
        assertEq(SHOP.balance, 1 ether, "once");
    }

    // row: CHN-21
    function test_calls_come_until_their_deadline_and_only_by_their_relayer() public {
        SmartAccount.Call[] memory calls = _one(SHOP, 1 ether, "");
        SmartAccount.Terms memory terms = _next();
        terms.relayer = ALICE;
        bytes memory reason = abi.encodeWithSelector(SmartAccount.WrongRelayer.selector, ALICE, RELAYER);
        _refused(calls, terms, _signed(calls, terms), reason);
        terms.relayer = RELAYER;
        vm.warp(START + 61);
        reason = abi.encodeWithSelector(SmartAccount.Expired.selector, START + 60, START + 61);
        _refused(calls, terms, _signed(calls, terms), reason);
        vm.warp(START + 60);
        _bring(calls, terms);
        assertEq(SHOP.balance, 1 ether, "in time");
    }

    // row: CHN-21
    function test_a_signature_is_good_for_its_chain_its_account_and_its_calls_alone() public {
        SmartAccount.Call[] memory calls = _one(SHOP, 1 ether, "");
        SmartAccount.Terms memory terms = _next();
        bytes memory signature = _signed(calls, terms);
        bytes memory bad = abi.encodeWithSelector(SmartAccount.BadSignature.selector);

        vm.chainId(99);
        _refused(calls, terms, signature, bad);
        vm.chainId(31_337);

        SmartAccount first = account;
        account = SmartAccount(payable(factory.create(ownerSigner, "second")));
        vm.deal(address(account), 10 ether);
        _refused(calls, terms, signature, bad);
        account = first;

        _refused(_one(SHOP, 2 ether, ""), terms, signature, bad);
        _refused(_one(ALICE, 1 ether, ""), terms, signature, bad);
        _refused(_one(SHOP, 1 ether, "x"), terms, signature, bad);
        _refused(new SmartAccount.Call[](0), terms, signature, bad);
        SmartAccount.Terms memory other = _next();
        other.fee = 1;
        _refused(calls, other, signature, bad);
        other = _next();
        other.deadline += 1;
        _refused(calls, other, signature, bad);
        other = _next();
        other.gas = 1;
        _refused(calls, other, signature, bad);
        other = _next();
        other.relayer = RELAYER;
        _refused(calls, other, signature, bad);
        _bring(calls, terms);
    }

    // row: CHN-21
    function test_a_signature_by_another_key_or_of_another_form_is_refused() public {
        SmartAccount.Call[] memory calls = _one(SHOP, 1 ether, "");
        SmartAccount.Terms memory terms = _next();
        bytes32 digest = account.executeDigest(calls, terms);
        bytes memory bad = abi.encodeWithSelector(SmartAccount.BadSignature.selector);
        bytes memory good = _quantum(key, digest);
        _refused(calls, terms, _quantum(_bytes("thief", 1_312), digest), bad);
        _refused(calls, terms, "", bad);
        _refused(calls, terms, new bytes(2_420), bad);
        // A byte more or less would move the parts of what the precompile is given.
        _refused(calls, terms, bytes.concat(good, hex"00"), bad);
        bytes memory short = new bytes(2_419);
        for (uint256 i = 0; i < short.length; ++i) {
            short[i] = good[i];
        }
        _refused(calls, terms, short, bad);
        good[0] ^= 0x01;
        _refused(calls, terms, good, bad);
    }

    // row: CHN-21
    function test_without_the_precompile_nobody_spends() public {
        SmartAccount.Call[] memory calls = _one(SHOP, 1 ether, "");
        SmartAccount.Terms memory terms = _next();
        bytes memory signature = _signed(calls, terms);
        vm.etch(address(0x747201), "");
        _refused(calls, terms, signature, abi.encodeWithSelector(SmartAccount.BadSignature.selector));
    }

    // row: CHN-21
    function test_all_calls_happen_or_none_and_a_refused_call_says_why() public {
        SmartAccount.Call[] memory calls = new SmartAccount.Call[](2);
        calls[0] = SmartAccount.Call(SHOP, 1 ether, "");
        calls[1] = SmartAccount.Call(address(callee), 0, abi.encodeCall(callee.set, (0)));
        SmartAccount.Terms memory terms = _next();
        bytes memory reason = abi.encodeWithSelector(Callee.Refused.selector, 0);
        reason = abi.encodeWithSelector(SmartAccount.CallFailed.selector, 1, reason);
        _refused(calls, terms, _signed(calls, terms), reason);
        calls = _one(SHOP, 11 ether, "");
        reason = abi.encodeWithSelector(SmartAccount.CallFailed.selector, 0, "");
        _refused(calls, terms, _signed(calls, terms), reason);
        calls = _one(SHOP, 1 ether, "");
        terms.fee = 9 ether + 1;
        reason = abi.encodeWithSelector(SmartAccount.FeeNotPaid.selector, terms.fee);
        _refused(calls, terms, _signed(calls, terms), reason);
        assertEq(SHOP.balance, 0, "nothing");
        assertEq(account.nonce(), 0, "and the number is still good");
    }

    // row: CHN-21
    function test_whoever_brings_a_call_cannot_starve_it() public {
        SmartAccount.Call[] memory calls = _one(address(callee), 0, abi.encodeCall(callee.set, (7)));
        SmartAccount.Terms memory terms = _next();
        terms.gas = 300_000;
        bytes memory signature = _signed(calls, terms);
        vm.expectPartialRevert(SmartAccount.TooLittleGas.selector);
        account.executeSigned{gas: 300_000}(calls, terms, signature);
        account.executeSigned{gas: 600_000}(calls, terms, signature);
        require(callee.gasSeen() > 200_000, "the call had its gas");
    }

    // row: CHN-21
    function test_calls_cannot_be_brought_from_within_a_call() public {
        SmartAccount.Call[] memory inner = _one(SHOP, 1 ether, "");
        SmartAccount.Terms memory terms = _next();
        terms.nonce = 1;
        bytes memory signature = _signed(inner, terms);
        callee.arm(address(account), abi.encodeCall(account.executeSigned, (inner, terms, signature)));
        SmartAccount.Call[] memory outer = _one(address(callee), 1, "");
        SmartAccount.Terms memory first = _next();
        bytes memory reason =
            abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector);
        reason = abi.encodeWithSelector(SmartAccount.CallFailed.selector, 0, reason);
        _refused(outer, first, _signed(outer, first), reason);
        assertEq(SHOP.balance, 0, "nothing happened");
        // One after the other they are good.
        _bring(_one(SHOP, 1 ether, ""), _next());
        vm.prank(RELAYER);
        account.executeSigned(inner, terms, signature);
        assertEq(SHOP.balance, 2 ether, "both");
    }

    // row: CHN-21
    function test_a_key_is_changed_by_the_owner_and_only_to_one_that_is_there() public {
        bytes memory nextKey = _bytes("next", 1_312);
        bytes memory next = bytes.concat(bytes20(mlDsa), nextKey);
        bytes memory proof = _quantum(nextKey, account.signerDigest(next));
        vm.expectRevert(abi.encodeWithSelector(AccountBase.AccountUnauthorized.selector, address(this)));
        account.setSigner(next, proof);

        bytes memory bad = _quantum(key, account.signerDigest(next));
        SmartAccount.Call[] memory calls = _one(address(account), 0, abi.encodeCall(account.setSigner, (next, bad)));
        SmartAccount.Terms memory terms = _next();
        bytes memory reason = abi.encodeWithSelector(SmartAccount.BadSignature.selector);
        reason = abi.encodeWithSelector(SmartAccount.CallFailed.selector, 0, reason);
        _refused(calls, terms, _signed(calls, terms), reason);

        _bring(_one(address(account), 0, abi.encodeCall(account.setSigner, (next, proof))), terms);
        assertEq(keccak256(account.signer()), keccak256(next), "the next key");
        calls = _one(SHOP, 1 ether, "");
        terms = _next();
        _refused(calls, terms, _signed(calls, terms), abi.encodeWithSelector(SmartAccount.BadSignature.selector));
        key = nextKey;
        _bring(calls, terms);
        assertEq(SHOP.balance, 1 ether, "paid with the next key");
    }

    function test_the_code_that_accounts_run_belongs_to_nobody() public {
        account = factory.IMPLEMENTATION();
        assertEq(account.signer().length, 0, "no signer");
        SmartAccount.Call[] memory calls = _one(SHOP, 0, "");
        bytes memory reason = abi.encodeWithSelector(SmartAccount.BadSignature.selector);
        _refused(calls, _next(), _signed(calls, _next()), reason);
    }

    // row: CHN-21
    function test_a_signature_for_others_to_check_is_bound_to_the_account() public view {
        bytes32 message = keccak256("a text that a contract asks about");
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Trellis"),
                keccak256("1"),
                block.chainid,
                address(account)
            )
        );
        bytes32 personal = keccak256(abi.encode(keccak256("PersonalSign(bytes prefixed)"), message));
        bytes memory signature = _quantum(key, keccak256(abi.encodePacked(hex"1901", domain, personal)));
        require(account.isValidSignature(message, signature) == bytes4(0x1626ba7e), "good");
        require(account.isValidSignature(keccak256("another"), signature) == bytes4(0xffffffff), "another text");
        // Not one over the bare hash: it would be good for every account of the key.
        require(account.isValidSignature(message, _quantum(key, message)) == bytes4(0xffffffff), "bare");
        // And not what moves the account.
        SmartAccount.Call[] memory calls = _one(SHOP, 1 ether, "");
        SmartAccount.Terms memory terms = _next();
        bytes memory moves = _signed(calls, terms);
        bytes32 digest = account.executeDigest(calls, terms);
        require(account.isValidSignature(digest, moves) == bytes4(0xffffffff), "calls are no texts");
    }

    // row: CHN-21
    function test_the_entry_point_validates_and_executes_and_nobody_else_does() public {
        bytes32 hash = keccak256("user operation");
        PackedUserOperation memory operation;
        operation.sender = address(account);
        operation.signature = _quantum(key, hash);
        vm.expectRevert(abi.encodeWithSelector(AccountBase.AccountUnauthorized.selector, address(this)));
        account.validateUserOp(operation, hash, 0);
        vm.deal(ENTRY_POINT, 0);
        vm.prank(ENTRY_POINT);
        assertEq(account.validateUserOp(operation, hash, 1 ether), 0, "valid");
        assertEq(ENTRY_POINT.balance, 1 ether, "what the entry point asked for");
        operation.signature = _quantum(_bytes("thief", 1_312), hash);
        vm.prank(ENTRY_POINT);
        assertEq(account.validateUserOp(operation, hash, 0), 1, "not valid");

        Execution[] memory batch = new Execution[](1);
        batch[0] = Execution(SHOP, 1 ether, "");
        bytes32 mode = bytes32(uint256(1) << 248);
        vm.expectRevert(abi.encodeWithSelector(AccountBase.AccountUnauthorized.selector, address(this)));
        account.execute(mode, abi.encode(batch));
        vm.prank(ENTRY_POINT);
        account.execute(mode, abi.encode(batch));
        assertEq(SHOP.balance, 1 ether, "executed");
    }

    // row: CHN-21
    function test_two_keys_must_both_sign_for_an_account_of_two() public {
        key = bytes.concat(bytes20(vm.addr(OWNER_KEY)), _bytes("owner", 1_312));
        account = SmartAccount(payable(factory.create(bytes.concat(bytes20(hybrid), key), 0)));
        vm.deal(address(account), 2 ether);
        SmartAccount.Call[] memory calls = _one(SHOP, 1 ether, "");
        SmartAccount.Terms memory terms = _next();
        bytes32 digest = account.executeDigest(calls, terms);
        bytes memory quantum = _quantum(_bytes("owner", 1_312), digest);
        bytes memory bad = abi.encodeWithSelector(SmartAccount.BadSignature.selector);
        _refused(calls, terms, quantum, bad);
        _refused(calls, terms, _sign(OWNER_KEY, digest), bad);
        _refused(calls, terms, bytes.concat(_sign(OWNER_KEY + 1, digest), quantum), bad);
        bytes memory thief = _quantum(_bytes("thief", 1_312), digest);
        _refused(calls, terms, bytes.concat(_sign(OWNER_KEY, digest), thief), bad);
        bytes memory both = bytes.concat(_sign(OWNER_KEY, digest), quantum);
        vm.prank(RELAYER);
        account.executeSigned(calls, terms, both);
        assertEq(SHOP.balance, 1 ether, "both");
    }

    function test_verifiers_refuse_keys_of_another_length() public view {
        bytes32 hash = keccak256("x");
        bytes memory longer = bytes.concat(key, hex"00");
        MlDsa44Verifier verifier = MlDsa44Verifier(mlDsa);
        require(verifier.verify(key, hash, _quantum(key, hash)) == verifier.verify.selector, "good");
        require(verifier.verify(longer, hash, _quantum(longer, hash)) == bytes4(0xffffffff), "longer");
        require(verifier.verify("", hash, "") == bytes4(0xffffffff), "empty");
        require(HybridVerifier(hybrid).verify("", hash, "") == bytes4(0xffffffff), "empty");
        require(HybridVerifier(hybrid).verify(key, hash, new bytes(2_485)) == bytes4(0xffffffff), "half a key");
    }

    function test_tokens_and_calls_of_contracts_are_the_accounts() public {
        PickyToken token = new PickyToken();
        token.mint(address(account), 5 ether);
        _bring(_one(address(token), 0, abi.encodeCall(token.transfer, (SHOP, 2 ether))), _next());
        assertEq(token.balanceOf(SHOP), 2 ether, "the shop has tokens");
        require(account.onERC721Received(address(0), address(0), 0, "") == account.onERC721Received.selector, "ERC-721");
    }

    /// forge-config: default.fuzz.runs = 64
    function testFuzz_no_bytes_are_a_signature(bytes calldata signature, uint64 deadline, uint256 fee) public {
        SmartAccount.Call[] memory calls = _one(SHOP, 1 ether, "");
        SmartAccount.Terms memory terms = _next();
        terms.deadline = deadline < START ? START : deadline;
        terms.fee = fee;
        _refused(calls, terms, signature, abi.encodeWithSelector(SmartAccount.BadSignature.selector));
    }
}
