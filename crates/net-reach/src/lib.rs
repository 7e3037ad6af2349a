//! Be reachable: STUN, NAT kind, port mapping, relays, hole punching, TURN, `netcheck`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod config;
pub mod contacted;
mod error;
mod message;
mod nat;
mod portmap;
pub mod reachability;
pub mod relay;
mod service;
mod state;
mod surroundings;
pub mod tls;
pub mod turn;
mod verdict;

pub use error::{MapError, MessageError, ReachError};
pub use message::{Answer, Request};
pub use nat::{
    Classified, Filtering, Findings, Mapping, NatKind, ServerFinding, TcpCheck, classify, double_nat, is_public,
};
pub use portmap::{Attempt, Carrier, Inner, Lease, MapProtocol, Router, Survey, default_gateway, survey};
pub use service::{ResolvedServer, StunSurvey, ask_stun, check_stun, check_tcp, own_address, resolve, sources};
pub use state::{Probe, Socket, Step};
pub use surroundings::{Sources, Surroundings};
pub use verdict::{Level, Situation, Verdict, verdict};
