//! The sockets under an allocation: one to the server, over UDP, TCP or TLS, and the two tasks that serve it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_rustls::TlsConnector;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use tokio_util::sync::CancellationToken;

use super::Credentials;
use super::allocation::Allocation;
use super::error::TurnError;
use super::socket::{Shared, TurnSocket};
use super::uri::{Carriage, TurnServer};
use super::wire::Frames;

/// From a server's name to an address at it.
pub const ALLOCATE_MS_MAX: u64 = 8_000;
/// Bytes of one read from the server.
const READ_BYTES: usize = 16 * 1024;
/// After an error of the UDP socket it is read again so much later.
const PAUSE_MS: u64 = 20;
/// At the end the last frames have this long to leave.
const FAREWELL_MS: u64 = 500;

trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}
type BoxedStream = Box<dyn ByteStream>;

enum Reader {
    Udp(Arc<UdpSocket>),
    Stream(ReadHalf<BoxedStream>, Frames),
}

enum Writer {
    Udp(Arc<UdpSocket>),
    Stream(WriteHalf<BoxedStream>),
}

fn lost(error: &std::io::Error) -> TurnError {
    TurnError::Lost { detail: error.to_string() }
}

impl Reader {
    async fn next(&mut self, buffer: &mut [u8]) -> Result<Vec<u8>, TurnError> {
        match self {
            // An ICMP message about an earlier packet shows as an error; the request's own timer covers it.
            Self::Udp(socket) => loop {
                if let Ok(count) = socket.recv(buffer).await {
                    return Ok(buffer.get(..count).unwrap_or_default().to_vec());
                }
                tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
            },
            Self::Stream(stream, frames) => loop {
                if let Some(frame) = frames.next_frame()? {
                    return Ok(frame);
                }
                match stream.read(buffer).await.map_err(|error| lost(&error))? {
                    0 => return Err(TurnError::Lost { detail: "the server closed the connection".to_owned() }),
                    count => frames.push(buffer.get(..count).unwrap_or_default()),
                }
            },
        }
    }
}

impl Writer {
    async fn write(&mut self, frame: &[u8]) -> Result<(), TurnError> {
        match self {
            Self::Udp(socket) => {
                // As above: what UDP loses is sent again by whoever needs it.
                let _ = socket.send(frame).await;
                Ok(())
            }
            Self::Stream(stream) => stream.write_all(frame).await.map_err(|error| lost(&error)),
        }
    }

    async fn flush(&mut self) -> Result<(), TurnError> {
        match self {
            Self::Udp(_) => Ok(()),
            Self::Stream(stream) => stream.flush().await.map_err(|error| lost(&error)),
        }
    }
}

/// Gets an address at a server; the first of the name's addresses that is reached counts. Ends within [`ALLOCATE_MS_MAX`].
///
/// # Errors
/// [`TurnError`] says what stood in the way.
pub async fn open(
    server: &TurnServer,
    credentials: &Credentials,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<Arc<TurnSocket>, TurnError> {
    let work = async {
        let unresolved = |detail: String| TurnError::Unresolved { host: server.host.clone(), detail };
        let found = lookup_host((server.host.as_str(), server.port)).await;
        let addresses: Vec<SocketAddr> = found.map_err(|error| unresolved(error.to_string()))?.collect();
        let mut last = unresolved("it has no address".to_owned());
        for address in addresses {
            match open_at(server, address, credentials, tls).await {
                Err(error @ (TurnError::Unreachable { .. } | TurnError::Tls { .. })) => last = error,
                done => return done,
            }
        }
        Err(last)
    };
    let limit = Duration::from_millis(ALLOCATE_MS_MAX);
    timeout(limit, work).await.unwrap_or(Err(TurnError::Silent { timeout_ms: ALLOCATE_MS_MAX }))
}

async fn open_at(
    server: &TurnServer,
    address: SocketAddr,
    credentials: &Credentials,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<Arc<TurnSocket>, TurnError> {
    let (local, reader, writer) = connect(server, address, tls).await?;
    let shared = Shared::new(Allocation::new(server.carriage, local, address, credentials));
    let stop = CancellationToken::new();
    // Whoever gives up waiting drops this, and the tasks end.
    let abandoned = stop.clone().drop_guard();
    tokio::spawn(read_all(Arc::clone(&shared), reader, stop.clone()));
    tokio::spawn(write_all(Arc::clone(&shared), writer, stop.clone()));
    let relayed = shared.until(Allocation::relayed).await?;
    Ok(TurnSocket::new(shared, relayed, abandoned.disarm()))
}

async fn connect(
    server: &TurnServer,
    address: SocketAddr,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<(SocketAddr, Reader, Writer), TurnError> {
    let unreachable = |error: std::io::Error| TurnError::Unreachable { address, detail: error.to_string() };
    if server.carriage == Carriage::Udp {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await.map_err(unreachable)?;
        socket.connect(address).await.map_err(unreachable)?;
        let (local, socket) = (socket.local_addr().map_err(unreachable)?, Arc::new(socket));
        return Ok((local, Reader::Udp(Arc::clone(&socket)), Writer::Udp(socket)));
    }
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let local = stream.local_addr().map_err(unreachable)?;
    let stream: BoxedStream = if server.carriage == Carriage::Tls {
        let failed = |detail: String| TurnError::Tls { address, detail };
        let name = ServerName::try_from(server.host.clone()).map_err(|error| failed(error.to_string()))?;
        let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream.compat()).await;
        Box::new(secured.map_err(|error| failed(error.to_string()))?.compat())
    } else {
        Box::new(stream)
    };
    let (read, write) = tokio::io::split(stream);
    Ok((local, Reader::Stream(read, Frames::default()), Writer::Stream(write)))
}

async fn read_all(shared: Arc<Shared>, mut reader: Reader, stop: CancellationToken) {
    let mut buffer = vec![0u8; READ_BYTES];
    loop {
        let frame = tokio::select! {
            () = stop.cancelled() => return,
            frame = reader.next(&mut buffer) => frame,
        };
        match frame {
            Ok(frame) => shared.came(&frame),
            Err(error) => return shared.fail(error),
        }
    }
}

/// Writes what waits, and looks at the timers.
async fn write_all(shared: Arc<Shared>, mut writer: Writer, stop: CancellationToken) {
    let _ended = shared.ended.clone().drop_guard();
    loop {
        let until_ms = shared.allocation.lock().poll(shared.now_ms());
        shared.changed.notify_waiters();
        if let Err(error) = drain(&shared, &mut writer).await {
            return shared.fail(error);
        }
        if shared.allocation.lock().failure().is_some() {
            return shared.stirred();
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = shared.work.notified() => {}
            () = tokio::time::sleep_until(shared.instant(until_ms)) => {}
        }
    }
    let farewell = async {
        loop {
            let said = shared.allocation.lock().release(shared.now_ms());
            if drain(&shared, &mut writer).await.is_err() || said {
                return;
            }
            tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
        }
    };
    let _ = timeout(Duration::from_millis(FAREWELL_MS), farewell).await;
    shared.allocation.lock().fail(TurnError::GivenBack);
    shared.stirred();
}

async fn drain(shared: &Shared, writer: &mut Writer) -> Result<(), TurnError> {
    let mut written = false;
    loop {
        let frame = shared.allocation.lock().next_out();
        let Some(frame) = frame else { break };
        writer.write(&frame).await?;
        written = true;
    }
    if written {
        writer.flush().await?;
        shared.room();
    }
    Ok(())
}
