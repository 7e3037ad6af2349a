//! The seam: what every protocol above the network sees of it, real or simulated.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc};
use trellis_primitives::NodeId;

use crate::bandwidth::Bandwidth;
use crate::discovery::DiscoveryReport;
use crate::error::{AcceptError, BroadcastError, DialError, OpenError};
use crate::guard::{Ban, Conduct, Guard, Priority};
use crate::peer::{Path, PeerEvent, PeerInfo};
use crate::reason::DisconnectReason;
use crate::service::ReachReport;

/// The name of a stream protocol with its version, for example `/trellis/job/1`.
///
/// Every Trellis protocol carries [`crate::frame`]s; the per-peer message counters rely on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Protocol(pub &'static str);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A bidirectional byte stream to one peer.
///
/// `shutdown` finishes the sending half cleanly (the peer reads end of file), and so does dropping the stream: what was
/// written before is still delivered. A lost connection shows as an `io::Error`, never as a clean end of file.
pub trait StreamIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> StreamIo for T {}

/// A stream to a peer that finished the handshake.
pub type NetStream = Box<dyn StreamIo>;

/// The one handle of the network that protocols hold.
pub type NetworkHandle = Arc<dyn Network>;

/// What a node can do with the network. Implemented by the real node ([`crate::start`]) and by [`crate::sim::SimNet`].
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// This node's own identity.
    fn local_id(&self) -> NodeId;

    /// The addresses at which this node listens, as multiaddr text that ends in its `/p2p/` part; ready to be dialled.
    fn listen_addresses(&self) -> Vec<String>;

    /// Whether every dial goes through a proxy, to which names are left.
    fn proxied(&self) -> bool {
        false
    }

    /// Connects to `address` (multiaddr text) and resolves when both sides accepted the handshake.
    ///
    /// An address of a peer that is already connected resolves at once.
    ///
    /// # Errors
    /// [`DialError`], which carries the refusal's name when the peer (or this node) refused.
    async fn dial(&self, address: &str) -> Result<NodeId, DialError>;

    /// Opens a stream on `protocol` to a connected peer; waits at most `OPEN_TIMEOUT_MS`.
    ///
    /// # Errors
    /// [`OpenError`]: not connected, protocol not supported by the peer, timeout or a lost connection.
    async fn open(&self, peer: NodeId, protocol: Protocol) -> Result<NetStream, OpenError>;

    /// Registers the one acceptor of `protocol`; dropping it unregisters the protocol.
    ///
    /// # Errors
    /// [`AcceptError`] if the protocol has an acceptor already.
    fn accept(&self, protocol: Protocol) -> Result<Acceptor, AcceptError>;

    /// Queues one framed message to each of `peers`, in order per peer and protocol, and returns without waiting for any
    /// of them: a slow peer fills its own bounded queue and then loses messages, the others never notice.
    ///
    /// At the receiver the messages of one sender arrive as frames of one long-lived stream on `protocol`, so an acceptor
    /// must read frames until the end of the stream.
    async fn broadcast(&self, peers: &[NodeId], protocol: Protocol, message: Bytes) -> BroadcastReport;

    /// Everything known about every peer of this run: connected, connecting, and gone (newest first, bounded).
    fn peers(&self) -> Vec<PeerInfo>;

    /// What each source of addresses said last; `None` where this node looks for nobody.
    fn discovery(&self) -> Option<DiscoveryReport> {
        None
    }

    /// The way in to this node; `None` where there is no real network.
    fn reach(&self) -> Option<ReachReport> {
        None
    }

    /// Looks up who says of himself that he sells a model, beside those that are connected, and connects to some of them.
    /// Returns those of them that are connected now; what they really sell, they are to be asked.
    async fn find_providers(&self, model: &str) -> Vec<NodeId> {
        let _ = model;
        Vec::new()
    }

    /// Every address in the book, multiaddr text; for a crawler.
    fn known_addresses(&self) -> Vec<String> {
        Vec::new()
    }

    /// A connected peer's node record as it was signed.
    fn signed_record(&self, peer: NodeId) -> Option<trellis_primitives::Bytes> {
        let _ = peer;
        None
    }

    /// A new receiver of peer events. A receiver that falls behind misses the oldest ones.
    fn events(&self) -> broadcast::Receiver<PeerEvent>;

    /// Says goodbye to a peer with a reason and closes its connections.
    async fn disconnect(&self, peer: NodeId, reason: DisconnectReason);

    /// Tells what a peer did. An offence can end in its disconnection or ban; nothing waits for that here.
    fn report(&self, peer: NodeId, conduct: Conduct);

    /// The budget of the line; `None` where there is no line.
    fn bandwidth(&self) -> Option<Arc<Bandwidth>> {
        None
    }

    /// The peer manager: scores, bans, rates.
    fn guard(&self) -> Arc<Guard>;

    /// Bans an identity for so many milliseconds, or for good, closes its connections, and returns once the ban is on disk.
    async fn ban(&self, peer: NodeId, for_ms: Option<u64>) -> Ban;

    /// Connects to an address that a person named and remembers it: [`Priority::High`] keeps it connected from now on,
    /// [`Priority::Normal`] dials it again at every start, [`Priority::Low`] only now.
    ///
    /// # Errors
    /// As [`Self::dial`]; an address that cannot be reached now is remembered all the same, one that is not an address
    /// or whose peer is refused is not.
    async fn add_peer(&self, address: &str, priority: Priority) -> Result<NodeId, DialError>;

    /// Keeps these peers connected as far as they can be reached, because they will be needed next: a validator's next
    /// leaders, the providers that a gateway buys from. The list takes the place of the one before; what is beyond
    /// [`crate::PREFERRED_MAX`] is left out. Nothing waits for it.
    fn prefer(&self, peers: &[NodeId]);

    /// Connects to a peer that was met before, at the addresses that are remembered of it.
    ///
    /// # Errors
    /// As [`Self::dial`]; [`DialError::Unreachable`] too where no address is remembered.
    async fn reconnect(&self, peer: NodeId) -> Result<NodeId, DialError>;

    /// Forgets the addresses that a person added: those that `address` names, or of this peer. Says which they were.
    fn forget_added(&self, address: Option<&str>, peer: Option<NodeId>) -> Vec<String>;

    /// Asks a connected peer for an echo.
    ///
    /// # Errors
    /// As [`Self::open`].
    async fn ping(&self, peer: NodeId) -> Result<Pong, OpenError>;

    /// Says goodbye to everyone, waits for the acknowledgements or a timeout, and stops. Streams fail afterwards.
    async fn shutdown(&self);
}

