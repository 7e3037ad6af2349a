//! What an aggregator brings to Settlement, and its promise to bring it.

use crate::SignedReceipt;
use crate::eip712::{Domain, Words};
use crate::tree::{ReceiptTree, TreeError};
use serde::{Deserialize, Serialize};
use trellis_crypto::{AccountKey, SignatureError, recover};
use trellis_primitives::{Address, B256, BatchRoot, Bytes, ChannelId, Wei};

/// The EIP-712 type string of a promise, byte for byte as the contract has it.
const INCLUDE_BY_TYPE: &str = "IncludeBy(bytes32 receipt,bytes32 channelId,uint64 sequence,uint64 batch)";

/// Why a batch or a promise is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The receipts do not make a tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A total passes its width.
    #[error("the total {field} passes {bits} bits")]
    Total {
        /// Which total.
        field: &'static str,
        /// Its width.
        bits: u32,
    },
    /// A receipt names another aggregator.
    #[error("receipt {index} is for aggregator {actual}, this batch is by {expected}")]
    Aggregator {
        /// Its place in the list.
        index: usize,
        /// Who makes the batch.
        expected: Address,
        /// Who is named.
        actual: Address,
    },
    /// The promise is signed by somebody else.
    #[error("the promise is signed by {actual}, expected {expected}")]
    Signer {
        /// The aggregator.
        expected: Address,
        /// Who signed.
        actual: Address,
    },
    /// The promise's signature is malformed.
    #[error("the promise's signature: {0}")]
    Signature(#[from] SignatureError),
}

/// The sums over a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Totals {
    /// The sum of the costs.
    pub cost: Wei,
    /// The sum of what was written off.
    pub written_off: Wei,
    /// Prompt tokens.
    pub tokens_in: u64,
    /// Output tokens.
    pub tokens_out: u64,
}

/// {root, totals, count, epoch} with the receipts behind it.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The aggregator's own number, from 1 without gaps.
    pub number: u64,
    /// The chain epoch in which it was made.
    pub epoch: u64,
    /// The root over the receipts.
    pub root: BatchRoot,
    /// The sums over the receipts.
    pub totals: Totals,
    /// The receipts, sorted by (channel, sequence).
    pub receipts: Vec<SignedReceipt>,
    /// Their tree.
    pub tree: ReceiptTree,
}

impl Batch {
    /// Sorts receipts, refuses duplicates and those of another aggregator, and builds the tree.
    ///
    /// # Errors
    /// [`BatchError`] names the receipt that does not fit.
    pub fn new(
        number: u64,
        epoch: u64,
        aggregator: Address,
        mut receipts: Vec<SignedReceipt>,
    ) -> Result<Self, BatchError> {
        receipts.sort_unstable_by_key(|signed| (signed.receipt.channel, signed.receipt.sequence));
        for (index, signed) in receipts.iter().enumerate() {
            if signed.receipt.aggregator != aggregator {
                let actual = signed.receipt.aggregator;
                return Err(BatchError::Aggregator { index, expected: aggregator, actual });
            }
        }
        let tree = ReceiptTree::new(&receipts)?;
        let totals = totals(&receipts)?;
        Ok(Self { number, epoch, root: tree.root(), totals, receipts, tree })
    }
}

fn totals(receipts: &[SignedReceipt]) -> Result<Totals, BatchError> {
    let mut sum = Totals::default();
    let wide = |field| BatchError::Total { field, bits: 128 };
    let narrow = |field| BatchError::Total { field, bits: 64 };
    for signed in receipts {
        let receipt = &signed.receipt;
        sum.cost = sum.cost.checked_add(receipt.cost).ok_or(wide("cost"))?;
        sum.written_off = sum.written_off.checked_add(receipt.written_off).ok_or(wide("written off"))?;
        sum.tokens_in = sum.tokens_in.checked_add(receipt.tokens_in).ok_or(narrow("tokens in"))?;
        sum.tokens_out = sum.tokens_out.checked_add(receipt.tokens_out).ok_or(narrow("tokens out"))?;
    }
    Ok(sum)
}

/// An aggregator's signed promise that a receipt will be in a batch; its absence there is a proof against the bond.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IncludeBy {
    /// The receipt's struct hash.
    pub receipt: B256,
    /// The receipt's channel.
    pub channel: ChannelId,
    /// The receipt's sequence.
    pub sequence: u64,
    /// The aggregator's batch number that will hold it.
    pub batch: u64,
    /// `r ‖ s ‖ v` by the aggregator's account.
    pub signature: Bytes,
}

impl IncludeBy {
    /// Promises a receipt into a batch.
    #[must_use]
    pub fn sign(settlement: &Domain, signed: &SignedReceipt, batch: u64, aggregator: &AccountKey) -> Self {
        let mut promise = Self {
            receipt: signed.receipt.struct_hash(),
            channel: signed.receipt.channel,
            sequence: signed.receipt.sequence,
            batch,
            signature: Bytes::new(),
        };
        promise.signature = Bytes::copy_from_slice(&aggregator.sign_hash(promise.digest(settlement)));
        promise
    }

    /// What the aggregator signs, under Settlement's domain.
    #[must_use]
    pub fn digest(&self, settlement: &Domain) -> B256 {
        let mut words = Words::with_type(INCLUDE_BY_TYPE);
        words.word(self.receipt);
        words.word(self.channel.0);
        words.uint(u128::from(self.sequence));
        words.uint(u128::from(self.batch));
        settlement.digest(words.hash())
    }

    /// Checks who signed.
    ///
    /// # Errors
    /// [`BatchError`] for a malformed signature or another signer.
    pub fn verify(&self, settlement: &Domain, aggregator: Address) -> Result<(), BatchError> {
        let actual = recover(self.digest(settlement), &self.signature)?;
        if actual != aggregator {
            return Err(BatchError::Signer { expected: aggregator, actual });
        }
        Ok(())
    }
}
