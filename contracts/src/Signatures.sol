// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title Raw secp256k1 recovery; never a contract's opinion (ERC-1271), which can change after a signature was taken.
/// @notice Zero stands for a signature that is malformed, has a high s or recovers to nobody; no key here is ever zero.
library Signatures {
    uint256 internal constant BYTES = 65;
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    /// @dev r, s, v in 65 bytes; ecrecover itself gives zero for a v other than 27 and 28.
    function recover(bytes32 digest, bytes calldata signature) internal pure returns (address) {
        if (signature.length != BYTES) return address(0);
        return _recover(digest, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
    }

    /// @dev EIP-2098: vs is s with v - 27 in its top bit.
    function recoverCompact(bytes32 digest, bytes32 r, bytes32 vs) internal pure returns (address) {
        return _recover(digest, uint8((uint256(vs) >> 255) + 27), r, (vs << 1) >> 1);
    }

    function _recover(bytes32 digest, uint8 v, bytes32 r, bytes32 s) private pure returns (address) {
        if (uint256(s) > HALF_ORDER) return address(0);
        return ecrecover(digest, v, r, s);
    }
}
