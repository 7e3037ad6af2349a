//! Journals as commands read them: offline, beside a node that may be writing.

use crate::command::nodes;
use crate::failure::Failure;
use eyre::Result;
use std::path::Path;
use trellis_market_channel::ChannelView;
use trellis_market_journal::{JobPhase, JournalConfig, JournalOpenError, JournalReader, Record};
use trellis_market_receipt::{ReceiptParties, SignedReceipt};
use trellis_primitives::{ChannelId, JobId, UnixMs};

/// The journal of one node.
pub struct Ledger {
    /// Which role's it is.
    pub role: String,
    /// Its records.
    pub reader: JournalReader,
}

/// A receipt of a journal.
pub struct Entry {
    /// Which role's journal it is in.
    pub role: String,
    /// The job.
    pub job: JobId,
    /// When the journal first saw the job.
    pub at: UnixMs,
    /// How far the job came.
    pub phase: JobPhase,
    /// The receipt as it is now.
    pub signed: SignedReceipt,
}

/// The journals of the gateways and providers below a folder.
///
/// # Errors
/// A journal that is damaged; none at all.
pub fn ledgers(datadir: Option<&Path>) -> Result<Vec<Ledger>> {
    let mut found = Vec::new();
    for (role, folder) in nodes(datadir)? {
        if role != "gateway" && role != "provider" {
            continue;
        }
        match JournalReader::open(&JournalConfig::new(folder.join("journal"))) {
            Ok(reader) => found.push(Ledger { role, reader }),
            Err(JournalOpenError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if found.is_empty() {
        return Err(Failure::new("no gateway or provider has a journal in this folder").into());
    }
    Ok(found)
}

impl Ledger {
    /// Every receipt, oldest first.
    ///
    /// # Errors
    /// A record that cannot be read back.
    pub fn receipts(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for (job, state) in self.reader.index().jobs() {
            let Some(position) = state.receipt_at else { continue };
            let (_, record) = self.reader.read(position)?;
            let (Record::JobReceipt(kept) | Record::JobComplete(kept)) = record else { continue };
            let signed = SignedReceipt::from_bytes(&kept.payload)?;
            entries.push(Entry { role: self.role.clone(), job: *job, at: state.at, phase: state.phase, signed });
        }
        entries.sort_by_key(|entry| entry.at);
        Ok(entries)
    }

    /// Who must have signed the receipts of a channel, as the channel was seen on the chain when it was opened.
    pub fn parties(&self, channel: ChannelId) -> Option<ReceiptParties> {
        let opened = self.reader.index().channel(channel)?.opened.as_ref()?;
        let view: ChannelView = serde_json::from_slice(&opened.payload).ok()?;
        Some(ReceiptParties { gateway_signer: view.terms.signer, provider_payee: view.terms.payee })
    }
}

/// The word for a job's state.
pub const fn phase_word(phase: JobPhase) -> &'static str {
    match phase {
        JobPhase::Open => "open",
        JobPhase::SignedByProvider => "signed by provider",
        JobPhase::Complete => "complete",
        JobPhase::Aborted => "aborted",
    }
}
