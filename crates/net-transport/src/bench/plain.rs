//! The variants: Trellis' transport and plain quinn.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerExt;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::core::{Endpoint, Transport};
use libp2p::identity::Keypair;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rand::SeedableRng;
use rustls::crypto::aws_lc_rs::kx_group;
use tokio::sync::oneshot;
use trellis_crypto::HybridKey;

use super::listener::{Serve, serve_stream};
use super::{BenchConnection, BenchDialer, BenchError, BenchListener, BenchStream, Variant};
use crate::config::{ALPN_LIBP2P, CONNECTION_WINDOW_BYTES, Congestion, TransportConfig, quinn_transport};
use crate::connection::{Connection, Stream};
use crate::policy::Policy;
use crate::prefilter::Gate;
use crate::tls::tls_configs_with;
use crate::transport::{QuicTransport, format_address};

const TRELLIS: &str = "trellis";
const QUINN: &str = "quinn";
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn setup(variant: &'static str, error: impl std::fmt::Display) -> BenchError {
    BenchError::Setup { variant, detail: error.to_string() }
}

fn failed(variant: &'static str, error: impl std::fmt::Display) -> BenchError {
    BenchError::Run { variant, detail: error.to_string() }
}

fn trellis_config() -> Result<TransportConfig, BenchError> {
    let keys = HybridKey::generate(&mut rand::rngs::StdRng::from_os_rng()).map_err(|error| setup(TRELLIS, error))?;
    Ok(TransportConfig::new(Arc::new(keys), Policy::Require))
}

/// Trellis' transport under `require`.
///
/// # Errors
/// [`BenchError::Setup`].
pub fn trellis() -> Result<Variant, BenchError> {
    let serve: Serve = Box::new(|refuse, address| serve_trellis(refuse, address).boxed());
    let listener = BenchListener::start(TRELLIS, serve)?;
    let transport = QuicTransport::new(trellis_config()?).map_err(|error| setup(TRELLIS, error))?;
    Ok(Variant { name: TRELLIS, listener, dialer: Box::new(TrellisDialer(transport)) })
}

async fn serve_trellis(refuse: Arc<AtomicBool>, address: oneshot::Sender<Result<SocketAddr, BenchError>>) {
    let listening = trellis_config().and_then(|mut config| {
        config.gate = Some(Arc::new(move |_| if refuse.load(Ordering::SeqCst) { Gate::Refuse } else { Gate::Pass }));
        let mut transport = QuicTransport::new(config).map_err(|error| setup(TRELLIS, error))?;
        let listen = transport.listen_on(ListenerId::next(), format_address(ANY_PORT));
        listen.map_err(|error| setup(TRELLIS, error))?;
        Ok(transport)
    });
    let mut transport = match listening {
        Ok(transport) => transport,
        Err(error) => return drop(address.send(Err(error))),
    };
    let mut address = Some(address);
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await {
            TransportEvent::NewAddress { listen_addr, .. } => {
                let bound = crate::transport::parse_address(&listen_addr).map(|(socket, _)| socket);
                if let Some(address) = address.take() {
                    let _ = address.send(bound.ok_or_else(|| setup(TRELLIS, "no socket address")));
                }
            }
            TransportEvent::Incoming { upgrade, .. } => drop(tokio::spawn(async move {
                if let Ok((_, connection)) = upgrade.await {
                    serve_connection(connection).await;
                }
            })),
            _ => {}
        }
    }
}

async fn serve_connection(mut connection: Connection) {
    while let Ok(stream) = std::future::poll_fn(|cx| connection.poll_inbound_unpin(cx)).await {
        tokio::spawn(serve_stream(stream));
    }
}

struct TrellisDialer(QuicTransport);

struct TrellisConnection(Connection);

impl BenchDialer for TrellisDialer {
    fn dial(&mut self, remote: SocketAddr) -> BoxFuture<'_, Result<Box<dyn BenchConnection>, BenchError>> {
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        let dialing = self.0.dial(format_address(remote), options);
        async move {
            let dialing = dialing.map_err(|error| failed(TRELLIS, error))?;
            let (_, connection) = dialing.await.map_err(|error| failed(TRELLIS, error))?;
            Ok(Box::new(TrellisConnection(connection)) as _)
        }
        .boxed()
    }
}

