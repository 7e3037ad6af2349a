//! One address at the first TURN server that gives one; made when it is needed, made anew when it is gone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Credentials;
use super::error::TurnError;
use super::service::open;
use super::socket::TurnSocket;
use super::tls::client_config;
use super::uri::TurnServer;

/// Servers that are used at most.
pub const SERVERS_MAX: usize = 8;
/// A server that failed is not asked again for this long; it doubles with each failure.
pub const RETRY_MS_MIN: u64 = 1_000;
/// The longest such wait.
pub const RETRY_MS_MAX: u64 = 60_000;

/// Which servers there are, and how they are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnSettings {
    /// In the order in which they are asked.
    pub servers: Vec<TurnServer>,
    /// Who this node is for them.
    pub credentials: Credentials,
    /// PEM file of the authorities for TLS; the system's otherwise.
    pub authorities: Option<PathBuf>,
}

/// A server, as commands show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReport {
    /// As it was written.
    pub server: String,
    /// The address that this node has there now.
    pub relayed: Option<SocketAddr>,
    /// How long the last allocation took, milliseconds.
    pub took_ms: Option<u64>,
    /// Why there was none the last time.
    pub problem: Option<TurnError>,
}

/// What is known of a server.
#[derive(Default)]
struct Known {
    relayed: Option<SocketAddr>,
    took_ms: Option<u64>,
    problem: Option<TurnError>,
    failures: u32,
    not_before: Option<Instant>,
}

/// Keeps one allocation.
pub struct Turn {
    settings: TurnSettings,
    known: Mutex<Vec<Known>>,
    /// Read when it is first needed: the system's authorities are many.
    tls: OnceLock<Result<Arc<rustls::ClientConfig>, TurnError>>,
    /// Held while an allocation is made, so that two dials make one.
    current: tokio::sync::Mutex<Option<Arc<TurnSocket>>>,
}

impl Turn {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(mut settings: TurnSettings) -> Self {
        settings.servers.truncate(SERVERS_MAX);
        let known = settings.servers.iter().map(|_| Known::default()).collect();
        Self { settings, known: Mutex::new(known), tls: OnceLock::new(), current: tokio::sync::Mutex::new(None) }
    }

    /// The socket that stands, or a new one of the first server that gives one.
    ///
    /// # Errors
    /// [`TurnError`] of the last server that was asked, now or while it is left alone.
    pub async fn socket(&self) -> Result<Arc<TurnSocket>, TurnError> {
        let mut current = self.current.lock().await;
        if let Some(socket) = current.as_ref() {
            let Some(failure) = socket.failure() else { return Ok(Arc::clone(socket)) };
            tracing::info!(relayed = %socket.relayed(), error = %failure, "the address at the TURN server is gone");
            *current = None;
        }
        let tls = self.tls.get_or_init(|| client_config(self.settings.authorities.as_deref())).clone()?;
        let mut last = TurnError::NoServer;
        for (place, server) in self.settings.servers.iter().enumerate() {
            let began = Instant::now();
            if let Some(problem) = self.waits(place, began) {
                last = problem;
                continue;
            }
            match open(server, &self.settings.credentials, &tls).await {
                Ok(socket) => {
                    self.worked(place, &socket, began);
                    *current = Some(Arc::clone(&socket));
                    return Ok(socket);
                }
                Err(error) => last = self.failed(place, server, error),
            }
        }
        Err(last)
    }

    /// Gives the address back to its server; the next one who needs one gets another.
    pub async fn give_back(&self) {
        let standing = self.current.lock().await.take();
        if let Some(socket) = standing.filter(|socket| socket.failure().is_none()) {
            socket.give_back().await;
            tracing::info!(relayed = %socket.relayed(), "the address at the TURN server is given back");
        }
    }

    /// The problem of a server that is left alone for now.
    fn waits(&self, place: usize, now: Instant) -> Option<TurnError> {
        let known = self.known.lock();
        let known = known.get(place)?;
        known.problem.clone().filter(|_| known.not_before.is_some_and(|not_before| now < not_before))
    }

