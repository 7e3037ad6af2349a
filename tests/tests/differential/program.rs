//! Random programs for the machine: most run to an end of their own, some are broken on purpose, some are noise.
//!
//! A writer keeps count of the stack, so that what follows on an instruction has its operands. What a program computed ends in
//! a log, in the storage or in the output, where the other implementation's result is held against it.

use alloy_primitives::{Address, U256};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

const PUSH0: u8 = 0x5f;
const POP: u8 = 0x50;
const MSTORE: u8 = 0x52;
const SSTORE: u8 = 0x55;
const JUMP: u8 = 0x56;
const JUMPI: u8 = 0x57;
const GAS: u8 = 0x5a;
const JUMPDEST: u8 = 0x5b;
const DUP1: u8 = 0x80;
const SWAP1: u8 = 0x90;
const CODECOPY: u8 = 0x39;
const RETURN: u8 = 0xf3;

/// Of two operands: arithmetic, comparison, bits.
const BINARY: [u8; 20] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x0a, 0x0b, 0x10, 0x11, 0x12, 0x13, 0x14, 0x16, 0x17, 0x18, 0x1b, 0x1c,
    0x1d,
];
const BYTE: u8 = 0x1a;
/// What the machine knows without being told: of the call, the block and itself.
const KNOWN: [u8; 19] =
    [0x30, 0x32, 0x33, 0x34, 0x36, 0x38, 0x3a, 0x3d, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x4a, 0x58, 0x59];
/// Slots of the storage that programs use, so that they meet in them.
const SLOTS: u64 = 6;
/// How deep programs are put into programs.
const NESTED_MAX: usize = 2;
/// Bytes of a program that CREATE may bring to the chain (EIP-170).
const CODE_BYTES_MAX: usize = 24_576;

/// A number of the kind that goes wrong.
pub fn word(rng: &mut ChaCha8Rng) -> U256 {
    match rng.random_range(0..12) {
        0 => U256::ZERO,
        1..4 => U256::from(rng.random_range(1_u64..64)),
        4 => U256::MAX,
        5 => U256::MAX - U256::from(rng.random_range(0_u64..40)),
        6 => U256::from(1) << rng.random_range(0_usize..256),
        7 => (U256::from(1) << rng.random_range(1_usize..256)) - U256::from(1),
        8 => U256::from(rng.random::<u64>()),
        9 => U256::from(rng.random::<u128>()),
        _ => U256::from_be_bytes(rng.random::<[u8; 32]>()),
    }
}

/// What a new contract's account gets when its init code is through.
struct Attached {
    at: usize,
    bytes: Vec<u8>,
}

struct Writer<'a> {
    rng: &'a mut ChaCha8Rng,
    targets: &'a [Address],
    code: Vec<u8>,
    height: usize,
    /// What lies lower is left alone: a loop's count.
    floor: usize,
    attached: Vec<Attached>,
    nested: usize,
}

/// A program of about so many steps, which calls the targets among others.
pub fn program(rng: &mut ChaCha8Rng, targets: &[Address], steps: usize) -> Vec<u8> {
    nested(rng, targets, steps, 0)
}

fn nested(rng: &mut ChaCha8Rng, targets: &[Address], steps: usize, depth: usize) -> Vec<u8> {
    if rng.random_ratio(1, 20) {
        let bytes = rng.random_range(0..96);
        return (0..bytes).map(|_| rng.random()).collect();
    }
    let mut writer =
        Writer { rng, targets, code: Vec::new(), height: 0, floor: 0, attached: Vec::new(), nested: depth };
    for _ in 0..steps {
        writer.step();
    }
    writer.end();
    let mut code = writer.finish();
    if rng.random_ratio(1, 12) && !code.is_empty() {
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..code.len());
            code[at] = rng.random();
        }
    }
    code
}

/// Init code: mostly a program that leaves another one as the contract's code.
pub fn init_code(rng: &mut ChaCha8Rng, targets: &[Address], steps: usize) -> Vec<u8> {
    nested_init(rng, targets, steps, 0)
}

fn nested_init(rng: &mut ChaCha8Rng, targets: &[Address], steps: usize, depth: usize) -> Vec<u8> {
    if rng.random_ratio(1, 8) {
        return nested(rng, targets, steps, depth);
    }
    let runtime = match rng.random_range(0..40) {
        0 => vec![0xef, 0x00],
        1 => Vec::new(),
        2 => [&[0xef, 0x01, 0x00][..], targets[0].as_slice()].concat(),
        3 => vec![0x5b; rng.random_range(CODE_BYTES_MAX - 1..CODE_BYTES_MAX + 3)],
        _ => nested(rng, targets, steps, depth),
    };
    let mut writer =
        Writer { rng, targets, code: Vec::new(), height: 0, floor: 0, attached: Vec::new(), nested: depth };
    for _ in 0..writer.rng.random_range(0..4) {
        writer.step();
    }
    let size = writer.attach(runtime);
    writer.push(U256::from(size));
    writer.push(U256::ZERO);
    writer.op(RETURN, 2, 0);
    writer.finish()
}

