//! Asking over the network: hand receipts to an aggregator, fetch a batch from whoever serves it.

use std::time::Duration;

use trellis_market_journal::Journal;
use trellis_market_receipt::SignedReceipt;
use trellis_market_receipt::eip712::Domain;
use trellis_net_peers::frame::{read_message, write_message};
use trellis_net_peers::{NetStream, Network, NetworkHandle, Protocol};
use trellis_primitives::{Address, BatchRoot, NodeId};

use crate::error::{AskError, DataError, Refusal};
use crate::leaf::LeafData;
use crate::promises::Promises;
use crate::wire::{
    BATCH_PROTOCOL, BatchAnswer, BatchRequest, LEAVES_PER_ANSWER_MAX, LatestVoucher, LeafPath, Outcome, RawVoucher,
    SETTLE_FRAME_BYTES_MAX, SETTLE_PROTOCOL, SUBMIT_RECEIPTS_MAX, SUBMIT_VOUCHERS_MAX, Submit, SubmitAnswer,
    WANT_LEAVES, WANT_PATH,
};

/// How long one answer may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What an aggregator said to receipts and vouchers, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// For each receipt.
    pub receipts: Vec<Outcome>,
    /// For each voucher; `None` where it was taken.
    pub vouchers: Vec<Option<Refusal>>,
}

impl Submitted {
    /// Turns promises that are not signed by the aggregator into refusals: such a promise is worth nothing.
    #[must_use]
    pub fn checked(mut self, settlement: &Domain, aggregator: Address) -> Self {
        for outcome in &mut self.receipts {
            if matches!(outcome, Outcome::Promised(promise) if promise.verify(settlement, aggregator).is_err()) {
                *outcome = Outcome::Refused(Refusal::BadSignature);
            }
        }
        self
    }
}

/// The connected peer whose node record names an account, for example the aggregator that a receipt names.
#[must_use]
pub fn node_of_account(network: &dyn Network, account: Address) -> Option<NodeId> {
    let mut peers = network.peers().into_iter();
    let named = peers.find(|peer| peer.record.as_ref().is_some_and(|record| record.chain_address == account));
    named.and_then(|peer| peer.id)
}

async fn open(network: &dyn Network, peer: NodeId, protocol: Protocol) -> Result<NetStream, AskError> {
    Ok(network.open(peer, protocol).await?)
}

async fn ask<Q: prost::Message, A: prost::Message + Default>(
    stream: &mut NetStream,
    question: &Q,
) -> Result<A, AskError> {
    let exchange = async {
        write_message(stream, question).await?;
        read_message(stream, SETTLE_FRAME_BYTES_MAX).await
    };
    match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(AskError::Timeout { waited_ms: ANSWER_WITHIN.as_millis() as u64 }),
    }
}

/// Hands receipts and vouchers to an aggregator, in as many messages as that takes. Handing in the same again is harmless.
///
/// The promises' signatures are not checked here: [`Submitted::checked`] does it.
///
/// # Errors
/// [`AskError`].
pub async fn submit(
    network: &dyn Network,
    aggregator: NodeId,
    receipts: &[SignedReceipt],
    vouchers: &[LatestVoucher],
) -> Result<Submitted, AskError> {
    let mut stream = open(network, aggregator, SETTLE_PROTOCOL).await?;
    exchange(&mut stream, receipts, vouchers).await
}

async fn exchange(
    stream: &mut NetStream,
    receipts: &[SignedReceipt],
    vouchers: &[LatestVoucher],
) -> Result<Submitted, AskError> {
    let mut told = Submitted { receipts: Vec::new(), vouchers: Vec::new() };
    let messages = receipts.len().div_ceil(SUBMIT_RECEIPTS_MAX).max(vouchers.len().div_ceil(SUBMIT_VOUCHERS_MAX));
    for n in 0..messages {
        let some = receipts.iter().skip(n * SUBMIT_RECEIPTS_MAX).take(SUBMIT_RECEIPTS_MAX).collect::<Vec<_>>();
        let money = vouchers.iter().skip(n * SUBMIT_VOUCHERS_MAX).take(SUBMIT_VOUCHERS_MAX);
        let question = Submit {
            receipts: some.iter().map(|signed| signed.to_bytes()).collect(),
            vouchers: money.map(RawVoucher::from).collect(),
        };
        let answer: SubmitAnswer = ask(stream, &question).await?;
        expect("receipts", some.len(), answer.receipts.len())?;
        expect("vouchers", question.vouchers.len(), answer.vouchers.len())?;
        for (signed, raw) in some.iter().zip(&answer.receipts) {
            told.receipts.push(raw.read(signed)?);
        }
        for number in answer.vouchers {
            let refusal = Refusal::from_number(number);
            if number != 0 && refusal.is_none() {
                return Err(DataError::Field("refusal").into());
            }
            told.vouchers.push(refusal);
        }
    }
    Ok(told)
}

