//! The way through a TURN server (NET-44): the socket there, as the transport wants it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::Multiaddr;
use trellis_net_reach::turn::{ServerReport, Turn, TurnSettings};
use trellis_net_transport::{Far, FarSocket, Through, direct_ip};

use crate::discovery::address::AddressClass;

/// The node's address at a TURN server. Clones are the same one.
#[derive(Clone)]
pub(crate) struct TurnWay {
    turn: Arc<Turn>,
    far: Far,
}

struct Opener(Arc<Turn>);

impl FarSocket for Opener {
    fn open(&self) -> BoxFuture<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>> {
        async { Ok(self.0.socket().await.map_err(io::Error::other)? as Arc<dyn quinn::AsyncUdpSocket>) }.boxed()
    }

    fn admit(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<()>> {
        async move { self.0.socket().await.map_err(io::Error::other)?.admit(peer).await.map_err(io::Error::other) }
            .boxed()
    }
}

impl TurnWay {
    /// Nothing is asked of a server yet.
    pub(super) fn new(settings: TurnSettings) -> Self {
        let turn = Arc::new(Turn::new(settings));
        Self { far: Far::new(Box::new(Opener(Arc::clone(&turn)))), turn }
    }

    pub(super) fn far(&self) -> Far {
        self.far.clone()
    }

    /// What the swarm is asked for while this is held goes through the server.
    pub(super) fn through(&self) -> Through<'_> {
        self.far.through()
    }

    /// The servers, as commands show them.
    pub(crate) fn report(&self) -> Vec<ServerReport> {
        self.turn.report()
    }
}

/// Whether a TURN server may lead to an address: QUIC somewhere on the Internet.
pub(super) fn leads_to(address: &Multiaddr) -> bool {
    direct_ip(address).and_then(AddressClass::of) == Some(AddressClass::Public)
}