impl BenchConnection for TrellisConnection {
    fn open(&mut self) -> BoxFuture<'_, Result<Box<dyn BenchStream>, BenchError>> {
        async move {
            let stream = std::future::poll_fn(|cx| self.0.poll_outbound_unpin(cx)).await;
            Ok(Box::new(stream.map_err(|error| failed(TRELLIS, error))?) as _)
        }
        .boxed()
    }
}

/// Plain quinn: same certificates, windows and cipher, classical key exchange, no proofs.
///
/// # Errors
/// [`BenchError::Setup`].
pub fn plain_quinn() -> Result<Variant, BenchError> {
    let serve: Serve = Box::new(|refuse, address| serve_quinn(refuse, address).boxed());
    let listener = BenchListener::start(QUINN, serve)?;
    let mut endpoint = quinn::Endpoint::client(ANY_PORT).map_err(|error| setup(QUINN, error))?;
    let (client, _) = quinn_configs()?;
    endpoint.set_default_client_config(client);
    Ok(Variant { name: QUINN, listener, dialer: Box::new(QuinnDialer(endpoint)) })
}

fn quinn_configs() -> Result<(quinn::ClientConfig, quinn::ServerConfig), BenchError> {
    let alpn = vec![ALPN_LIBP2P.to_vec()];
    let tls = tls_configs_with(&Keypair::generate_ed25519(), vec![kx_group::X25519], alpn);
    let tls = tls.map_err(|error| setup(QUINN, error))?;
    let mut transport = quinn_transport(Congestion::default());
    // As our own becomes when it is read.
    transport.receive_window(CONNECTION_WINDOW_BYTES.into());
    let transport = Arc::new(transport);
    let client = QuicClientConfig::try_from(tls.client).map_err(|error| setup(QUINN, error))?;
    let server = QuicServerConfig::try_from(tls.server).map_err(|error| setup(QUINN, error))?;
    let mut client = quinn::ClientConfig::new(Arc::new(client));
    client.transport_config(Arc::clone(&transport));
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
    server.transport_config(transport);
    Ok((client, server))
}

async fn serve_quinn(refuse: Arc<AtomicBool>, address: oneshot::Sender<Result<SocketAddr, BenchError>>) {
    let bound = quinn_configs().and_then(|(_, server)| {
        let endpoint = quinn::Endpoint::server(server, ANY_PORT).map_err(|error| setup(QUINN, error))?;
        let local = endpoint.local_addr().map_err(|error| setup(QUINN, error))?;
        Ok((endpoint, local))
    });
    let endpoint = match bound {
        Ok((endpoint, local)) => {
            let _ = address.send(Ok(local));
            endpoint
        }
        Err(error) => return drop(address.send(Err(error))),
    };
    while let Some(incoming) = endpoint.accept().await {
        if refuse.load(Ordering::SeqCst) {
            incoming.refuse();
            continue;
        }
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            while let Ok(stream) = connection.accept_bi().await {
                tokio::spawn(serve_stream(Stream::new(stream, None)));
            }
        });
    }
}

struct QuinnDialer(quinn::Endpoint);

struct QuinnConnection(quinn::Connection);

impl BenchDialer for QuinnDialer {
    fn dial(&mut self, remote: SocketAddr) -> BoxFuture<'_, Result<Box<dyn BenchConnection>, BenchError>> {
        async move {
            let connecting = self.0.connect(remote, "l").map_err(|error| failed(QUINN, error))?;
            let connection = connecting.await.map_err(|error| failed(QUINN, error))?;
            Ok(Box::new(QuinnConnection(connection)) as _)
        }
        .boxed()
    }
}

impl BenchConnection for QuinnConnection {
    fn open(&mut self) -> BoxFuture<'_, Result<Box<dyn BenchStream>, BenchError>> {
        async move {
            let stream = self.0.open_bi().await.map_err(|error| failed(QUINN, error))?;
            Ok(Box::new(Stream::new(stream, None)) as _)
        }
        .boxed()
    }
}
