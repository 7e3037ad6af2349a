//! A market inside a private Tor network, with every packet of both homes watched. Needs root (tests/lab/README.md).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Error, Read, Result, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use trellis_scenarios::api::chat;
use trellis_scenarios::chain::ask;
use trellis_scenarios::lab::Lab;
use trellis_scenarios::lab::capture::{Capture, Captured, Flow};
use trellis_scenarios::lab::public::{finds_a_provider, job_at};
use trellis_scenarios::network::Node;
use trellis_scenarios::wait::until;

/// How long a path through Tor and the first dial may take; a loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where Tor's daemon takes dials.
const SOCKS: &str = "127.0.0.1:9050";
/// Where the provider listens for its onion service's daemon.
const P2P_PORT: u16 = 9701;
/// The chain's JSON-RPC, on loopback of the provider's home and, over Tor, on that of the gateway's.
const RPC_PORT: u16 = 8545;

/// Homes whose nodes have no address but an onion one, if any, and no way out but Tor.
struct Hidden<'a> {
    lab: &'a Lab,
    folder: tempfile::TempDir,
}

impl Hidden<'_> {
    /// Starts a role, in the folder that it had before.
    fn node(&self, host: &str, role: &str, account: &str, listen: u16, more: &[&str]) -> Node {
        let listen = format!("/ip4/127.0.0.1/tcp/{listen}");
        let proxy = format!("socks5://{SOCKS}");
        let hidden = ["--listen", &listen, "--proxy", &proxy, "--onion-only", "true"];
        let common = ["--chain", "dev", "--metrics-listen", "off", "--dev-account", account];
        let folder = self.folder.path().join(role);
        std::fs::create_dir_all(&folder).unwrap();
        self.lab.inside(host, || Node::start_in(&folder, &[&[role], &hidden[..], &common, more].concat()))
    }
}

/// Leads a port of a host's loopback to the same port of the onion service, for what knows no proxy itself.
fn tunnel(lab: &Lab, host: &str, port: u16, onion: &str) {
    let onion = onion.to_owned();
    lab.inside(host, move || {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        // A thread stays on the host where it begins, and ends with this process.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let onion = onion.clone();
                std::thread::spawn(move || carry(near, &onion, port));
            }
        });
    });
}

/// Carries one connection until either end closes it.
fn carry(mut near: TcpStream, onion: &str, port: u16) -> Result<()> {
    let mut far = TcpStream::connect(SOCKS)?;
    far.write_all(&[5, 1, 0])?;
    far.read_exact(&mut [0; 2])?;
    let length = u8::try_from(onion.len()).map_err(Error::other)?;
    far.write_all(&[&[5, 1, 0, 3, length], onion.as_bytes(), &port.to_be_bytes()].concat())?;
    let mut answer = [0; 10];
    far.read_exact(&mut answer)?;
    if answer[1] != 0 {
        return Err(Error::other(format!("Tor answers {}", answer[1])));
    }
    let (mut from_far, mut to_near) = (far.try_clone()?, near.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_far, &mut to_near);
        let _ = to_near.shutdown(std::net::Shutdown::Both);
    });
    std::io::copy(&mut near, &mut far)?;
    far.shutdown(std::net::Shutdown::Write)
}

/// Whether an end of a flow is a relay or an authority of the laboratory's Tor.
fn is_tor(end: &str) -> bool {
    (1..=6).any(|relay| [5001, 7001].iter().any(|port| end == format!("11.201.{relay}.1:{port}")))
}

/// What a home sent or took that was not Tor's.
fn clear(captured: &Captured) -> Vec<&Flow> {
    assert_eq!(captured.missed, 0, "packets passed unseen");
    let outside = captured.flows.iter().filter(|flow| flow.is_outside());
    let (tor, clear): (Vec<&Flow>, Vec<&Flow>) = outside.partition(|flow| is_tor(&flow.from) || is_tor(&flow.to));
    assert!(!tor.is_empty(), "the capture did not even see Tor: {:?}", captured.flows);
    clear
}

