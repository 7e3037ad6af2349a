// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IERC7913SignatureVerifier} from "@openzeppelin/contracts/interfaces/IERC7913.sol";
import {MlDsa44} from "./MlDsa44.sol";

/// @title ERC-7913 verifier for ML-DSA-44.
/// @notice A signer is `address of this ‖ public key (1,312 bytes)`; its signature has 2,420 bytes.
contract MlDsa44Verifier is IERC7913SignatureVerifier {
    /// @inheritdoc IERC7913SignatureVerifier
    function verify(bytes calldata key, bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        return MlDsa44.verify(key, hash, signature) ? IERC7913SignatureVerifier.verify.selector : bytes4(0xffffffff);
    }
}
