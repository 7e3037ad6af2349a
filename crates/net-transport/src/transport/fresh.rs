//! Ports that nobody was dialled from long ago, for trials of addresses (AutoNAT v2, NET-40).
//!
//! A trial shows that strangers get in only where it comes from a port to which the tried node's NAT has no mapping. An
//! endpoint has receive buffers of a mebibyte or more, which an allocator scatters when they are made and freed over and
//! over: so an endpoint whose trials are over is kept and moves to another port.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::socket::FilteringSocket;

/// Trials in a row share a port for so long: less than a NAT keeps a mapping that somebody answered to.
const PORT_MS: u64 = 20_000;
/// Endpoints of one address family that are kept; with more trials at once the oldest ends with its trials.
const ENDPOINTS_MAX: usize = 4;

/// An endpoint and the socket that it reads from.
pub(super) struct Made {
    pub(super) endpoint: quinn::Endpoint,
    pub(super) socket: Arc<FilteringSocket>,
}

impl Made {
    /// Whether it has stopped with its socket: whoever dials from it is refused for ever.
    pub(super) fn has_stopped(&self) -> bool {
        self.socket.has_failed()
    }
}

/// The endpoints of one address family; the last is the one in use.
#[derive(Default)]
pub(super) struct FreshPorts {
    endpoints: Vec<Made>,
    /// When the one in use got its port; none where there is none.
    since: Option<Instant>,
}

impl FreshPorts {
    /// The endpoint to dial from. `make` makes one at a new port, `renew` moves one to a new port and says at which socket it
    /// is then. One that has stopped is let go.
    pub(super) fn endpoint<E>(
        &mut self,
        make: impl FnOnce() -> Result<Made, E>,
        renew: impl FnOnce(&quinn::Endpoint) -> Result<Arc<FilteringSocket>, E>,
    ) -> Result<quinn::Endpoint, E> {
        if self.endpoints.last().is_some_and(Made::has_stopped) {
            self.since = None;
        }
        self.endpoints.retain(|made| !made.has_stopped());
        let in_time = self.since.is_some_and(|since| since.elapsed() < Duration::from_millis(PORT_MS));
        if let Some(made) = self.endpoints.last().filter(|_| in_time) {
            return Ok(made.endpoint.clone());
        }
        let idle = self.endpoints.iter().position(|made| made.endpoint.open_connections() == 0);
        let endpoint = match idle {
            Some(place) => {
                let mut made = self.endpoints.remove(place);
                let endpoint = made.endpoint.clone();
                let renewed = renew(&endpoint).map(|socket| made.socket = socket);
                self.endpoints.push(made);
                renewed?;
                endpoint
            }
            None => {
                let made = make()?;
                let endpoint = made.endpoint.clone();
                if self.endpoints.len() >= ENDPOINTS_MAX {
                    self.endpoints.remove(0);
                }
                self.endpoints.push(made);
                endpoint
            }
        };
        self.since = Some(Instant::now());
        Ok(endpoint)
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// As if the port had been used for its whole time.
    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        self.since = None;
    }
}
