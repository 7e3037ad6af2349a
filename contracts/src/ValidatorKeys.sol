// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Keys, Proofs} from "./ValidatorTypes.sol";

/// @notice An account whose code is data: a tenth of the gas of storage, and one read for all keys of a validator.
contract KeyBlob {
    constructor(bytes memory data) {
        assembly ("memory-safe") {
            return(add(data, 32), mload(data))
        }
    }
}

/// @title Keys of validators: proofs of possession, rotation, and who answers for a vote key.
/// @notice A vote key belongs to the validator that brought it first, for ever: evidence against a key that was rotated
/// away still finds its validator. The chain's precompiles check the signatures.
abstract contract ValidatorKeys {
    /// @dev `lastHeight`: the last height a rotated key answers for; 0 while the key is in use.
    struct KeyRecord {
        address validator;
        uint64 lastHeight;
    }

    uint8 public constant SCHEME_ED25519 = 0;
    uint8 public constant SCHEME_ML_DSA_44 = 1;
    /// @notice What a proof of possession is for, in `proofDigest`.
    uint8 public constant KIND_VOTE = 0;
    uint8 public constant KIND_BLS = 1;
    uint8 public constant KIND_ML_DSA_44 = 2;

    address internal constant ML_DSA_44 = address(0x747201);
    address internal constant VERIFY_EQUIVOCATION = address(0x747203);
    address internal constant BLS12_381 = address(0x747204);
    address internal constant ED25519 = address(0x747205);

    uint256 private constant ML_DSA_44_KEY_BYTES = 1_312;
    uint256 private constant ML_DSA_44_SIGNATURE_BYTES = 2_420;
    uint256 private constant BLS_KEY_BYTES = 96;
    uint256 private constant BLS_SIGNATURE_BYTES = 48;
    uint256 private constant ED25519_KEY_BYTES = 32;
    uint256 private constant ED25519_SIGNATURE_BYTES = 64;

    /// @notice Keeps proofs of possession of this chain's validators apart from any other signature.
    bytes32 public immutable KEY_DOMAIN;

    mapping(bytes32 voteKeyHash => KeyRecord) private _records;
    mapping(address validator => bytes32) private _voteKeyHashes;
    mapping(address validator => address) private _blobs;

    event KeysSet(address indexed validator, bytes32 indexed voteKeyHash, bytes32 indexed oldVoteKeyHash, uint64 oldUntil);

    error UnknownScheme(uint8 scheme);
    error WrongLength(uint8 kind, uint256 expected, uint256 actual);
    error BadProof(uint8 kind);
    error KeyTaken(bytes32 voteKeyHash, address holder);
    error UnknownKey(bytes32 voteKeyHash);
    error KeyRetired(bytes32 voteKeyHash, uint64 lastHeight, uint64 height);
    error NotEquivocation();

    constructor(bytes32 keyDomain) {
        KEY_DOMAIN = keyDomain;
    }

    /// @notice The validator that answers for a vote key, in use or not; zero when nobody ever brought it.
    function validatorOf(bytes32 voteKeyHash) external view returns (address) {
        return _records[voteKeyHash].validator;
    }

    /// @notice What a key signs to prove that `validator` has it. Kinds: 0 vote, 1 BLS, 2 ML-DSA-44.
    function proofDigest(address validator, uint8 kind, bytes memory key) public view returns (bytes32) {
        return keccak256(abi.encode(KEY_DOMAIN, block.chainid, address(this), validator, kind, keccak256(key)));
    }

    /// @dev Takes `keys` as the validator's from now on. A new vote key must be nobody's, not even an older one of its own.
    /// @param oldUntil the last height for which the vote key that was in use until now answers.
    function _setKeys(address validator, Keys memory keys, uint64 oldUntil) internal {
        bytes32 next = keccak256(abi.encodePacked(keys.scheme, keys.vote));
        bytes32 old = _voteKeyHashes[validator];
        if (next != old) {
            address holder = _records[next].validator;
            if (holder != address(0)) revert KeyTaken(next, holder);
            _records[next].validator = validator;
            if (old != bytes32(0)) _records[old].lastHeight = oldUntil;
            _voteKeyHashes[validator] = next;
        }
        emit KeysSet(validator, next, old, oldUntil);
        // The leading zero byte stops whoever calls the account.
        _blobs[validator] = address(new KeyBlob(bytes.concat(hex"00", abi.encode(keys))));
    }

    /// @dev Lengths of all keys. In the genesis block the checkpoint keys may be left out.
    function _checkLengths(Keys memory keys, bool optional) internal pure {
        if (keys.scheme > SCHEME_ML_DSA_44) revert UnknownScheme(keys.scheme);
        _checkLength(KIND_VOTE, keys.scheme == SCHEME_ED25519 ? ED25519_KEY_BYTES : ML_DSA_44_KEY_BYTES, keys.vote);
        if (!optional || keys.bls.length != 0) _checkLength(KIND_BLS, BLS_KEY_BYTES, keys.bls);
        if (!optional || keys.mldsa44.length != 0) _checkLength(KIND_ML_DSA_44, ML_DSA_44_KEY_BYTES, keys.mldsa44);
    }

    /// @dev Every key, of the right length already, has signed that `validator` has it.
    function _checkProofs(address validator, Keys memory keys, Proofs memory proofs) internal view {
        if (keys.scheme == SCHEME_ED25519) {
            _checkProof(validator, KIND_VOTE, ED25519, ED25519_SIGNATURE_BYTES, keys.vote, proofs.vote);
        } else {
            _checkProof(validator, KIND_VOTE, ML_DSA_44, ML_DSA_44_SIGNATURE_BYTES, keys.vote, proofs.vote);
        }
        _checkProof(validator, KIND_BLS, BLS12_381, BLS_SIGNATURE_BYTES, keys.bls, proofs.bls);
        _checkProof(validator, KIND_ML_DSA_44, ML_DSA_44, ML_DSA_44_SIGNATURE_BYTES, keys.mldsa44, proofs.mldsa44);
    }

    /// @dev The validator that answers for what a vote key signed at a height.
    function _holderAt(bytes32 voteKeyHash, uint64 height) internal view returns (address) {
        KeyRecord memory record = _records[voteKeyHash];
        if (record.validator == address(0)) revert UnknownKey(voteKeyHash);
        // A key that was rotated away because it was stolen must not be good for slashing its owner later.
        if (record.lastHeight != 0 && height > record.lastHeight) {
            revert KeyRetired(voteKeyHash, record.lastHeight, height);
        }
        return record.validator;
    }

    /// @dev The key that signed both, and the height they are for, if they prove an equivocation.
    function _verifyEquivocation(bytes calldata a, bytes calldata b) internal view returns (bytes32, uint64) {
        (bool ok, bytes memory answer) = VERIFY_EQUIVOCATION.staticcall(abi.encode(a, b));
        if (!ok || answer.length != 64) revert NotEquivocation();
        return abi.decode(answer, (bytes32, uint64));
    }

    function _voteKeyHash(address validator) internal view returns (bytes32) {
        return _voteKeyHashes[validator];
    }

    function _isRegistered(address validator) internal view returns (bool) {
        return _blobs[validator] != address(0);
    }

    /// @dev The keys of a registered validator.
    function _keysOf(address validator) internal view returns (Keys memory) {
        address blob = _blobs[validator];
        uint256 size = blob.code.length - 1;
        bytes memory data = new bytes(size);
        assembly ("memory-safe") {
            extcodecopy(blob, add(data, 32), 1, size)
        }
        return abi.decode(data, (Keys));
    }

    function _checkProof(
        address validator,
        uint8 kind,
        address precompile,
        uint256 signatureBytes,
        bytes memory key,
        bytes memory signature
    ) private view {
        // The precompile takes one string, so that a wrong length would move bytes from one part to another.
        _checkLength(kind, signatureBytes, signature);
        (bool ok, bytes memory answer) =
            precompile.staticcall(abi.encodePacked(key, signature, proofDigest(validator, kind, key)));
        if (!ok || answer.length != 32 || abi.decode(answer, (uint256)) != 1) revert BadProof(kind);
    }

    function _checkLength(uint8 kind, uint256 expected, bytes memory data) private pure {
        if (data.length != expected) revert WrongLength(kind, expected, data.length);
    }
}
