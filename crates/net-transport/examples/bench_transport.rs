//! `trellis bench transport` with stock libp2p-quic as a third row. Prints the JSON of OPS-06.
//!
//! `cargo run --release -p trellis-net-transport --example bench_transport [ROUNDS]`
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerExt;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, Multiaddr, Transport};
use libp2p::multiaddr::Protocol;
use libp2p_quic::tokio::Transport as StockTransport;
use tokio::sync::oneshot;
use trellis_net_transport::bench::{
    BenchConnection, BenchDialer, BenchError, BenchListener, BenchOptions, BenchStream, Serve, Variant, plain_quinn,
    run_variants, serve_stream, trellis,
};

const STOCK: &str = "libp2p-quic";

fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::Run { variant: STOCK, detail: error.to_string() }
}

fn multiaddr(socket: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(socket.ip().into()).with(Protocol::Udp(socket.port())).with(Protocol::QuicV1)
}

fn transport() -> StockTransport {
    StockTransport::new(libp2p_quic::Config::new(&libp2p::identity::Keypair::generate_ed25519()))
}

async fn serve(refuse: Arc<AtomicBool>, address: oneshot::Sender<Result<SocketAddr, BenchError>>) {
    let mut transport = transport();
    let any = multiaddr((Ipv4Addr::LOCALHOST, 0).into());
    if let Err(error) = transport.listen_on(ListenerId::next(), any) {
        return drop(address.send(Err(failed(error))));
    }
    let mut address = Some(address);
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await {
            TransportEvent::NewAddress { listen_addr, .. } => {
                let port = listen_addr.iter().find_map(|part| match part {
                    Protocol::Udp(port) => Some(port),
                    _ => None,
                });
                if let Some(address) = address.take() {
                    let _ = address.send(Ok((Ipv4Addr::LOCALHOST, port.unwrap_or_default()).into()));
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
        let dialing = self.0.dial(multiaddr(remote), options);
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

fn stock() -> Result<Variant, BenchError> {
    let serve: Serve = Box::new(|refuse, address| serve(refuse, address).boxed());
    let listener = BenchListener::start(STOCK, serve)?;
    Ok(Variant { name: STOCK, listener, dialer: Box::new(Dialer(transport())) })
}

#[tokio::main]
async fn main() -> Result<(), BenchError> {
    let mut options = BenchOptions::default();
    if let Some(rounds) = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()) {
        options.rounds = rounds;
    }
    let report = run_variants(&options, || Ok(vec![trellis()?, plain_quinn()?, stock()?])).await?;
    println!("{}", serde_json::to_string_pretty(&report).expect("a report is plain data"));
    Ok(())
}