/// The only peer that a node is connected to, as it lists it, and everything that it can tell of it.
fn only_peer(node: &Node) -> (Value, String) {
    let listed = node.trellis(&["peer", "list", "--filter", "connected", "--json"]).succeeded().json();
    let peers = listed["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 1, "{listed:#}");
    let id = peers[0]["id"].as_str().unwrap();
    let info = node.trellis(&["peer", "info", id, "--json"]).succeeded().stdout;
    let export = node.trellis(&["peer", "export"]).succeeded().stdout;
    (peers[0].clone(), format!("{info}\n{export}"))
}

/// A paid job from the provider's home to the gateway's.
fn sells(lab: &Lab, how: &str, began: Instant) {
    assert!(finds_a_provider(lab, "h2", PATIENCE), "no provider {how}");
    let answer = job_at(lab, "h2", chat("What is the capital of France?", 12, true));
    assert!(answer.is_paid_answer() && answer.pieces > 1, "{how}: {answer:?}");
    let first_ms = answer.first_piece_ms.unwrap_or_default();
    println!("a paid answer {how} after {:?}, its first text after {first_ms} ms", began.elapsed());
}

/// Neither side can tell anything of the other's clear addresses.
fn nobody_knows_where(gateway: &Node, provider: &Node, address: &str) {
    let (seen, told) = only_peer(gateway);
    assert_eq!((&seen["path"], &seen["key_exchange"]), (&"proxied".into(), &"X25519MLKEM768".into()), "{seen:#}");
    let addresses = seen["addresses"].as_array().unwrap();
    assert!(addresses.iter().all(|known| known.as_str().unwrap().starts_with(address)), "{seen:#}");
    let provider_home = ["11.1.0.", "100.64.1.", "192.168.1."];
    assert!(!provider_home.iter().any(|part| told.contains(part)), "the gateway knows where the provider is: {told}");
    let (_, told) = only_peer(provider);
    let gateway_home = ["11.2.0.", "192.168.2."];
    assert!(!gateway_home.iter().any(|part| told.contains(part)), "the provider knows where the gateway is: {told}");
}

// row: NET-37, NET-47
#[test]
fn an_onion_only_provider_serves_a_paid_job_over_tor_and_nothing_clear_leaves_either_home() {
    let began = Instant::now();
    let lab = Lab::up(&["cgnat", "port-restricted"]);
    let (at_provider, at_gateway) = (Capture::start(&lab, "h1"), Capture::start(&lab, "h2"));
    let hidden = Hidden { lab: &lab, folder: tempfile::tempdir().unwrap() };
    let rpc = format!("http://127.0.0.1:{RPC_PORT}");
    let (onion, _validator) = std::thread::scope(|scope| {
        let tor = scope.spawn(|| lab.start_tor("h1", &[P2P_PORT, RPC_PORT], &["h1", "h2"]));
        let validator = hidden.node("h1", "validator", "10", 9700, &["--rpc-listen", &rpc["http://".len()..]]);
        (tor.join().unwrap(), validator)
    });
    println!("Tor and the chain after {:?}", began.elapsed());
    let address = format!("/onion3/{}:80", onion.strip_suffix(".onion").unwrap());
    let provider = hidden.node("h1", "provider", "11", P2P_PORT, &["--rpc", &rpc, "--external-addresses", &address]);
    tunnel(&lab, "h2", RPC_PORT, &onion);
    let answers = || ask(&rpc, "eth_chainId", json!([])).is_ok();
    until(PATIENCE, "the onion service is known and leads to the chain", || lab.inside("h2", answers));
    let more = ["--rpc", &rpc, "--http-listen", "127.0.0.1:8080"];
    let gateway = hidden.node("h2", "gateway", "0", 9702, &[&more[..], &["--peers", &address]].concat());
    sells(&lab, "over Tor", began);
    nobody_knows_where(&gateway, &provider, &address);
    gateway.trellis(&["peer", "add", "11.201.0.2:9700"]).failed_with(1, &["onion-only"]);

    // In its next run it is told of nobody and has its address book.
    gateway.stop();
    let _gateway = hidden.node("h2", "gateway", "0", 9702, &more);
    sells(&lab, "from the address book", began);

    // A packet beside Tor, so that a capture that sees none is known to be blind.
    lab.inside("h2", || UdpSocket::bind("0.0.0.0:40000").unwrap().send_to(b"leak", "11.201.0.2:40001")).unwrap();
    let (at_provider, at_gateway) = (at_provider.end(), at_gateway.end());
    assert_eq!(clear(&at_provider), Vec::<&Flow>::new());
    let leaks: Vec<&str> = clear(&at_gateway).iter().map(|flow| flow.to.as_str()).collect();
    assert_eq!(leaks, ["11.201.0.2:40001"]);
    let asked = BTreeSet::from([format!("{onion}:80"), format!("{onion}:{RPC_PORT}")]);
    assert_eq!((at_gateway.asked, at_provider.asked), (asked, BTreeSet::new()), "what Tor was asked for");
    println!("{} packets at the provider and {} at the gateway", at_provider.packets, at_gateway.packets);
}
