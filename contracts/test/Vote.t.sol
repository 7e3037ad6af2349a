// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {Governor} from "@openzeppelin/contracts/governance/Governor.sol";
import {GovernorCountingSimple} from "@openzeppelin/contracts/governance/extensions/GovernorCountingSimple.sol";
import {GovernorPreventLateQuorum} from "@openzeppelin/contracts/governance/extensions/GovernorPreventLateQuorum.sol";
import {GovernorVotes} from "@openzeppelin/contracts/governance/extensions/GovernorVotes.sol";
import {
    GovernorVotesQuorumFraction
} from "@openzeppelin/contracts/governance/extensions/GovernorVotesQuorumFraction.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {Base} from "./Base.sol";

/// @dev The building blocks that GOV-01 and GOV-02 name, with votes of WTRL: what a vote costs before there is a DAO.
contract TokenGovernor is
    Governor,
    GovernorCountingSimple,
    GovernorVotes,
    GovernorVotesQuorumFraction,
    GovernorPreventLateQuorum
{
    constructor(IVotes token)
        Governor("Token governor of a test")
        GovernorVotes(token)
        GovernorVotesQuorumFraction(40)
        GovernorPreventLateQuorum(1 days)
    {}

    function votingDelay() public pure override returns (uint256) {
        return 1 days;
    }

    function votingPeriod() public pure override returns (uint256) {
        return 7 days;
    }

    function proposalDeadline(uint256 proposalId)
        public
        view
        override(Governor, GovernorPreventLateQuorum)
        returns (uint256)
    {
        return super.proposalDeadline(proposalId);
    }

    function _tallyUpdated(uint256 proposalId) internal override(Governor, GovernorPreventLateQuorum) {
        super._tallyUpdated(proposalId);
    }
}

/// @notice Gas of a vote as a real transaction costs it: execution, 21,000 and the calldata.
contract VoteTest is Base {
    TokenGovernor private governor;
    uint256 private proposal;
    address private constant FIRST = address(0xF1);

    function setUp() public {
        _deploy(0);
        governor = new TokenGovernor(wtrl);
        for (uint256 i = 0; i < 2; ++i) {
            address voter = i == 0 ? FIRST : payer;
            vm.deal(voter, 1_000 * TRL);
            vm.startPrank(voter);
            wtrl.deposit{value: 100 * TRL}();
            wtrl.delegate(voter);
            vm.stopPrank();
        }
        vm.warp(START + 1);
        address[] memory targets = new address[](1);
        bytes[] memory calls = new bytes[](1);
        targets[0] = address(0xCA11);
        vm.prank(payer);
        proposal = governor.propose(targets, new uint256[](1), calls, "a proposal");
        vm.warp(START + 2 days);
        vm.prank(FIRST);
        governor.castVote(proposal, 0);
    }

    // row: CHN-54
    function test_gas_of_a_vote() public {
        bytes memory data = abi.encodeCall(governor.castVote, (proposal, 1));
        uint256 tokens = 0;
        for (uint256 i = 0; i < data.length; ++i) {
            tokens += data[i] == 0 ? 1 : 4;
        }
        vm.prank(payer);
        uint256 before = gasleft();
        (bool ok,) = address(governor).call(data);
        uint256 gas = 21_000 + before - gasleft() + 4 * tokens;
        require(ok && governor.hasVoted(proposal, payer), "voted");
        vm.snapshotValue("vote", "castVote", gas);
    }
}
