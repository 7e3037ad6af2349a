//! What the journal remembers: one enum, each kind with its number and version on disk.
//!
//! The typed fields are the keys and figures by which a record is found and added up. What both sides signed is kept as the
//! bytes that were signed or received (`payload`), never re-encoded; `market-receipt` and `market-channel` know their shape.

use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use bytes::{BufMut, BytesMut};
use trellis_primitives::{Address, B256, Bytes, ChannelId, JobId, UnixMs, Wei};

/// The version of every record kind that this build writes. A kind that gains a field appends it as a trailing one.
pub const RECORD_VERSION: u8 = 1;
/// Bytes before a record's own fields: kind, version, time.
const BODY_HEADER_BYTES: usize = 2 + 1 + 8;

/// Which end of a channel this journal's owner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The gateway: it signs vouchers.
    Payer,
    /// The provider: it receives vouchers.
    Payee,
}

/// What a channel is doing, as far as its owner has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelPhase {
    /// Deposited and usable.
    Open,
    /// The payer asked to close alone; the challenge period runs.
    Closing,
    /// Paid out and gone.
    Closed,
}

/// One part of a voucher's increase: how much of it is for which job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Increment {
    /// The job that is paid.
    pub job: JobId,
    /// The amount in wei.
    pub amount: Wei,
}

/// A channel came into being.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct ChannelOpened {
    /// The channel's id.
    pub channel: ChannelId,
    /// Which end we are.
    pub side: Side,
    /// The node id at the other end, as a word (`NodeId::to_b256`).
    pub peer: B256,
    /// Who deposited.
    pub payer: Address,
    /// Who is paid.
    pub payee: Address,
    /// The channels contract.
    pub contract: Address,
    /// EIP-155 id of the contract's chain.
    pub chain_id: u64,
    /// What was deposited.
    pub deposit: Wei,
    /// When the payer may take the rest, in Unix seconds.
    pub expires_s: u64,
    /// The channel's full parameters, in the bytes of `market-channel`.
    pub payload: Bytes,
}

/// Something about a channel changed on the chain.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct ChannelUpdated {
    /// The channel's id.
    pub channel: ChannelId,
    /// What it does now.
    pub phase: ChannelPhase,
    /// The deposit after the change.
    pub deposit: Wei,
    /// What the contract has paid out so far.
    pub paid: Wei,
    /// Expiry in Unix seconds.
    pub expires_s: u64,
}

/// A voucher that was sent or received.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Voucher {
    /// The channel that it draws on.
    pub channel: ChannelId,
    /// Everything promised on the channel so far.
    pub cumulative: Wei,
    /// The signer's 65 bytes.
    pub signature: Bytes,
    /// What the increase over the previous voucher is for.
    pub increments: Vec<Increment>,
}

/// A job was accepted.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct JobOpened {
    /// The job's id.
    pub job: JobId,
    /// The channel that pays for it.
    pub channel: ChannelId,
    /// The node id at the other end, as a word (`NodeId::to_b256`).
    pub peer: B256,
    /// The most that the buyer accepted to pay.
    pub max_cost: Wei,
    /// The quote and its acceptance, in the bytes of `market-receipt`.
    pub payload: Bytes,
}

/// A receipt with one or both signatures.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct ReceiptKept {
    /// The job's id.
    pub job: JobId,
    /// The channel that paid.
    pub channel: ChannelId,
    /// The receipt's number within its channel.
    pub sequence: u64,
    /// The receipt's EIP-712 struct hash.
    pub hash: B256,
    /// The job's cost.
    pub cost: Wei,
    /// What was metered beyond the cost and given up.
    pub written_off: Wei,
    /// The receipt and its signatures, in the bytes of `market-receipt`.
    pub payload: Bytes,
}

