//! What the checks are told, and the bounds they keep: names, STUN and TCP together take less than 10 s (NET-46).

/// STUN servers that are asked at most; more are left out.
pub const SERVERS_MAX: usize = 4;
/// Addresses of one server's name that are used at most, for each family.
pub const ADDRESSES_PER_SERVER_MAX: usize = 1;
/// A server's name is looked up within this, in milliseconds.
pub const RESOLVE_MS_MAX: u64 = 2_000;
/// After its first packet a STUN request is given up after this, in milliseconds.
pub const REQUEST_MS_MAX: u64 = 2_000;
/// When a STUN request is sent, in milliseconds after its first packet: the answer may be lost, the request too.
pub const REQUEST_SENT_AT_MS: [u64; 4] = [0, 200, 500, 1_100];
/// A TCP connection that shows whether only UDP is blocked must stand within this, in milliseconds.
pub const TCP_CHECK_MS_MAX: u64 = 1_500;
/// The port at which nearly every network lets TCP through.
pub const TCP_CHECK_PORT: u16 = 443;
/// A router's answer to a UPnP search is waited for this long, in milliseconds.
pub const UPNP_SEARCH_MS_MAX: u64 = 2_500;
/// Each further UPnP request must be answered within this, in milliseconds.
pub const UPNP_REQUEST_MS_MAX: u64 = 1_500;
/// The first wait for a PCP or NAT-PMP answer, in milliseconds; it doubles once.
pub const MAP_REQUEST_MS: u64 = 400;
/// PCP and NAT-PMP requests are repeated so many times.
pub const MAP_RETRIES: usize = 2;
/// The lease of a mapping that is made only to see that it can be, in seconds.
pub const TRIAL_LEASE_SECONDS: u32 = 60;
/// The lease of a mapping that a node keeps, in seconds; it is renewed at half of it.
pub const LEASE_SECONDS: u32 = 1_200;
/// A STUN check ends within this, however many servers answer by halves, in milliseconds.
pub const CHECK_MS_MAX: u64 = 6_000;
/// Of what a router says for a refusal so many characters are kept.
pub const REFUSAL_CHARS_MAX: usize = 160;
/// STUN messages are read up to this many bytes.
pub const STUN_BYTES_MAX: usize = 1_500;

/// Asked where nobody names a server. The first supports RFC 5780, the others tell the address only.
pub const STUN_SERVERS_DEFAULT: [&str; 3] =
    ["stunserver2025.stunprotocol.org:3478", "stun.cloudflare.com:3478", "stun.l.google.com:19302"];
