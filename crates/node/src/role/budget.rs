//! How much of the line and how many peers a node takes (NET-18, NET-50): from settings to the network's configuration, and
//! back into `status`.

use crate::failure::Failure;
use crate::settings::Settings;
use eyre::Result;
use serde_json::{Map, Value, json};
use trellis_net_peers::{IpNet, NetConfig, NetworkHandle, Way};
use trellis_primitives::{Role, RoleSet};

/// Bytes per second in one Mbit/s.
const MBIT_BYTES: u64 = 125_000;
/// A faster line needs no limit.
const MBIT_MAX: u64 = 1_000_000;
/// One part in so many of the places is for newcomers; the others may stay however idle they are.
const NEWCOMERS_SHARE: u32 = 5;
/// How long a peer may be without a stream before it counts as idle.
const POOL_IDLE_S: std::ops::RangeInclusive<u32> = 1..=86_400;
/// Outbound peers of a home, unless somebody set another number.
const HOME_OUTBOUND: u32 = 5;
/// Peers at once at home, anywhere, and where others depend on it.
const PEERS: [(&str, u32); 3] = [("home", 50), ("default", 125), ("infra", 2_000)];

/// Sets the limits of a node's profile and its bandwidth.
///
/// # Errors
/// A usage failure that names the setting.
pub fn apply(config: &mut NetConfig, roles: RoleSet, settings: &Settings) -> Result<()> {
    let serves_many = roles.contains(Role::Gateway) || roles.contains(Role::Relay);
    let profile = match settings.profile.as_str() {
        "auto" if serves_many => "infra",
        "auto" => "default",
        named => named,
    };
    let (_, peers_max) = PEERS
        .into_iter()
        .find(|(name, _)| *name == profile)
        .ok_or_else(|| Failure::usage(format!("profile is `auto`, `home`, `default` or `infra`, got {profile:?}")))?;
    config.peers_max = peers_max;
    (config.pool_peers, config.pool_idle_ms) = pool(settings, peers_max)?;
    config.bandwidth_up = bytes_per_s("bandwidth_up", settings.bandwidth_up)?;
    config.bandwidth_down = bytes_per_s("bandwidth_down", settings.bandwidth_down)?;
    let networks = settings.exempt_networks.iter().filter(|text| !text.is_empty());
    config.exempt_networks = networks.map(|text| network(text)).collect::<Result<_>>()?;
    Ok(())
}

/// How many peers stay however idle, and after how many milliseconds another counts as idle (NET-16).
fn pool(settings: &Settings, peers_max: u32) -> Result<(u32, u64)> {
    let peers = match settings.pool_peers {
        0 => peers_max - peers_max / NEWCOMERS_SHARE,
        named if named > peers_max => {
            let message = format!("pool_peers is {named}, and the profile has places for {peers_max} peers");
            return Err(Failure::usage(message).hint("name fewer, or set a larger profile").into());
        }
        named => named,
    };
    // A file may hold what the flag would refuse.
    if !POOL_IDLE_S.contains(&settings.pool_idle_s) {
        let (least, most) = (POOL_IDLE_S.start(), POOL_IDLE_S.end());
        let message = format!("pool_idle_s is {least} to {most} seconds, got {}", settings.pool_idle_s);
        return Err(Failure::usage(message).into());
    }
    Ok((peers, u64::from(settings.pool_idle_s) * 1_000))
}

/// Connections that a node of this profile dials and keeps at least.
pub fn outbound_min(settings: &Settings) -> u32 {
    let untouched = settings.outbound_min == Settings::default().outbound_min;
    if settings.profile == "home" && untouched { HOME_OUTBOUND } else { settings.outbound_min }
}

fn network(text: &str) -> Result<IpNet> {
    let whole = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| whole()).map_err(|_: std::net::AddrParseError| {
        Failure::usage(format!("exempt_networks is a list of networks like 198.51.100.0/24, got {text:?}")).into()
    })
}

fn bytes_per_s(setting: &str, mbit: u64) -> Result<u64> {
    if mbit > MBIT_MAX {
        let message = format!("{setting} is in Mbit/s, 0 for no limit and at most {MBIT_MAX}, got {mbit}");
        return Err(Failure::usage(message).into());
    }
    Ok(mbit.saturating_mul(MBIT_BYTES))
}

