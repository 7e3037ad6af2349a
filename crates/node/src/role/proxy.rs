//! Where a node listens and what it dials through: from settings to the network's configuration (NET-11, NET-47).

use crate::failure::Failure;
use crate::settings::Settings;
use libp2p::Multiaddr;
use trellis_net_peers::{NetConfig, Proxy, is_hidden};

/// Where an onion service's daemon finds the node where nothing else is set.
const ONION_LISTEN: &str = "/ip4/127.0.0.1/tcp/9700";
/// What every complaint about the proxy ends with.
const PROXY_FORM: &str = "write socks5://IP:PORT, for example socks5://127.0.0.1:9050 for Tor";

/// Fills in the addresses and the proxy.
///
/// # Errors
/// A usage [`Failure`] that names the setting.
pub fn configure(settings: &Settings, config: &mut NetConfig) -> Result<(), Failure> {
    let given = |list: &[String]| list.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<String>>();
    config.listen = given(&settings.listen);
    config.external_addresses = given(&settings.external_addresses);
    config.proxy = proxy(settings)?;
    if !settings.onion_only {
        return Ok(());
    }
    // A relay would see where its client is.
    config.relays_wanted = 0;
    if config.proxy.is_none() {
        return Err(Failure::usage("onion_only is set and proxy is not").hint(PROXY_FORM));
    }
    if settings.listen == Settings::default().listen {
        config.listen = vec![ONION_LISTEN.to_owned()];
    }
    let clear = config.external_addresses.iter().find(|text| !hidden(text));
    if let Some(clear) = clear {
        let failure =
            Failure::usage(format!("external_addresses has {clear}, and onion_only tells nobody a clear address"));
        return Err(failure.hint("name the node's /onion3/NAME:PORT or /dns/NAME.b32.i2p/tcp/PORT"));
    }
    let clear = settings.rpc.iter().find(|url| !url.is_empty() && !is_here(url));
    if let Some(clear) = clear {
        let failure = Failure::usage(format!("rpc has {clear}, and onion_only opens no clear connection"));
        return Err(failure.hint("run a chain node on this machine and name its loopback address"));
    }
    let clear = settings.upstream.as_ref().filter(|url| !url.is_empty() && !is_here(url));
    if let Some(clear) = clear {
        let failure = Failure::usage(format!("upstream has {clear}, and onion_only opens no clear connection"));
        return Err(failure.hint("run the engine on this machine and name its loopback address"));
    }
    Ok(())
}

fn hidden(text: &str) -> bool {
    text.parse::<Multiaddr>().is_ok_and(|address| is_hidden(&address))
}

/// Whether a URL leads to this machine.
fn is_here(url: &str) -> bool {
    let host = url.split("//").nth(1).unwrap_or_default().split(['/', '?']).next().unwrap_or_default();
    host.parse::<std::net::SocketAddr>().is_ok_and(|socket| socket.ip().is_loopback()) || host == "127.0.0.1"
}

fn proxy(settings: &Settings) -> Result<Option<Proxy>, Failure> {
    let Some(text) = settings.proxy.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    let address = text.strip_prefix("socks5://").or_else(|| text.strip_prefix("socks5h://"));
    // A name would have to be looked up beside the proxy.
    let address = address.and_then(|address| address.trim_end_matches('/').parse().ok());
    let address =
        address.ok_or_else(|| Failure::usage(format!("proxy has the wrong form: {text:?}")).hint(PROXY_FORM))?;
    Ok(Some(Proxy { address, onion_only: settings.onion_only }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use trellis_primitives::B256;

    const ONION: &str = "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:9700";

    fn set(change: impl Fn(&mut Settings)) -> Settings {
        let mut settings = Settings::default();
        change(&mut settings);
        settings
    }

    fn configured(change: impl Fn(&mut Settings)) -> Result<NetConfig, String> {
        let settings = set(change);
        let mut config = NetConfig::new(1, 2, B256::ZERO);
        configure(&settings, &mut config).map(|()| config).map_err(|failure| failure.to_string())
    }

    // row: NET-11
    #[test]
    fn a_node_listens_over_quic_and_tcp_at_the_same_port_by_default() {
        let config = configured(|_| ()).unwrap();
        assert_eq!(config.listen, ["/ip4/0.0.0.0/udp/9700/quic-v1", "/ip4/0.0.0.0/tcp/9700"]);
        assert_eq!(config.proxy, None);
    }

    // row: NET-47
    #[test]
    fn the_onion_only_mode_listens_on_loopback_and_refuses_every_clear_setting() {
        let onion_only = |settings: &mut Settings| {
            settings.onion_only = true;
            settings.proxy = Some("socks5://127.0.0.1:9050".to_owned());
            settings.external_addresses = vec![ONION.to_owned()];
        };
        let here = |settings: &mut Settings| {
            onion_only(settings);
            settings.upstream = Some("http://127.0.0.1:11434/v1".to_owned());
        };
        configured(here).unwrap();
        let config = configured(onion_only).unwrap();
        assert_eq!(config.listen, [ONION_LISTEN]);
        assert_eq!(config.proxy.unwrap().address.to_string(), "127.0.0.1:9050");
        assert_eq!(config.external_addresses, [ONION]);
        let wrong = [
            ("proxy", Settings { proxy: None, ..Settings::default() }),
            (
                "external_addresses",
                Settings { external_addresses: vec!["/ip4/11.0.0.1/tcp/1".to_owned()], ..set(onion_only) },
            ),
            ("rpc", Settings { rpc: vec!["http://11.0.0.1:8545".to_owned()], ..set(onion_only) }),
            ("upstream", Settings { upstream: Some("http://11.0.0.1:11434/v1".to_owned()), ..set(onion_only) }),
            ("upstream", Settings { upstream: Some("https://api.example/v1".to_owned()), ..set(onion_only) }),
            ("wrong form", Settings { proxy: Some("http://127.0.0.1:1".to_owned()), ..set(onion_only) }),
        ];
        for (word, settings) in wrong {
            let failure = configured(|own| *own = Settings { onion_only: true, ..settings.clone() }).unwrap_err();
            assert!(failure.contains(word) && failure.contains("hint: "), "{word}: {failure}");
        }
    }
}
