//! One listening endpoint: its addresses and its first packets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use if_watch::IfEvent;
use if_watch::tokio::IfWatcher;
use libp2p::PeerId;
use libp2p::core::transport::{ListenerId, TransportEvent};

use super::address::format;
use crate::admission::{Admission, Admit, AdmitFn};
use crate::connection::Connection;
use crate::error::TransportError;
use crate::metrics::TransportMetrics;
use crate::upgrade::UpgradeContext;

type Upgrade = BoxFuture<'static, Result<(PeerId, Connection), TransportError>>;
type Event = TransportEvent<Upgrade, TransportError>;

/// What a listener decides and upgrades with.
pub(super) struct ListenerParts {
    pub(super) admission: Admission,
    pub(super) admit: Option<AdmitFn>,
    pub(super) metrics: TransportMetrics,
    pub(super) upgrade: Arc<UpgradeContext>,
    /// The socket is on another machine.
    pub(super) turned: bool,
}

pub(super) struct Listener {
    id: ListenerId,
    endpoint: quinn::Endpoint,
    local: SocketAddr,
    accept: BoxFuture<'static, Option<quinn::Incoming>>,
    /// Only for an unspecified address: follows the machine's interfaces.
    interfaces: Option<IfWatcher>,
    pending: Option<Event>,
    closed: bool,
    waker: Option<Waker>,
    parts: ListenerParts,
}

impl Listener {
    pub(super) fn new(id: ListenerId, endpoint: quinn::Endpoint, parts: ListenerParts) -> io::Result<Self> {
        let local = endpoint.local_addr()?;
        let (interfaces, pending) = if local.ip().is_unspecified() {
            (Some(IfWatcher::new()?), None)
        } else {
            (None, Some(TransportEvent::NewAddress { listener_id: id, listen_addr: format(local) }))
        };
        let accept = next_incoming(&endpoint);
        Ok(Self { id, endpoint, local, accept, interfaces, pending, closed: false, waker: None, parts })
    }

    pub(super) const fn id(&self) -> ListenerId {
        self.id
    }

    pub(super) fn endpoint(&self) -> quinn::Endpoint {
        self.endpoint.clone()
    }

    /// Whether packets to `remote` can leave from this listener's port.
    pub(super) fn can_dial(&self, remote: SocketAddr) -> bool {
        let local = self.local.ip();
        let family = local.is_ipv4() == remote.is_ipv4();
        !self.parts.turned
            && family
            && !self.closed
            && (local.is_unspecified() || local.is_loopback() == remote.ip().is_loopback())
    }

    pub(super) fn close(&mut self) {
        if self.closed {
            return;
        }
        self.closed = true;
        // Connections live on: quinn closes the socket when the last of them is gone.
        self.endpoint.set_server_config(None);
        self.pending = Some(TransportEvent::ListenerClosed { listener_id: self.id, reason: Ok(()) });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll_interfaces(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let changed = match self.interfaces.as_mut() {
                Some(interfaces) => interfaces.poll_if_event(cx),
                None => return Poll::Pending,
            };
            let (ip, up) = match changed {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(IfEvent::Up(net))) => (net.addr(), true),
                Poll::Ready(Ok(IfEvent::Down(net))) => (net.addr(), false),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(TransportEvent::ListenerError { listener_id: self.id, error: error.into() });
                }
            };
            if let Some(event) = self.address_event(ip, up) {
                return Poll::Ready(event);
            }
        }
    }

    fn address_event(&self, ip: IpAddr, up: bool) -> Option<Event> {
        if ip.is_ipv4() != self.local.is_ipv4() {
            return None;
        }
        let (listener_id, listen_addr) = (self.id, format(SocketAddr::new(ip, self.local.port())));
        Some(if up {
            TransportEvent::NewAddress { listener_id, listen_addr }
        } else {
            TransportEvent::AddressExpired { listener_id, listen_addr }
        })
    }

    /// Decides about a first packet; nothing here computes more than table look-ups.
    fn admit(&self, incoming: quinn::Incoming) -> Option<Event> {
        let (remote, validated) = (incoming.remote_address(), incoming.remote_address_validated());
        let asked = self.parts.admit.as_ref().map_or(Admit::Accept, |admit| admit(remote, validated));
        let decision = match asked {
            Admit::Accept => self.parts.admission.decide(remote, validated),
            other => other,
        };
        match decision {
            Admit::Accept => {
                let permit = self.parts.admission.enter(remote);
                let (upgrade, turned) = (Arc::clone(&self.parts.upgrade), self.parts.turned);
                return Some(TransportEvent::Incoming {
                    listener_id: self.id,
                    upgrade: Box::pin(async move { upgrade.inbound(incoming, permit, turned).await }),
                    local_addr: format(self.local),
                    send_back_addr: format(remote),
                });
            }
            Admit::Retry => {
                self.parts.metrics.admission_retried.inc();
                if let Err(error) = incoming.retry() {
                    // The address is proven already, so a Retry means nothing.
                    error.into_incoming().refuse();
                }
            }
            Admit::Refuse => {
                self.parts.metrics.admission_refused.inc();
                incoming.refuse();
            }
            Admit::Ignore => {
                self.parts.metrics.admission_refused.inc();
                incoming.ignore();
            }
        }
        tracing::debug!(%remote, ?decision, "first packet not accepted");
        None
    }
}

fn next_incoming(endpoint: &quinn::Endpoint) -> BoxFuture<'static, Option<quinn::Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.pending.take() {
                return Poll::Ready(Some(event));
            }
            if this.closed {
                return Poll::Ready(None);
            }
            if let Poll::Ready(event) = this.poll_interfaces(cx) {
                return Poll::Ready(Some(event));
            }
            match this.accept.poll_unpin(cx) {
                Poll::Ready(Some(incoming)) => {
                    this.accept = next_incoming(&this.endpoint);
                    if let Some(event) = this.admit(incoming) {
                        return Poll::Ready(Some(event));
                    }
                }
                Poll::Ready(None) => this.close(),
                Poll::Pending => {
                    this.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}
