//! What a snapshot reads and writes: the flat state in parts, blocks without the states before them.

use super::{
    ACCOUNTS, BASE_KEY, BlockWrite, Db, DbResult, FORMAT, FORMAT_KEY, META, STORAGE, TIP_KEY, damaged, existing,
    slot_key, unpack_account, write_indices, write_state,
};
use crate::segment::Location;
use crate::{AccountDiff, CommittedBlock, StateDiff};
use alloy_primitives::{Address, U256};
use redb::{Durability, ReadableDatabase, ReadableTable};

impl Db {
    /// Walks through the flat state, so many accounts and slots at a time, until the receiver has had enough.
    pub(crate) fn for_each_part(
        &self,
        height: u64,
        entries: usize,
        receive: &mut dyn FnMut(Vec<AccountDiff>) -> DbResult<bool>,
    ) -> DbResult<()> {
        if self.tip()? != Some(height) {
            return Err(damaged("the chain has moved on"));
        }
        let txn = self.database.begin_read()?;
        let (Some(account_table), Some(storage_table)) =
            (existing(txn.open_table(ACCOUNTS))?, existing(txn.open_table(STORAGE))?)
        else {
            return Ok(());
        };
        let mut slots = storage_table.iter()?.peekable();
        let (mut part, mut count) = (Vec::new(), 0usize);
        for entry in account_table.iter()? {
            let (key, value) = entry?;
            let address = Address::from(*key.value());
            let account = Some(unpack_account(value.value()));
            let mut change = AccountDiff { address, account, wiped: false, storage: Vec::new() };
            count = count.saturating_add(1);
            // Both tables are sorted by address, so one walk through both is enough.
            while let Some(slot) = slots.next_if(|slot| match slot {
                Ok((key, _)) => key.value().get(..20) == Some(address.as_slice()),
                Err(_) => true,
            }) {
                let (key, value) = slot?;
                let (key, value) = (key.value(), value.value());
                let place = U256::from_be_slice(key.get(20..).unwrap_or_default());
                change.storage.push((place, U256::from_be_slice(value)));
                count = count.saturating_add(1);
                if count >= entries {
                    let full = AccountDiff { storage: std::mem::take(&mut change.storage), ..change.clone() };
                    part.push(full);
                    if !receive(std::mem::take(&mut part))? {
                        return Ok(());
                    }
                    count = 1;
                }
            }
            part.push(change);
            if count >= entries {
                if !receive(std::mem::take(&mut part))? {
                    return Ok(());
                }
                count = 0;
            }
        }
        if !part.is_empty() {
            receive(part)?;
        }
        Ok(())
    }

    /// Calls `visit` with the address of every account, in order.
    pub(crate) fn for_each_address(&self, visit: &mut dyn FnMut(Address)) -> DbResult<()> {
        let txn = self.database.begin_read()?;
        let Some(accounts) = existing(txn.open_table(ACCOUNTS))? else { return Ok(()) };
        for entry in accounts.iter()? {
            let (key, _) = entry?;
            visit(Address::from(*key.value()));
        }
        Ok(())
    }

    /// Calls `visit` with every slot of an account that is not empty, in order.
    pub(crate) fn for_each_slot(&self, address: &Address, visit: &mut dyn FnMut(U256)) -> DbResult<()> {
        let txn = self.database.begin_read()?;
        let Some(storage) = existing(txn.open_table(STORAGE))? else { return Ok(()) };
        let (first, last) = (slot_key(address, U256::ZERO), slot_key(address, U256::MAX));
        for entry in storage.range::<&[u8; 52]>(&first..=&last)? {
            let (key, _) = entry?;
            visit(U256::from_be_slice(key.value().get(20..).unwrap_or_default()));
        }
        Ok(())
    }

    /// Writes a part of a state. Not durable before the blocks are.
    pub(crate) fn import_state(&self, part: &StateDiff) -> DbResult<()> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::None)?;
        write_state(&txn, part)?;
        txn.commit()?;
        Ok(())
    }

    /// Writes a block that lies in a segment already. Not durable before the end is.
    pub(crate) fn import_block(&self, block: &CommittedBlock, location: Location) -> DbResult<()> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::None)?;
        let nothing = StateDiff::default();
        write_indices(&txn, &BlockWrite { block, diff: &nothing, undo: None, location, forget_undo: None })?;
        txn.commit()?;
        Ok(())
    }

    /// Makes the last block the tip, and all of the import durable.
    pub(crate) fn import_end(&self, base: u64, tip: u64) -> DbResult<()> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut meta = txn.open_table(META)?;
            meta.insert(FORMAT_KEY, FORMAT.as_bytes())?;
            meta.insert(BASE_KEY, base.to_be_bytes().as_slice())?;
            meta.insert(TIP_KEY, tip.to_be_bytes().as_slice())?;
        }
        txn.commit()?;
        Ok(())
    }
}