/// What flows and what may, for `admin_status`.
pub fn to_json(network: &NetworkHandle) -> Option<Value> {
    let bandwidth = network.bandwidth()?;
    let classes: Map<String, Value> =
        bandwidth.usage().into_iter().map(|(class, usage)| (class.name().to_owned(), json!(usage))).collect();
    Some(json!({
        "limit_up_mbit": bandwidth.rate(Way::Up) / MBIT_BYTES,
        "limit_down_mbit": bandwidth.rate(Way::Down) / MBIT_BYTES,
        "classes": classes,
    }))
}

/// Changes the limits of a running node; a way that is not named stays as it is.
///
/// # Errors
/// A usage failure that names the setting; a network without a budget.
pub fn set(network: &NetworkHandle, params: &Value) -> Result<Value> {
    let bandwidth = network.bandwidth().ok_or_else(|| Failure::new("this network has no bandwidth budget"))?;
    for (key, way) in [("up_mbit", Way::Up), ("down_mbit", Way::Down)] {
        if let Some(mbit) = params[key].as_u64() {
            bandwidth.set_rate(way, bytes_per_s(key, mbit)?);
        }
    }
    Ok(to_json(network).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use trellis_primitives::B256;

    fn applied(role: Role, settings: &Settings) -> Result<NetConfig> {
        let mut config = NetConfig::new(1, 2, B256::ZERO);
        apply(&mut config, RoleSet::of(&[role]), settings).map(|()| config)
    }

    // row: NET-50, NET-18
    #[test]
    fn a_profile_sets_the_places_and_a_gateway_has_more_by_itself() {
        let with = |profile: &str| Settings { profile: profile.into(), ..Settings::default() };
        let peers = |role, profile| applied(role, &with(profile)).unwrap().peers_max;
        assert_eq!((peers(Role::Validator, "auto"), peers(Role::Gateway, "auto")), (125, 2_000));
        assert_eq!((peers(Role::Gateway, "home"), peers(Role::Provider, "infra")), (50, 2_000));
        assert_eq!((outbound_min(&with("auto")), outbound_min(&with("home"))), (8, 5));
        assert_eq!(outbound_min(&Settings { outbound_min: 3, ..with("home") }), 3);
        assert!(applied(Role::Gateway, &with("office")).is_err());
    }

    // row: NET-16
    #[test]
    fn the_pools_size_and_idle_time_are_settings_and_its_size_goes_by_the_profile_where_none_is_named() {
        let pool = |change: &dyn Fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            applied(Role::Provider, &settings).map(|config| (config.pool_peers, config.pool_idle_ms))
        };
        assert_eq!(pool(&|_| {}).unwrap(), (100, 600_000));
        assert_eq!(pool(&|settings| settings.profile = "home".into()).unwrap(), (40, 600_000));
        let set = |settings: &mut Settings| (settings.pool_peers, settings.pool_idle_s) = (7, 30);
        assert_eq!(pool(&set).unwrap(), (7, 30_000));
        assert!(pool(&|settings| settings.pool_peers = 126).is_err(), "more than there are places");
        assert!(pool(&|settings| settings.pool_idle_s = 0).is_err());
    }

    // row: NET-18, NET-50
    #[test]
    fn the_line_is_100_mbit_unless_set_and_networks_are_read() {
        let config = applied(Role::Provider, &Settings::default()).unwrap();
        assert_eq!((config.bandwidth_up, config.bandwidth_down), (12_500_000, 12_500_000));
        let set = Settings {
            bandwidth_up: 0,
            bandwidth_down: 8,
            exempt_networks: vec!["198.51.100.0/24".into(), "2001:db8::1".into()],
            ..Settings::default()
        };
        let config = applied(Role::Provider, &set).unwrap();
        assert_eq!((config.bandwidth_up, config.bandwidth_down), (0, 1_000_000));
        assert_eq!(
            config.exempt_networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["198.51.100.0/24", "2001:db8::1/128"]
        );
        assert!(applied(Role::Provider, &Settings { bandwidth_up: 2_000_000, ..Settings::default() }).is_err());
        let broken = Settings { exempt_networks: vec!["home".into()], ..Settings::default() };
        assert!(applied(Role::Provider, &broken).is_err());
    }
}
