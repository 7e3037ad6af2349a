//! Snapshots in files (CHN-23): the state after one block, and what proves it to whoever knows the genesis only.
//!
//! A file is magic and then records: one byte for the kind, four for the length, the payload, its keccak-256. In order:
//!
//! | kind | payload |
//! |---|---|
//! | head | RLP of the chain's genesis hash, the height, the block's hash and its certificate |
//! | handover | RLP of a finality proof and a section, for each block that names a committee, the oldest first |
//! | block | RLP of a block and its receipts, in a row, up to the head |
//! | state | a part of the flat state |
//! | end | keccak-256 of the keccaks of all records before |
//!
//! Nothing of it is believed: the committees are followed from the genesis's by the handovers, the head's certificate is
//! checked against the one that decides it, each block against the next one's parent hash, bodies and receipts against
//! headers, and the state's root against the head's header. The certificate that is kept with a block before the head is the
//! one in the next block's section. A snapshot holds the blocks of the running epoch and the one
//! before, because the next change of committees is judged by them, and 256 blocks at least, because contracts may ask for
//! their hashes.

use crate::service::ChainRules;
use crate::state::check_body;
use crate::wire::Body;
use alloy_consensus::TxReceipt;
use alloy_rlp::{RlpDecodable, RlpEncodable};
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::sync::Arc;
use thiserror::Error;
use trellis_chain_finality::{CommitteeChain, FinalityProof, HandoverError, ProofError};
use trellis_chain_storage::{CommittedBlock, ImportError, ReadError, Receipt, StatePart, Store};
use trellis_primitives::{B256, Block, CommitCertificate, keccak256};

/// Magic and version at the head of a file.
const MAGIC: [u8; 8] = *b"TRLSNAP1";
/// Largest payload of a record, in bytes: a block of the largest size with its receipts.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Blocks that a snapshot has at least, where the chain has them: the hashes that a contract may ask for.
pub const BLOCKS_MIN: u64 = 256;
/// Memory is taken in steps while a record is read, so that a length alone does not cost its bytes.
const READ_STEP_BYTES: u64 = 64 * 1024;

const KIND_HEAD: u8 = 1;
const KIND_HANDOVER: u8 = 2;
const KIND_BLOCK: u8 = 3;
const KIND_STATE: u8 = 4;
const KIND_END: u8 = 5;

/// Why a snapshot was not written, is not one, or is of another chain.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The file.
    #[error("the snapshot's file: {0}")]
    File(#[from] io::Error),
    /// The chain that it is taken from.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A block that the snapshot needs is not held here.
    #[error("block {height} is not held here; a node that began with a snapshot itself can not prove a new one")]
    NoBlock {
        /// The block.
        height: u64,
    },
    /// The chain has no block but the genesis.
    #[error("the chain has no final block yet")]
    Empty,
    /// The file is not a snapshot, or not one of this version.
    #[error("the file is no snapshot of this version")]
    Magic,
    /// A record is damaged.
    #[error("record {number} of the snapshot is damaged: {what}")]
    Damaged {
        /// Its place in the file, from 0.
        number: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// A part is not RLP of what it should be.
    #[error("record {number} of the snapshot does not decode: {error}")]
    Encoding {
        /// Its place in the file, from 0.
        number: u64,
        /// The decoder's account.
        error: alloy_rlp::Error,
    },
    /// It is of another chain.
    #[error("the snapshot is of the chain {found}, this one is {expected}")]
    OtherChain {
        /// This chain's genesis.
        expected: B256,
        /// The snapshot's.
        found: B256,
    },
    /// A committee is not proved.
    #[error("the committees: {0}")]
    Handover(#[from] HandoverError),
    /// The head is not proved to be final.
    #[error("the head: {0}")]
    Proof(#[from] ProofError),
    /// A block is not what the next one, or its header, says.
    #[error("block {height} of the snapshot: {what}")]
    Block {
        /// The block.
        height: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// The state.
    #[error(transparent)]
    State(#[from] ImportError),
}

/// What a snapshot is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct SnapshotHead {
    /// The chain.
    pub genesis_hash: B256,
    /// The block after which the state is taken.
    pub height: u64,
    /// That block's hash.
    pub hash: B256,
}

/// What a snapshot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSummary {
    /// What it is of.
    pub head: SnapshotHead,
    /// The root of its state.
    pub state_root: B256,
    /// Its accounts; one with many slots counts more than once.
    pub accounts: u64,
    /// Its blocks.
    pub blocks: u64,
    /// Its bytes.
    pub bytes: u64,
}

#[derive(RlpEncodable, RlpDecodable)]
struct Handover {
    proof: FinalityProof,
    section: trellis_primitives::Bytes,
}

#[derive(RlpEncodable, RlpDecodable)]
struct HeadRecord {
    head: SnapshotHead,
    certificate: CommitCertificate,
}

#[derive(RlpEncodable, RlpDecodable)]
struct SnapshotBlock {
    block: Block,
    receipts: Vec<Receipt>,
}

struct Out<'a> {
    file: &'a mut dyn Write,
    digests: Vec<u8>,
    bytes: u64,
}

impl Out<'_> {
    fn record(&mut self, kind: u8, payload: &[u8]) -> Result<(), SnapshotError> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, "a record of the snapshot is too long");
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= RECORD_BYTES_MAX);
        let length = length.ok_or_else(too_long)?;
        let digest = keccak256(payload);
        self.file.write_all(&[kind])?;
        self.file.write_all(&length.to_be_bytes())?;
        self.file.write_all(payload)?;
        self.file.write_all(digest.as_slice())?;
        self.digests.extend_from_slice(digest.as_slice());
        self.bytes = self.bytes.saturating_add(payload.len() as u64).saturating_add(37);
        Ok(())
    }
}

