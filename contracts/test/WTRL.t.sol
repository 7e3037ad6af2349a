// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {WTRL} from "../src/WTRL.sol";

contract WTRLTest is Base {
    address private constant ALICE = address(0xA11);

    function setUp() public {
        vm.warp(START);
        wtrl = new WTRL();
        vm.deal(ALICE, 100 * TRL);
    }

    function testFuzz_wrapping_and_unwrapping_keeps_one_to_one(uint96 amount, uint96 back) public {
        uint256 held = uint256(amount) % (100 * TRL);
        uint256 taken = held == 0 ? 0 : back % held;
        vm.startPrank(ALICE);
        wtrl.deposit{value: held}();
        wtrl.withdraw(taken);
        vm.stopPrank();
        assertEq(wtrl.totalSupply(), address(wtrl).balance, "backed");
        assertEq(wtrl.balanceOf(ALICE), held - taken, "balance");
        assertEq(ALICE.balance, 100 * TRL - held + taken, "native");
    }

    function test_a_plain_transfer_wraps() public {
        vm.prank(ALICE);
        (bool sent,) = address(wtrl).call{value: TRL}("");
        require(sent, "sent");
        assertEq(wtrl.balanceOf(ALICE), TRL, "wrapped");
    }

    function test_nobody_unwraps_more_than_it_has() public {
        vm.startPrank(ALICE);
        wtrl.deposit{value: TRL}();
        vm.expectRevert();
        wtrl.withdraw(TRL + 1);
        vm.stopPrank();
    }

    function test_a_receiver_that_refuses_the_coin_keeps_its_wrapped_coin() public {
        wtrl.deposit{value: 0}();
        vm.deal(address(this), TRL);
        wtrl.deposit{value: TRL}();
        vm.expectRevert(abi.encodeWithSelector(WTRL.NativeTransferFailed.selector, address(this), TRL));
        wtrl.withdraw(TRL);
        assertEq(wtrl.balanceOf(address(this)), TRL, "kept");
    }

    function test_votes_follow_time() public {
        vm.startPrank(ALICE);
        wtrl.deposit{value: 10 * TRL}();
        wtrl.delegate(ALICE);
        vm.stopPrank();
        vm.warp(START + 50);
        assertEq(wtrl.getPastVotes(ALICE, START + 49), 10 * TRL, "votes then");
        assertEq(wtrl.getPastVotes(ALICE, START - 1), 0, "none before");
        assertEq(wtrl.clock(), START + 50, "clock");
        assertEq(keccak256(bytes(wtrl.CLOCK_MODE())), keccak256("mode=timestamp"), "mode");
    }
}
