//! All ways to a peer as one libp2p transport.

use std::sync::Arc;

use futures::future::Either;
use libp2p::PeerId;
use libp2p::core::Transport;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox};
use libp2p::core::transport::{Boxed, OptionalTransport};
use libp2p::relay;

use crate::config::TransportConfig;
use crate::error::{TransportError, TransportSetupError};
use crate::link::{Securer, upgrade};
use crate::proxy::ProxyTransport;
use crate::session::{LinkKind, Sessions};
use crate::tcp::TcpTransport;
use crate::tls::tls_configs;
use crate::transport::QuicTransport;
use crate::upgrade::UpgradeContext;

/// The transport of a node: QUIC, TCP, circuits of relays and a proxy, whichever an address names.
pub struct NodeTransport {
    /// What the swarm polls.
    pub transport: Boxed<(PeerId, StreamMuxerBox)>,
    /// Where each established connection's session waits to be taken.
    pub sessions: Sessions,
    /// This node's PeerId.
    pub local: PeerId,
}

/// Everything that `config` and, if given, a relay client can connect with. All ways share one identity, one policy and one
/// registry of sessions.
///
/// # Errors
/// [`TransportSetupError`] if the identity, TLS or Noise cannot be set up.
pub fn node_transport(
    config: TransportConfig,
    relay: Option<relay::client::Transport>,
) -> Result<NodeTransport, TransportSetupError> {
    let context = Arc::new(UpgradeContext::new(&config)?);
    let tls = tls_configs(&context.identity, context.policy)?;
    let securer = Arc::new(Securer::new(Arc::clone(&context), tls.clone())?);
    let quic = QuicTransport::with(config.clone(), Arc::clone(&context), tls)?;
    let quic = quic.map(|output, _| boxed(output));
    let proxied = ProxyTransport::new(config.proxy.clone(), Arc::clone(&securer));
    let proxied = proxied.map(|output, _| boxed(output));
    let tcp = TcpTransport::new(config, Arc::clone(&securer));
    let tcp = tcp.map(|output, _| boxed(output));
    let relayed = relay.map_or_else(OptionalTransport::none, OptionalTransport::some);
    let relayed = relayed
        .map_err(TransportError::Relay)
        .and_then(move |circuit, point| upgrade(securer, circuit, &point, LinkKind::Relayed, None))
        .map(|output, _| boxed(output))
        .map_err(|error| error.into_inner());
    let direct = quic.or_transport(tcp).map(|either, _| inner(either)).map_err(|error| error.into_inner());
    let direct = direct.or_transport(proxied).map(|either, _| inner(either)).map_err(|error| error.into_inner());
    // A circuit's address begins as its relay's does, so it is looked for first.
    let all = relayed.or_transport(direct).map(|either, _| inner(either)).map_err(|error| error.into_inner());
    Ok(NodeTransport { transport: all.boxed(), sessions: context.sessions.clone(), local: context.local })
}

fn boxed<M>((peer, connection): (PeerId, M)) -> (PeerId, StreamMuxerBox)
where
    M: StreamMuxer + Send + 'static,
    M::Substream: Send + 'static,
    M::Error: Send + Sync + 'static,
{
    (peer, StreamMuxerBox::new(connection))
}

fn inner<T>(either: Either<T, T>) -> T {
    either.into_inner()
}
