// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {StakingBase} from "./StakingBase.sol";
import {Candidate, Keys, Proofs, Registration} from "../src/ValidatorTypes.sol";

/// @notice Gas with 1,000 registered validators, all keys given. Isolated calls are transactions: slots are cold, 21,000 and
/// the calldata are in. The precompiles' stand-ins have no price.
contract ValidatorGasTest is StakingBase {
    uint256 private constant VALIDATORS = 1_000;
    uint256 private constant PAGE = 100;

    function setUp() public {
        _deployRegistry();
        _fundReserve(100_000 ether);
        vm.roll(0);
        vm.deal(address(this), VALIDATORS * 2 * MIN_STAKE);
        Registration[] memory list = new Registration[](PAGE);
        Keys memory keys = _keys("all");
        for (uint256 i = 0; i < VALIDATORS; ++i) {
            bytes memory vote = abi.encode(keccak256(abi.encode(i)));
            list[i % PAGE] =
                Registration(_validator(i), Keys(0, vote, keys.bls, keys.mldsa44), MIN_STAKE + i * 1 ether, 500);
            if (i % PAGE == PAGE - 1) {
                uint256 sum = 0;
                for (uint256 j = 0; j < PAGE; ++j) {
                    sum += list[j].stake;
                }
                registry.genesisRegister{value: sum}(list);
            }
        }
        vm.roll(1);
        // The chain and its users meet slots that have been used before.
        _endEpoch(_validator(0), 60);
        _delegate(CAROL, _validator(0), 10 ether);
    }

    // row: CHN-11
    function test_1000_registered_validators_are_read_in_pages() public {
        uint256 sum = 0;
        uint256 count = 0;
        uint256 gas = 0;
        for (uint256 start = 0; start < VALIDATORS; start += PAGE) {
            (bool ok, uint256 used) = _measure(SYSTEM, 0, abi.encodeCall(registry.candidates, (start, PAGE)));
            require(ok, "read");
            gas += used;
            (Candidate[] memory page, uint256 total) = registry.candidates(start, PAGE);
            assertEq(total, VALIDATORS, "total");
            for (uint256 i = 0; i < page.length; ++i) {
                assertEq(page[i].validator, _validator(start + i), "in order");
                assertEq(page[i].mldsa44.length, 1_312, "keys");
                sum += page[i].stake;
            }
            count += page.length;
        }
        assertEq(count, VALIDATORS, "all of them");
        assertEq(sum, registry.totalActive(), "all of their stake");
        vm.snapshotValue("staking", "candidates, 1000 in ten pages", gas);
    }

    // row: CHN-11
    function test_1000_registered_validators_are_read_at_once() public {
        (bool ok, uint256 used) = _measure(SYSTEM, 0, abi.encodeCall(registry.candidates, (0, VALIDATORS)));
        require(ok, "read");
        vm.snapshotValue("staking", "candidates, 1000 at once", used);
    }

    // row: CHN-14
    /// forge-config: default.isolate = true
    function test_the_end_of_an_epoch_is_linear_in_the_committee() public {
        uint256 small = _endOf(100);
        uint256 large = _endOf(1_000);
        vm.snapshotValue("staking", "endEpoch, 100 members", small);
        vm.snapshotValue("staking", "endEpoch, 1000 members", large);
        require(large < 11 * small, "linear");
        require(large < 100_000_000, "a quarter of a block's gas limit");
    }

    /// forge-config: default.isolate = true
    function test_gas_of_what_users_do() public {
        Keys memory keys = _keys(_seed(ALICE));
        Proofs memory proofs = _proofs(ALICE, keys);
        vm.deal(ALICE, 2 * MIN_STAKE);
        vm.deal(BOB, 100 ether);
        _call("register", ALICE, MIN_STAKE, abi.encodeCall(registry.register, (keys, proofs, 500)));
        address validator = _validator(1);
        _call("delegate, first", BOB, 10 ether, abi.encodeCall(registry.delegate, (validator)));
        _call("delegate, more", BOB, 10 ether, abi.encodeCall(registry.delegate, (validator)));
        _call("undelegate", BOB, 0, abi.encodeCall(registry.undelegate, (validator, 5 ether)));
        vm.warp(START + UNBONDING);
        _call("withdraw", BOB, 0, abi.encodeCall(registry.withdraw, (validator)));
        keys = _keys("next");
        proofs = _proofs(ALICE, keys);
        _call("rotateKey", ALICE, 0, abi.encodeCall(registry.rotateKey, (keys, proofs)));
        bytes32 keyHash = _hash(keys);
        _call(
            "reportEquivocation",
            REPORTER,
            0,
            abi.encodeCall(registry.reportEquivocation, (_vote(keyHash, 10_000, "a"), _vote(keyHash, 10_000, "b")))
        );
        _call("claim", REPORTER, 0, abi.encodeCall(registry.claim, ()));
    }

    function _endOf(uint256 n) private returns (uint256) {
        address[] memory members = new address[](n);
        uint32[] memory signed = new uint32[](n);
        uint64[] memory powers = new uint64[](n);
        for (uint256 i = 0; i < n; ++i) {
            (members[i], signed[i], powers[i]) = (_validator(VALIDATORS - 1 - i), 60, uint64(1_000_000 + i));
        }
        uint256 before = gasleft();
        _endEpoch(members, signed, powers);
        return before - gasleft();
    }

    function _call(string memory name, address from, uint256 value, bytes memory data) private {
        (bool ok, uint256 used) = _measure(from, value, data);
        require(ok, name);
        require(used < 1 << 24, "fits into a transaction");
        vm.snapshotValue("staking", name, used);
    }

    function _measure(address from, uint256 value, bytes memory data) private returns (bool ok, uint256 used) {
        address target = address(registry);
        vm.prank(from);
        uint256 before = gasleft();
        // The answer is not copied: a caller outside the machine does not pay for it.
        assembly ("memory-safe") {
            ok := call(gas(), target, value, add(data, 32), mload(data), 0, 0)
        }
        used = before - gasleft();
    }

    function _validator(uint256 i) private pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("validator", i)))));
    }
}
