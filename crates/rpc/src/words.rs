//! What the machine says, in the words that geth says it with: wallets and libraries match on them.

use alloy_primitives::{Bytes, U256};
use alloy_sol_types::{Panic, PanicKind, Revert, SolError};

/// A revert's reason in words, when the data is `Error(string)` or `Panic(uint256)`.
pub(crate) fn revert_reason(output: &Bytes) -> Option<String> {
    match Panic::abi_decode(output) {
        Ok(panic) => Some(panic_in_words(panic.code)),
        Err(_) => Revert::abi_decode(output).ok().map(|revert| revert.reason),
    }
}

fn panic_in_words(code: U256) -> String {
    let kind = u32::try_from(code).ok().and_then(PanicKind::from_number);
    let known = match kind {
        Some(PanicKind::Generic) => "generic panic",
        Some(PanicKind::Assert) => "assert(false)",
        Some(PanicKind::UnderOverflow) => "arithmetic underflow or overflow",
        Some(PanicKind::DivisionByZero) => "division or modulo by zero",
        Some(PanicKind::EnumConversionError) => "enum overflow",
        Some(PanicKind::StorageEncodingError) => "invalid encoded storage byte array accessed",
        Some(PanicKind::EmptyArrayPop) => "out-of-bounds array access; popping on an empty array",
        Some(PanicKind::ArrayOutOfBounds) => "out-of-bounds access of an array or bytesN",
        Some(PanicKind::ResourceError) => "out of memory",
        Some(PanicKind::InvalidInternalFunction) => "uninitialized function",
        _ => return format!("unknown panic code: {code:#x}"),
    };
    known.to_owned()
}

/// The words for a way to break off; what has none is given as the machine says it.
pub(crate) fn halt_in_words(reason: &str) -> String {
    const WORDS: [(&str, &str); 10] = [
        ("OutOfGas", "out of gas"),
        ("StackUnderflow", "stack underflow"),
        ("StackOverflow", "stack limit reached 1024 (1023)"),
        ("InvalidJump", "invalid jump destination"),
        ("InvalidFEOpcode", "invalid opcode: INVALID"),
        ("OpcodeNotFound", "invalid opcode: opcode not defined"),
        ("StateChangeDuringStaticCall", "write protection"),
        ("CreateCollision", "contract address collision"),
        ("CreateContractSizeLimit", "max code size exceeded"),
        ("CallTooDeep", "max call depth exceeded"),
    ];
    let known = WORDS.iter().find(|(name, _)| reason.starts_with(name));
    known.map_or_else(|| reason.to_owned(), |(_, words)| (*words).to_owned())
}

/// The words for a call that cannot be made at all.
pub(crate) fn invalid_in_words(reason: &str) -> String {
    const WORDS: [(&str, &str); 6] = [
        ("lack of funds", "insufficient funds for gas * price + value"),
        ("overflow payment", "insufficient funds for gas * price + value"),
        ("call gas cost", "intrinsic gas too low"),
        ("gas floor", "insufficient gas for floor data gas cost"),
        ("gas price is less than basefee", "max fee per gas less than block base fee"),
        ("priority fee is greater than max fee", "max priority fee per gas higher than max fee per gas"),
    ];
    let known = WORDS.iter().find(|(name, _)| reason.starts_with(name));
    known.map_or_else(|| reason.to_owned(), |(_, words)| format!("{words}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_in_solidity_becomes_words() {
        let error = Revert::from("not yours".to_owned()).abi_encode();
        assert_eq!(revert_reason(&error.into()).as_deref(), Some("not yours"));
        for (code, words) in [
            (0x01, "assert(false)"),
            (0x11, "arithmetic underflow or overflow"),
            (0x12, "division or modulo by zero"),
            (0x32, "out-of-bounds access of an array or bytesN"),
            (0x99, "unknown panic code: 0x99"),
        ] {
            let panic = Panic { code: U256::from(code) }.abi_encode();
            assert_eq!(revert_reason(&panic.into()).as_deref(), Some(words));
        }
        assert_eq!(revert_reason(&Bytes::new()), None);
        assert_eq!(revert_reason(&Bytes::from_static(b"wrong-calldatasize")), None);
        assert_eq!(revert_reason(&Bytes::from_static(&[0x08, 0xc3, 0x79, 0xa0, 1])), None);
    }

    #[test]
    fn halts_speak_as_geth_does() {
        assert_eq!(halt_in_words("OutOfGas(Basic)"), "out of gas");
        assert_eq!(halt_in_words("StackUnderflow"), "stack underflow");
        assert_eq!(halt_in_words("InvalidFEOpcode"), "invalid opcode: INVALID");
        assert_eq!(halt_in_words("SomethingNew"), "SomethingNew");
    }
}
