//! What theory allows: `tests/lab/theory.toml`, read and asked.

use serde::Deserialize;

/// The kinds of homes in the matrix (NET-43), as `natlab` calls them.
pub const HOMES: [&str; 8] =
    ["open", "full-cone", "addr-restricted", "port-restricted", "symmetric", "cgnat", "udp-blocked", "web-only"];

/// What theory says of one ordered pair.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// One home.
    pub a: String,
    /// The other.
    pub b: String,
    /// A direct path over UDP exists.
    pub udp: bool,
    /// Why, or why not.
    pub udp_why: String,
    /// A direct path over TCP exists.
    pub tcp: bool,
    /// Why, or why not.
    pub tcp_why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pair: Vec<Pair>,
}

/// Every pair of the fixture.
///
/// # Panics
/// Where the fixture is no valid file.
pub fn pairs() -> Vec<Pair> {
    let text = include_str!("../../lab/theory.toml");
    toml::from_str::<File>(text).unwrap_or_else(|error| panic!("theory.toml: {error}")).pair
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn table() -> HashMap<(String, String), Pair> {
        pairs().into_iter().map(|pair| ((pair.a.clone(), pair.b.clone()), pair)).collect()
    }

    // row: NET-43
    #[test]
    fn the_theory_has_every_ordered_pair_once_and_no_other() {
        let pairs = pairs();
        assert_eq!(pairs.len(), HOMES.len() * HOMES.len());
        let table = table();
        for a in HOMES {
            for b in HOMES {
                let pair = table.get(&(a.to_owned(), b.to_owned())).unwrap_or_else(|| panic!("{a} - {b} is missing"));
                assert!(!pair.udp_why.is_empty() && !pair.tcp_why.is_empty(), "{pair:?}");
            }
        }
    }

    // row: NET-43
    #[test]
    fn a_direct_path_is_one_in_both_directions() {
        let table = table();
        for ((a, b), pair) in &table {
            let back = &table[&(b.clone(), a.clone())];
            assert_eq!((pair.udp, pair.tcp), (back.udp, back.tcp), "{a} - {b}");
        }
    }

    /// What a home's NAT does over one protocol: whom it lets in (0 everybody, 1 hosts, 2 ports), and whether its port is known.
    fn behaviour(home: &str, tcp: bool) -> Option<(u8, bool)> {
        match home {
            "open" | "full-cone" => Some((0, true)),
            "addr-restricted" => Some((1, true)),
            "port-restricted" | "cgnat" => Some((2, true)),
            "symmetric" => Some((2, false)),
            "udp-blocked" if tcp => Some((2, true)),
            _ => None,
        }
    }

    // row: NET-43
    #[test]
    fn the_theory_follows_from_what_each_nat_maps_and_filters() {
        for pair in pairs() {
            for (tcp, said) in [(false, pair.udp), (true, pair.tcp)] {
                let web = [&pair.a, &pair.b].contains(&&"web-only".to_owned());
                let open = [&pair.a, &pair.b].contains(&&"open".to_owned());
                let possible = match (behaviour(&pair.a, tcp), behaviour(&pair.b, tcp)) {
                    // A side that lets everybody in is dialled; otherwise each side's filter must accept the other's port.
                    (Some((0, _)), Some(_)) | (Some(_), Some((0, _))) => true,
                    (Some((filter_a, known_a)), Some((filter_b, known_b))) => {
                        // A packet is sent to a known port only, and a filter by port lets in a known port only.
                        (known_b && (filter_b < 2 || known_a)) || (known_a && (filter_a < 2 || known_b))
                    }
                    _ => tcp && web && open,
                };
                assert_eq!(said, possible, "{} - {} over {}", pair.a, pair.b, if tcp { "TCP" } else { "UDP" });
            }
        }
    }
}
