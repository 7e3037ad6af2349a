//! Relays: what a node that relays gives away, and which relays a node keeps that cannot be reached otherwise (NET-42). Pure.
//!
//! [`budget`] has the bounds of a relay by profile and stake, [`gate`] decides who may reserve and connect, [`places`] keeps a
//! share of what there is for peers with stake, [`keeper`] is the client's side: it finds, reserves, keeps and changes relays.
//! None of them knows libp2p; the keys of peers are the caller's.

pub mod budget;
pub mod gate;
pub mod keeper;
pub mod places;
