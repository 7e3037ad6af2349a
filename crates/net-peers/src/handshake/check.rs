//! Whether a hello is acceptable. Pure: the hello, the session's identity, a time and what is known go in.

use std::collections::{HashSet, VecDeque};

use trellis_crypto::record::verify_record;
use trellis_primitives::{B256, Bytes, NodeId, NodeRecord, RoleSet, SignedNodeRecord, UnixMs};

use super::{Hello, NONCE_BYTES, USER_AGENT_BYTES_MAX};
use crate::config::{
    CLOCK_SKEW_MS_MAX, OWN_RECORD_MS_MAX, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, REGION_BYTES_MAX,
};
use crate::reason::RefusalReason;

/// Nonces remembered; the oldest are forgotten beyond it.
pub const NONCES_REMEMBERED_MAX: usize = 65_536;
/// A nonce is remembered for as long as a hello that carries it could pass the check of the clock.
pub const NONCE_MEMORY_MS: u64 = 2 * CLOCK_SKEW_MS_MAX;

/// A refusal's name and what was expected and found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: RefusalReason,
    pub(crate) detail: String,
}

impl Refusal {
    pub(crate) fn new(reason: RefusalReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// What an accepted hello tells.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Accepted {
    pub(crate) id: NodeId,
    pub(crate) record: NodeRecord,
    /// The record's RLP as it was signed, to be told to others.
    pub(crate) signed_record: Bytes,
    pub(crate) roles: RoleSet,
    pub(crate) user_agent: String,
    pub(crate) protocol_version: u32,
    pub(crate) best_height: u64,
    pub(crate) instance: u64,
    /// What the peer says of where it is.
    pub(crate) region: String,
    /// The peer's end of the connection is at a TURN server.
    pub(crate) turned: bool,
}

/// Nonces of recent hellos.
#[derive(Debug, Default)]
pub(crate) struct NonceCache {
    seen: HashSet<[u8; NONCE_BYTES]>,
    order: VecDeque<(UnixMs, [u8; NONCE_BYTES])>,
}

impl NonceCache {
    /// Remembers a nonce; `false` if it was there already.
    pub(crate) fn insert(&mut self, nonce: [u8; NONCE_BYTES], now: UnixMs) -> bool {
        while let Some((at, oldest)) = self.order.front().copied() {
            if self.order.len() < NONCES_REMEMBERED_MAX && now.ms_since(at) <= NONCE_MEMORY_MS {
                break;
            }
            self.order.pop_front();
            self.seen.remove(&oldest);
        }
        let fresh = self.seen.insert(nonce);
        if fresh {
            self.order.push_back((now, nonce));
        }
        fresh
    }
}

/// What a hello is compared with.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    pub(crate) network_magic: u32,
    pub(crate) genesis_hash: B256,
    pub(crate) chain_id: u64,
}

/// What else is known when a hello arrives.
pub(crate) struct Circumstances<'a> {
    pub(crate) session_id: NodeId,
    pub(crate) now: UnixMs,
    pub(crate) banned: bool,
    pub(crate) full: bool,
    pub(crate) nonces: &'a mut NonceCache,
}

impl Checker {
    /// Accepts or names the first thing that is wrong; the cheap checks come first.
    pub(crate) fn check(&self, hello: &Hello, around: Circumstances<'_>) -> Result<Accepted, Refusal> {
        let nonce = self.check_world(hello, around.now)?;
        if around.banned {
            return Err(Refusal::new(RefusalReason::Banned, "this identity is banned"));
        }
        if !around.nonces.insert(nonce, around.now) {
            return Err(Refusal::new(RefusalReason::Replay, "nonce seen before"));
        }
        let record = self.check_record(hello, &around)?;
        if around.full {
            return Err(Refusal::new(RefusalReason::Full, "no room for another peer"));
        }
        Ok(Accepted {
            id: around.session_id,
            roles: record.roles,
            record,
            signed_record: hello.record.clone().into(),
            user_agent: hello.user_agent.clone(),
            protocol_version: hello.version_max.min(PROTOCOL_VERSION_MAX),
            best_height: hello.best_height,
            instance: hello.instance,
            region: hello.region.clone(),
            turned: hello.turned,
        })
    }