/// The answer to a ping.
#[derive(Clone, PartialEq, Debug)]
pub struct Pong {
    /// From asking to the answer.
    pub round_trip: Duration,
    /// The way it took.
    pub path: Path,
    /// The address at the other end of that way.
    pub address: String,
}

/// What became of one broadcast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BroadcastReport {
    /// Peers whose queue took the message.
    pub queued: Vec<NodeId>,
    /// Peers that did not get it, and why.
    pub failed: Vec<(NodeId, BroadcastError)>,
}

/// The receiving end of one protocol: yields each stream that a handshaken peer opens on it.
#[derive(Debug)]
pub struct Acceptor {
    incoming: mpsc::Receiver<(NodeId, NetStreamSlot)>,
}

impl Acceptor {
    pub(crate) fn new(incoming: mpsc::Receiver<(NodeId, NetStreamSlot)>) -> Self {
        Self { incoming }
    }

    /// The next stream and who opened it; `None` once the network has shut down.
    pub async fn next(&mut self) -> Option<(NodeId, NetStream)> {
        let (peer, slot) = self.incoming.recv().await?;
        Some((peer, slot.0))
    }
}

/// A stream on its way to an acceptor (a named type only so that channels of it can be debug-printed).
pub(crate) struct NetStreamSlot(pub(crate) NetStream);

impl fmt::Debug for NetStreamSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetStream")
    }
}
