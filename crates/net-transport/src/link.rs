//! Connections over any byte stream: a TCP socket, a circuit of a relay, a proxy's tunnel (NET-11, NET-12).
//!
//! multistream-select agrees on `/tls/1.0.0` as libp2p does, TLS 1.3 runs under the same policy and with the same
//! certificates as in QUIC, and under `prefer` a classical peer may ask for `/noise` instead. Where both ends are Trellis
//! nodes (the ALPN says so, inside the TLS transcript), each sends its ML-DSA-65 proof over the TLS exporter as the first
//! bytes of the encrypted stream, as [`crate::auth`] describes them, and yamux follows with no further negotiation:
//! ```text
//! dialer                                            listener
//! "/multistream/1.0.0" "/tls/1.0.0" ClientHello →
//!                                                   ← "/multistream/1.0.0" "/tls/1.0.0" … Finished
//! Finished, proof →
//!                                                   ← proof
//! yamux ⇄ yamux
//! ```
//! With other peers yamux is negotiated inside TLS or Noise, and the session has no NodeId.

mod goodbye;
mod muxer;
mod secure;
mod wire;

use std::future::Future;
use std::sync::Arc;

use libp2p::PeerId;
use libp2p::core::{ConnectedPoint, Multiaddr};

pub use self::muxer::{LinkStream, StreamConnection};
pub(crate) use self::secure::Securer;
use self::secure::Verified;
pub(crate) use self::wire::WireBytes;
use self::wire::{BoxedStream, Duplex, Wire};
use crate::address::{is_circuit, last_peer, without_peer};
use crate::admission::Permit;
use crate::config::{CONNECT_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS};
use crate::error::TransportError;
use crate::session::{Carrier, Direction, LinkKind, Session, SessionFacts, StreamState};
use crate::upgrade::within;

/// One end of a byte stream, as the swarm knows it.
struct End {
    direction: Direction,
    /// Without the peer's name at its end.
    remote: Multiaddr,
    /// The circuit on which it was accepted.
    accepted_on: Option<Multiaddr>,
    /// Whom the dialled address names.
    expected: Option<PeerId>,
}

impl End {
    fn of(point: &ConnectedPoint) -> Self {
        match point {
            ConnectedPoint::Dialer { address, role_override, .. } => Self {
                direction: if role_override.is_dialer() { Direction::Outbound } else { Direction::Inbound },
                remote: without_peer(address),
                accepted_on: None,
                expected: last_peer(address),
            },
            ConnectedPoint::Listener { local_addr, send_back_addr } => Self {
                direction: Direction::Inbound,
                remote: without_peer(send_back_addr),
                accepted_on: is_circuit(local_addr).then(|| without_peer(local_addr)),
                // A relay names whose circuit it says to bring; that has to hold as well.
                expected: last_peer(send_back_addr),
            },
        }
    }
}

/// Makes an authenticated, multiplexed connection of a byte stream and leaves its session in the registry. To be used in
/// `Transport::and_then`; the result may be polled anywhere.
pub(crate) fn upgrade<C: Duplex + 'static>(
    securer: Arc<Securer>,
    io: C,
    point: &ConnectedPoint,
    kind: LinkKind,
    permit: Option<Permit>,
) -> impl Future<Output = Result<(PeerId, StreamConnection), TransportError>> + Send + use<C> {
    let end = End::of(point);
    async move { connect(&securer, io, end, kind, permit).await }
}

async fn connect<C: Duplex + 'static>(
    securer: &Securer,
    io: C,
    end: End,
    kind: LinkKind,
    mut permit: Option<Permit>,
) -> Result<(PeerId, StreamConnection), TransportError> {
    let End { direction, remote, accepted_on, expected } = end;
    let wire = Arc::new(WireBytes::default());
    let io: BoxedStream = Box::new(Wire::new(io, Arc::clone(&wire)));
    let timeout_ms = match direction {
        Direction::Inbound => HANDSHAKE_TIMEOUT_MS,
        Direction::Outbound => CONNECT_TIMEOUT_MS,
    };
    let secured = within(timeout_ms, securer.secure(io, &wire, direction, expected)).await;
    if let Some(permit) = &mut permit {
        permit.established();
    }
    let context = securer.context();
    let (stream, verified) = secured.map_err(|error| context.refused(error, direction, &remote))?;
    let Verified { peer: peer_id, key_exchange, alpn, public } = verified;
    let state = StreamState::new(kind, wire);
    let facts = SessionFacts { peer_id, remote, accepted_on, direction, turned: false, key_exchange, alpn, public };
    let session = Session::new(Carrier::Stream(Arc::clone(&state)), facts);
    context.established(&session);
    Ok((peer_id, StreamConnection::new(stream, session, state, permit, context.metrics.clone())))
}