    fn check_world(&self, hello: &Hello, now: UnixMs) -> Result<[u8; NONCE_BYTES], Refusal> {
        let malformed = |detail: String| Refusal::new(RefusalReason::Malformed, detail);
        if hello.user_agent.len() > USER_AGENT_BYTES_MAX {
            return Err(malformed(format!("user agent of {} bytes", hello.user_agent.len())));
        }
        if hello.region.len() > REGION_BYTES_MAX {
            return Err(malformed(format!("region of {} bytes", hello.region.len())));
        }
        if hello.user_agent.chars().chain(hello.region.chars()).any(char::is_control) {
            return Err(malformed("control characters in the user agent or the region".to_owned()));
        }
        let nonce = <[u8; NONCE_BYTES]>::try_from(hello.nonce.as_slice())
            .map_err(|_| malformed(format!("nonce of {} bytes", hello.nonce.len())))?;
        if hello.network_magic != self.network_magic {
            let detail = format!("expected {:#010x}, got {:#010x}", self.network_magic, hello.network_magic);
            return Err(Refusal::new(RefusalReason::WrongNetwork, detail));
        }
        let genesis = B256::try_from(hello.genesis_hash.as_slice())
            .map_err(|_| malformed(format!("genesis hash of {} bytes", hello.genesis_hash.len())))?;
        if genesis != self.genesis_hash {
            let detail = format!("expected {}, got {genesis}", self.genesis_hash);
            return Err(Refusal::new(RefusalReason::WrongGenesis, detail));
        }
        if hello.version_max < PROTOCOL_VERSION_MIN || hello.version_min > PROTOCOL_VERSION_MAX {
            let (min, max) = (hello.version_min, hello.version_max);
            let detail = format!("expected {PROTOCOL_VERSION_MIN}..={PROTOCOL_VERSION_MAX}, got {min}..={max}");
            return Err(Refusal::new(RefusalReason::Version, detail));
        }
        let skew_ms = hello.time_ms.abs_diff(now.0);
        if skew_ms > CLOCK_SKEW_MS_MAX {
            let detail = format!("clocks differ by {skew_ms} ms, at most {CLOCK_SKEW_MS_MAX} allowed");
            return Err(Refusal::new(RefusalReason::ClockSkew, detail));
        }
        Ok(nonce)
    }

    fn check_record(&self, hello: &Hello, around: &Circumstances<'_>) -> Result<NodeRecord, Refusal> {
        let bad = |detail: String| Refusal::new(RefusalReason::BadSignature, detail);
        let signed = SignedNodeRecord::from_rlp(&hello.record)
            .map_err(|error| Refusal::new(RefusalReason::Malformed, error.to_string()))?;
        let (record, id) = verify_record(&signed, self.chain_id, around.now).map_err(|error| bad(error.to_string()))?;
        if id != around.session_id {
            return Err(bad(format!("record of {}, session of {}", id.short(), around.session_id.short())));
        }
        if record.network_magic != self.network_magic {
            let detail = format!("record of network {:#010x}", record.network_magic);
            return Err(Refusal::new(RefusalReason::WrongNetwork, detail));
        }
        let ahead_ms = record.expires().ms_since(around.now);
        if ahead_ms > OWN_RECORD_MS_MAX {
            let detail = format!("record that expires in {ahead_ms} ms, at most {OWN_RECORD_MS_MAX} allowed");
            return Err(Refusal::new(RefusalReason::Malformed, detail));
        }
        if u32::from(record.roles.0) != hello.roles {
            return Err(bad(format!("roles {:#x}, signed {:#x}", hello.roles, record.roles.0)));
        }
        Ok(record)
    }
}
