//! RLP of what only this crate reads: diffs and segment records.

use crate::diff::{HashedAccount, HashedDiff};
use crate::{Account, AccountDiff, CommittedBlock, EthereumBody, Receipt, StateDiff};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use std::sync::Arc;
use trellis_primitives::{Block, CommitCertificate};

/// An option as a list of none or one, which RLP has a form for.
fn listed<T>(option: Option<T>) -> Vec<T> {
    option.into_iter().collect()
}

fn unlisted<T>(mut list: Vec<T>) -> Result<Option<T>, alloy_rlp::Error> {
    match list.len() {
        0 | 1 => Ok(list.pop()),
        _ => Err(alloy_rlp::Error::Custom("an option with more than one value")),
    }
}

#[derive(RlpEncodable, RlpDecodable)]
pub(crate) struct SlotRlp {
    pub(crate) slot: U256,
    pub(crate) value: U256,
}

#[derive(RlpEncodable, RlpDecodable)]
struct AccountDiffRlp {
    address: Address,
    account: Vec<Account>,
    wiped: bool,
    storage: Vec<SlotRlp>,
}

#[derive(RlpEncodable, RlpDecodable)]
struct StateDiffRlp {
    accounts: Vec<AccountDiffRlp>,
    codes: Vec<Bytes>,
}

#[derive(RlpEncodable, RlpDecodable)]
struct HashedSlotRlp {
    key: B256,
    value: U256,
}

#[derive(RlpEncodable, RlpDecodable)]
struct HashedAccountRlp {
    key: B256,
    account: Vec<Account>,
    wiped: bool,
    storage: Vec<HashedSlotRlp>,
}

pub(crate) fn encode_hashed_diff(diff: &HashedDiff) -> Vec<u8> {
    let list: Vec<HashedAccountRlp> = diff
        .accounts
        .iter()
        .map(|a| HashedAccountRlp {
            key: a.key,
            account: listed(a.account),
            wiped: a.wiped,
            storage: a.storage.iter().map(|(key, value)| HashedSlotRlp { key: *key, value: *value }).collect(),
        })
        .collect();
    let mut out = Vec::with_capacity(list.length());
    list.encode(&mut out);
    out
}

pub(crate) fn decode_hashed_diff(mut bytes: &[u8]) -> Result<HashedDiff, alloy_rlp::Error> {
    let list = Vec::<HashedAccountRlp>::decode(&mut bytes)?;
    let accounts = list
        .into_iter()
        .map(|a| {
            Ok(HashedAccount {
                key: a.key,
                account: unlisted(a.account)?,
                wiped: a.wiped,
                storage: a.storage.into_iter().map(|s| (s.key, s.value)).collect(),
            })
        })
        .collect::<Result<_, alloy_rlp::Error>>()?;
    Ok(HashedDiff { accounts })
}

fn diff_to_rlp(diff: &StateDiff) -> StateDiffRlp {
    StateDiffRlp {
        accounts: diff
            .accounts
            .iter()
            .map(|a| AccountDiffRlp {
                address: a.address,
                account: listed(a.account),
                wiped: a.wiped,
                storage: a.storage.iter().map(|(slot, value)| SlotRlp { slot: *slot, value: *value }).collect(),
            })
            .collect(),
        codes: diff.codes.iter().map(|(_, code)| code.clone()).collect(),
    }
}

fn diff_from_rlp(rlp: StateDiffRlp) -> Result<StateDiff, alloy_rlp::Error> {
    let accounts = rlp
        .accounts
        .into_iter()
        .map(|a| {
            Ok(AccountDiff {
                address: a.address,
                account: unlisted(a.account)?,
                wiped: a.wiped,
                storage: a.storage.into_iter().map(|s| (s.slot, s.value)).collect(),
            })
        })
        .collect::<Result<_, alloy_rlp::Error>>()?;
    let codes = rlp.codes.into_iter().map(|code| (alloy_primitives::keccak256(&code), code)).collect();
    Ok(StateDiff { accounts, codes })
}

pub(crate) fn encode_state_diff(diff: &StateDiff) -> Vec<u8> {
    alloy_rlp::encode(diff_to_rlp(diff))
}

pub(crate) fn decode_state_diff(bytes: &[u8]) -> Result<StateDiff, alloy_rlp::Error> {
    diff_from_rlp(alloy_rlp::decode_exact(bytes)?)
}

/// One record of a segment file: everything that makes a block final and applies it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) block: CommittedBlock,
    pub(crate) diff: StateDiff,
}

/// The order of the fields: readers of old blocks decode the first four and skip the diff. What only a block of Ethereum's
/// own chains has comes last and is not there in any other, so that it costs a Trellis block nothing.
pub(crate) fn encode_record(block: &CommittedBlock, diff: &StateDiff) -> Vec<u8> {
    let diff = diff_to_rlp(diff);
    let capacity = block.block.length() + block.receipts.length() + diff.length() + block.senders.length() + 256;
    let mut out = Vec::with_capacity(capacity);
    block.block.encode(&mut out);
    block.senders.encode(&mut out);
    block.receipts.encode(&mut out);
    listed(block.certificate.clone()).encode(&mut out);
    diff.encode(&mut out);
    if let Some(ethereum) = &block.ethereum {
        ethereum.encode(&mut out);
    }
    out
}

fn decode_front(bytes: &mut &[u8]) -> Result<CommittedBlock, alloy_rlp::Error> {
    let block = Block::decode(bytes)?;
    let senders = Vec::<Address>::decode(bytes)?;
    let receipts = Vec::<Receipt>::decode(bytes)?;
    let certificate = unlisted(Vec::<CommitCertificate>::decode(bytes)?)?;
    let hash = block.hash();
    Ok(CommittedBlock { block: Arc::new(block), hash, senders, receipts, certificate, ethereum: None })
}

fn decode_back(bytes: &mut &[u8]) -> Result<Option<EthereumBody>, alloy_rlp::Error> {
    let ethereum = if bytes.is_empty() { None } else { Some(EthereumBody::decode(bytes)?) };
    if bytes.is_empty() { Ok(ethereum) } else { Err(alloy_rlp::Error::Custom("bytes after the record")) }
}

pub(crate) fn decode_block(mut bytes: &[u8]) -> Result<CommittedBlock, alloy_rlp::Error> {
    let block = decode_front(&mut bytes)?;
    let diff_bytes = alloy_rlp::Header::decode(&mut bytes)?.payload_length;
    let mut rest = bytes.get(diff_bytes..).ok_or(alloy_rlp::Error::InputTooShort)?;
    Ok(CommittedBlock { ethereum: decode_back(&mut rest)?, ..block })
}

pub(crate) fn decode_record(mut bytes: &[u8]) -> Result<Record, alloy_rlp::Error> {
    let block = decode_front(&mut bytes)?;
    let diff = diff_from_rlp(StateDiffRlp::decode(&mut bytes)?)?;
    Ok(Record { block: CommittedBlock { ethereum: decode_back(&mut bytes)?, ..block }, diff })
}
