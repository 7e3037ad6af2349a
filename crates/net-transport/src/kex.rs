//! Which key exchange a session really used, and which PeerId it verified.
//!
//! Neither rustls' QUIC session behind quinn nor quinn itself shows the negotiated group. So every group that is offered
//! is wrapped: when an exchange *completes*, its group is noted, and the session that was reading handshake bytes on this
//! thread at that moment keeps the note (over a byte stream: the future that runs the handshake). Nothing is inferred from configuration, so what is shown cannot be wrong about
//! what happened: a session in which no exchange completed shows none and is refused.
//!
//! The verifier of certificates notes the PeerId in the same way, once its signatures hold, so that nobody has to parse and
//! verify the certificate again to learn it; and a listener's key schedule the secret of [`crate::exporter`].

use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;

use libp2p::PeerId;
use quinn::ConnectionId;
use quinn::crypto::{self, ExportKeyingMaterialError, KeyPair, Keys, Session, UnsupportedVersion};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, Side, TransportError};
use rustls::NamedGroup;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{ActiveKeyExchange, CompletedKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::ffdhe_groups::FfdheGroup;

use crate::exporter::ExporterSecret;

/// What a handshake has shown so far.
#[derive(Default)]
struct Noted {
    /// The group of the exchange that completed.
    group: Option<NamedGroup>,
    /// Whose certificate and handshake signature hold.
    peer: Option<PeerId>,
    /// What a listener may export from before its handshake is over.
    exporter_secret: Option<ExporterSecret>,
}

thread_local! {
    /// What the handshake on this thread has shown; the session's own from before handshake bytes are read to after.
    static NOTED: RefCell<Noted> =
        const { RefCell::new(Noted { group: None, peer: None, exporter_secret: None }) };
}

fn note_group(group: Option<NamedGroup>) {
    NOTED.with_borrow_mut(|noted| noted.group = group);
}

/// Notes the exporter secret of the handshake on this thread.
pub(crate) fn note_exporter_secret(secret: ExporterSecret) {
    NOTED.with_borrow_mut(|noted| noted.exporter_secret = Some(secret));
}

#[cfg(test)]
pub(crate) fn take_exporter_secret() -> Option<ExporterSecret> {
    NOTED.with_borrow_mut(|noted| noted.exporter_secret.take())
}

/// Notes whose certificate was verified in the handshake on this thread.
pub(crate) fn note_peer(peer: PeerId) {
    NOTED.with_borrow_mut(|noted| noted.peer = Some(peer));
}

/// A group that notes when an exchange in it completes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordedGroup {
    X25519MlKem768,
    X25519,
    Secp256r1,
}

/// The hybrid alone.
pub(crate) static REQUIRE_GROUPS: &[&dyn SupportedKxGroup] = &[&RecordedGroup::X25519MlKem768];
/// The hybrid first, then what other libp2p implementations speak.
pub(crate) static PREFER_GROUPS: &[&dyn SupportedKxGroup] =
    &[&RecordedGroup::X25519MlKem768, &RecordedGroup::X25519, &RecordedGroup::Secp256r1];

impl RecordedGroup {
    fn inner(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::X25519MlKem768 => kx_group::X25519MLKEM768,
            Self::X25519 => kx_group::X25519,
            Self::Secp256r1 => kx_group::SECP256R1,
        }
    }
}

impl SupportedKxGroup for RecordedGroup {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        Ok(Box::new(RecordedExchange(self.inner().start()?)))
    }

    fn start_and_complete(&self, peer_pub_key: &[u8]) -> Result<CompletedKeyExchange, rustls::Error> {
        let completed = self.inner().start_and_complete(peer_pub_key)?;
        note_group(Some(completed.group));
        Ok(completed)
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        self.inner().name()
    }

    fn fips(&self) -> bool {
        self.inner().fips()
    }

    fn usable_for_version(&self, version: rustls::ProtocolVersion) -> bool {
        self.inner().usable_for_version(version)
    }
}

