//! The variant that a libp2p node would have otherwise: stock libp2p-quic with its own defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerExt;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, Transport};
use libp2p_quic::tokio::Transport as StockTransport;
use tokio::sync::oneshot;

use super::listener::{Serve, serve_stream};
use super::{BenchConnection, BenchDialer, BenchError, BenchListener, BenchStream, Variant};
use crate::transport::{format_address, parse_address};

const STOCK: &str = "libp2p-quic";

/// Stock libp2p-quic: the same key exchange where both sides can, ChaCha20-Poly1305 first, no ML-DSA-65 proofs.
///
/// # Errors
/// [`BenchError::Setup`].
pub fn stock_libp2p() -> Result<Variant, BenchError> {
    let serve: Serve = Box::new(|refuse, address| serve(refuse, address).boxed());
    let listener = BenchListener::start(STOCK, serve)?;
    Ok(Variant { name: STOCK, listener, dialer: Box::new(Dialer(transport())) })
}

fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::Run { variant: STOCK, detail: error.to_string() }
}

fn transport() -> StockTransport {
    StockTransport::new(libp2p_quic::Config::new(&libp2p::identity::Keypair::generate_ed25519()))
}

async fn serve(refuse: Arc<AtomicBool>, address: oneshot::Sender<Result<SocketAddr, BenchError>>) {
    let mut transport = transport();
    let any = format_address((Ipv4Addr::LOCALHOST, 0).into());
    if let Err(error) = transport.listen_on(ListenerId::next(), any) {
        return drop(address.send(Err(failed(error))));
    }
    let mut address = Some(address);
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await {
            TransportEvent::NewAddress { listen_addr, .. } => {
                let bound = parse_address(&listen_addr).map(|(socket, _)| socket);
                if let Some(address) = address.take() {
                    let _ = address.send(bound.ok_or_else(|| failed("no socket address")));
                }
            }
            // What a swarm does with a connection that a behaviour denies.
            TransportEvent::Incoming { upgrade, .. } if refuse.load(Ordering::SeqCst) => drop(upgrade),
            TransportEvent::Incoming { upgrade, .. } => drop(tokio::spawn(async move {
                let Ok((_, mut connection)) = upgrade.await else { return };
                while let Ok(stream) = std::future::poll_fn(|cx| connection.poll_inbound_unpin(cx)).await {
                    tokio::spawn(serve_stream(stream));
                }
            })),
            _ => {}
        }
    }
}

struct Dialer(StockTransport);

struct Connection(libp2p_quic::Connection);

impl BenchDialer for Dialer {
    fn dial(&mut self, remote: SocketAddr) -> BoxFuture<'_, Result<Box<dyn BenchConnection>, BenchError>> {
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        let dialing = self.0.dial(format_address(remote), options);
        async move {
            let (_, connection) = dialing.map_err(failed)?.await.map_err(failed)?;
            Ok(Box::new(Connection(connection)) as _)
        }
        .boxed()
    }
}

impl BenchConnection for Connection {
    fn open(&mut self) -> BoxFuture<'_, Result<Box<dyn BenchStream>, BenchError>> {
        async move {
            let stream = std::future::poll_fn(|cx| self.0.poll_outbound_unpin(cx)).await;
            Ok(Box::new(stream.map_err(failed)?) as _)
        }
        .boxed()
    }
}
