//! A database that is damaged, made again from the blocks: every record of a segment holds its block and what it changed.
//!
//! Not in the segments, and so not there again, are precommits that came after a block's commit, evidence, and checkpoints.
//! The others have them too; what a node is asked for of them it fetches or does not have.

use crate::{OpenError, Store};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The name of a damaged database while and after another one is made.
const ASIDE: &str = "state.redb.damaged";

/// Opens a database that may be damaged. Its engine believes pages that it wrote itself, and may stop where one was changed.
pub(crate) fn caught<T>(path: &Path, open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    // What was opened is dropped with the panic, and all of it is made anew afterwards.
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        Err(OpenError::DatabaseDamaged {
            path: path.to_path_buf(),
            what: "the database engine stopped at it".to_owned(),
        })
    })
}

/// The height below which a database that is made again would lose something.
fn height_known(damaged: &OpenError) -> u64 {
    match damaged {
        OpenError::StateRoot { height, .. } => *height,
        _ => 0,
    }
}

/// Sets the damaged database aside and opens the folder without it. Where that does not give the whole chain, everything is
/// as it was, and the damage is the error.
pub(crate) fn database(
    folder: &Path,
    damaged: OpenError,
    open: impl FnOnce() -> Result<Store, OpenError>,
) -> Result<Store, OpenError> {
    let (path, aside) = (folder.join("state.redb"), folder.join(ASIDE));
    let blocks = folder.join("segments").join("000000.seg");
    if !blocks.exists() || fs::rename(&path, &aside).is_err() {
        return Err(damaged);
    }
    tracing::error!(error = %damaged, aside = %aside.display(), "the database is made again from the blocks");
    let made = open().and_then(|store| {
        let height = store.height();
        // Of a chain that has begun there is more than block zero.
        if height > height_known(&damaged).saturating_sub(1) { Ok(store) } else { Err(damaged_at(&path, height)) }
    });
    made.map_err(|error| {
        tracing::error!(%error, "the blocks are not all there; the database stays as it was");
        match fs::rename(&aside, &path) {
            Ok(()) => damaged,
            Err(source) => OpenError::from_io(&path, source),
        }
    })
}

fn damaged_at(path: &Path, height: u64) -> OpenError {
    OpenError::DatabaseDamaged { path: path.to_path_buf(), what: format!("the blocks end at height {height}") }
}
