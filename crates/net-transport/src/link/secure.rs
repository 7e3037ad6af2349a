//! From a bare byte stream to an encrypted one whose other end is known: negotiation, TLS or Noise, policy, proofs.

use std::sync::Arc;

use futures::{AsyncReadExt, AsyncWriteExt};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::noise;
use multistream_select::{
    Negotiated as Selected, NegotiationError, ProtocolError, Version, dialer_select_proto, listener_select_proto,
};
use rustls::NamedGroup;
use trellis_crypto::HybridPublic;

use super::goodbye::{self, GOODBYE_MARK, HEAD_BYTES};
use super::wire::{BoxedStream, WireBytes};
use crate::auth::{AuthError, EXPORTER_LABEL, Exporter, PROOF_BYTES, Proof};
use crate::config::{ALPN_TRELLIS, GOODBYE_TIMEOUT_MS};
use crate::error::{ClassicalPeer, TransportError, TransportSetupError};
use crate::kex::{Negotiated, recording};
use crate::policy::Policy;
use crate::session::{CloseReason, Direction, KeyExchange};
use crate::tls::TlsConfigs;
use crate::upgrade::{Refusal, UpgradeContext, close, within};

/// libp2p's TLS.
const TLS: &str = "/tls/1.0.0";
/// libp2p's Noise XX, which is classical.
const NOISE: &str = "/noise";
/// libp2p's yamux, for peers that negotiate their muxer.
const YAMUX: &str = "/yamux/1.0.0";
/// Bytes with which a listener names the negotiation itself: a length and `/multistream/1.0.0`.
const NEGOTIATION_NAME_BYTES: u64 = 20;
/// rustls wants a name; SNI is off, so it never leaves this process.
const SERVER_NAME: &str = "l";

/// Secures byte streams for one node.
pub(crate) struct Securer {
    context: Arc<UpgradeContext>,
    client: TlsConnector,
    server: TlsAcceptor,
    /// Only under `prefer`.
    noise: Option<noise::Config>,
}

/// Who is at the other end of a secured stream, and how that is known.
pub(crate) struct Verified {
    pub(crate) peer: PeerId,
    pub(crate) key_exchange: KeyExchange,
    pub(crate) alpn: String,
    pub(crate) public: Option<HybridPublic>,
}

type RawStream = Selected<BoxedStream>;

impl Securer {
    pub(crate) fn new(context: Arc<UpgradeContext>, tls: TlsConfigs) -> Result<Self, TransportSetupError> {
        let noise = match context.policy {
            Policy::Require => None,
            Policy::Prefer => Some(noise::Config::new(&context.identity)?),
        };
        let (client, server) = (Arc::new(tls.client).into(), Arc::new(tls.server).into());
        Ok(Self { context, client, server, noise })
    }

    pub(crate) fn context(&self) -> &UpgradeContext {
        &self.context
    }

    /// Secures `io`, whose bytes `wire` counts, and finds out who is there; `expected` is whom the dialled address names.
    pub(crate) async fn secure(
        &self,
        io: BoxedStream,
        wire: &WireBytes,
        direction: Direction,
        expected: Option<PeerId>,
    ) -> Result<(BoxedStream, Verified), TransportError> {
        // Most wanted first.
        let offered: Vec<&'static str> = if self.noise.is_some() { vec![TLS, NOISE] } else { vec![TLS] };
        let (chosen, io) = match direction {
            // Where one protocol is left to ask for, what follows it need not wait for the answer.
            Direction::Outbound => dialer_select_proto(io, offered, Version::V1Lazy).await?,
            Direction::Inbound => {
                let selected = listener_select_proto(io, offered).await;
                selected.map_err(|error| not_selected(error, wire))?
            }
        };
        match &self.noise {
            Some(noise) if chosen == NOISE => self.noise(noise.clone(), io, direction, expected).await,
            _ => self.tls(io, direction, expected).await,
        }
    }

