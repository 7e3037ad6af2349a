//! Aggregators' promises, in the journal: a promise that a restart forgets could be broken for nothing.

use trellis_market_journal::{Journal, JournalError, Promise, PromisesChecked, Record};
use trellis_market_receipt::IncludeBy;
use trellis_primitives::Address;

/// The promises in one journal.
#[derive(Clone)]
pub(crate) struct Promises {
    journal: Journal,
}

impl Promises {
    pub(crate) fn new(journal: Journal) -> Self {
        Self { journal }
    }

    /// Stores promises whose signatures were checked; durable when it returns. One that is known is not stored again.
    pub(crate) async fn keep(&self, aggregator: Address, promises: &[&IncludeBy]) -> Result<(), JournalError> {
        let records: Vec<Record> = {
            let index = self.journal.index();
            if !promises.is_empty() && !index.has_room_for_promises() {
                tracing::warn!(%aggregator, "too many promises are unchecked; further ones are stored and not checked");
            }
            let unknown = |promise: &&&IncludeBy| index.promise(aggregator, promise.batch, promise.receipt).is_none();
            promises.iter().filter(unknown).map(|promise| Record::PromiseKept(record(aggregator, promise))).collect()
        };
        if records.is_empty() {
            return Ok(());
        }
        self.journal.append_all(records).await.map(|_| ())
    }

    /// The batches whose promises were not checked yet.
    pub(crate) fn batches(&self) -> Vec<(Address, u64)> {
        self.journal.index().promised_batches().collect()
    }

    /// The promises into one batch.
    pub(crate) fn of_batch(&self, aggregator: Address, batch: u64) -> Vec<IncludeBy> {
        self.journal.index().promises(aggregator, batch).map(promise).collect()
    }

    /// Lets go of this many promises into a batch; a promise that came meanwhile keeps all of them.
    pub(crate) async fn checked(&self, aggregator: Address, batch: u64, count: usize) -> Result<(), JournalError> {
        if count > 0 {
            let checked = PromisesChecked { aggregator, batch, count: count as u64 };
            self.journal.append(Record::PromisesChecked(checked)).await?;
        }
        Ok(())
    }
}

fn record(aggregator: Address, promise: &IncludeBy) -> Promise {
    Promise {
        aggregator,
        batch: promise.batch,
        receipt: promise.receipt,
        channel: promise.channel,
        sequence: promise.sequence,
        signature: promise.signature.clone(),
    }
}

fn promise(kept: &Promise) -> IncludeBy {
    IncludeBy {
        receipt: kept.receipt,
        channel: kept.channel,
        sequence: kept.sequence,
        batch: kept.batch,
        signature: kept.signature.clone(),
    }
}
