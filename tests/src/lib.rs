//! Whole networks of real processes, and the outside clients that use them.

pub mod api;
pub mod chain;
pub mod compat;
pub mod cores;
pub mod http;
pub mod lab;
pub mod ledger;
pub mod load;
pub mod mount;
pub mod network;
pub mod program;
pub mod proof;
pub mod wait;
pub mod wallet;
