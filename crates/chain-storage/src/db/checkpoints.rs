//! Checkpoints: what was proved about a block by its committee, in two parts of very different size.

use super::{Db, DbResult, existing};
use alloy_primitives::Bytes;
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition};

const CHECKPOINTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("checkpoints");
const POST_QUANTUM: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("checkpoints_post_quantum");

impl Db {
    /// Keeps the parts that are given. Durable with the next durable write.
    pub(crate) fn put_checkpoint(&self, height: u64, short: Option<&[u8]>, long: Option<&[u8]>) -> DbResult<()> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::None)?;
        if let Some(short) = short {
            txn.open_table(CHECKPOINTS)?.insert(height, short)?;
        }
        if let Some(long) = long {
            txn.open_table(POST_QUANTUM)?.insert(height, long)?;
        }
        txn.commit()?;
        Ok(())
    }

    /// Keeps the parts that are given, the short one only where none is there. Durable with the next durable write.
    pub(crate) fn add_checkpoint(&self, height: u64, short: Option<&[u8]>, long: Option<&[u8]>) -> DbResult<()> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::None)?;
        if let Some(short) = short {
            let mut table = txn.open_table(CHECKPOINTS)?;
            let known = table.get(height)?.is_some();
            if !known {
                table.insert(height, short)?;
            }
        }
        if let Some(long) = long {
            txn.open_table(POST_QUANTUM)?.insert(height, long)?;
        }
        txn.commit()?;
        Ok(())
    }

    /// The short and the long part of a checkpoint.
    pub(crate) fn checkpoint(&self, height: u64) -> DbResult<(Option<Bytes>, Option<Bytes>)> {
        let of = |table| self.read(table, |t| Ok(t.get(height)?.map(|v| Bytes::copy_from_slice(v.value()))));
        Ok((of(CHECKPOINTS)?, of(POST_QUANTUM)?))
    }

    /// The greatest height at or below this one of which the short part is kept.
    pub(crate) fn newest_checkpoint(&self, at_most: u64) -> DbResult<Option<u64>> {
        let txn = self.database.begin_read()?;
        let Some(table) = existing(txn.open_table(CHECKPOINTS))? else { return Ok(None) };
        let newest = table.range(..=at_most)?.next_back().transpose()?;
        Ok(newest.map(|(height, _)| height.value()))
    }
}