fn held(store: &Store, height: u64) -> Result<(Arc<CommittedBlock>, CommitCertificate), SnapshotError> {
    let block = store.block(height)?.ok_or(SnapshotError::NoBlock { height })?;
    let certificate = store.certificate(height)?.ok_or(SnapshotError::NoBlock { height })?;
    Ok((block, certificate))
}

/// The first block that a snapshot of a height has.
fn first_block(height: u64, epoch_blocks: Option<u64>) -> u64 {
    let recent = height.saturating_sub(BLOCKS_MIN - 1);
    let epochs = epoch_blocks.filter(|blocks| *blocks > 0).map_or(height, |blocks| {
        let running = height.saturating_sub(1) / blocks;
        running.saturating_sub(1).saturating_mul(blocks).saturating_add(1)
    });
    recent.min(epochs).max(1)
}

/// Writes a snapshot of the newest block. Nothing may be committed meanwhile.
///
/// # Errors
/// [`SnapshotError`]; what is written then is no snapshot.
pub fn export(store: &Store, rules: &ChainRules, file: &mut dyn Write) -> Result<SnapshotSummary, SnapshotError> {
    let height = store.height();
    if height == 0 {
        return Err(SnapshotError::Empty);
    }
    let (tip, certificate) = held(store, height)?;
    let head = SnapshotHead { genesis_hash: rules.genesis_hash, height, hash: tip.hash };
    file.write_all(&MAGIC)?;
    let mut out = Out { file, digests: Vec::new(), bytes: MAGIC.len() as u64 };
    out.record(KIND_HEAD, &alloy_rlp::encode(HeadRecord { head, certificate }))?;
    let handovers = rules.epoch_blocks.filter(|blocks| *blocks > 0).map_or(0, |blocks| (height - 1) / blocks);
    for epoch in 1..=handovers {
        let named_in = epoch.saturating_mul(rules.epoch_blocks.unwrap_or(0)).saturating_add(1);
        let (block, certificate) = held(store, named_in)?;
        let header_rlp = alloy_rlp::encode(&block.block.header).into();
        let section = alloy_rlp::encode(&block.block.section).into();
        let handover = Handover { proof: FinalityProof { header_rlp, certificate }, section };
        out.record(KIND_HANDOVER, &alloy_rlp::encode(handover))?;
    }
    let first = first_block(height, rules.epoch_blocks);
    for height in first..=height {
        let (held, _) = held(store, height)?;
        let block = SnapshotBlock { block: (*held.block).clone(), receipts: held.receipts.clone() };
        out.record(KIND_BLOCK, &alloy_rlp::encode(block))?;
    }
    let mut accounts = 0u64;
    store.state_parts::<SnapshotError>(&mut |part| {
        accounts = accounts.saturating_add(part.accounts() as u64);
        out.record(KIND_STATE, &part.to_rlp())
    })?;
    let end = keccak256(&out.digests);
    out.record(KIND_END, end.as_slice())?;
    out.file.flush()?;
    let state_root = tip.block.header.state_root;
    Ok(SnapshotSummary { head, state_root, accounts, blocks: height - first + 1, bytes: out.bytes })
}

