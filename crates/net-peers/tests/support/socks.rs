//! A SOCKS5 server (RFC 1928, CONNECT without authentication) that knows where some names lead, as Tor knows its services.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The running server.
pub struct Socks {
    pub address: SocketAddr,
    /// What was asked for, `NAME:PORT` or `IP:PORT`.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Socks {
    /// Starts one; a name that is not listed is refused.
    pub async fn start(names: HashMap<String, SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, names.clone(), Arc::clone(&seen)));
            }
        });
        Self { address, asked }
    }
}

async fn serve(
    mut client: TcpStream,
    names: HashMap<String, SocketAddr>,
    asked: Arc<Mutex<Vec<String>>>,
) -> Option<()> {
    let mut greeting = [0u8; 2];
    client.read_exact(&mut greeting).await.ok()?;
    let mut methods = vec![0u8; greeting[1].into()];
    client.read_exact(&mut methods).await.ok()?;
    client.write_all(&[5, 0]).await.ok()?;
    let mut head = [0u8; 4];
    client.read_exact(&mut head).await.ok()?;
    let host = match head {
        [5, 1, 0, 1] => {
            let mut ip = [0u8; 4];
            client.read_exact(&mut ip).await.ok()?;
            std::net::Ipv4Addr::from(ip).to_string()
        }
        [5, 1, 0, 3] => {
            let mut name = vec![0u8; client.read_u8().await.ok()?.into()];
            client.read_exact(&mut name).await.ok()?;
            String::from_utf8(name).ok()?
        }
        _ => return None,
    };
    let wanted = format!("{host}:{}", client.read_u16().await.ok()?);
    asked.lock().unwrap().push(wanted.clone());
    let place = names.get(&wanted).copied().or_else(|| wanted.parse().ok());
    let Some(mut server) = (match place {
        Some(place) => TcpStream::connect(place).await.ok(),
        None => None,
    }) else {
        // Host unreachable.
        client.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
        return None;
    };
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}
