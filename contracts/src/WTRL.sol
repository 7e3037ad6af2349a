// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title Wrapped TRL: the native coin as an ERC-20 with votes (timestamp clock) and permit.
/// @notice One WTRL is backed by one native TRL held here. No owner, no pause, no mint without a deposit.
contract WTRL is ERC20, ERC20Permit, ERC20Votes {
    event Deposited(address indexed account, uint256 amount);
    event Withdrawn(address indexed account, uint256 amount);

    error NativeTransferFailed(address to, uint256 amount);

    constructor() ERC20("Wrapped Trellis", "WTRL") ERC20Permit("Wrapped Trellis") {}

    receive() external payable {
        deposit();
    }

    /// @notice Wraps the native coin that came with the call.
    function deposit() public payable {
        emit Deposited(msg.sender, msg.value);
        _mint(msg.sender, msg.value);
    }

    /// @notice Burns `amount` of the caller's WTRL and sends back as much native coin.
    function withdraw(uint256 amount) external {
        _burn(msg.sender, amount);
        emit Withdrawn(msg.sender, amount);
        (bool sent,) = msg.sender.call{value: amount}("");
        if (!sent) revert NativeTransferFailed(msg.sender, amount);
    }

    /// @dev ERC-6372: votes are counted by time, because blocks are not evenly spaced.
    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    // solhint-disable-next-line func-name-mixedcase
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }

    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }
}
