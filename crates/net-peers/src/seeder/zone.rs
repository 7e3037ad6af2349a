//! What a seed zone holds, as a file and as records. Pure.
//!
//! Every form that a seed is read in: A and AAAA of the zone's own name (nodes at the network's port), SRV of
//! `_trellis._udp` (every node, with a host name of its own), TXT of `_dnsaddr`, and the signed tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use trellis_crypto::HybridKey;
use trellis_primitives::UnixMs;

use super::health::Node;
use crate::discovery::address::PeerAddress;
use crate::discovery::dns::DNSADDR;
use crate::discovery::dns::tree::{self, ROOT_LABEL, TreeError, TreePlace};

/// The time to live of every record, seconds.
pub const ZONE_TTL_S: u32 = 60;
/// Nodes in one zone.
pub const ZONE_NODES_MAX: usize = 64;
/// The records of nodes that are told as they are.
const SERVICE: &str = "_trellis._udp";
/// The texts of nodes that are told as they are.
const DNSADDR_NAME: &str = "_dnsaddr";
/// Bytes of one part of a text.
const TEXT_PART_BYTES: usize = 255;

/// One record's content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Data {
    /// A or AAAA.
    Host(IpAddr),
    /// SRV: a port of a host, whose name is below the zone's.
    Service(u16, String),
    /// TXT.
    Text(String),
}

impl Data {
    /// The name of its type.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Host(IpAddr::V4(_)) => "A",
            Self::Host(IpAddr::V6(_)) => "AAAA",
            Self::Service(..) => "SRV",
            Self::Text(_) => "TXT",
        }
    }
}

/// The parts of a text, as a TXT record holds them.
#[must_use]
pub fn text_parts(text: &str) -> Vec<String> {
    // Texts here are ASCII, so a part never ends inside a character.
    text.as_bytes().chunks(TEXT_PART_BYTES).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// The records of a zone: name below the zone's own (empty for that) and type, and what it holds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Zone {
    sets: BTreeMap<(String, &'static str), BTreeSet<Data>>,
}

impl Zone {
    /// A zone that names these nodes, with a tree signed by the publisher.
    ///
    /// # Errors
    /// [`TreeError`] for a record out of bounds.
    pub fn of(
        nodes: &[&Node],
        p2p_port: u16,
        publisher: &HybridKey,
        place: TreePlace<'_>,
        sequence: u64,
        until: UnixMs,
    ) -> Result<Self, TreeError> {
        let mut zone = Self::default();
        for node in nodes {
            zone.add_node(node.address, p2p_port);
        }
        let records: Vec<Vec<u8>> = nodes.iter().map(|node| node.record.to_vec()).collect();
        let tree = tree::make(&records, publisher, place, sequence, until)?;
        zone.add(ROOT_LABEL, Data::Text(tree.root));
        for (label, text) in tree.entries {
            zone.add(&label, Data::Text(text));
        }
        Ok(zone)
    }

    fn add_node(&mut self, address: PeerAddress, p2p_port: u16) {
        let ip = address.socket.ip();
        if address.socket.port() == p2p_port {
            self.add("", Data::Host(ip));
        }
        let hash = trellis_crypto::sha3_256(&[b"trellis/seed/host/1", ip.to_string().as_bytes()]);
        let host: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let host = format!("n{host}");
        self.add(&host, Data::Host(ip));
        self.add(SERVICE, Data::Service(address.socket.port(), host));
        self.add(DNSADDR_NAME, Data::Text(format!("{DNSADDR}{address}")));
    }

    fn add(&mut self, name: &str, data: Data) {
        self.sets.entry((name.to_owned(), data.kind())).or_default().insert(data);
    }

    /// Every set of records: name below the zone's own, type, contents.
    pub fn sets(&self) -> impl Iterator<Item = (&str, &'static str, &BTreeSet<Data>)> {
        self.sets.iter().map(|((name, kind), set)| (name.as_str(), *kind, set))
    }

    /// Names and types.
    #[must_use]
    pub fn names(&self) -> BTreeSet<(String, String)> {
        self.sets.keys().map(|(name, kind)| (name.clone(), (*kind).to_owned())).collect()
    }

    /// The contents of one set.
    #[must_use]
    pub fn get(&self, name: &str, kind: &'static str) -> Option<&BTreeSet<Data>> {
        self.sets.get(&(name.to_owned(), kind))
    }

    /// The records in the form of a master file (RFC 1035), to be included by the file that has the zone's SOA and NS.
    #[must_use]
    pub fn to_file(&self) -> String {
        let mut file = String::new();
        for (name, kind, set) in self.sets() {
            let owner = if name.is_empty() { "@" } else { name };
            for data in set {
                let content = match data {
                    Data::Host(ip) => ip.to_string(),
                    Data::Service(port, host) => format!("0 0 {port} {host}"),
                    Data::Text(text) => {
                        let parts: Vec<String> = text_parts(text).iter().map(|part| format!("\"{part}\"")).collect();
                        parts.join(" ")
                    }
                };
                let _ = writeln!(file, "{owner} {ZONE_TTL_S} IN {kind} {content}");
            }
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use trellis_primitives::Bytes;

    // row: NET-33
    #[test]
    fn a_zone_names_each_node_in_every_form_that_seeds_are_read_in() {
        let node = |text: &str| Node {
            address: PeerAddress::parse(text).unwrap(),
            record: Bytes::from(vec![7; 300]),
            reliability: 1.0,
            answered: UnixMs(1),
            failures: 0,
        };
        let (plain, other) = (node("/ip4/11.0.0.1/udp/9700/quic-v1"), node("/ip6/2600:11::1/udp/9701/quic-v1"));
        let keys = HybridKey::generate(&mut rand_chacha::ChaCha8Rng::seed_from_u64(1)).unwrap();
        let place = TreePlace { zone: "seed.test", network_magic: 9, chain_id: 7 };
        let zone = Zone::of(&[&plain, &other], 9_700, &keys, place, 1, UnixMs(9)).unwrap();
        let file = zone.to_file();
        for line in [
            "@ 60 IN A 11.0.0.1\n",
            "_dnsaddr 60 IN TXT \"dnsaddr=/ip4/11.0.0.1/udp/9700/quic-v1\"\n",
            "_dnsaddr 60 IN TXT \"dnsaddr=/ip6/2600:11::1/udp/9701/quic-v1\"\n",
            "_tree 60 IN TXT \"trellis-tree=1 zone=seed.test ",
        ] {
            assert!(file.contains(line), "{line}\n{file}");
        }
        assert!(zone.get("", "AAAA").is_none(), "its port is not the network's");
        let services: Vec<&Data> = zone.get("_trellis._udp", "SRV").unwrap().iter().collect();
        assert!(matches!(services.as_slice(), [Data::Service(9_700, a), Data::Service(9_701, b)] if a != b));
        let part_max = file.split('"').map(str::len).max().unwrap();
        assert!(part_max <= TEXT_PART_BYTES + 60, "{part_max}");
    }
}
