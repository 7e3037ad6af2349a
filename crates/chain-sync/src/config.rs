//! Bounds and settings of a sync.

use trellis_chain_finality::{CERTIFICATE_BYTES_MAX, COMMITTEE_BYTES_MAX, VALIDATORS_MAX};
use trellis_net_peers::Protocol;
use trellis_primitives::BLOCK_BYTES_MAX;

/// Statuses, headers and bodies of final blocks, for whoever follows the chain.
pub const SYNC_PROTOCOL: Protocol = Protocol("/trellis/sync/1");

/// Largest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64;
/// Headers of one run at most.
pub const HEADERS_PER_RUN_MAX: u64 = 256;
/// Largest encoded header, in bytes; an honest one has some 700.
pub const HEADER_BYTES_MAX: usize = 2_048;
/// Checkpoint keys of one member of a committee, encoded, bytes at most.
const CHECKPOINT_KEYS_BYTES_MAX: usize = 1_440;
/// Largest frame of a run, in bytes: headers and the largest certificate, and a section with another one and the largest
/// committee, of whose members it says besides how many blocks each signed and what their checkpoint keys are.
pub const RUN_FRAME_BYTES_MAX: usize = HEADERS_PER_RUN_MAX as usize * HEADER_BYTES_MAX
    + 2 * CERTIFICATE_BYTES_MAX
    + 2 * COMMITTEE_BYTES_MAX
    + VALIDATORS_MAX * CHECKPOINT_KEYS_BYTES_MAX
    + 4_096;
/// Bodies that may be asked for at once.
pub const BODIES_PER_REQUEST_MAX: u64 = 256;
/// Bodies that a peer is asked for first, before its speed is known.
pub const BODIES_PER_REQUEST_FIRST: u64 = 16;
/// Largest frame of bodies, in bytes: one block of the largest size and its envelope, or many small ones.
pub const BODIES_FRAME_BYTES_MAX: usize = BLOCK_BYTES_MAX + 1_024;
/// A frame of bodies is sent when it has so many bytes.
pub const BODIES_FRAME_BYTES: usize = 128 * 1024;
/// An answer ends after so many bytes, even where more was asked for; the asker asks again for the rest.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a status may be waited for by one who has the newest block, in milliseconds.
pub const STATUS_WAIT_MS_MAX: u64 = 10_000;

/// Streams held open at a time, most of them for those who wait for the next block.
pub const STREAMS_MAX: usize = 512;
/// Frames of headers and bodies read from the chain at a time; the others wait.
pub const SERVED_MAX: usize = 32;
/// Of these, frames for one peer at a time, so that a few peers who do not read cannot have all of them.
pub const SERVED_FRAMES_PER_PEER_MAX: usize = 2;
/// A frame of more bytes counts as being read until its asker has taken it, so that few of them lie in memory.
pub const WAITING_FRAME_BYTES_MAX: usize = 512 * 1024;
/// Streams of one peer held open at a time.
pub const SERVED_PER_PEER_MAX: usize = 6;
/// Requests that one peer may make in a second before it is answered more slowly.
pub const REQUESTS_PER_SECOND_MAX: u32 = 128;
/// A request is there within this time of its stream, in milliseconds.
pub const REQUEST_TIMEOUT_MS: u64 = 5_000;
/// A frame of an answer is taken by the asker within this time, in milliseconds.
pub const WRITE_TIMEOUT_MS: u64 = 20_000;
/// A whole answer is taken by the asker within this time, in milliseconds; what it lacks then it asks for again.
pub const ANSWER_TIMEOUT_MS: u64 = 120_000;

/// Runs of headers that are asked for or wait to be verified.
pub const RUNS_MAX: usize = 4;
/// Headers verified above the newest block committed, at most.
pub const HEADERS_AHEAD_MAX: u64 = 4_096;
/// Bytes of bodies held before they are committed; what is in flight comes on top.
pub const BODIES_AHEAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests to one peer at a time, beside the one for its status.
pub const REQUESTS_PER_PEER_MAX: usize = 2;
/// Peers that are asked. Each shows every new block's certificate, so that many cost more than they help.
pub const PEERS_MAX: usize = 16;
/// Of these, peers that make room at a time where none of them has a new block.
pub const PEERS_REPLACED_MAX: usize = 2;
/// A peer that is further behind than so many blocks is of no use.
pub const BEHIND_BLOCKS_MAX: u64 = 16;
/// Peers about which it is remembered that they were dropped.
pub const DROPPED_MAX: usize = 1_024;
/// Blocks handed to the sink at once.
pub const COMMIT_BLOCKS_MAX: usize = 128;
/// Bytes of bodies handed to the sink at once, beyond the first block's.
pub const COMMIT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Answers that a peer may fail to give in a row before it is dropped.
pub const STRIKES_MAX: u32 = 2;
/// A penalty is doubled at most so often.
pub const PENALTY_DOUBLINGS_MAX: u32 = 5;

/// Settings of a sync. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// A peer that sends nothing for so long withholds what it was asked for.
    pub quiet_ms: u64,
    /// A peer that holds up everything for so long loses its task to an idle one.
    pub hold_up_ms: u64,
    /// A peer that sends less than so many bytes in a second, while the others wait for it, is slow.
    pub bytes_per_s_min: u64,
    /// How long a peer that withheld or was slow is not asked; the double each further time.
    pub penalty_ms: u64,
    /// How long a peer that lied is not asked; the double each further time.
    pub lie_penalty_ms: u64,
    /// Where nobody who is asked has a new block for so long, some make room for others who are connected.
    pub still_ms: u64,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            quiet_ms: 10_000,
            hold_up_ms: 2_000,
            bytes_per_s_min: 16 * 1024,
            penalty_ms: 30_000,
            lie_penalty_ms: 600_000,
            still_ms: 30_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_primitives::CheckpointKeys;

    // row: CHN-15
    #[test]
    fn a_run_has_room_for_the_checkpoint_keys_of_the_largest_committee() {
        let one = CheckpointKeys { bls: vec![0xff; 96].into(), mldsa44: vec![0xff; 1_312].into() };
        let keys = alloy_rlp::encode(vec![one; VALIDATORS_MAX]).len();
        let others =
            HEADERS_PER_RUN_MAX as usize * HEADER_BYTES_MAX + 2 * CERTIFICATE_BYTES_MAX + 2 * COMMITTEE_BYTES_MAX;
        assert!(others + keys <= RUN_FRAME_BYTES_MAX, "{keys} bytes of keys");
    }
}