struct In<'a> {
    file: &'a mut dyn Read,
    digests: Vec<u8>,
    number: u64,
    bytes: u64,
}

impl In<'_> {
    fn damaged(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Damaged { number: self.number, what }
    }

    fn next(&mut self) -> Result<(u8, Bytes), SnapshotError> {
        let mut head = [0u8; 5];
        self.exactly(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length);
        if length as usize > RECORD_BYTES_MAX {
            return Err(self.damaged("its length is over the bound"));
        }
        let mut payload = Vec::with_capacity(u64::from(length).min(READ_STEP_BYTES) as usize);
        let read = (&mut self.file).take(u64::from(length)).read_to_end(&mut payload)?;
        if read as u64 != u64::from(length) {
            return Err(self.damaged("the file ends inside it"));
        }
        let mut digest = [0u8; 32];
        self.exactly(&mut digest)?;
        if keccak256(&payload) != digest {
            return Err(self.damaged("its hash is another"));
        }
        if kind == KIND_END {
            if payload != keccak256(&self.digests).as_slice() {
                return Err(self.damaged("records before the end are missing or more than there were"));
            }
        } else {
            self.digests.extend_from_slice(&digest);
        }
        self.number = self.number.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::from(length)).saturating_add(37);
        Ok((kind, payload.into()))
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("the file ends inside it"),
            _ => error.into(),
        })
    }

    fn decode<T: alloy_rlp::Decodable>(&self, payload: &[u8]) -> Result<T, SnapshotError> {
        let number = self.number.saturating_sub(1);
        alloy_rlp::decode_exact(payload).map_err(|error| SnapshotError::Encoding { number, error })
    }
}

/// Takes what a snapshot has, as it is read. Only what [`read`] has ended without an error is proved.
pub trait SnapshotSink {
    /// A block whose body and receipts fit its header; its senders are not in a snapshot.
    ///
    /// # Errors
    /// The sink's own.
    fn block(&mut self, block: CommittedBlock) -> Result<(), SnapshotError>;

    /// A part of the state.
    ///
    /// # Errors
    /// The sink's own.
    fn state(&mut self, part: StatePart) -> Result<(), SnapshotError>;
}

/// Reads a snapshot of a chain and proves everything but the state's root, which is the sink's to compare with the head's
/// header: it is in the summary.
///
/// # Errors
/// [`SnapshotError`].
pub fn read(
    file: &mut dyn Read,
    rules: &ChainRules,
    sink: &mut dyn SnapshotSink,
) -> Result<SnapshotSummary, SnapshotError> {
    let mut magic = [0u8; MAGIC.len()];
    file.read_exact(&mut magic).map_err(|_| SnapshotError::Magic)?;
    if magic != MAGIC {
        return Err(SnapshotError::Magic);
    }
    let mut input = In { file, digests: Vec::new(), number: 0, bytes: MAGIC.len() as u64 };
    let (kind, payload) = input.next()?;
    if kind != KIND_HEAD {
        return Err(SnapshotError::Magic);
    }
    let HeadRecord { head, certificate } = input.decode(&payload)?;
    if head.genesis_hash != rules.genesis_hash {
        return Err(SnapshotError::OtherChain { expected: rules.genesis_hash, found: head.genesis_hash });
    }
    let committees = CommitteeChain::new(rules.genesis.clone(), rules.genesis_hash, rules.epoch_blocks);
    let mut proof = Proving { head, certificate, committees, waiting: None, blocks: 0, accounts: 0 };
    let mut last = KIND_HEAD;
    loop {
        let (kind, payload) = input.next()?;
        if kind < last || kind > KIND_END {
            return Err(input.damaged("it is out of order"));
        }
        last = kind;
        match kind {
            KIND_HANDOVER => {
                let handover: Handover = input.decode(&payload)?;
                proof.committees.learn(&handover.proof, &handover.section)?;
            }
            KIND_BLOCK => {
                if let Some(proved) = proof.block(input.decode(&payload)?)? {
                    sink.block(proved)?;
                }
            }
            KIND_STATE => {
                let number = input.number.saturating_sub(1);
                let part = StatePart::from_rlp(&payload).map_err(|error| SnapshotError::Encoding { number, error })?;
                proof.accounts = proof.accounts.saturating_add(part.accounts() as u64);
                sink.state(part)?;
            }
            KIND_END => break,
            _ => return Err(input.damaged("it is of a kind that must not be here")),
        }
    }
    let (tip, summary) = proof.finish(input.bytes)?;
    sink.block(tip)?;
    Ok(summary)
}

