//! A port of the home router, mapped to this machine: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD (NET-41).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{PortMappingProtocol, SearchOptions};
use serde::Serialize;
use tokio::time::timeout;

use crate::config::{MAP_REQUEST_MS, MAP_RETRIES, REFUSAL_CHARS_MAX, UPNP_REQUEST_MS_MAX, UPNP_SEARCH_MS_MAX};
use crate::error::MapError;
use crate::nat::is_public;
use crate::service::own_address;

/// What the router calls us in its list of UPnP mappings.
const DESCRIPTION: &str = "trellis";

/// How a router is asked for a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub enum MapProtocol {
    /// Port Control Protocol.
    #[serde(rename = "pcp")]
    Pcp,
    /// NAT Port Mapping Protocol, its older form.
    #[serde(rename = "nat-pmp")]
    NatPmp,
    /// UPnP Internet Gateway Device.
    #[serde(rename = "upnp")]
    Upnp,
}

/// What a mapped port is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Carrier {
    /// QUIC.
    Udp,
    /// TCP.
    Tcp,
}

impl Carrier {
    const fn crab(self) -> InternetProtocol {
        match self {
            Self::Udp => InternetProtocol::Udp,
            Self::Tcp => InternetProtocol::Tcp,
        }
    }

    const fn igd(self) -> PortMappingProtocol {
        match self {
            Self::Udp => PortMappingProtocol::UDP,
            Self::Tcp => PortMappingProtocol::TCP,
        }
    }
}

/// A port of this machine that is to be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Inner {
    /// What it is for.
    pub carrier: Carrier,
    /// Its number.
    pub port: NonZeroU16,
}

/// The router that this machine's packets leave through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Router {
    /// Its inner address.
    pub gateway: Ipv4Addr,
    /// This machine's address towards it.
    pub own: Ipv4Addr,
}

impl Router {
    /// Finds it in the system's routing table (Linux).
    ///
    /// # Errors
    /// [`MapError::NoGateway`].
    pub async fn find() -> Result<Self, MapError> {
        let table = tokio::fs::read_to_string("/proc/net/route").await.unwrap_or_default();
        let gateway = default_gateway(&table).ok_or(MapError::NoGateway)?;
        match own_address(SocketAddrV4::new(gateway, crab_nat::GATEWAY_PORT).into()).await {
            Some(IpAddr::V4(own)) => Ok(Self { gateway, own }),
            _ => Err(MapError::NoGateway),
        }
    }
}

/// The default gateway in the text of Linux' `/proc/net/route`, that with the lowest metric.
#[must_use]
pub fn default_gateway(table: &str) -> Option<Ipv4Addr> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (destination, gateway, mask) = (words.get(1)?, words.get(2)?, words.get(7)?);
        let is_default = *destination == "00000000" && *mask == "00000000";
        // The kernel prints the number as it lies in memory, in network order.
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        let metric: u32 = words.get(6)?.parse().ok()?;
        (is_default && !gateway.is_unspecified()).then_some((metric, gateway))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, gateway)| gateway)
}

/// What one protocol gave.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Which one.
    pub protocol: MapProtocol,
    /// The router's outer address in its own words, or why there is none.
    pub outcome: Result<IpAddr, MapError>,
}

/// What all three gave.
#[derive(Debug)]
pub struct Survey {
    /// Each protocol's outcome.
    pub attempts: Vec<Attempt>,
    /// A mapping, by the first protocol of the list that made one.
    pub lease: Option<Lease>,
}

impl Survey {
    /// The router's outer address in its own words.
    #[must_use]
    pub fn router_external(&self) -> Option<IpAddr> {
        self.attempts.iter().find_map(|attempt| match &attempt.outcome {
            Ok(external) => Some(*external),
            Err(MapError::NotPublic { external }) => Some(*external),
            Err(_) => None,
        })
    }
}

/// A mapped port. It ends by itself when it is neither renewed nor released.
#[derive(Debug)]
pub struct Lease {
    /// Where the Internet reaches it.
    pub external: SocketAddr,
    /// How long it holds, in seconds.
    pub lifetime_s: u32,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Crab(Box<PortMapping>),
    Upnp { gateway: Box<Gateway<Tokio>>, carrier: Carrier, own: SocketAddr },
}

impl Lease {
    /// By which protocol it is held.
    #[must_use]
    pub fn protocol(&self) -> MapProtocol {
        match &self.held {
            Held::Upnp { .. } => MapProtocol::Upnp,
            Held::Crab(mapping) => match mapping.mapping_type() {
                PortMappingType::NatPmp => MapProtocol::NatPmp,
                PortMappingType::Pcp { .. } => MapProtocol::Pcp,
            },
        }
    }

