// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC7913SignatureVerifier} from "@openzeppelin/contracts/interfaces/IERC7913.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MlDsa44} from "./MlDsa44.sol";

/// @title ERC-7913 verifier for two keys that must both sign: secp256k1 and ML-DSA-44.
/// @notice A signer is `address of this ‖ account of the secp256k1 key (20 bytes) ‖ ML-DSA-44 public key (1,312 bytes)`; its
/// signature is `r ‖ s ‖ v (65 bytes) ‖ ML-DSA-44 signature (2,420 bytes)`, both over the same hash. It is forged only by
/// whoever breaks both schemes.
contract HybridVerifier is IERC7913SignatureVerifier {
    uint256 private constant ACCOUNT_BYTES = 20;
    uint256 private constant ECDSA_BYTES = 65;

    /// @inheritdoc IERC7913SignatureVerifier
    function verify(bytes calldata key, bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (key.length < ACCOUNT_BYTES || signature.length < ECDSA_BYTES) return 0xffffffff;
        // The third value only says more about a fault.
        // slither-disable-next-line unused-return
        (address signer, ECDSA.RecoverError fault,) = ECDSA.tryRecoverCalldata(hash, signature[:ECDSA_BYTES]);
        bool both = fault == ECDSA.RecoverError.NoError && signer == address(bytes20(key[:ACCOUNT_BYTES]))
            && MlDsa44.verify(key[ACCOUNT_BYTES:], hash, signature[ECDSA_BYTES:]);
        return both ? IERC7913SignatureVerifier.verify.selector : bytes4(0xffffffff);
    }
}