/// What is proved so far.
struct Proving {
    head: SnapshotHead,
    certificate: CommitCertificate,
    committees: CommitteeChain,
    /// The last block, whose certificate is in the next one.
    waiting: Option<CommittedBlock>,
    blocks: u64,
    accounts: u64,
}

impl Proving {
    /// Takes a block, and gives the one before it with its certificate.
    fn block(&mut self, given: SnapshotBlock) -> Result<Option<CommittedBlock>, SnapshotError> {
        let SnapshotBlock { block, receipts } = given;
        let height = block.header.number;
        let wrong = |what| SnapshotError::Block { height, what };
        let hash = block.hash();
        check_body(&block.header, &Body::rlp_of(&block)).map_err(|_| wrong("its body is another block's"))?;
        let with_bloom: Vec<_> = receipts.iter().map(TxReceipt::with_bloom_ref).collect();
        let root = alloy_consensus::proofs::calculate_receipt_root(&with_bloom);
        if root != block.header.receipts_root || receipts.len() != block.transactions.len() {
            return Err(wrong("its receipts are another block's"));
        }
        let before = self.waiting.take();
        let before = before.map(|before| {
            let own = block.section.parent_commit.as_ref().filter(|own| own.block_hash == before.hash);
            let follows = before.height().saturating_add(1) == height && block.header.parent_hash == before.hash;
            let certificate = own.filter(|_| follows).cloned();
            let proved = certificate.map(|own| CommittedBlock { certificate: Some(own), ..before });
            proved.ok_or_else(|| wrong("it does not follow the one before"))
        });
        self.waiting = Some(CommittedBlock {
            block: Arc::new(block),
            hash,
            senders: Vec::new(),
            receipts,
            certificate: None,
            ethereum: None,
        });
        self.blocks = self.blocks.saturating_add(1);
        before.transpose()
    }

    /// Proves the last block to be the head, and final; gives it.
    fn finish(self, bytes: u64) -> Result<(CommittedBlock, SnapshotSummary), SnapshotError> {
        let Self { head, certificate, committees, waiting, blocks, accounts } = self;
        let height = head.height;
        let tip = waiting.filter(|tip| tip.height() == height && tip.hash == head.hash);
        let tip = tip.ok_or(SnapshotError::Block { height, what: "the blocks do not lead to the head" })?;
        let header_rlp = alloy_rlp::encode(&tip.block.header).into();
        let proof = FinalityProof { header_rlp, certificate };
        committees.check(&proof)?;
        let first = height.saturating_sub(blocks.saturating_sub(1));
        if first > first_block(height, committees.epoch_blocks()) {
            return Err(SnapshotError::Block { height: first, what: "blocks before it are missing" });
        }
        let state_root = tip.block.header.state_root;
        let tip = CommittedBlock { certificate: Some(proof.certificate), ..tip };
        Ok((tip, SnapshotSummary { head, state_root, accounts, blocks, bytes }))
    }
}
