//! STUN servers: from settings to what is asked (NET-40, NET-46).

use crate::failure::Failure;
use trellis_net_reach::config::{SERVERS_MAX, STUN_SERVERS_DEFAULT};

/// The port of STUN servers that name none (RFC 8489).
const STUN_PORT: u16 = 3478;
/// Asks nobody.
const OFF: &str = "off";

/// The servers that are asked, each with its port; the public ones where none is named.
pub fn servers(given: &[String]) -> Vec<String> {
    if given.is_empty() {
        return STUN_SERVERS_DEFAULT.map(str::to_owned).to_vec();
    }
    let named = given.iter().filter(|server| !server.is_empty() && *server != OFF);
    named.map(|server| if has_port(server) { server.clone() } else { format!("{server}:{STUN_PORT}") }).collect()
}

/// The same for a node.
///
/// # Errors
/// A usage [`Failure`] where more are named than are asked, or `off` beside others.
pub fn configured(given: &[String]) -> Result<Vec<String>, Failure> {
    let all = servers(given);
    if all.len() > SERVERS_MAX {
        let failure = format!("stun names {} servers, {SERVERS_MAX} at most are asked", all.len());
        return Err(Failure::usage(failure).hint("leave out those that are furthest away"));
    }
    if !all.is_empty() && given.iter().any(|server| server == OFF) {
        return Err(Failure::usage("stun names servers and `off`").hint("name either"));
    }
    Ok(all)
}

/// True of `host:1`, `1.2.3.4:1` and `[::1]:1`; false of a bare name, address or `[::1]`.
fn has_port(server: &str) -> bool {
    server
        .rsplit_once(':')
        .is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_a_port_gets_the_usual_one() {
        let given = ["stun.example", "11.200.0.2:3479", "[::1]:5", "[::1]"].map(str::to_owned);
        assert_eq!(servers(&given), ["stun.example:3478", "11.200.0.2:3479", "[::1]:5", "[::1]:3478"]);
        assert_eq!(servers(&[]).len(), STUN_SERVERS_DEFAULT.len());
    }

    // row: NET-40
    #[test]
    fn off_asks_nobody_and_too_many_servers_or_off_beside_one_are_refused() {
        let of = |texts: &[&str]| configured(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["off"]).unwrap(), Vec::<String>::new());
        assert_eq!(of(&[]).unwrap().len(), STUN_SERVERS_DEFAULT.len());
        assert_eq!(of(&["stun.example"]).unwrap(), ["stun.example:3478"]);
        assert!(of(&["a", "b", "c", "d", "e"]).is_err());
        assert!(of(&["off", "stun.example"]).is_err());
    }
}