/// A job that ended without both signatures.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct JobAborted {
    /// The job's id.
    pub job: JobId,
    /// The channel that paid.
    pub channel: ChannelId,
    /// What was metered.
    pub metered: Wei,
    /// What was signed for it: the job's cost.
    pub signed: Wei,
    /// What was metered beyond and given up.
    pub written_off: Wei,
    /// The most by which the other side's figure may differ.
    pub bound: Wei,
    /// A constant reason.
    pub reason: String,
}

/// A post-quantum signature over the Merkle root of a pair's receipts.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct PairRoot {
    /// The node id at the other end, as a word (`NodeId::to_b256`).
    pub peer: B256,
    /// The Merkle root.
    pub root: B256,
    /// Struct hashes of the receipts below it, in order.
    pub receipts: Vec<B256>,
    /// Signatures, in the bytes of `market-receipt`.
    pub payload: Bytes,
}

/// The contract paid a channel's voucher.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Payout {
    /// The channel that paid.
    pub channel: ChannelId,
    /// The voucher's figure that was given to the contract.
    pub cumulative: Wei,
    /// What this transaction moved, fee included.
    pub paid: Wei,
    /// The transaction.
    pub tx: B256,
    /// Its block.
    pub block: u64,
}

/// A step in a batch's life.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Batch {
    /// Root of the receipts tree.
    pub root: B256,
    /// Receipts below it.
    pub count: u64,
    /// Sum of their costs.
    pub sum: Wei,
    /// The transaction, zero before there is one.
    pub tx: B256,
    /// Details, in the bytes of `market-settlement`.
    pub payload: Bytes,
}

/// A thing that was done, so that it is not done twice.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Marker {
    /// What was done: a hash with the domain of whoever asks.
    pub key: B256,
    /// What they want to remember about it.
    pub payload: Bytes,
}

/// Everything up to a block of a chain has been looked at.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct ChainSeen {
    /// The contract whose events were looked at.
    pub contract: Address,
    /// The last block that was looked at.
    pub block: u64,
}

/// An aggregator's promise that a receipt will be in a batch, with its signature.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Promise {
    /// The aggregator's account.
    pub aggregator: Address,
    /// The aggregator's number of the batch.
    pub batch: u64,
    /// The receipt's EIP-712 struct hash.
    pub receipt: B256,
    /// The receipt's channel.
    pub channel: ChannelId,
    /// The receipt's number within its channel.
    pub sequence: u64,
    /// The aggregator's 65 bytes.
    pub signature: Bytes,
}

/// So many promises into a batch were held against it, or no longer can be. Where more are known by now, all stay.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct PromisesChecked {
    /// The aggregator's account.
    pub aggregator: Address,
    /// The aggregator's number of the batch.
    pub batch: u64,
    /// How many promises.
    pub count: u64,
}

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident($body:ty) = $kind:literal,)*) => {
        /// One thing that the journal remembers.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Record { $($(#[$doc])* $name($body),)* }

        impl Record {
            /// The record's number on disk; never reused.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self { $(Self::$name(_) => $kind,)* }
            }

            /// The record's name, for listings.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)* }
            }

            fn encode_fields(&self, out: &mut dyn BufMut) {
                match self { $(Self::$name(body) => body.encode(out),)* }
            }

            fn decode_fields(kind: u16, fields: &mut &[u8]) -> Result<Self, RecordFault> {
                match kind {
                    $($kind => Ok(Self::$name(<$body>::decode(fields).map_err(RecordFault::Fields)?)),)*
                    _ => Err(RecordFault::Kind(kind)),
                }
            }
        }
    };
}