    async fn tls(
        &self,
        io: RawStream,
        direction: Direction,
        expected: Option<PeerId>,
    ) -> Result<(BoxedStream, Verified), TransportError> {
        let (mut stream, negotiated) = self.handshake(io, direction).await?;
        let proven = negotiated.alpn == ALPN_TRELLIS;
        let judged = self.context.judge(&negotiated, expected);
        if !proven {
            let (peer, key_exchange) = judged.map_err(|refusal| refusal.error)?;
            let alpn = String::from_utf8_lossy(&negotiated.alpn).into_owned();
            let stream = select_muxer(stream, direction).await?;
            return Ok((stream, Verified { peer, key_exchange, alpn, public: None }));
        }
        let authenticated = match judged {
            Ok((peer, key_exchange)) => {
                let proofs = self.authenticate(&mut stream, direction, &peer).await;
                proofs.map(|public| (peer, key_exchange, public)).map_err(Refusal::of_proof)
            }
            Err(refusal) => Err(refusal),
        };
        match authenticated {
            Ok((peer, key_exchange, public)) => {
                let alpn = String::from_utf8_lossy(ALPN_TRELLIS).into_owned();
                Ok((Box::new(stream), Verified { peer, key_exchange, alpn, public: Some(public) }))
            }
            Err(refusal) => Err(refuse(stream, refusal).await),
        }
    }

    async fn handshake(
        &self,
        io: RawStream,
        direction: Direction,
    ) -> Result<(TlsStream<RawStream>, Negotiated), TransportError> {
        let (stream, mut negotiated) = match direction {
            Direction::Outbound => {
                let name = SERVER_NAME.try_into().map_err(|_| TransportError::NoIdentity)?;
                let (stream, negotiated) = recording(self.client.connect(name, io)).await;
                (stream.map(TlsStream::Client), negotiated)
            }
            Direction::Inbound => {
                let (stream, negotiated) = recording(self.server.accept(io)).await;
                (stream.map(TlsStream::Server), negotiated)
            }
        };
        let stream = stream.map_err(TransportError::from_tls)?;
        negotiated.alpn = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
        Ok((stream, negotiated))
    }

    /// Proofs both ways, each sent without waiting for the other.
    async fn authenticate(
        &self,
        stream: &mut TlsStream<RawStream>,
        direction: Direction,
        peer: &PeerId,
    ) -> Result<HybridPublic, TransportError> {
        let exporter = export(stream)?;
        let own = Proof::sign(&self.context.keys, direction, &exporter, &self.context.local)?.encode();
        stream.write_all(&own).await.map_err(AuthError::Io)?;
        stream.flush().await.map_err(AuthError::Io)?;
        let mut theirs = vec![0u8; PROOF_BYTES];
        let (head, rest) = theirs.split_at_mut(HEAD_BYTES);
        stream.read_exact(head).await.map_err(TransportError::from_tls)?;
        if head.first() == Some(&GOODBYE_MARK) {
            return Err(TransportError::ClosedByPeer(read_goodbye(stream, head).await?));
        }
        stream.read_exact(rest).await.map_err(AuthError::Io)?;
        Ok(Proof::decode(&theirs)?.verify(direction.reversed(), &exporter, peer)?)
    }

    async fn noise(
        &self,
        noise: noise::Config,
        io: RawStream,
        direction: Direction,
        expected: Option<PeerId>,
    ) -> Result<(BoxedStream, Verified), TransportError> {
        let (peer, stream) = match direction {
            Direction::Outbound => noise.upgrade_outbound(io, NOISE).await?,
            Direction::Inbound => noise.upgrade_inbound(io, NOISE).await?,
        };
        let negotiated = Negotiated { alpn: Vec::new(), group: Some(NamedGroup::X25519), peer: Some(peer) };
        let (peer, key_exchange) = self.context.judge(&negotiated, expected).map_err(|refusal| refusal.error)?;
        let stream = select_muxer(stream, direction).await?;
        Ok((stream, Verified { peer, key_exchange, alpn: NOISE.to_owned(), public: None }))
    }
}

