//! Seeding (NET-33): which nodes answer how well, and the zone that names the good ones.
//!
//! [`health`] and [`zone`] are pure. [`update`] hands a zone to a name server by dynamic update (RFC 2136, TSIG). The crawl
//! itself, which dials what the address book holds, is the program's loop over [`crate::Network`].

pub mod health;
pub mod update;
pub mod zone;
