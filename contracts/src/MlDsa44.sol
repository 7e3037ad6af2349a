// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title ML-DSA-44 (FIPS 204, raw keys, empty context) by the chain's precompile.
/// @notice On a chain without the precompile every signature is bad: whoever relies on it is locked, never open.
library MlDsa44 {
    uint256 internal constant KEY_BYTES = 1_312;
    uint256 internal constant SIGNATURE_BYTES = 2_420;
    address private constant PRECOMPILE = address(0x747201);

    /// @dev Whether `key` signed the 32 bytes of `hash`.
    function verify(bytes calldata key, bytes32 hash, bytes calldata signature) internal view returns (bool) {
        // The precompile takes one string, so that a wrong length would move bytes from one part to another.
        if (key.length != KEY_BYTES || signature.length != SIGNATURE_BYTES) return false;
        (bool ok, bytes memory answer) = PRECOMPILE.staticcall(abi.encodePacked(key, signature, hash));
        return ok && answer.length == 32 && abi.decode(answer, (uint256)) == 1;
    }
}
