//! A machine that moves to another network while its node runs, with a real NAT and real STUN servers (NET-40, NET-45).

use super::{STUN, connected, retried, until};
use serde_json::Value;
use std::time::Instant;
use trellis_scenarios::lab::Lab;
use trellis_scenarios::lab::public::{Public, finds_a_provider};
use trellis_scenarios::network::Node;

/// Gives a machine at home another address in its network, as a new lease would, and takes the one before away.
fn move_to(lab: &Lab, host: &str, address: &str) {
    let inside = |command: &str| {
        let words: Vec<&str> = ["exec", host].into_iter().chain(command.split(' ')).collect();
        lab.natlab(&words)
    };
    let route = inside("ip -4 route show default");
    let words: Vec<&str> = route.split_whitespace().collect();
    let after = |name: &str| {
        let place = words.iter().position(|word| *word == name).unwrap_or_else(|| panic!("no {name} in {route}"));
        words[place + 1]
    };
    let (router, interface) = (after("via"), after("dev"));
    inside(&format!("ip -4 addr flush dev {interface}"));
    inside(&format!("ip addr add {address}/24 dev {interface}"));
    inside(&format!("ip route replace default via {router}"));
}

fn reach(node: &Node, wanted: impl Fn(&Value) -> bool) -> Value {
    until(|| node.status()["reach"].clone(), wanted)
}

// row: NET-40, NET-45
#[test]
fn a_node_at_home_learns_its_nat_by_stun_and_anew_when_its_machine_moves_and_goes_on_buying() {
    let lab = Lab::up(&["port-restricted"]);
    lab.start_stun();
    let public = Public::start(&lab);
    let gateway = public.gateway_with(&lab, "h1", 1, &["--stun", &STUN.join(",")]);
    let before = reach(&gateway, |reach| reach["nat"] == "port-restricted");
    assert_ne!(before["reachability"], "public", "{before:#}");
    // The router changes first, which no machine behind it notices; then the machine moves.
    lab.natlab(&["set-nat", "h1", "full-cone"]);
    move_to(&lab, "h1", "192.168.1.77");
    reach(&gateway, |reach| reach["nat"] == "full-cone");
    assert!(finds_a_provider(&lab, "h1", connected()), "no provider");
    let answer = retried(&lab, "h1", Instant::now());
    assert!(answer.is_paid_answer(), "{answer:?}");
}