/// Why nothing was agreed upon with a dialer. One that hangs up, however rudely, after this node has declined what it asked
/// for was refused; one that hangs up before has only gone.
fn not_selected(error: NegotiationError, wire: &WireBytes) -> TransportError {
    let (_, sent) = wire.totals();
    match error {
        // Before it agrees, all that a listener says beyond the negotiation's name is no.
        NegotiationError::ProtocolError(ProtocolError::IoError(_)) if sent > NEGOTIATION_NAME_BYTES => {
            TransportError::Classical(ClassicalPeer::SecureChannel)
        }
        error => error.into(),
    }
}

/// Agrees on yamux with a peer that wants to be asked.
async fn select_muxer(
    io: impl super::wire::Duplex + 'static,
    direction: Direction,
) -> Result<BoxedStream, TransportError> {
    let (_, io) = match direction {
        Direction::Outbound => dialer_select_proto(io, [YAMUX], Version::V1).await?,
        Direction::Inbound => listener_select_proto(io, [YAMUX]).await?,
    };
    Ok(Box::new(io))
}

fn export(stream: &TlsStream<RawStream>) -> Result<Exporter, AuthError> {
    let secret = Exporter::default();
    match stream {
        TlsStream::Client(stream) => stream.get_ref().1.export_keying_material(secret, EXPORTER_LABEL, Some(b"")),
        TlsStream::Server(stream) => stream.get_ref().1.export_keying_material(secret, EXPORTER_LABEL, Some(b"")),
    }
    .map_err(|_| AuthError::NoExporter)
}

async fn read_goodbye(stream: &mut TlsStream<RawStream>, head: &[u8]) -> Result<CloseReason, AuthError> {
    let malformed = AuthError::Length { actual: head.len() };
    let Some(head) = head.first_chunk::<HEAD_BYTES>() else { return Err(malformed) };
    let Some(length) = goodbye::text_bytes(head) else { return Err(malformed) };
    let mut text = vec![0u8; length];
    stream.read_exact(&mut text).await?;
    goodbye::decode(&[head.as_slice(), &text].concat()).ok_or(malformed)
}

/// Tells a Trellis node why it is refused, as far as it listens, and gives the reason back.
async fn refuse(mut stream: TlsStream<RawStream>, refusal: Refusal) -> TransportError {
    let Refusal { code, error } = refusal;
    // Who has closed need not be told.
    if !matches!(error, TransportError::ClosedByPeer(_)) {
        let said = goodbye::encode(&CloseReason { code, text: error.to_string() });
        let telling = async {
            stream.write_all(&said).await?;
            stream.close().await?;
            Ok::<(), TransportError>(())
        };
        let told = within(GOODBYE_TIMEOUT_MS, telling).await;
        tracing::trace!(?told, "refusal told");
    }
    error
}

impl Refusal {
    /// What is wrong with a proof, or with the stream that was to bring it.
    fn of_proof(error: TransportError) -> Self {
        Self { code: close::AUTH, error }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Wire;
    use super::*;

    // row: NET-10, NET-21
    #[tokio::test]
    async fn a_dialer_that_hangs_up_after_a_no_was_refused_and_one_that_hangs_up_before_has_only_gone() {
        let name = b"\x13/multistream/1.0.0\n";
        assert_eq!(name.len() as u64, NEGOTIATION_NAME_BYTES);
        for (said, refused) in [(&b""[..], false), (name, false), (b"\x13/multistream/1.0.0\n\x03na\n", true)] {
            let bytes = Arc::new(WireBytes::default());
            Wire::new(futures::io::sink(), Arc::clone(&bytes)).write_all(said).await.unwrap();
            let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            let error = not_selected(ProtocolError::IoError(reset).into(), &bytes);
            let classical = matches!(error, TransportError::Classical(ClassicalPeer::SecureChannel));
            assert_eq!(classical, refused, "{error}");
        }
    }
}