    fn worked(&self, place: usize, socket: &TurnSocket, began: Instant) {
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut all = self.known.lock();
        all.iter_mut().for_each(|known| known.relayed = None);
        if let Some(known) = all.get_mut(place) {
            let relayed = Some(socket.relayed());
            *known = Known { relayed, took_ms: Some(took_ms), ..Known::default() };
        }
        let server = self.settings.servers.get(place).map(ToString::to_string).unwrap_or_default();
        tracing::info!(server, relayed = %socket.relayed(), took_ms, "an address at a TURN server");
    }

    fn failed(&self, place: usize, server: &TurnServer, error: TurnError) -> TurnError {
        tracing::warn!(%server, reason = error.name(), %error, hint = error.hint(), "no address at the TURN server");
        if let Some(known) = self.known.lock().get_mut(place) {
            let wait_ms = RETRY_MS_MIN.saturating_mul(1 << known.failures.min(16)).min(RETRY_MS_MAX);
            known.failures = known.failures.saturating_add(1);
            known.not_before = Some(Instant::now() + std::time::Duration::from_millis(wait_ms));
            (known.relayed, known.problem) = (None, Some(error.clone()));
        }
        error
    }

    /// Every server and what became of it.
    #[must_use]
    pub fn report(&self) -> Vec<ServerReport> {
        // While one is being made there is none.
        let current = self.current.try_lock().ok();
        let current = current.as_ref().and_then(|current| current.as_ref());
        let standing = current.filter(|socket| socket.failure().is_none()).map(|socket| socket.relayed());
        let gone = current.and_then(|socket| socket.failure());
        let known = self.known.lock();
        let of = |(server, known): (&TurnServer, &Known)| ServerReport {
            server: server.to_string(),
            relayed: known.relayed.filter(|relayed| standing == Some(*relayed)),
            took_ms: known.took_ms,
            problem: known.problem.clone().or_else(|| gone.clone().filter(|_| known.relayed.is_some())),
        };
        self.settings.servers.iter().zip(known.iter()).map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::allocation::tests::Server;
    use super::super::error::TurnError;
    use super::*;
    use std::time::Duration;
    use tokio::net::UdpSocket;
    use turn_client_proto::types::attribute::Lifetime;
    use turn_client_proto::types::message::REFRESH;
    use turn_client_proto::types::stun::message::Message;
    use zeroize::Zeroizing;

    /// How long anything may take on a loaded machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    // row: NET-44
    #[tokio::test]
    async fn an_address_that_is_given_back_is_gone_at_the_server_and_the_next_one_is_another() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let (given_back, mut ends) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (mut server, mut buffer) = (Server::default(), [0u8; 2_048]);
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                let message = Message::from_bytes(&buffer[..count]);
                let ends = message.ok().filter(|message| message.method() == REFRESH);
                if ends.is_some_and(|message| message.attribute::<Lifetime>().is_ok_and(|life| life.seconds() == 0)) {
                    let _ = given_back.send(from);
                }
                if let Some(answer) = server.answer(&buffer[..count]) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        let turn = Turn::new(TurnSettings {
            servers: vec![format!("turn:{at}?transport=udp").parse().unwrap()],
            credentials: Credentials { user: "alice".to_owned(), password: Zeroizing::new("secret".to_owned()) },
            authorities: None,
        });
        turn.give_back().await;
        let first = turn.socket().await.unwrap();
        assert!(ends.try_recv().is_err(), "nothing was given back yet");
        turn.give_back().await;
        tokio::time::timeout(PATIENCE, ends.recv()).await.expect("the server hears of it").unwrap();
        assert_eq!(first.failure(), Some(TurnError::GivenBack));
        assert_eq!(turn.report()[0].relayed, None);
        let second = turn.socket().await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second) && second.failure().is_none());
        drop(turn);
        drop(second);
        tokio::time::timeout(PATIENCE, ends.recv()).await.expect("a dropped one is given back too").unwrap();
    }
}
