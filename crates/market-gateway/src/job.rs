//! The job client: everything of a gateway that speaks to providers.
//!
//! One job is one stream. The order on it is fixed (`market-receipt`, `wire`); what this side guards is: nothing signed leaves
//! before it is in the journal, no voucher passes what this side metered by more than the risk limit, and no receipt is
//! countersigned that says anything else than what this side saw. Every wait has a deadline with a name ([`WaitedFor`]).

mod adverts;
mod client;
mod config;
mod error;
mod favourites;
mod link;
mod money;
mod pairs;
mod restore;
mod run;
mod sync;
mod verify;

pub use adverts::ProviderOffer;
pub use client::{ChannelSummary, JobClient, JobClientParts};
pub use config::JobClientConfig;
pub use error::{JobClientError, JobFault, WaitedFor};
pub use money::{ChannelNeed, ChannelOpenError, ChannelOpener};
pub use run::{JobDone, JobEvent, JobOrder, RunningJob};
