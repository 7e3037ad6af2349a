//! Checkpoints in the store, as bytes: what they prove is for others to check.

use crate::{ReadError, Store};
use alloy_primitives::Bytes;

/// A checkpoint as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// RLP of the certificate that stands in a block.
    pub certificate: Option<Bytes>,
    /// RLP of the post-quantum certificate, which does not.
    pub post_quantum: Option<Bytes>,
}

impl Store {
    /// Keeps the parts of a checkpoint that are given, beside those that are there. They survive a stop after the next
    /// [`Self::commit`] or [`Self::sync`].
    ///
    /// # Errors
    /// The database failed.
    pub fn put_checkpoint(&self, height: u64, parts: &StoredCheckpoint) -> Result<(), ReadError> {
        let (short, long) = (parts.certificate.as_ref(), parts.post_quantum.as_ref());
        Ok(self.reader().db.put_checkpoint(height, short.map(AsRef::as_ref), long.map(AsRef::as_ref))?)
    }

    /// Keeps the parts of a checkpoint that are given, a certificate only where none is there. Decided in the transaction that
    /// writes, so that the one in a block that is being committed stays. Durable as with [`Self::put_checkpoint`].
    ///
    /// # Errors
    /// The database failed.
    pub fn add_checkpoint(&self, height: u64, parts: &StoredCheckpoint) -> Result<(), ReadError> {
        let (short, long) = (parts.certificate.as_ref(), parts.post_quantum.as_ref());
        Ok(self.reader().db.add_checkpoint(height, short.map(AsRef::as_ref), long.map(AsRef::as_ref))?)
    }

    /// The checkpoint of a height.
    ///
    /// # Errors
    /// The database failed.
    pub fn checkpoint(&self, height: u64) -> Result<StoredCheckpoint, ReadError> {
        let (certificate, post_quantum) = self.reader().db.checkpoint(height)?;
        Ok(StoredCheckpoint { certificate, post_quantum })
    }

    /// The height of the newest checkpoint at or below a height whose certificate is kept.
    ///
    /// # Errors
    /// The database failed.
    pub fn newest_checkpoint(&self, at_most: u64) -> Result<Option<u64>, ReadError> {
        Ok(self.reader().db.newest_checkpoint(at_most)?)
    }
}
