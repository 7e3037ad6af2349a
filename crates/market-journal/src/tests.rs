//! Journals that crash, fill up, are damaged, and are read while they are written.

mod disk;
mod durable;
mod tamper;

use std::sync::Arc;

use trellis_primitives::{B256, Bytes, ChannelId, JobId, ManualClock, SharedClock, UnixMs, Wei};

use crate::{Increment, JobOpened, JournalConfig, ReceiptKept, Record, Voucher};

fn clock() -> SharedClock {
    Arc::new(ManualClock::new(UnixMs(1_795_257_000_000)))
}

fn config(folder: &tempfile::TempDir) -> JournalConfig {
    JournalConfig::new(folder.path().join("journal"))
}

fn channel(n: u8) -> ChannelId {
    ChannelId(B256::repeat_byte(n))
}

fn job(n: u64) -> JobId {
    JobId(B256::left_padding_from(&n.to_be_bytes()))
}

fn voucher(of: u8, cumulative: u128, jobs: &[(u64, u128)]) -> Voucher {
    let increments = jobs.iter().map(|(n, amount)| Increment { job: job(*n), amount: Wei(*amount) }).collect();
    Voucher { channel: channel(of), cumulative: Wei(cumulative), signature: Bytes::from(vec![of; 65]), increments }
}

fn opened(n: u64, of: u8) -> Record {
    Record::JobOpened(JobOpened {
        job: job(n),
        channel: channel(of),
        peer: B256::repeat_byte(7),
        max_cost: Wei(1_000),
        payload: Bytes::from(vec![1, 2, 3]),
    })
}

fn receipt(n: u64, of: u8, sequence: u64, cost: u128) -> ReceiptKept {
    ReceiptKept {
        job: job(n),
        channel: channel(of),
        sequence,
        hash: B256::left_padding_from(&(n + 1_000).to_be_bytes()),
        cost: Wei(cost),
        written_off: Wei(0),
        payload: Bytes::from(vec![9; 200]),
    }
}
