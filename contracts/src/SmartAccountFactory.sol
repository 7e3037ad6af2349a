// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Clones} from "@openzeppelin/contracts/proxy/Clones.sol";
import {SmartAccount} from "./SmartAccount.sol";

/// @title Makes smart accounts at addresses that are known before.
/// @notice An account's address follows from its signer and a salt, so that it can be paid before it is there, and nobody
/// who makes it can give it another signer.
contract SmartAccountFactory {
    uint256 private constant SIGNER_BYTES_MIN = 20;

    /// @notice The code that all accounts run.
    SmartAccount public immutable IMPLEMENTATION;

    event Created(address indexed account, bytes32 indexed signerHash, bytes32 salt);

    error SignerTooShort(uint256 expected, uint256 actual);

    constructor(SmartAccount implementation) {
        IMPLEMENTATION = implementation;
    }

    /// @notice Makes the account of an ERC-7913 signer, where it is not there yet. Anybody may.
    /// @param signer the verifier's address ‖ the key.
    /// @param salt tells several accounts of one signer apart.
    function create(bytes calldata signer, bytes32 salt) external returns (address account) {
        account = addressOf(signer, salt);
        if (account.code.length != 0) return account;
        emit Created(account, keccak256(signer), salt);
        // The address asserted: what was paid before must be what is made.
        assert(Clones.cloneDeterministicWithImmutableArgs(address(IMPLEMENTATION), signer, salt) == account);
    }

    /// @notice Where the account of a signer is or will be.
    function addressOf(bytes calldata signer, bytes32 salt) public view returns (address) {
        // Nothing shorter names a verifier: what is paid there would be lost.
        if (signer.length < SIGNER_BYTES_MIN) revert SignerTooShort(SIGNER_BYTES_MIN, signer.length);
        return Clones.predictDeterministicAddressWithImmutableArgs(address(IMPLEMENTATION), signer, salt);
    }
}