/// Hands its input on to the address in its first word, and logs whether that went well and what came back.
pub fn forwarder() -> Vec<u8> {
    [
        &[0x60, 0x20, 0x36, 0x03, 0x60, 0x20, 0x5f, 0x37][..], // the input but its first word into the memory
        &[0x5f, 0x5f, 0x60, 0x20, 0x36, 0x03, 0x5f, 0x5f, 0x5f, 0x35, GAS, 0xf1], // a call with it and all gas
        &[0x3d, 0x5f, 0x5f, 0x3e, 0x3d, 0x5f, 0xa1, 0x00],     // a log of what came back, with the call's success
    ]
    .concat()
}

impl Writer<'_> {
    fn op(&mut self, op: u8, taken: usize, given: usize) {
        self.code.push(op);
        self.height = self.height.saturating_sub(taken) + given;
    }

    fn push(&mut self, value: U256) {
        let bytes = value.to_be_bytes::<32>();
        let mut width = value.byte_len();
        if (width == 0 && self.rng.random_ratio(1, 8)) || self.rng.random_ratio(1, 24) {
            width = self.rng.random_range(width.max(1)..33);
        }
        self.code.push(PUSH0 + u8::try_from(width).expect("32 at most"));
        self.code.extend_from_slice(&bytes[32 - width..]);
        self.height += 1;
    }

    fn small(&mut self, below: u64) {
        let value = self.rng.random_range(0..below);
        self.push(U256::from(value));
    }

    /// A place known later: always two bytes.
    fn place(&mut self) -> usize {
        self.code.extend_from_slice(&[PUSH0 + 2, 0, 0]);
        self.height += 1;
        self.code.len() - 2
    }

    fn patch(&mut self, at: usize, value: usize) {
        self.code[at..at + 2].copy_from_slice(&u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes());
    }

    fn operand(&mut self) {
        if self.height > 0 && self.rng.random_ratio(2, 5) {
            let depth = self.rng.random_range(0..self.height.min(16));
            self.op(DUP1 + u8::try_from(depth).expect("15 at most"), 0, 1);
        } else {
            let value = word(self.rng);
            self.push(value);
        }
    }

    fn address(&mut self) {
        match self.rng.random_range(0..24) {
            0 => self.op(0x30, 0, 1),
            1 => self.op(0x33, 0, 1),
            2 => self.operand(),
            _ => {
                let target = self.targets[self.rng.random_range(0..self.targets.len())];
                self.push(U256::from_be_slice(target.as_slice()));
            }
        }
    }

    /// A place in the memory: near, now and then far, and seldom so far that nobody can pay for it.
    fn offset(&mut self) {
        match self.rng.random_range(0..400) {
            0 => self.operand(),
            1 => self.small(1 << 20),
            2..8 => self.small(1 << 14),
            _ => self.small(192),
        }
    }

    fn length(&mut self) {
        match self.rng.random_range(0..300) {
            0 => self.operand(),
            1..4 => self.small(1 << 13),
            4..60 => self.push(U256::ZERO),
            _ => self.small(100),
        }
    }

    /// Operands are pushed in the order in which the machine takes them from below.
    fn step(&mut self) {
        if self.height > 900 {
            return;
        }
        match self.rng.random_range(0..100) {
            0..18 => self.arithmetic(),
            18..27 => {
                let op = KNOWN[self.rng.random_range(0..KNOWN.len())];
                self.op(op, 0, 1);
            }
            27..30 => self.op(GAS, 0, 1),
            30..38 => self.question(),
            38..54 => self.memory(),
            54..70 => self.storage(),
            70..75 => self.log(),
            75..84 => self.call(),
            84..88 => self.create(),
            88..91 => self.branch(),
            91..93 => self.repeat(),
            _ => self.shuffle(),
        }
    }

    fn arithmetic(&mut self) {
        self.operand();
        match self.rng.random_range(0..24) {
            0 => self.op(0x15, 1, 1),
            1 => self.op(0x19, 1, 1),
            2..4 => self.op(0x1e, 1, 1),
            4..6 => {
                self.operand();
                self.operand();
                let op = 0x08 + self.rng.random_range(0..2_u8);
                self.op(op, 3, 1);
            }
            6 => {
                self.small(34);
                self.op(BYTE, 2, 1);
            }
            7..10 => {
                // Shifts and extensions by what is of use.
                self.small(258);
                let op = [0x0b, 0x1b, 0x1c, 0x1d][self.rng.random_range(0..4)];
                self.op(op, 2, 1);
            }
            _ => {
                self.operand();
                let op = BINARY[self.rng.random_range(0..BINARY.len())];
                self.op(op, 2, 1);
            }
        }
    }

    /// Things that are asked with one operand.
    fn question(&mut self) {
        match self.rng.random_range(0..8) {
            0..5 => {
                self.address();
                let op = [0x31, 0x3b, 0x3f][self.rng.random_range(0..3)];
                self.op(op, 1, 1);
            }
            5 => {
                // A block's hash: of one so far back, or of one to come.
                self.small(300);
                self.op(0x43, 0, 1);
                self.op(0x03, 2, 1);
                self.op(0x40, 1, 1);
            }
            6 => {
                self.small(3);
                self.op(0x49, 1, 1);
            }
            _ => {
                self.offset();
                self.op(0x35, 1, 1);
            }
        }
    }

    fn memory(&mut self) {
        match self.rng.random_range(0..10) {
            0..3 => {
                self.operand();
                self.offset();
                let op = if self.rng.random_ratio(1, 4) { 0x53 } else { MSTORE };
                self.op(op, 2, 0);
            }
            3 => {
                self.offset();
                self.op(0x51, 1, 1);
            }
            4 => {
                self.length();
                self.offset();
                self.op(0x20, 2, 1);
            }
            5 => {
                self.length();
                self.offset();
                self.offset();
                self.op(0x5e, 3, 0);
            }
            6 => {
                // Of the last call's output: mostly all of it, for a byte more ends the frame.
                let odd = self.rng.random_ratio(1, 12);
                if odd {
                    self.length()
                } else {
                    self.op(0x3d, 0, 1)
                }
                if odd {
                    self.offset()
                } else {
                    self.push(U256::ZERO)
                }
                self.offset();
                self.op(0x3e, 3, 0);
            }
            7 => {
                self.length();
                self.offset();
                self.offset();
                self.address();
                self.op(0x3c, 4, 0);
            }
            _ => {
                self.length();
                self.offset();
                self.offset();
                let op = if self.rng.random() { 0x37 } else { CODECOPY };
                self.op(op, 3, 0);
            }
        }
    }

    fn slot(&mut self) {
        if self.rng.random_ratio(1, 30) { self.operand() } else { self.small(SLOTS) }
    }

    fn storage(&mut self) {
        match self.rng.random_range(0..10) {
            0..5 => {
                // Back and forth between few values: every price and every refund of a write.
                if self.rng.random_ratio(4, 5) {
                    self.small(3)
                } else {
                    self.operand()
                }
                self.slot();
                self.op(SSTORE, 2, 0);
            }
            5..7 => {
                self.slot();
                self.op(0x54, 1, 1);
            }
            7 => {
                self.slot();
                self.op(0x5c, 1, 1);
            }
            _ => {
                self.operand();
                self.slot();
                self.op(0x5d, 2, 0);
            }
        }
    }

    fn log(&mut self) {
        let topics = self.rng.random_range(0..5_u8);
        for _ in 0..topics {
            self.operand();
        }
        self.length();
        self.offset();
        self.op(0xa0 + topics, 2 + usize::from(topics), 0);
    }

    fn value(&mut self) {
        match self.rng.random_range(0..16) {
            0..12 => self.push(U256::ZERO),
            12 => self.operand(),
            _ => self.small(1_000),
        }
    }

    fn call(&mut self) {
        let op = [0xf1, 0xf1, 0xf2, 0xf4, 0xfa][self.rng.random_range(0..5)];
        let priced = matches!(op, 0xf1 | 0xf2);
        self.length();
        self.offset();
        self.length();
        self.offset();
        if priced {
            self.value();
        }
        self.address();
        self.gas();
        self.op(op, if priced { 7 } else { 6 }, 1);
    }

    fn gas(&mut self) {
        match self.rng.random_range(0..20) {
            0..12 => self.small(30_000),
            12 => self.operand(),
            13..17 => {
                self.op(GAS, 0, 1);
                self.small(4);
                self.op(0x1c, 2, 1);
            }
            _ => self.op(GAS, 0, 1),
        }
    }

    /// Puts bytes behind the code, and code that brings them into the memory from 0 on; gives their number.
    fn attach(&mut self, bytes: Vec<u8>) -> usize {
        let size = bytes.len();
        self.push(U256::from(size));
        let at = self.place();
        self.push(U256::ZERO);
        self.op(CODECOPY, 3, 0);
        self.attached.push(Attached { at, bytes });
        size
    }

    fn create(&mut self) {
        if self.nested >= NESTED_MAX {
            return self.log();
        }
        let steps = self.rng.random_range(1..7);
        let init = nested_init(self.rng, self.targets, steps, self.nested + 1);
        let size = self.attach(init);
        let salted: bool = self.rng.random();
        if salted {
            self.small(2);
        }
        self.push(U256::from(size));
        self.push(U256::ZERO);
        self.value();
        if salted {
            self.op(0xf5, 4, 1)
        } else {
            self.op(0xf0, 3, 1)
        }
        if self.rng.random() {
            // And a call of what was made.
            for _ in 0..4 {
                self.push(U256::ZERO);
            }
            self.value();
            self.op(DUP1 + 5, 0, 1);
            self.gas();
            self.op(0xf1, 7, 1);
        }
    }

    /// Some steps that leave the stack as high as it was.
    fn level_steps(&mut self, count: usize) {
        let (before, floor) = (self.height, self.floor);
        self.floor = before;
        for _ in 0..count {
            self.step();
            while self.height > before {
                self.op(POP, 1, 0);
            }
        }
        self.floor = floor;
    }

    fn branch(&mut self) {
        self.operand();
        let target = self.place();
        self.op(JUMPI, 2, 0);
        let count = self.rng.random_range(1..4);
        self.level_steps(count);
        let here = self.code.len();
        self.patch(target, here);
        self.op(JUMPDEST, 0, 0);
    }

    fn repeat(&mut self) {
        let times = self.rng.random_range(1_u64..5);
        self.push(U256::from(times));
        let start = self.code.len();
        self.op(JUMPDEST, 0, 0);
        let count = self.rng.random_range(1..4);
        self.level_steps(count);
        self.push(U256::from(1));
        self.op(SWAP1, 0, 0);
        self.op(0x03, 2, 1);
        self.op(DUP1, 0, 1);
        let target = self.place();
        self.patch(target, start);
        self.op(JUMPI, 2, 0);
    }

    fn shuffle(&mut self) {
        let free = self.height - self.floor;
        if free == 0 {
            return self.operand();
        }
        let depth = self.rng.random_range(0..free.min(16));
        let number = u8::try_from(depth).expect("15 at most");
        match self.rng.random_range(0..5) {
            0 => self.op(POP, 1, 0),
            1 | 2 if depth + 1 < free => self.op(SWAP1 + number, 0, 0),
            3 if self.floor == 0 && self.rng.random_ratio(1, 20) => self.op(SWAP1 + 15, 0, 0),
            _ => self.op(DUP1 + number, 0, 1),
        }
    }

    /// What is on the stack goes into the memory, and the frame comes to one of its ends.
    fn end(&mut self) {
        let words = self.height.min(8);
        for index in 0..words {
            self.push(U256::from(index * 32));
            self.op(MSTORE, 2, 0);
        }
        let bytes = U256::from(words * 32);
        match self.rng.random_range(0..20) {
            0 => self.op(0x00, 0, 0),
            1 => self.op(0xfe, 0, 0),
            2 => {
                self.operand();
                self.op(JUMP, 1, 0);
            }
            3..5 => {
                self.address();
                self.op(0xff, 1, 0);
            }
            5 => {}
            6..8 => self.leave(bytes, 0xfd),
            8..11 => {
                self.push(bytes);
                self.push(U256::ZERO);
                self.op(0x20, 2, 1);
                self.small(SLOTS);
                self.op(SSTORE, 2, 0);
            }
            11..15 => {
                self.push(bytes);
                self.push(U256::ZERO);
                self.op(0xa0, 2, 0);
                self.leave(bytes, RETURN);
            }
            _ => self.leave(bytes, RETURN),
        }
    }

    fn leave(&mut self, bytes: U256, op: u8) {
        self.push(bytes);
        self.push(U256::ZERO);
        self.op(op, 2, 0);
    }

    fn finish(mut self) -> Vec<u8> {
        for Attached { at, bytes } in std::mem::take(&mut self.attached) {
            let here = self.code.len();
            self.patch(at, here);
            self.code.extend_from_slice(&bytes);
        }
        self.code
    }
}
