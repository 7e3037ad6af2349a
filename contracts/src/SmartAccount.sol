// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Account} from "@openzeppelin/contracts/account/Account.sol";
import {ERC7821} from "@openzeppelin/contracts/account/extensions/draft-ERC7821.sol";
import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {ERC1155Holder} from "@openzeppelin/contracts/token/ERC1155/utils/ERC1155Holder.sol";
import {ERC721Holder} from "@openzeppelin/contracts/token/ERC721/utils/ERC721Holder.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ERC7739} from "@openzeppelin/contracts/utils/cryptography/signers/draft-ERC7739.sol";
import {SignerERC7913} from "@openzeppelin/contracts/utils/cryptography/signers/SignerERC7913.sol";
import {KeyBlob} from "./ValidatorKeys.sol";

/// @title An account whose owner is an ERC-7913 signer: with a verifier for ML-DSA-44, a post-quantum account.
/// @notice The owner signs calls, and anybody brings them to the chain (`executeSigned`): no bundler is needed, and the
/// bringer's key decides nothing. ERC-4337 (`validateUserOp`), ERC-7821 (`execute`) and ERC-1271 with ERC-7739
/// (`isValidSignature`) are there for wallets and contracts that know them.
/// @dev Accounts are clones; the signer is the end of a clone's code, which is a tenth of the gas of storage and is part of
/// the account's address. A later signer is the code of an account of its own. `SignerERC7913`'s own field stays empty.
contract SmartAccount is Account, EIP712, ERC7739, ERC7821, SignerERC7913, ERC721Holder, ERC1155Holder, ReentrancyGuardTransient {
    /// @dev One call that the owner wants.
    struct Call {
        address target;
        uint256 value;
        bytes data;
    }

    /// @dev `nonce`: the account's next. `deadline`: last Unix second. `relayer`: who may bring the calls, zero anybody.
    /// `fee`: wei that the account pays to whoever brings them. `gas`: gas that must be left when the first call begins, so
    /// that nobody can starve a call whose failure its target would swallow.
    struct Terms {
        uint64 nonce;
        uint64 deadline;
        address relayer;
        uint256 fee;
        uint256 gas;
    }

    bytes32 private constant CALL_TYPEHASH = keccak256("Call(address target,uint256 value,bytes data)");
    bytes32 private constant EXECUTE_TYPEHASH = keccak256(
        "Execute(Call[] calls,uint64 nonce,uint64 deadline,address relayer,uint256 fee,uint256 gas)Call(address target,uint256 value,bytes data)"
    );
    bytes32 private constant SIGNER_TYPEHASH = keccak256("Signer(bytes signer)");

    address private immutable SELF = address(this);

    uint64 private _nonce;
    /// @dev Whose code holds the signer; zero: the account's own.
    address private _signerBlob;

    event Executed(uint64 indexed nonce, address indexed relayer, uint256 fee);
    event SignerSet(bytes32 indexed signerHash);

    error WrongNonce(uint64 expected, uint64 actual);
    error Expired(uint64 deadline, uint256 timestamp);
    error WrongRelayer(address expected, address actual);
    error BadSignature();
    error TooLittleGas(uint256 expected, uint256 actual);
    error CallFailed(uint256 index, bytes reason);
    error FeeNotPaid(uint256 fee);

    constructor() EIP712("Trellis", "1") SignerERC7913("") {}

    /// @notice The number that the next signed calls must carry.
    function nonce() external view returns (uint64) {
        return _nonce;
    }

    /// @notice Executes what the owner signed, all of it or nothing. Anybody may bring it who pays the gas.
    /// @param signature the owner's over `executeDigest(calls, terms)`.
    function executeSigned(Call[] calldata calls, Terms calldata terms, bytes calldata signature) external nonReentrant {
        if (block.timestamp > terms.deadline) revert Expired(terms.deadline, block.timestamp);
        uint64 expected = _nonce;
        if (terms.nonce != expected) revert WrongNonce(expected, terms.nonce);
        if (terms.relayer != address(0) && terms.relayer != msg.sender) revert WrongRelayer(terms.relayer, msg.sender);
        if (!_rawSignatureValidation(executeDigest(calls, terms), signature)) revert BadSignature();
        _nonce = expected + 1;
        emit Executed(expected, msg.sender, terms.fee);
        uint256 left = gasleft();
        if (left < terms.gas) revert TooLittleGas(terms.gas, left);
        for (uint256 i = 0; i < calls.length; ++i) {
            // The owner signed target and value.
            // slither-disable-next-line arbitrary-send-eth,calls-loop
            (bool done, bytes memory reason) = calls[i].target.call{value: calls[i].value}(calls[i].data);
            if (!done) revert CallFailed(i, reason);
        }
        if (terms.fee != 0) {
            (bool paid,) = msg.sender.call{value: terms.fee}("");
            if (!paid) revert FeeNotPaid(terms.fee);
        }
    }

    /// @notice Gives the account another signer; only the account itself calls this, as its owner signed.
    /// @param next the verifier's address ‖ the key.
    /// @param proof the next signer's signature over `signerDigest(next)`: a key that nobody has would lock the account.
    function setSigner(bytes calldata next, bytes calldata proof) external onlyEntryPointOrSelf {
        if (!SignatureChecker.isValidSignatureNow(next, signerDigest(next), proof)) revert BadSignature();
        emit SignerSet(keccak256(next));
        // The leading zero byte stops whoever calls the blob.
        _signerBlob = address(new KeyBlob(bytes.concat(hex"00", next)));
    }

    /// @notice What the owner signs: EIP-712 in the domain of this chain and this account.
    function executeDigest(Call[] calldata calls, Terms calldata terms) public view returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](calls.length);
        for (uint256 i = 0; i < calls.length; ++i) {
            hashes[i] = keccak256(abi.encode(CALL_TYPEHASH, calls[i].target, calls[i].value, keccak256(calls[i].data)));
        }
        bytes32 list = keccak256(abi.encodePacked(hashes));
        return _hashTypedDataV4(keccak256(abi.encode(EXECUTE_TYPEHASH, list, terms)));
    }

    /// @notice What a signer signs to prove that it can.
    function signerDigest(bytes calldata next) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(SIGNER_TYPEHASH, keccak256(next))));
    }

    /// @notice Who owns the account: the verifier's address ‖ the key.
    function signer() public view override returns (bytes memory data) {
        address blob = _signerBlob;
        // The code that the clones run has no owner.
        if (blob == address(0)) return address(this) == SELF ? data : Clones.fetchCloneArgs(address(this));
        uint256 size = blob.code.length - 1;
        data = new bytes(size);
        assembly ("memory-safe") {
            extcodecopy(blob, add(data, 32), 1, size)
        }
    }

    /// @dev Calls by ERC-7821: the entry point's, after `validateUserOp`, and the account's own.
    function _erc7821AuthorizedExecutor(address caller, bytes32 mode, bytes calldata executionData)
        internal
        view
        override
        returns (bool)
    {
        return caller == address(entryPoint()) || super._erc7821AuthorizedExecutor(caller, mode, executionData);
    }
}
