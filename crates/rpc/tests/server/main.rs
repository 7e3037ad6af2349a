//! The server over real HTTP and WebSocket, in front of a real chain in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod answers;
mod explorer;
mod fill;
mod filters;
mod harness;
mod limits;
mod pruned;
mod refusals;
mod shapes;
mod socket;