    /// Makes it last for its lifetime again, from now.
    ///
    /// # Errors
    /// The router forgot it, or does not answer.
    pub async fn renew(&mut self) -> Result<(), MapError> {
        match &mut self.held {
            Held::Crab(mapping) => {
                mapping.renew().await.map_err(refused)?;
                self.external.set_port(mapping.external_port().get());
                // A router may shorten what it grants.
                self.lifetime_s = mapping.lifetime();
                Ok(())
            }
            Held::Upnp { gateway, carrier, own } => {
                let work = gateway.add_port(carrier.igd(), self.external.port(), *own, self.lifetime_s, DESCRIPTION);
                upnp(work).await
            }
        }
    }

    /// Takes it away from the router.
    ///
    /// # Errors
    /// The router does not answer; the mapping ends with its lifetime then.
    pub async fn release(self) -> Result<(), MapError> {
        match self.held {
            Held::Crab(mapping) => mapping.try_drop().await.map_err(|(error, _)| refused(error)),
            Held::Upnp { gateway, carrier, .. } => upnp(gateway.remove_port(carrier.igd(), self.external.port())).await,
        }
    }
}

/// Asks by all three protocols at once and keeps one mapping of a port.
pub async fn survey(router: Router, port: Inner, lifetime_s: u32) -> Survey {
    let (pcp, natpmp, upnp) =
        tokio::join!(map_by_pcp(router, port, lifetime_s), natpmp_external(router), find_upnp(router));
    let mut attempts = Vec::new();
    let mut lease = None;
    match pcp {
        Ok(made) => {
            attempts.push(Attempt { protocol: MapProtocol::Pcp, outcome: Ok(made.external.ip()) });
            lease = Some(made);
        }
        Err(error) => attempts.push(Attempt { protocol: MapProtocol::Pcp, outcome: Err(error) }),
    }
    // PCP and NAT-PMP are one server in most routers; two mappings of one port would be in each other's way.
    if let (None, Ok(external)) = (&lease, &natpmp) {
        lease = map_by_natpmp(router, port, lifetime_s, *external).await.ok();
    }
    attempts.push(Attempt { protocol: MapProtocol::NatPmp, outcome: natpmp });
    let outcome = upnp.as_ref().map(|(_, external)| *external).map_err(Clone::clone);
    attempts.push(Attempt { protocol: MapProtocol::Upnp, outcome });
    if let (None, Ok((gateway, external))) = (&lease, upnp) {
        lease = map_by_upnp(gateway, router, port, lifetime_s, external).await.ok();
    }
    Survey { attempts, lease }
}

fn options(lifetime_s: u32) -> PortMappingOptions {
    PortMappingOptions { external_port: None, lifetime_seconds: Some(lifetime_s), timeout_config: Some(patience()) }
}

const fn patience() -> TimeoutConfig {
    TimeoutConfig {
        initial_timeout: Duration::from_millis(MAP_REQUEST_MS),
        max_retries: MAP_RETRIES,
        max_retry_timeout: Some(Duration::from_millis(2 * MAP_REQUEST_MS)),
    }
}

async fn map_by_pcp(router: Router, port: Inner, lifetime_s: u32) -> Result<Lease, MapError> {
    let request = pcp::BaseMapRequest::new(router.gateway.into(), router.own.into(), port.carrier.crab(), port.port);
    let mapping = pcp::port_mapping(request, None, None, options(lifetime_s)).await.map_err(|error| match error {
        pcp::Failure::Timeout | pcp::Failure::Socket(_) => MapError::Silent,
        other => refused(other),
    })?;
    let external_ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip,
        PortMappingType::NatPmp => Ipv4Addr::UNSPECIFIED.into(),
    };
    let mapped_v4 = match external_ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(external_ip, IpAddr::V4),
        IpAddr::V4(_) => external_ip,
    };
    crab_lease(mapping, mapped_v4).await
}

async fn natpmp_external(router: Router) -> Result<IpAddr, MapError> {
    let external = natpmp::external_address(router.gateway.into(), Some(patience())).await;
    public(IpAddr::V4(external.map_err(natpmp_error)?))
}

async fn map_by_natpmp(router: Router, port: Inner, lifetime_s: u32, external: IpAddr) -> Result<Lease, MapError> {
    let mapping =
        natpmp::port_mapping(router.gateway.into(), port.carrier.crab(), port.port, options(lifetime_s)).await;
    crab_lease(mapping.map_err(natpmp_error)?, external).await
}

fn natpmp_error(error: natpmp::Failure) -> MapError {
    match error {
        natpmp::Failure::Timeout | natpmp::Failure::Socket(_) => MapError::Silent,
        other => refused(other),
    }
}

