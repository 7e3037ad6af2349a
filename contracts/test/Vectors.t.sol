// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StakingBase} from "./StakingBase.sol";
import {ReceiptsTree, Tree} from "./ReceiptsTree.sol";
import {SmartAccount} from "../src/SmartAccount.sol";
import {SmartAccountFactory} from "../src/SmartAccountFactory.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {Settlement} from "../src/Settlement.sol";
import {ValidatorStaking} from "../src/ValidatorStaking.sol";
import {Keys, Params, Registration} from "../src/ValidatorTypes.sol";
import {IncludeBy, PathStep, Receipt, ReceiptJob, ReceiptKey, ReceiptOutcome, Receipts} from "../src/Receipts.sol";

/// @notice The contracts agree with fixtures/vectors.json, which ethers wrote, to the byte.
contract VectorsTest is StakingBase {
    using ReceiptsTree for Tree;

    string private json;

    function setUp() public {
        _deploy(0);
        json = vm.readFile("fixtures/vectors.json");
        vm.chainId(vm.parseJsonUint(json, ".chainId"));
        // The domain is that of the address the code stands at.
        address at_ = _address(".paymentChannels");
        vm.etch(at_, address(channels).code);
        channels = PaymentChannels(at_);
        at_ = _address(".settlement");
        vm.etch(at_, address(settlement).code);
        settlement = Settlement(at_);
    }

    // row: CHN-15
    function test_proofs_of_possession_and_vote_key_hashes_agree() public {
        Params memory p = _params();
        p.keyDomain = _word(".keyDomain");
        address at_ = _address(".validatorStaking");
        vm.etch(at_, address(new ValidatorStaking(p)).code);
        registry = ValidatorStaking(at_);
        for (uint256 i = 0; i < 4; ++i) {
            string memory k = string.concat(".keyProofs[", vm.toString(i), "]");
            bytes memory key = vm.parseJsonBytes(json, string.concat(k, ".key"));
            uint8 kind = uint8(_uint(string.concat(k, ".kind")));
            bytes32 digest = registry.proofDigest(_address(".accounts.payer"), kind, key);
            assertEq(digest, _word(string.concat(k, ".digest")), "digest");
            if (kind == 0) _checkVoteKey(key, uint8(_uint(string.concat(k, ".scheme"))), k);
        }
    }

    function _checkVoteKey(bytes memory key, uint8 scheme, string memory k) private {
        vm.roll(0);
        Registration[] memory list = new Registration[](1);
        list[0] = Registration(address(uint160(1 + scheme)), Keys(scheme, key, "", ""), MIN_STAKE, 0);
        vm.deal(address(this), MIN_STAKE);
        registry.genesisRegister{value: MIN_STAKE}(list);
        address holder = registry.validatorOf(_word(string.concat(k, ".voteKeyHash")));
        assertEq(holder, list[0].validator, "hash of the vote key");
    }

    // row: CHN-21
    function test_what_owners_of_smart_accounts_sign_agrees() public {
        address at_ = _address(".smartAccount");
        vm.etch(at_, address(new SmartAccount()).code);
        for (uint256 i = 0; i < 2; ++i) {
            string memory e = string.concat(".executions[", vm.toString(i), "]");
            SmartAccount.Call[] memory calls = new SmartAccount.Call[](i + 1);
            for (uint256 j = 0; j < calls.length; ++j) {
                string memory c = string.concat(e, ".value.calls[", vm.toString(j), "]");
                bytes memory data = vm.parseJsonBytes(json, string.concat(c, ".data"));
                address target = _address(string.concat(c, ".target"));
                calls[j] = SmartAccount.Call(target, _uint(string.concat(c, ".value")), data);
            }
            e = string.concat(e, ".value");
            SmartAccount.Terms memory terms = SmartAccount.Terms(
                uint64(_uint(string.concat(e, ".nonce"))),
                uint64(_uint(string.concat(e, ".deadline"))),
                _address(string.concat(e, ".relayer")),
                _uint(string.concat(e, ".fee")),
                _uint(string.concat(e, ".gas"))
            );
            bytes32 digest = _word(string.concat(".executions[", vm.toString(i), "].digest"));
            assertEq(SmartAccount(payable(at_)).executeDigest(calls, terms), digest, "execute");
        }
    }

    // row: CHN-21
    function test_addresses_of_smart_accounts_agree() public {
        SmartAccount implementation = SmartAccount(payable(_address(".accountAddress.implementation")));
        address at_ = _address(".accountAddress.factory");
        vm.etch(at_, address(new SmartAccountFactory(implementation)).code);
        bytes memory signer_ = vm.parseJsonBytes(json, ".accountAddress.signer");
        address found = SmartAccountFactory(at_).addressOf(signer_, _word(".accountAddress.salt"));
        assertEq(found, _address(".accountAddress.account"), "account");
    }

    function test_channel_ids_agree() public view {
        for (uint256 i = 0; i < 2; ++i) {
            string memory c = string.concat(".channels[", vm.toString(i), "]");
            PaymentChannels.Terms memory terms = PaymentChannels.Terms(
                _address(string.concat(c, ".terms.payee")),
                _address(string.concat(c, ".terms.payout")),
                _address(string.concat(c, ".terms.signer")),
                _address(string.concat(c, ".terms.token")),
                uint32(_uint(string.concat(c, ".terms.challengePeriodSeconds"))),
                uint64(_uint(string.concat(c, ".terms.expiry"))),
                _word(string.concat(c, ".terms.salt"))
            );
            bytes32 id = channels.channelIdOf(_address(string.concat(c, ".payer")), terms);
            assertEq(id, _word(string.concat(c, ".id")), "channel id");
        }
    }

    function test_type_hashes_agree() public view {
        assertEq(channels.VOUCHER_TYPEHASH(), _word(".typeHashes.Voucher"), "Voucher");
        assertEq(channels.CLOSE_TYPEHASH(), _word(".typeHashes.CloseAgreement"), "CloseAgreement");
        assertEq(Receipts.RECEIPT_TYPEHASH, _word(".typeHashes.Receipt"), "Receipt");
        assertEq(Receipts.INCLUDE_BY_TYPEHASH, _word(".typeHashes.IncludeBy"), "IncludeBy");
    }

    function test_voucher_close_and_promise_digests_agree() public view {
        bytes32 id = _word(".voucher.value.channelId");
        uint128 amount = uint128(_uint(".voucher.value.cumulativeAmount"));
        assertEq(channels.voucherDigest(id, amount), _word(".voucher.digest"), "voucher");
        assertEq(channels.closeDigest(id, amount), _word(".closeAgreement.digest"), "close");
        IncludeBy memory p = IncludeBy(
            _word(".includeBy.value.receipt"),
            _word(".includeBy.value.channelId"),
            uint64(_uint(".includeBy.value.sequence")),
            uint64(_uint(".includeBy.value.batch"))
        );
        assertEq(settlement.includeByDigest(p), _word(".includeBy.digest"), "promise");
        // The oracle's signature is the one this key gives: both are RFC 6979 with a low s.
        bytes memory signature = _sign(uint256(_word(".keys.signer")), _word(".voucher.digest"));
        assertEq(keccak256(signature), keccak256(vm.parseJsonBytes(json, ".voucher.signatures.signer")), "signature");
    }

    // row: MKT-20, MKT-41
    function test_receipts_and_trees_agree() public view {
        bytes32[] memory leaves = new bytes32[](5);
        uint128[] memory costs = new uint128[](5);
        for (uint256 i = 0; i < 5; ++i) {
            string memory r = string.concat(".receipts[", vm.toString(i), "]");
            Receipt memory receipt = _receiptAt(string.concat(r, ".value."));
            bytes32 structHash = settlement.receiptHash(receipt);
            assertEq(structHash, _word(string.concat(r, ".structHash")), "struct hash");
            assertEq(settlement.receiptDigest(receipt), _word(string.concat(r, ".digest")), "digest");
            bytes memory signatures = bytes.concat(
                vm.parseJsonBytes(json, string.concat(r, ".signatures.signer")),
                vm.parseJsonBytes(json, string.concat(r, ".signatures.payee"))
            );
            bytes32 pqHash = keccak256(vm.parseJsonBytes(json, string.concat(r, ".pqProof")));
            leaves[i] = Receipts.leaf(structHash, keccak256(signatures), pqHash);
            costs[i] = receipt.outcome.cost;
            assertEq(leaves[i], _word(string.concat(r, ".leaf")), "leaf");
        }
        _checkTree(leaves, costs, 1, ".treeOfFirst");
        _checkTree(leaves, costs, 3, ".treeOfThree");
        _checkTree(leaves, costs, 5, ".tree");
    }

    function _checkTree(bytes32[] memory leaves, uint128[] memory costs, uint32 count, string memory name)
        private
        view
    {
        bytes32[] memory some = new bytes32[](count);
        uint128[] memory sums = new uint128[](count);
        for (uint256 i = 0; i < count; ++i) {
            (some[i], sums[i]) = (leaves[i], costs[i]);
        }
        Tree memory tree = ReceiptsTree.build(some, sums);
        bytes32 root = _word(string.concat(name, ".root"));
        assertEq(tree.root(), root, "root");
        assertEq(tree.sum(), _uint(string.concat(name, ".sum")), "sum");
        assertEq(Receipts.depthOf(count), _uint(string.concat(name, ".depth")), "depth");
        for (uint32 i = 0; i < count; ++i) {
            require(this.isMember(root, tree.sum(), some[i], sums[i], i, tree.path(0, i)), "member");
        }
    }

    function isMember(bytes32 root, uint128 sum, bytes32 leaf, uint128 cost, uint32 i, PathStep[] calldata path)
        external
        pure
        returns (bool)
    {
        return Receipts.isMember(root, sum, leaf, cost, i, path);
    }

    function _receiptAt(string memory p) private view returns (Receipt memory r) {
        r.key = ReceiptKey(
            uint16(_uint(string.concat(p, "version"))),
            uint64(_uint(string.concat(p, "chainId"))),
            _address(string.concat(p, "channels")),
            _address(string.concat(p, "aggregator")),
            _word(string.concat(p, "channelId")),
            uint64(_uint(string.concat(p, "sequence"))),
            _word(string.concat(p, "jobId"))
        );
        r.job = ReceiptJob(
            _word(string.concat(p, "gatewayNode")),
            _word(string.concat(p, "providerNode")),
            _word(string.concat(p, "modelDigest")),
            _word(string.concat(p, "tokenizerDigest")),
            _word(string.concat(p, "engineBuild")),
            uint16(_uint(string.concat(p, "instructionSet"))),
            _word(string.concat(p, "requestDigest")),
            _word(string.concat(p, "parametersHash")),
            _word(string.concat(p, "promptCommitment"))
        );
        ReceiptOutcome memory o = r.outcome;
        o.outputDigest = _word(string.concat(p, "outputDigest"));
        o.fingerprintRoot = _word(string.concat(p, "fingerprintRoot"));
        o.tokensIn = uint64(_uint(string.concat(p, "tokensIn")));
        o.tokensOut = uint64(_uint(string.concat(p, "tokensOut")));
        o.finishReason = uint8(_uint(string.concat(p, "finishReason")));
        o.startedAtMs = uint64(_uint(string.concat(p, "startedAtMs")));
        o.timeToFirstTokenMs = uint32(_uint(string.concat(p, "timeToFirstTokenMs")));
        o.durationMs = uint32(_uint(string.concat(p, "durationMs")));
        o.priceIn = uint128(_uint(string.concat(p, "priceIn")));
        o.priceOut = uint128(_uint(string.concat(p, "priceOut")));
        o.cost = uint128(_uint(string.concat(p, "cost")));
        o.writtenOff = uint128(_uint(string.concat(p, "writtenOff")));
        o.errorHash = _word(string.concat(p, "errorHash"));
    }

    function _word(string memory key) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, key);
    }

    function _uint(string memory key) private view returns (uint256) {
        return vm.parseJsonUint(json, key);
    }

    function _address(string memory key) private view returns (address) {
        return vm.parseJsonAddress(json, key);
    }
}
