//! Whole networks of real processes, and the outside clients that use them.

pub mod api;
pub mod chain;
pub mod http;
pub mod network;
pub mod program;
