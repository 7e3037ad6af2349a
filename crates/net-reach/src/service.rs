//! The sockets of the STUN check: binds them, carries what [`crate::state::Probe`] wants sent, and keeps the deadline.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::config::{
    ADDRESSES_PER_SERVER_MAX, CHECK_MS_MAX, RESOLVE_MS_MAX, SERVERS_MAX, STUN_BYTES_MAX, TCP_CHECK_MS_MAX,
    TCP_CHECK_PORT,
};
use crate::error::ReachError;
use crate::message::Answer;
use crate::nat::{Classified, Findings, TcpCheck, classify};
use crate::state::{Probe, Socket, Step};
use crate::surroundings::Sources;

/// Addresses of documentation (RFC 5737, RFC 3849), to which packets would leave as to any other; none is ever sent there.
const ANYWHERE_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
const ANYWHERE_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9);

/// A server as it was named, and what its name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolvedServer {
    /// `HOST:PORT` as given.
    pub name: String,
    /// Its addresses of both families, the first of each.
    pub addresses: Vec<SocketAddr>,
    /// Why there are none.
    pub problem: Option<String>,
}

/// Looks up at most [`SERVERS_MAX`] servers, all at once, each within [`RESOLVE_MS_MAX`].
pub async fn resolve(servers: &[String]) -> Vec<ResolvedServer> {
    let mut tasks = JoinSet::new();
    for (place, name) in servers.iter().take(SERVERS_MAX).cloned().enumerate() {
        tasks.spawn(async move { (place, resolve_one(name).await) });
    }
    let mut all = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        all.extend(joined.ok());
    }
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, server)| server).collect()
}

async fn resolve_one(name: String) -> ResolvedServer {
    let lookup = async { lookup_host(name.as_str()).await.map(Iterator::collect::<Vec<SocketAddr>>) };
    let (addresses, problem) = match timeout(Duration::from_millis(RESOLVE_MS_MAX), lookup).await {
        Ok(Ok(found)) => (found, None),
        Ok(Err(error)) => (Vec::new(), Some(error.to_string())),
        Err(_) => (Vec::new(), Some(format!("the name was not resolved within {RESOLVE_MS_MAX} ms"))),
    };
    let first = |v4: bool| addresses.iter().filter(move |address: &&SocketAddr| address.is_ipv4() == v4);
    let kept = first(true).take(ADDRESSES_PER_SERVER_MAX).chain(first(false).take(ADDRESSES_PER_SERVER_MAX));
    ResolvedServer { addresses: kept.copied().collect(), name, problem }
}

/// The address from which this machine would write to another; nothing is sent. None without a route.
pub async fn own_address(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(to).await.ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// The addresses from which this machine would write to the Internet; nothing is sent.
pub async fn sources() -> Sources {
    let (v4, v6) = tokio::join!(own_address(ANYWHERE_V4), own_address(ANYWHERE_V6));
    Sources {
        v4: v4.and_then(|ip| if let IpAddr::V4(v4) = ip { Some(v4) } else { None }),
        v6: v6.and_then(|ip| if let IpAddr::V6(v6) = ip { Some(v6) } else { None }),
    }
}

/// What STUN told over both families, and TCP where UDP was silent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StunSurvey {
    /// The servers that were asked.
    pub resolved: Vec<ResolvedServer>,
    /// What was seen over IPv4.
    pub v4: Findings,
    /// What was seen over IPv6.
    pub v6: Findings,
    /// Whether TCP passes where IPv4's UDP does not.
    pub tcp: TcpCheck,
}

impl StunSurvey {
    /// The kind of network, and why it is this one. IPv4's NAT: over IPv6 there is none.
    #[must_use]
    pub fn kind(&self) -> Classified {
        classify(&self.v4, self.tcp)
    }
}

/// Looks up servers, asks them over both families, and tries TCP where UDP is silent. Ends within the bounds of each part.
///
/// # Errors
/// No UDP socket can be opened.
pub async fn ask_stun(servers: &[String]) -> Result<StunSurvey, ReachError> {
    let resolved = resolve(servers).await;
    let of = |v4: bool| -> Vec<SocketAddr> {
        let all = resolved.iter().flat_map(|server| &server.addresses);
        all.filter(|address| address.is_ipv4() == v4).copied().collect()
    };
    let (v4_servers, v6_servers) = (of(true), of(false));
    let (v4, v6) = tokio::join!(check_stun(&v4_servers), check_stun(&v6_servers));
    let (v4, v6) = (v4?, v6?);
    let tcp = if v4.works() { TcpCheck::NotNeeded } else { check_tcp(&v4_servers).await };
    Ok(StunSurvey { resolved, v4, v6, tcp })
}

/// Asks servers of one family and finds out the NAT (NET-40). Ends within [`CHECK_MS_MAX`].
///
/// # Errors
/// No UDP socket can be opened.
pub async fn check_stun(servers: &[SocketAddr]) -> Result<Findings, ReachError> {
    let Some(first) = servers.first().copied() else { return Ok(Findings::default()) };
    let Some(own) = own_address(first).await else {
        let probe = Probe::new(servers.to_vec(), None, None, 0, ChaCha20Rng::seed_from_u64(0));
        return Ok(probe.findings());
    };
    let any: IpAddr = if first.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let sockets = [bind(any).await?, bind(any).await?, bind(any).await?];
    let local = sockets[0].local_addr().ok().map(|address| SocketAddr::new(own, address.port()));
    let fresh_port = sockets[2].local_addr().ok().map(|address| address.port());
    let mut probe = Probe::new(servers.to_vec(), local, fresh_port, 0, ChaCha20Rng::from_os_rng());
    if timeout(Duration::from_millis(CHECK_MS_MAX), drive(&mut probe, &sockets)).await.is_err() {
        tracing::warn!(check_ms_max = CHECK_MS_MAX, "STUN check ended by its deadline");
    }
    Ok(probe.findings())
}

