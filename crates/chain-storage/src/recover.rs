//! Opening a data folder: check what is there, rebuild what is only in memory, finish what a crash interrupted.

use crate::codec::{Record, decode_record};
use crate::db::{Db, FORMAT};
use crate::reader::Reader;
use crate::segment::{Cursor, Location};
use crate::state::WorldState;
use crate::view::StateView;
use crate::{OpenError, ReadError, StoreConfig};
use alloy_primitives::B256;
use std::collections::VecDeque;
use std::sync::Arc;

/// What the rebuilt folder holds in memory.
pub(crate) struct Rebuilt {
    pub(crate) head: StateView,
    /// Older states, oldest first.
    pub(crate) history: VecDeque<StateView>,
    /// Where the next record goes.
    pub(crate) cursor: Cursor,
}

pub(crate) fn database_error(db: &Db, error: &redb::Error) -> OpenError {
    OpenError::DatabaseDamaged { path: db.path.clone(), what: error.to_string() }
}

fn read_error(db: &Db, error: ReadError) -> OpenError {
    match error {
        ReadError::Damaged { height, what } => OpenError::RecordDamaged { height, what },
        error => OpenError::DatabaseDamaged { path: db.path.clone(), what: error.to_string() },
    }
}

/// Refuses a folder of another format.
pub(crate) fn check_format(db: &Db) -> Result<(), OpenError> {
    match db.format().map_err(|error| database_error(db, &error))? {
        Some(found) if found != FORMAT => Err(OpenError::Format { expected: FORMAT.to_owned(), found }),
        _ => Ok(()),
    }
}

/// Refuses a folder whose block zero is another one.
pub(crate) fn check_genesis(reader: &Reader, expected: B256) -> Result<(), OpenError> {
    let found = reader.hash_at(0).map_err(|error| read_error(&reader.db, error))?;
    match found {
        Some(found) if found != expected => Err(OpenError::WrongGenesis { expected, found }),
        _ => Ok(()),
    }
}

/// The state as of the database's tip, with its recent past; none where the database is empty.
pub(crate) fn rebuild(reader: &Arc<Reader>, config: &StoreConfig) -> Result<Option<Rebuilt>, OpenError> {
    let db = &reader.db;
    let failed = |error: redb::Error| database_error(db, &error);
    let Some(tip) = db.tip().map_err(failed)? else { return Ok(None) };
    let missing = |what: &str| OpenError::DatabaseDamaged { path: db.path.clone(), what: what.to_owned() };
    let header = db.header(tip).map_err(failed)?.ok_or_else(|| missing("the header of the tip is missing"))?;
    let location = db.location(tip).map_err(failed)?.ok_or_else(|| missing("the location of the tip is missing"))?;
    let cursor = location.end();
    let path = reader.segments.path(location.segment);
    let found = reader.segments.len(location.segment).map_err(|source| OpenError::from_io(&path, source))?;
    if found.unwrap_or(0) < cursor.offset {
        return Err(OpenError::SegmentTruncated { path, expected: cursor.offset, found: found.unwrap_or(0) });
    }
    let block = reader.block(tip).map_err(|error| read_error(db, error))?;
    if block.is_none_or(|block| block.hash != header.hash_slow()) {
        return Err(missing("the header of the tip is not that of its block"));
    }
    let world = WorldState::default().apply(&db.flat_state().map_err(failed)?.hashed());
    check_root(tip, header.state_root, &world)?;
    let hash = header.hash_slow();
    let head = StateView::new(world, Arc::new(header), hash, reader.clone());
    let history = rebuild_history(reader, &head, config.history_blocks)?;
    Ok(Some(Rebuilt { head, history, cursor }))
}

fn check_root(height: u64, expected: B256, world: &WorldState) -> Result<(), OpenError> {
    let found = world.root();
    if found == expected { Ok(()) } else { Err(OpenError::StateRoot { height, expected, found }) }
}

/// Walks back from the head by reverse diffs; every state is checked against its header.
fn rebuild_history(reader: &Arc<Reader>, head: &StateView, blocks: u64) -> Result<VecDeque<StateView>, OpenError> {
    let db = &reader.db;
    let failed = |error: redb::Error| database_error(db, &error);
    let mut history = VecDeque::new();
    let mut world = head.world.clone();
    for height in (head.height().saturating_sub(blocks)..head.height()).rev() {
        let (Some(undo), Some(header)) =
            (db.undo(height.saturating_add(1)).map_err(failed)?, db.header(height).map_err(failed)?)
        else {
            break;
        };
        world = world.apply(&undo);
        check_root(height, header.state_root, &world)?;
        let hash = header.hash_slow();
        history.push_front(StateView::new(world.clone(), Arc::new(header), hash, reader.clone()));
    }
    Ok(history)
}

/// The same where every record counts because nothing else knows of them: what is not whole is an end only where nothing
/// follows it. Elsewhere it is damage, and all that follows stays.
pub(crate) fn next_of_all(reader: &Reader, cursor: Cursor) -> Result<Option<(Location, Record)>, OpenError> {
    let io = |source| OpenError::from_io(&reader.segments.path(cursor.segment), source);
    if reader.segments.next_record(cursor).map_err(io)?.is_none()
        && let Some(height) = reader.segments.later_record(cursor).map_err(io)?
    {
        let path = reader.segments.path(cursor.segment).display().to_string();
        let what = format!("{path} is damaged at byte {}, and block {height} stands behind it", cursor.offset);
        return Err(OpenError::RecordDamaged { height: height.saturating_sub(1), what });
    }
    next_record(reader, cursor)
}

/// The next whole record behind a place. A torn one, and anything behind it, is cut off.
pub(crate) fn next_record(reader: &Reader, cursor: Cursor) -> Result<Option<(Location, Record)>, OpenError> {
    let path = reader.segments.path(cursor.segment);
    let io = |source| OpenError::from_io(&path, source);
    match reader.segments.next_record(cursor).map_err(io)? {
        Some((location, height, payload)) => {
            let record = decode_record(&payload)
                .map_err(|error| OpenError::RecordDamaged { height, what: error.to_string() })?;
            Ok(Some((location, record)))
        }
        None => {
            // Only what nobody was told of may be cut off.
            if let Some(end) = reader.segments.acknowledged().map_err(io)?.filter(|end| *end > cursor) {
                return Err(OpenError::AcknowledgedLost {
                    path: path.clone(),
                    whole: cursor.offset,
                    expected_segment: end.segment,
                    expected: end.offset,
                });
            }
            reader.segments.truncate(cursor).map_err(io)?;
            Ok(None)
        }
    }
}
