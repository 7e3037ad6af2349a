// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

abstract contract Mintable is ERC20 {
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @notice Refuses transfers to one address, as tokens with a deny list do.
contract PickyToken is Mintable {
    address private _refused;

    constructor() ERC20("Picky", "PICKY") {}

    function refuse(address to) external {
        _refused = to;
    }

    function _update(address from, address to, uint256 value) internal override {
        require(to != _refused || to == address(0), "refused");
        super._update(from, to, value);
    }
}

/// @notice Keeps 1 % of each transfer.
contract FeeToken is Mintable {
    constructor() ERC20("Fee", "FEE") {}

    function _update(address from, address to, uint256 value) internal override {
        if (from == address(0)) return super._update(from, to, value);
        super._update(from, to, value - value / 100);
        super._update(from, address(0xFEE), value / 100);
    }
}

/// @notice Calls somebody in the middle of a transfer.
contract ReenteringToken is Mintable {
    address private _target;
    bytes private _call;
    bool public refused;

    constructor() ERC20("Re", "RE") {}

    function arm(address target, bytes calldata data) external {
        _target = target;
        _call = data;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (_target == address(0)) return;
        (bool ok,) = _target.call(_call);
        if (!ok) refused = true;
    }
}