fn expect(what: &'static str, expected: usize, actual: usize) -> Result<(), AskError> {
    if expected == actual { Ok(()) } else { Err(AskError::Mismatch { what, expected, actual }) }
}

/// Fetches all leaves of a batch. Nothing in them is checked yet.
///
/// # Errors
/// [`AskError`].
pub async fn fetch_leaves(
    network: &dyn Network,
    peer: NodeId,
    root: BatchRoot,
    count: u32,
) -> Result<Vec<LeafData>, AskError> {
    let mut stream = open(network, peer, BATCH_PROTOCOL).await?;
    let mut leaves = Vec::new();
    while leaves.len() < count as usize {
        let index = leaves.len() as u32;
        let answer: BatchAnswer =
            ask(&mut stream, &BatchRequest { root: root.0.to_vec(), index, what: WANT_LEAVES }).await?;
        if !answer.found {
            return Err(AskError::NotServed { root });
        }
        if answer.leaves.is_empty() || answer.leaves.len() > LEAVES_PER_ANSWER_MAX {
            let expected = (count as usize - leaves.len()).min(LEAVES_PER_ANSWER_MAX);
            return Err(AskError::Mismatch { what: "leaves", expected, actual: answer.leaves.len() });
        }
        for raw in &answer.leaves {
            leaves.push(LeafData::try_from(raw)?);
        }
    }
    leaves.truncate(count as usize);
    Ok(leaves)
}

/// Fetches the path of one leaf, padding included. Nothing in it is checked yet.
///
/// # Errors
/// [`AskError`].
pub async fn fetch_path(
    network: &dyn Network,
    peer: NodeId,
    root: BatchRoot,
    index: u32,
) -> Result<LeafPath, AskError> {
    let mut stream = open(network, peer, BATCH_PROTOCOL).await?;
    let answer: BatchAnswer = ask(&mut stream, &BatchRequest { root: root.0.to_vec(), index, what: WANT_PATH }).await?;
    if !answer.found {
        return Err(AskError::NotServed { root });
    }
    Ok(LeafPath::try_from(&answer)?)
}

/// A provider's standing line to the aggregator that its receipts name: one stream, opened again when it broke.
pub struct AggregatorLink {
    network: NetworkHandle,
    account: Address,
    node: Option<NodeId>,
    settlement: Domain,
    promises: Promises,
    stream: tokio::sync::Mutex<Option<NetStream>>,
}

impl AggregatorLink {
    /// A line to an aggregator's account. Without a node, a connected peer whose record names the account is used. The
    /// journal keeps the promises; a [`crate::Challenger`] over the same journal holds the aggregator to them.
    #[must_use]
    pub fn new(
        network: NetworkHandle,
        account: Address,
        node: Option<NodeId>,
        settlement: Domain,
        journal: Journal,
    ) -> Self {
        Self { network, account, node, settlement, promises: Promises::new(journal), stream: Default::default() }
    }

    /// Hands receipts and vouchers in. A promise in the answer is the aggregator's own signature, checked, and in the journal.
    ///
    /// # Errors
    /// [`AskError`]; handing in the same again is harmless.
    pub async fn hand_in(&self, receipts: &[SignedReceipt], vouchers: &[LatestVoucher]) -> Result<Submitted, AskError> {
        let told = self.ask(receipts, vouchers).await?.checked(&self.settlement, self.account);
        let promised = told.receipts.iter().filter_map(|outcome| match outcome {
            Outcome::Promised(promise) => Some(promise),
            Outcome::Refused(_) => None,
        });
        self.promises.keep(self.account, &promised.collect::<Vec<_>>()).await?;
        Ok(told)
    }

    async fn ask(&self, receipts: &[SignedReceipt], vouchers: &[LatestVoucher]) -> Result<Submitted, AskError> {
        let mut kept = self.stream.lock().await;
        // A kept stream may have been closed by the other side while nothing was said; then a new one is tried.
        if let Some(mut stream) = kept.take()
            && let Ok(told) = exchange(&mut stream, receipts, vouchers).await
        {
            *kept = Some(stream);
            return Ok(told);
        }
        let known = self.node.or_else(|| node_of_account(&*self.network, self.account));
        let node = known.ok_or(AskError::NoAggregator { account: self.account })?;
        let mut stream = open(&*self.network, node, SETTLE_PROTOCOL).await?;
        let told = exchange(&mut stream, receipts, vouchers).await?;
        *kept = Some(stream);
        Ok(told)
    }
}