async fn bind(any: IpAddr) -> Result<UdpSocket, ReachError> {
    let address = SocketAddr::new(any, 0);
    UdpSocket::bind(address).await.map_err(|source| ReachError::Socket { address, source })
}

const ORDER: [Socket; 3] = [Socket::Mapping, Socket::Filtering, Socket::Fresh];

async fn drive(probe: &mut Probe, sockets: &[UdpSocket; 3]) {
    let began = Instant::now();
    let elapsed_ms = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut buffers = [[0u8; STUN_BYTES_MAX]; 3];
    loop {
        let until_ms = match probe.poll(elapsed_ms()) {
            Step::Done => return,
            Step::Wait { until_ms } => until_ms,
            Step::Send { from, to, request } => {
                let socket = ORDER.iter().zip(sockets).find(|(name, _)| **name == from).map(|(_, socket)| socket);
                let sent = match socket {
                    Some(socket) => socket.send_to(&request.encode(), to).await,
                    None => return,
                };
                if sent.is_err() {
                    probe.on_send_error(to);
                }
                continue;
            }
        };
        let [first, second, third] = &mut buffers;
        let (socket, came, bytes) = tokio::select! {
            () = tokio::time::sleep_until(began + Duration::from_millis(until_ms)) => continue,
            came = sockets[0].recv_from(first) => (ORDER[0], came, &first[..]),
            came = sockets[1].recv_from(second) => (ORDER[1], came, &second[..]),
            came = sockets[2].recv_from(third) => (ORDER[2], came, &third[..]),
        };
        // An error here is an ICMP message about an earlier packet; the question's own wait covers it.
        let Ok((count, from)) = came else { continue };
        match Answer::decode(bytes.get(..count).unwrap_or_default()) {
            Ok(answer) => probe.on_answer(socket, from, &answer, elapsed_ms()),
            Err(error) => tracing::debug!(%from, %error, "STUN answer ignored"),
        }
    }
}

/// Whether TCP reaches any of the servers, at their own port or at [`TCP_CHECK_PORT`]; to be asked where UDP is silent.
pub async fn check_tcp(servers: &[SocketAddr]) -> TcpCheck {
    if servers.is_empty() {
        return TcpCheck::NoServer;
    }
    let mut tasks = JoinSet::new();
    for server in servers.iter().take(SERVERS_MAX) {
        for port in [server.port(), TCP_CHECK_PORT] {
            let to = SocketAddr::new(server.ip(), port);
            tasks.spawn(async move { timeout(Duration::from_millis(TCP_CHECK_MS_MAX), TcpStream::connect(to)).await });
        }
    }
    let mut outcome = TcpCheck::NoRoute;
    while let Some(joined) = tasks.join_next().await {
        outcome = match joined {
            Ok(Ok(Ok(_))) => return TcpCheck::Connected,
            Ok(Ok(Err(error))) if error.kind() == std::io::ErrorKind::ConnectionRefused => TcpCheck::Refused,
            Ok(Err(_)) if outcome != TcpCheck::Refused => TcpCheck::Silent,
            _ => outcome,
        };
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::NatKind;

    async fn names(names: &[&str]) -> Vec<ResolvedServer> {
        resolve(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).await
    }

    #[tokio::test]
    async fn a_name_that_means_nothing_gives_a_reason_and_the_others_their_addresses() {
        let all = names(&["no-port", "127.0.0.1:3478", "[::1]:9"]).await;
        assert!(all[0].addresses.is_empty() && all[0].problem.is_some(), "{all:?}");
        assert_eq!(all[1].addresses, ["127.0.0.1:3478".parse().unwrap()]);
        assert_eq!(all[2].addresses, ["[::1]:9".parse().unwrap()]);
    }

    /// A server with one address that answers every request.
    async fn server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0u8; STUN_BYTES_MAX];
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                let mut id = [0u8; 16];
                id[4..].copy_from_slice(&buffer[8..20]);
                assert!(count >= 20);
                let answer = Answer { transaction: u128::from_be_bytes(id), mapped: from, other: None };
                let _ = socket.send_to(b"noise before the answer", from).await;
                let _ = socket.send_to(&answer.encode(), from).await;
            }
        });
        address
    }

    // row: NET-40
    #[tokio::test]
    async fn a_plain_server_on_a_real_socket_tells_the_own_address() {
        let findings = check_stun(&[server().await]).await.unwrap();
        assert_eq!(findings.translated(), Some(false), "{findings:?}");
        assert_eq!(classify(&findings, TcpCheck::NotNeeded).kind, NatKind::Unknown);
    }

    // row: NET-40
    #[tokio::test]
    async fn a_server_that_never_answers_is_told_apart_from_blocked_udp() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let findings = check_stun(&[address]).await.unwrap();
        assert!(!findings.works());
        assert_eq!(check_tcp(&[address]).await, TcpCheck::Refused);
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert_eq!(check_tcp(&[tcp.local_addr().unwrap()]).await, TcpCheck::Connected);
        assert_eq!(check_tcp(&[]).await, TcpCheck::NoServer);
    }
}
