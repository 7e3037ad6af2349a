//! A validator's change of keys (CHN-14): the next vote key waits beside the one in use until a committee has it.
//!
//! No committee has both, so neither ever signs where the other did. The engine's log is the key's own: the next key begins
//! with an empty one, because it has never signed anything.

use crate::failure::Failure;
use crate::keys::KeyMaker;
use crate::role::Base;
use crate::role::keeper::Keeper;
use eyre::Result;
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::sync::broadcast::error::RecvError;
use trellis_primitives::Address;

/// Waits for the committee that has the next key.
pub(super) struct Rotation {
    /// The vote key in use, as committees name it.
    now: Address,
}

impl Rotation {
    /// Of the validator with these keys.
    ///
    /// # Errors
    /// A keystore that does not open.
    pub(super) fn of(keys: &KeyMaker<'_>) -> Result<Self> {
        Ok(Self { now: keys.vote_key()?.address() })
    }

    /// Returns when the committee of the next block has the next key and not the one in use; never without a next key.
    pub(super) async fn due(&self, base: &Base, keeper: &Keeper) {
        let mut blocks = keeper.store.subscribe();
        let mut next = None;
        loop {
            if next.is_none() && base.keys().has_next() {
                match base.keys().next_vote_key() {
                    Ok(key) => next = Some(key.address()),
                    Err(error) => tracing::warn!(%error, "the next vote key does not open"),
                }
            }
            if let Some(next) = next
                && let Ok(committee) = keeper.committees.of(keeper.store.height().saturating_add(1))
                && committee.get(&next).is_some()
                && committee.get(&self.now).is_none()
            {
                return;
            }
            if matches!(blocks.recv().await, Err(RecvError::Closed)) {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Puts the next keys into place, when nothing runs with the ones before any more, and begins anew as the same process.
///
/// # Errors
/// Where a file cannot be moved, or the program cannot be started again.
pub(super) fn begin_anew(base: &Base) -> Result<()> {
    take(base)?;
    tracing::info!("begins anew with the next vote key");
    let program = std::env::current_exe()?;
    let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
    Err(Failure::new(format!("cannot start {} again: {error}", program.display()))
        .hint("start the validator; its next vote key is in place")
        .into())
}

fn take(base: &Base) -> Result<()> {
    let log = base.datadir.join("consensus");
    let before = base.datadir.join("consensus.old");
    let moved = match std::fs::remove_dir_all(&before) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let moved = moved.and_then(|()| std::fs::rename(&log, &before));
    if let Err(error) =
        moved.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
    {
        return Err(Failure::new(format!("cannot put {} aside: {error}", log.display()))
            .hint("make the folder writable; the node goes on where it was")
            .into());
    }
    base.keys().take_next()
}
