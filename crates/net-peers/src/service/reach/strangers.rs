//! Telling strangers from peers that this node has written to (NET-40): only a stranger shows that everybody gets in.

use std::sync::Arc;

use libp2p::core::ConnectedPoint;
use parking_lot::Mutex;
use trellis_net_reach::contacted::Contacted;
use trellis_net_transport::{DialledFn, direct_ip};
use trellis_primitives::SharedClock;

use crate::discovery::address::on_internet;
use crate::service::NodeShared;
use crate::table::route::is_circuit;

/// What the transport tells of every dial.
pub(in crate::service) fn noted(contacted: &Arc<Mutex<Contacted>>, clock: &SharedClock) -> DialledFn {
    let (contacted, clock) = (Arc::clone(contacted), Arc::clone(clock));
    Arc::new(move |ip| contacted.lock().written(ip, clock.now().0))
}

impl NodeShared {
    /// A connection stands. One that came in from an Internet address which this node has not written to shows that its NAT,
    /// if there is one, lets everybody in.
    pub(in crate::service) fn arrived(&self, endpoint: &ConnectedPoint) {
        let ConnectedPoint::Listener { send_back_addr, local_addr } = endpoint else { return };
        if is_circuit(local_addr) || is_circuit(send_back_addr) {
            return;
        }
        let Some(ip) = direct_ip(send_back_addr).filter(|_| on_internet(send_back_addr)) else { return };
        let now_ms = self.clock.now().0;
        let stranger =
            self.reach.contacted.lock().is_stranger(ip, now_ms) && !self.table.lock().has_connection_from(ip);
        // What is sent to it from now on lets it in again.
        self.reach.contacted.lock().written(ip, now_ms);
        if stranger {
            tracing::debug!(%ip, "a stranger got in");
            self.reach.way.lock().stranger_came(now_ms);
            self.reach.wake.notify_one();
        }
    }
}
