//! Dials through a SOCKS5 proxy (NET-47): TCP addresses, v3 onion services, and names that only the proxy can look up.
//!
//! With a proxy every dial goes through it, and what it cannot carry (QUIC) is not dialled at all, so that nothing leaves
//! this machine beside it by accident. A name is handed to the proxy as it is, never looked up here.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use libp2p::PeerId;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError as CoreError, TransportEvent};
use libp2p::core::{ConnectedPoint, Multiaddr, Transport};
use libp2p::multiaddr::Protocol;
use libp2p::tcp::tokio::TcpStream;
use tokio_socks::TargetAddr;
use tokio_socks::tcp::Socks5Stream;

use crate::config::PROXY_TIMEOUT_MS;
use crate::error::TransportError;
use crate::link::{Securer, StreamConnection, upgrade};
use crate::session::{Direction, LinkKind};
use crate::tcp::watch;
use crate::upgrade::within;

/// What a node is told about its SOCKS5 proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether only onion and I2P names are dialled, and nothing is listened at but loopback (where the onion service's
    /// daemon connects from).
    pub onion_only: bool,
}

/// Where a dial through the proxy leads; `None` for an address that it cannot carry. `onion_only` leaves out what is reached
/// over the clear network in the end.
fn target(address: &Multiaddr, onion_only: bool) -> Option<TargetAddr<'static>> {
    let mut parts = address.iter();
    let (target, hidden) = match parts.next()? {
        onion @ Protocol::Onion3(_) => {
            // Its text is `/onion3/NAME:PORT`.
            let text = onion.to_string();
            let (name, port) = text.strip_prefix("/onion3/")?.split_once(':')?;
            (TargetAddr::Domain(format!("{name}.onion").into(), port.parse().ok()?), true)
        }
        Protocol::Ip4(ip) => (TargetAddr::Ip(SocketAddr::new(ip.into(), tcp_port(parts.next()?)?)), false),
        Protocol::Ip6(ip) => (TargetAddr::Ip(SocketAddr::new(ip.into(), tcp_port(parts.next()?)?)), false),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => {
            let hidden = is_hidden_name(&name);
            (TargetAddr::Domain(name.into_owned().into(), tcp_port(parts.next()?)?), hidden)
        }
        _ => return None,
    };
    let whole = matches!((parts.next(), parts.next()), (None | Some(Protocol::P2p(_)), None));
    (whole && (hidden || !onion_only)).then_some(target)
}

fn tcp_port(part: Protocol<'_>) -> Option<u16> {
    match part {
        Protocol::Tcp(port) if port != 0 => Some(port),
        _ => None,
    }
}

/// Whether a name exists inside an anonymity network only.
fn is_hidden_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".onion") || name.ends_with(".b32.i2p")
}

/// Whether an address says nothing of where its node is on the clear network.
#[must_use]
pub fn is_hidden(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Onion3(_)) => true,
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => is_hidden_name(&name),
        _ => false,
    }
}

/// Dials through a proxy and listens nowhere.
pub(crate) struct ProxyTransport {
    /// Without one nothing is dialled.
    proxy: Option<Proxy>,
    securer: Arc<Securer>,
}

type Upgrade = BoxFuture<'static, Result<(PeerId, StreamConnection), TransportError>>;

impl ProxyTransport {
    pub(crate) const fn new(proxy: Option<Proxy>, securer: Arc<Securer>) -> Self {
        Self { proxy, securer }
    }
}

impl Transport for ProxyTransport {
    type Output = (PeerId, StreamConnection);
    type Error = TransportError;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, _: ListenerId, address: Multiaddr) -> Result<(), CoreError<TransportError>> {
        Err(CoreError::MultiaddrNotSupported(address))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Upgrade, CoreError<TransportError>> {
        let proxy = self.proxy.as_ref();
        let found = proxy.and_then(|proxy| Some((proxy.address, target(&address, proxy.onion_only)?)));
        let Some((proxy, target)) = found else { return Err(CoreError::MultiaddrNotSupported(address)) };
        let securer = Arc::clone(&self.securer);
        Ok(Box::pin(async move {
            let tunnel = async { Ok(Socks5Stream::connect(proxy, target).await?.into_inner()) };
            let socket = within(PROXY_TIMEOUT_MS, tunnel)
                .await
                .map_err(|error| securer.context().refused(error, Direction::Outbound, &address))?;
            let socket = TcpStream(socket);
            watch(&socket);
            let (role_override, port_use) = (options.role, options.port_use);
            let point = ConnectedPoint::Dialer { address, role_override, port_use };
            upgrade(securer, socket, &point, LinkKind::Proxied, None).await
        }))
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, TransportError>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONION: &str = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd";

    fn of(text: &str, onion_only: bool) -> Option<String> {
        target(&text.parse().unwrap(), onion_only).map(|target| target.to_string())
    }

    // row: NET-47
    #[test]
    fn names_go_to_the_proxy_as_they_are() {
        let id = PeerId::random();
        assert_eq!(of(&format!("/onion3/{ONION}:9700"), true).unwrap(), format!("{ONION}.onion:9700"));
        assert_eq!(of(&format!("/onion3/{ONION}:9700/p2p/{id}"), true).unwrap(), format!("{ONION}.onion:9700"));
        let i2p = format!("{}.b32.i2p", "a".repeat(52));
        assert_eq!(of(&format!("/dns/{i2p}/tcp/9700"), true).unwrap(), format!("{i2p}:9700"));
        assert_eq!(of("/dns4/node.example/tcp/9700", false).unwrap(), "node.example:9700");
        assert_eq!(of("/ip4/11.0.0.1/tcp/9700", false).unwrap(), "11.0.0.1:9700");
        assert_eq!(of("/ip6/2001::1/tcp/9700", false).unwrap(), "[2001::1]:9700");
    }

    // row: NET-47
    #[test]
    fn what_a_proxy_cannot_carry_or_should_not_is_not_dialled() {
        for text in ["/ip4/11.0.0.1/udp/9700/quic-v1", "/ip4/11.0.0.1/tcp/0", "/ip4/11.0.0.1/tcp/1/ws"] {
            assert_eq!(of(text, false), None, "{text}");
        }
        for text in ["/ip4/11.0.0.1/tcp/9700", "/dns4/node.example/tcp/9700", "/ip4/127.0.0.1/tcp/1"] {
            assert_eq!(of(text, true), None, "{text}");
            assert!(!is_hidden(&text.parse().unwrap()));
        }
        assert!(is_hidden(&format!("/onion3/{ONION}:1").parse().unwrap()));
        assert!(is_hidden(&format!("/dns/{}.B32.i2p/tcp/1", "a".repeat(52)).parse().unwrap()));
    }
}
