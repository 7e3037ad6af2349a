//! One connection's handler: offers protocols by the gate, opens streams on request.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol,
};
use tokio::sync::{mpsc, oneshot};

use super::lazy::{Confirmed, SelectedStream};
use super::{ConnectionHandle, GOODBYE, HANDSHAKE, OpenRequest, StreamError, StreamsShared};
use crate::guard::Pattern;
use crate::network::Protocol;

type Reply = oneshot::Sender<Result<SelectedStream, StreamError>>;

pub(crate) struct Handler {
    connection: Arc<ConnectionHandle>,
    shared: Arc<StreamsShared>,
    requests: mpsc::Receiver<OpenRequest>,
    opening: HashMap<u64, Reply>,
    next_id: u64,
    confirmed: Confirmed,
}

impl Handler {
    pub(super) fn new(
        connection: Arc<ConnectionHandle>,
        shared: Arc<StreamsShared>,
        requests: mpsc::Receiver<OpenRequest>,
    ) -> Self {
        Self { connection, shared, requests, opening: HashMap::new(), next_id: 0, confirmed: Confirmed::default() }
    }

    fn inbound(&self, protocol: Protocol, stream: Stream) {
        let Some(peer) = self.connection.session.node_id() else { return };
        let stream = SelectedStream::settled(stream);
        if protocol == HANDSHAKE || protocol == GOODBYE {
            let queue = if protocol == HANDSHAKE { &self.connection.handshakes } else { &self.connection.goodbyes };
            // A second one is not part of the protocol and is dropped.
            let queued = queue.try_send(self.connection.metered(stream, protocol, true, None));
            if let Err(mpsc::error::TrySendError::Full(_)) = queued {
                self.connection.sentry.tell(peer, Pattern::StreamFlood, false);
            }
        } else if let Some(metered) = self.connection.inbound(peer, stream, protocol) {
            self.shared.deliver(peer, protocol, Box::new(metered));
        }
    }

    fn outbound_failed(&mut self, id: u64, error: StreamUpgradeError<io::Error>) {
        let error = match error {
            StreamUpgradeError::NegotiationFailed => StreamError::Unsupported,
            StreamUpgradeError::Timeout => StreamError::Lost("negotiation timed out".to_owned()),
            StreamUpgradeError::Apply(error) if error.kind() == io::ErrorKind::Unsupported => StreamError::Unsupported,
            StreamUpgradeError::Io(error) | StreamUpgradeError::Apply(error) => StreamError::Lost(error.to_string()),
        };
        if let Some(reply) = self.opening.remove(&id) {
            let _ = reply.send(Err(error));
        }
    }
}

/// Lets the peer choose one of a list of protocols and yields the bare stream.
pub(crate) struct Offer(Vec<Protocol>);

/// Asks the peer for one protocol and yields the stream when it may be used.
pub(crate) struct Ask {
    protocol: Protocol,
    confirmed: Confirmed,
}

#[derive(Clone)]
pub(crate) struct OfferedProtocol(Protocol);

impl AsRef<str> for OfferedProtocol {
    fn as_ref(&self) -> &str {
        self.0.0
    }
}

impl From<OfferedProtocol> for StreamProtocol {
    fn from(offered: OfferedProtocol) -> Self {
        StreamProtocol::new(offered.0.0)
    }
}

impl UpgradeInfo for Offer {
    type Info = OfferedProtocol;
    type InfoIter = std::vec::IntoIter<OfferedProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().copied().map(OfferedProtocol).collect::<Vec<_>>().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Protocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, offered: OfferedProtocol) -> Self::Future {
        ready(Ok((offered.0, stream)))
    }
}

impl UpgradeInfo for Ask {
    type Info = OfferedProtocol;
    type InfoIter = std::iter::Once<OfferedProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(OfferedProtocol(self.protocol))
    }
}

impl OutboundUpgrade<Stream> for Ask {
    type Output = SelectedStream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<SelectedStream>>;

    fn upgrade_outbound(self, stream: Stream, _: OfferedProtocol) -> Self::Future {
        self.confirmed.settle(self.protocol, stream).boxed()
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Ask;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = u64;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer, ()> {
        // Without a NodeId there is nobody to shake hands with: a classical peer gets none of these protocols.
        let mut protocols = Vec::new();
        if self.connection.session.node_id().is_some() {
            protocols.push(HANDSHAKE);
            if self.connection.gate_is_open() {
                protocols.push(GOODBYE);
                protocols.extend(self.shared.protocols());
            }
        }
        SubstreamProtocol::new(Offer(protocols), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.connection.gate_is_open()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Ask, u64, Infallible>> {
        match self.requests.poll_recv(cx) {
            Poll::Ready(Some(OpenRequest { protocol, reply })) => {
                let id = self.next_id;
                self.next_id = self.next_id.wrapping_add(1);
                // Callers that gave up leave no trace.
                self.opening.retain(|_, reply| !reply.is_closed());
                self.opening.insert(id, reply);
                let protocol = SubstreamProtocol::new(Ask { protocol, confirmed: self.confirmed.clone() }, id);
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Ask, (), u64>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (protocol, stream), ..
            }) => {
                self.inbound(protocol, stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                if let Some(reply) = self.opening.remove(&info) {
                    let _ = reply.send(Ok(stream));
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => self.outbound_failed(info, error),
            _ => {}
        }
    }
}