/// A lease, if the outside can use it; a mapping that nobody can use is taken back.
async fn crab_lease(mapping: PortMapping, external_ip: IpAddr) -> Result<Lease, MapError> {
    if let Err(error) = public(external_ip) {
        let _ = mapping.try_drop().await;
        return Err(error);
    }
    let external = SocketAddr::new(external_ip, mapping.external_port().get());
    Ok(Lease { external, lifetime_s: mapping.lifetime(), held: Held::Crab(Box::new(mapping)) })
}

async fn find_upnp(router: Router) -> Result<(Box<Gateway<Tokio>>, IpAddr), MapError> {
    let options = SearchOptions {
        bind_addr: SocketAddr::new(router.own.into(), 0),
        timeout: Some(Duration::from_millis(UPNP_SEARCH_MS_MAX)),
        single_search_timeout: Some(Duration::from_millis(UPNP_SEARCH_MS_MAX)),
        ..SearchOptions::default()
    };
    let gateway = search_gateway(options).await.map_err(|_| MapError::Silent)?;
    // Anybody on the LAN can answer the search; only the router that our packets leave through can map a port.
    if gateway.addr.ip() != IpAddr::V4(router.gateway) {
        return Err(MapError::Refused { detail: format!("{} answered, which is not our router", gateway.addr) });
    }
    let external = public(upnp(gateway.get_external_ip()).await?)?;
    Ok((Box::new(gateway), external))
}

async fn map_by_upnp(
    gateway: Box<Gateway<Tokio>>,
    router: Router,
    port: Inner,
    lifetime_s: u32,
    external: IpAddr,
) -> Result<Lease, MapError> {
    let (carrier, own) = (port.carrier, SocketAddr::new(router.own.into(), port.port.get()));
    let made = upnp(gateway.add_any_port(carrier.igd(), own, lifetime_s, DESCRIPTION)).await?;
    Ok(Lease { external: SocketAddr::new(external, made), lifetime_s, held: Held::Upnp { gateway, carrier, own } })
}

fn public(external: IpAddr) -> Result<IpAddr, MapError> {
    if is_public(external) { Ok(external) } else { Err(MapError::NotPublic { external }) }
}

/// The router's words, without what could play tricks on a terminal, and not all of them.
fn refused(error: impl std::fmt::Display) -> MapError {
    let words = error.to_string();
    let detail = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REFUSAL_CHARS_MAX).collect();
    MapError::Refused { detail }
}

async fn upnp<T, E: std::fmt::Display>(work: impl Future<Output = Result<T, E>>) -> Result<T, MapError> {
    match timeout(Duration::from_millis(UPNP_REQUEST_MS_MAX), work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(refused(error)),
        Err(_) => Err(MapError::Silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

    #[test]
    fn the_default_route_with_the_lowest_metric_is_the_way_out() {
        let table = format!(
            "{HEAD}eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
             wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
             eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        );
        assert_eq!(default_gateway(&table), Some(Ipv4Addr::new(192, 168, 1, 1)));
    }

    #[test]
    fn a_table_without_a_default_route_names_no_gateway() {
        assert_eq!(default_gateway(HEAD), None);
        let point_to_point = format!("{HEAD}tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n");
        assert_eq!(default_gateway(&point_to_point), None);
    }

    // row: NET-41
    #[tokio::test]
    async fn a_router_that_speaks_none_of_the_three_is_said_to_be_silent_in_bounded_time() {
        let router = Router { gateway: Ipv4Addr::LOCALHOST, own: Ipv4Addr::LOCALHOST };
        let began = std::time::Instant::now();
        let inner = Inner { carrier: Carrier::Tcp, port: NonZeroU16::new(40_000).unwrap() };
        let survey = survey(router, inner, 60).await;
        assert!(survey.lease.is_none() && survey.router_external().is_none());
        assert_eq!(survey.attempts.len(), 3);
        for attempt in &survey.attempts {
            assert!(attempt.outcome.is_err(), "{attempt:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }

    #[test]
    fn a_routers_words_are_cut_and_cannot_steer_a_terminal() {
        let MapError::Refused { detail } = refused(format!("a\u{1b}[2J{}", "x".repeat(10_000))) else {
            panic!("refused")
        };
        assert_eq!(detail.chars().count(), REFUSAL_CHARS_MAX);
        assert!(detail.starts_with("a [2J"));
    }

    proptest! {
        #[test]
        fn no_routing_table_does_harm(table in "[ \\t\\n0-9A-Fa-z]{0,200}") {
            let _ = default_gateway(&table);
        }
    }
}