records! {
    /// A channel came into being.
    ChannelOpened(ChannelOpened) = 1,
    /// A channel changed on the chain.
    ChannelUpdated(ChannelUpdated) = 2,
    /// We signed a voucher; it may be sent now.
    VoucherSent(Voucher) = 3,
    /// We hold a voucher that was checked.
    VoucherReceived(Voucher) = 4,
    /// A job was accepted.
    JobOpened(JobOpened) = 5,
    /// A receipt with the provider's signature.
    JobReceipt(ReceiptKept) = 6,
    /// A receipt with both signatures.
    JobComplete(ReceiptKept) = 7,
    /// A job ended without both signatures.
    JobAborted(JobAborted) = 8,
    /// Post-quantum signatures over a pair's receipts.
    PairRoot(PairRoot) = 9,
    /// A voucher was paid through door one.
    Redeemed(Payout) = 10,
    /// A voucher was paid through door two.
    Settled(Payout) = 11,
    /// The aggregator took a receipt and promised a batch.
    ReceiptAccepted(ReceiptKept) = 12,
    /// A batch was closed to further receipts.
    BatchFormed(Batch) = 13,
    /// A batch was sent to the chain.
    BatchSubmitted(Batch) = 14,
    /// A batch's window ended, or it fell.
    BatchFinal(Batch) = 15,
    /// A thing was done that must not be done twice.
    Marker(Marker) = 16,
    /// Events up to a block have been looked at.
    ChainSeen(ChainSeen) = 17,
    /// An aggregator promised a receipt of ours into a batch.
    PromiseKept(Promise) = 18,
    /// The promises into a batch are of no more use.
    PromisesChecked(PromisesChecked) = 19,
}

/// Why a record's body was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Fewer bytes than every record has.
    #[error("the record has {0} bytes, at least {BODY_HEADER_BYTES} expected")]
    Short(usize),
    /// A kind from a newer build.
    #[error("record kind {0} is unknown to this build")]
    Kind(u16),
    /// A version from a newer build.
    #[error("record version {found} is unknown to this build, which knows up to {RECORD_VERSION}")]
    Version {
        /// The version on disk.
        found: u8,
    },
    /// The fields do not decode.
    #[error("the record's fields do not decode: {0}")]
    Fields(alloy_rlp::Error),
    /// Bytes follow the fields.
    #[error("{0} bytes follow the record's fields")]
    Trailing(usize),
}

impl Record {
    /// The body on disk: kind, version, time, RLP of the fields.
    #[must_use]
    pub fn encode_body(&self, at: UnixMs) -> bytes::Bytes {
        let mut out = BytesMut::with_capacity(256);
        out.put_u16(self.kind());
        out.put_u8(RECORD_VERSION);
        out.put_u64(at.0);
        self.encode_fields(&mut out);
        out.freeze()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`RecordFault`] names what is wrong with the bytes.
    pub fn decode_body(body: &[u8]) -> Result<(UnixMs, Self), RecordFault> {
        let short = || RecordFault::Short(body.len());
        let (head, mut fields) = body.split_at_checked(BODY_HEADER_BYTES).ok_or_else(short)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        if head[2] == 0 || head[2] > RECORD_VERSION {
            return Err(RecordFault::Version { found: head[2] });
        }
        let at = UnixMs(u64::from_be_bytes(head[3..11].try_into().map_err(|_| short())?));
        let record = Self::decode_fields(kind, &mut fields)?;
        if !fields.is_empty() {
            return Err(RecordFault::Trailing(fields.len()));
        }
        Ok((at, record))
    }
}

/// Gives a field-less enum the RLP of its number.
macro_rules! numbered {
    ($name:ident { $($variant:ident = $number:literal),* }) => {
        impl Encodable for $name {
            fn encode(&self, out: &mut dyn BufMut) {
                let number: u8 = match self { $(Self::$variant => $number,)* };
                number.encode(out);
            }
            fn length(&self) -> usize {
                1
            }
        }
        impl Decodable for $name {
            fn decode(buf: &mut &[u8]) -> alloy_rlp::Result<Self> {
                match u8::decode(buf)? {
                    $($number => Ok(Self::$variant),)*
                    _ => Err(alloy_rlp::Error::Custom("unknown number")),
                }
            }
        }
    };
}
numbered!(Side { Payer = 1, Payee = 2 });
numbered!(ChannelPhase { Open = 1, Closing = 2, Closed = 3 });
