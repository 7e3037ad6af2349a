//! A UDP relay that lets through only the first datagrams of a dialer until it is told to let all through.

use std::net::SocketAddr;
use std::sync::Arc;

use libp2p::core::Multiaddr;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

const DATAGRAM_BYTES_MAX: usize = 65_536;

pub struct Relay {
    pub address: Multiaddr,
    release: Arc<Notify>,
}

impl Relay {
    /// Relays to `listener`; of the dialer's datagrams only the first `passing` arrive before the release.
    pub async fn start(listener: SocketAddr, passing: usize) -> Self {
        let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        far.connect(listener).await.unwrap();
        let port = near.local_addr().unwrap().port();
        let release = Arc::new(Notify::new());
        tokio::spawn(run(near, far, passing, Arc::clone(&release)));
        Self { address: format!("/ip4/127.0.0.1/udp/{port}/quic-v1").parse().unwrap(), release }
    }

    pub fn release(&self) {
        self.release.notify_one();
    }
}

async fn run(near: UdpSocket, far: UdpSocket, mut passing: usize, release: Arc<Notify>) {
    let (mut up, mut down) = (vec![0u8; DATAGRAM_BYTES_MAX], vec![0u8; DATAGRAM_BYTES_MAX]);
    let (mut dialer, mut held) = (None, Vec::new());
    loop {
        tokio::select! {
            Ok((length, from)) = near.recv_from(&mut up) => {
                dialer = Some(from);
                if passing > 0 {
                    passing -= 1;
                    // Where nobody listens any more the system says so; a datagram may always be lost.
                    let _ = far.send(&up[..length]).await;
                } else {
                    held.push(up[..length].to_vec());
                }
            }
            Ok(length) = far.recv(&mut down) => {
                if let Some(dialer) = dialer {
                    let _ = near.send_to(&down[..length], dialer).await;
                }
            }
            () = release.notified() => {
                passing = usize::MAX;
                for datagram in held.drain(..) {
                    let _ = far.send(&datagram).await;
                }
            }
        }
    }
}
