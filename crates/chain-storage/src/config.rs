//! Bounds and settings of a store.

/// Recent heights whose state stays readable: the head and the 128 before it, as geth keeps by default.
pub const STATE_HISTORY_BLOCKS: u64 = 128;
/// Recent blocks held decoded in memory.
pub const RECENT_BLOCKS_MAX: usize = 64;
/// A segment file is closed and the next one begun when it has grown over this many bytes.
pub const SEGMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Contract codes held in memory.
pub const CODE_CACHE_ENTRIES_MAX: usize = 4_096;
/// Committed blocks a slow subscriber may lag behind before it loses the oldest.
pub const EVENTS_BUFFERED_MAX: usize = 256;
/// Pieces of evidence a slow subscriber may lag behind before it loses the oldest.
pub const EVIDENCE_BUFFERED_MAX: usize = 256;

/// The database is made durable after so many blocks at the latest. Until then the segments alone hold the newest ones: a start
/// applies them again, a few milliseconds each.
pub const DATABASE_SYNC_BLOCKS: u64 = 64;
/// The same in transactions, which bounds what a start has to apply.
pub const DATABASE_SYNC_TRANSACTIONS: u64 = 40_000;

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes of the database's page cache.
    pub cache_bytes: usize,
    /// Size after which a new segment file is begun, in bytes.
    pub segment_bytes: u64,
    /// Heights whose state stays readable behind the head.
    pub history_blocks: u64,
    /// Blocks after which the database is made durable, the segments being so after each.
    pub database_sync_blocks: u64,
    /// The same in transactions, whichever comes first.
    pub database_sync_transactions: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
            segment_bytes: SEGMENT_BYTES_MAX,
            history_blocks: STATE_HISTORY_BLOCKS,
            database_sync_blocks: DATABASE_SYNC_BLOCKS,
            database_sync_transactions: DATABASE_SYNC_TRANSACTIONS,
        }
    }
}