struct RecordedExchange(Box<dyn ActiveKeyExchange>);

impl ActiveKeyExchange for RecordedExchange {
    fn complete(self: Box<Self>, peer_pub_key: &[u8]) -> Result<SharedSecret, rustls::Error> {
        let group = self.0.group();
        let secret = self.0.complete(peer_pub_key)?;
        note_group(Some(group));
        Ok(secret)
    }

    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        self.0.hybrid_component()
    }

    fn complete_hybrid_component(self: Box<Self>, peer_pub_key: &[u8]) -> Result<SharedSecret, rustls::Error> {
        // Here the peer chose the classical half alone, so its group is the one to show.
        let group = self.0.hybrid_component().map(|(group, _)| group);
        let secret = self.0.complete_hybrid_component(peer_pub_key)?;
        note_group(group);
        Ok(secret)
    }

    fn pub_key(&self) -> &[u8] {
        self.0.pub_key()
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        self.0.group()
    }
}

/// Runs a TLS handshake over a byte stream and returns with its result what it has shown; the ALPN is left to the caller.
pub(crate) async fn recording<T>(handshake: impl Future<Output = T>) -> (T, Negotiated) {
    let mut handshake = std::pin::pin!(handshake);
    let mut noted = Noted::default();
    let result = std::future::poll_fn(|cx| {
        let outer = NOTED.replace(std::mem::take(&mut noted));
        let polled = handshake.as_mut().poll(cx);
        noted = NOTED.replace(outer);
        polled
    })
    .await;
    let Noted { group, peer, .. } = noted;
    (result, Negotiated { alpn: Vec::new(), group, peer })
}

/// What the two ends agreed upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) alpn: Vec<u8>,
    pub(crate) group: Option<NamedGroup>,
    /// The verified peer; `None` until its certificate and signature were checked.
    pub(crate) peer: Option<PeerId>,
}

impl Negotiated {
    /// What a session's `handshake_data` holds; nothing if that is missing.
    pub(crate) fn read(data: Option<Box<dyn Any>>) -> Self {
        data.and_then(|data| data.downcast().ok()).map(|negotiated: Box<Self>| *negotiated).unwrap_or_default()
    }
}

/// quinn's TLS session, which also keeps what its handshake has shown.
struct RecordingSession {
    inner: Box<dyn Session>,
    noted: Noted,
}

impl Session for RecordingSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let data = self.inner.handshake_data()?.downcast::<crypto::rustls::HandshakeData>().ok()?;
        let Noted { group, peer, .. } = self.noted;
        Some(Box::new(Negotiated { alpn: data.protocol.unwrap_or_default(), group, peer }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn crypto::HeaderKey>, Box<dyn crypto::PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        NOTED.set(std::mem::take(&mut self.noted));
        let result = self.inner.read_handshake(buf);
        self.noted = NOTED.take();
        if !self.inner.is_handshaking() {
            // From now on rustls exports by itself.
            self.noted.exporter_secret = None;
        }
        result
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        self.inner.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn crypto::PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        match (self.inner.export_keying_material(output, label, context), &self.noted.exporter_secret) {
            (Err(_), Some(secret)) => secret.export(output, label, context).ok_or(ExportKeyingMaterialError),
            (result, _) => result,
        }
    }
}

/// quinn's client side with recording sessions.
pub(crate) struct RecordingClient(pub(crate) Arc<crypto::rustls::QuicClientConfig>);

impl crypto::ClientConfig for RecordingClient {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.0).start_session(version, server_name, params)?;
        Ok(Box::new(RecordingSession { inner, noted: Noted::default() }))
    }
}

/// quinn's server side with recording sessions.
pub(crate) struct RecordingServer(pub(crate) Arc<crypto::rustls::QuicServerConfig>);

impl crypto::ServerConfig for RecordingServer {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let inner = Arc::clone(&self.0).start_session(version, params);
        Box::new(RecordingSession { inner, noted: Noted::default() })
    }
}
