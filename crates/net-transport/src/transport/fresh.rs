//! Ports that nobody was dialled from long ago, for trials of addresses (AutoNAT v2, NET-40).
//!
//! A trial shows that strangers get in only where it comes from a port to which the tried node's NAT has no mapping. An
//! endpoint has receive buffers of a mebibyte or more, which an allocator scatters when they are made and freed over and
//! over: so an endpoint whose trials are over is kept and moves to another port.

use std::time::{Duration, Instant};

/// Trials in a row share a port for so long: less than a NAT keeps a mapping that somebody answered to.
const PORT_MS: u64 = 20_000;
/// Endpoints of one address family that are kept; with more trials at once the oldest ends with its trials.
const ENDPOINTS_MAX: usize = 4;

/// The endpoints of one address family; the last is the one in use.
#[derive(Default)]
pub(super) struct FreshPorts {
    endpoints: Vec<quinn::Endpoint>,
    since: Option<Instant>,
}

impl FreshPorts {
    /// The endpoint to dial from. `make` makes one at a new port, `renew` moves one to a new port.
    pub(super) fn endpoint<E>(
        &mut self,
        make: impl FnOnce() -> Result<quinn::Endpoint, E>,
        renew: impl FnOnce(&quinn::Endpoint) -> Result<(), E>,
    ) -> Result<quinn::Endpoint, E> {
        let in_time = self.since.is_some_and(|since| since.elapsed() < Duration::from_millis(PORT_MS));
        if let Some(endpoint) = self.endpoints.last().filter(|_| in_time) {
            return Ok(endpoint.clone());
        }
        let idle = self.endpoints.iter().position(|endpoint| endpoint.open_connections() == 0);
        let endpoint = match idle {
            Some(place) => {
                let endpoint = self.endpoints.remove(place);
                let renewed = renew(&endpoint);
                self.endpoints.push(endpoint.clone());
                renewed?;
                endpoint
            }
            None => {
                let endpoint = make()?;
                if self.endpoints.len() >= ENDPOINTS_MAX {
                    self.endpoints.remove(0);
                }
                self.endpoints.push(endpoint.clone());
                endpoint
            }
        };
        self.since = Some(Instant::now());
        Ok(endpoint)
    }

    /// As if the port had been used for its whole time.
    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        self.since = None;
    }
}
