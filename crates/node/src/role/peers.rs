//! What a node answers about its peers on the control socket (NET-71, NET-72, NET-74).

use super::address;
use crate::failure::Failure;
use crate::view::{ban_json, peer_json, score_json};
use eyre::Result;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use trellis_net_peers::discovery::address::place;
use trellis_net_peers::guard::{Book, KnownAddress, Priority, Standing};
use trellis_net_peers::{
    DarkAddress, DialError, DisconnectReason, NetworkHandle, PeerInfo, PeerState, RefusalReason, RefusedBy,
};
use trellis_primitives::{NodeId, UnixMs};

/// Digits of an id that are enough to mean it, where only one begins with them.
const ID_DIGITS_MIN: usize = 4;
/// Echoes of one command at most.
const PINGS_MAX: u64 = 50;
/// Between two echoes, in milliseconds.
const PING_INTERVAL_MS: u64 = 200;

/// Answers a method about peers; `None` where it is none.
pub async fn answer(network: &NetworkHandle, method: &str, params: &Value) -> Option<Result<Value>> {
    Some(match method {
        "admin_addPeer" => add(network, params).await,
        "admin_removePeer" => remove(network, params).await,
        "admin_banPeer" => ban(network, params).await,
        "admin_unbanPeer" => unban(network, params).await,
        "admin_peerInfo" => info(network, params),
        "admin_pingPeer" => ping(network, params).await,
        "admin_exportPeers" => serde_json::to_value(network.guard().export()).map_err(Into::into),
        "admin_importPeers" => import(network, params).await,
        _ => return None,
    })
}

fn text<'a>(params: &'a Value, key: &str) -> Result<&'a str, Failure> {
    params[key].as_str().ok_or_else(|| Failure::new(format!("the request has no {key}")))
}

/// Who is meant: a whole id, known or not, or the beginning of one that is known.
fn who(network: &NetworkHandle, text: &str) -> Result<NodeId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let unknown = |why: String| Failure::new(why).hint("`trellis peer list` shows the ids");
    if text.len() < ID_DIGITS_MIN || !text.chars().all(|c| c.is_ascii_hexdigit()) {
        let least = format!("an id is 64 hexadecimal digits, or the first {ID_DIGITS_MIN} or more of a known one");
        return Err(unknown(format!("{text:?} is no id: {least}")));
    }
    let mut known: BTreeSet<NodeId> = network.guard().standings().into_iter().map(|standing| standing.id).collect();
    known.extend(network.peers().into_iter().filter_map(|peer| peer.id));
    let begin = text.to_ascii_lowercase();
    let found: Vec<NodeId> = known.into_iter().filter(|id| id.to_string().starts_with(&begin)).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(unknown(format!("no known peer's id begins with {text}"))),
        many => Err(unknown(format!("{} known peers' ids begin with {text}: give more digits", many.len()))),
    }
}

/// A peer that is known, with what is known.
fn known(network: &NetworkHandle, id: NodeId) -> Result<(Option<PeerInfo>, Option<Standing>), Failure> {
    let info = network.peers().into_iter().find(|peer| peer.id == Some(id));
    let standing = network.guard().standing(id);
    if info.is_none() && standing.is_none() {
        return Err(Failure::new(format!("no peer {id} is known")).hint("`trellis peer list` shows those that are"));
    }
    Ok((info, standing))
}

async fn add(network: &NetworkHandle, params: &Value) -> Result<Value> {
    let named = address::parse(text(params, "address")?)?;
    let priority = match params["priority"].as_str() {
        Some("high") => Priority::High,
        Some("low") => Priority::Low,
        _ => Priority::Normal,
    };
    let mut last = Failure::new("the name has no address").hint("add the peer by its IP address");
    let resolved = named.resolve(network.proxied()).await?;
    resolved.iter().try_for_each(|address| check_known(network, address))?;
    // A dark address stays what it is: whoever answers there later has to be the same as well.
    let dialled = named.dark().map_or(resolved, |dark| vec![dark]);
    for address in dialled {
        match network.add_peer(&address, priority).await {
            Ok(id) => {
                return Ok(json!({"id": id, "address": address, "priority": priority, "status": "connected"}));
            }
            Err(error) => last = not_added(&address, &error, priority),
        }
    }
    Err(last.into())
}

/// Nobody is dialled who is here already or kept out.
fn check_known(network: &NetworkHandle, address: &str) -> Result<(), Failure> {
    let same = |other: &String| place(other) == place(address);
    let peer_id = address.rsplit_once("/p2p/").map(|(_, id)| id);
    let infos = network.peers();
    let here = infos.iter().find(|peer| {
        peer.state == PeerState::Connected
            && (peer.addresses.iter().any(same) || peer_id.is_some_and(|id| id == peer.peer_id))
    });
    if let Some(id) = here.and_then(|peer| peer.id) {
        return Err(Failure::new(format!("already connected to {address}: {id}"))
            .hint(format!("`trellis peer info {}` shows it", id.short())));
    }
    let named = infos.iter().filter(|peer| peer_id.is_some_and(|id| id == peer.peer_id)).find_map(|peer| peer.id);
    let standings = network.guard().standings();
    let banned = standings.iter().find(|standing| {
        standing.ban.is_some()
            && (named == Some(standing.id) || standing.addresses.iter().any(|known| same(&known.address)))
    });
    match banned {
        Some(standing) => Err(banned_failure(address, Some(standing.id))),
        None => Ok(()),
    }
}

fn banned_failure(address: &str, id: Option<NodeId>) -> Failure {
    let who = id.map(|id| format!(" of {id}")).unwrap_or_default();
    let unban = id.map_or_else(|| "ID".to_owned(), |id| id.to_string());
    Failure::new(format!("the address {address}{who} is on the ban list"))
        .hint(format!("`trellis peer unban {unban}` lifts it"))
}

fn not_added(address: &str, error: &DialError, priority: Priority) -> Failure {
    let failure = match error {
        DialError::WrongKey { .. } | DialError::ClearAddress { .. } => Failure::new(error.to_string()),
        _ => Failure::new(format!("{address}: {error}")),
    };
    match error {
        DialError::Refused { by: RefusedBy::Us, reason: RefusalReason::Banned } => banned_failure(address, None),
        DialError::Refused { reason: RefusalReason::SelfConnection, .. } => failure.hint("that is this node itself"),
        DialError::Refused { reason: RefusalReason::Full, .. } => {
            failure.hint("there is no room; `trellis peer remove ID` makes some on this side")
        }
        DialError::Refused { .. } => failure.hint("the reason above says which side has to change what"),
        DialError::Unreachable { .. } | DialError::Timeout { .. } if priority == Priority::Low => {
            failure.hint("check that the peer runs and that its port is open")
        }
        DialError::Unreachable { .. } | DialError::Timeout { .. } => {
            failure.hint("it is remembered and will be tried again; `trellis peer remove ADDRESS` forgets it")
        }
        DialError::BadAddress { .. } if address.starts_with("/onion3/") || address.contains(".i2p/") => {
            failure.hint("such a name is reached through a proxy only: start the node with --proxy socks5://IP:PORT")
        }
        DialError::ClearAddress { .. } => {
            failure.hint("name the peer's NAME.onion:PORT or NAME.b32.i2p:PORT, or start the node without onion_only")
        }
        DialError::WrongKey { .. } => {
            failure.hint("ask the peer for its address again, and do not trust who answers there")
        }
        DialError::BadAddress { .. } | DialError::Closed => failure,
    }
}

async fn remove(network: &NetworkHandle, params: &Value) -> Result<Value> {
    let wanted = text(params, "peer")?;
    let looks_like_id = wanted.len() >= ID_DIGITS_MIN && wanted.chars().all(|c| c.is_ascii_hexdigit());
    let (ids, addresses) = if looks_like_id {
        let id = who(network, wanted)?;
        known(network, id)?;
        (vec![id], Vec::new())
    } else {
        let addresses = address::parse(wanted)?.resolve(network.proxied()).await?;
        let at =
            |peer: &PeerInfo| addresses.iter().any(|one| peer.addresses.iter().any(|own| place(own) == place(one)));
        (network.peers().iter().filter(|peer| at(peer)).filter_map(|peer| peer.id).collect(), addresses)
    };
    let mut forgotten = Vec::new();
    for address in addresses.iter().map(String::as_str).chain([wanted]) {
        forgotten.extend(network.forget_added(Some(address), None));
    }
    let mut removed = Vec::new();
    for id in ids {
        forgotten.extend(network.forget_added(None, Some(id)));
        if params["ban"] == Value::Bool(true) {
            network.ban(id, params["for_ms"].as_u64()).await;
        } else {
            network.disconnect(id, DisconnectReason::UserRequest).await;
        }
        removed.push(id);
    }
    network.guard().saved().await;
    if removed.is_empty() && forgotten.is_empty() {
        return Err(Failure::new(format!("no peer is known at {wanted}"))
            .hint("`trellis peer list` shows the addresses; an id works as well")
            .into());
    }
    Ok(json!({"removed": removed, "forgotten": forgotten, "banned": params["ban"] == Value::Bool(true)}))
}

async fn ban(network: &NetworkHandle, params: &Value) -> Result<Value> {
    let id = who(network, text(params, "id")?)?;
    if id == network.local_id() {
        return Err(Failure::new("that is this node's own id")
            .hint("`trellis peer list` shows the ids of peers")
            .into());
    }
    let ban = network.ban(id, params["for_ms"].as_u64()).await;
    Ok(json!({"id": id, "ban": ban_json(&ban)}))
}

async fn unban(network: &NetworkHandle, params: &Value) -> Result<Value> {
    let id = who(network, text(params, "id")?)?;
    let guard = network.guard();
    if !guard.unban(id) {
        return Err(Failure::new(format!("{id} is not banned"))
            .hint("`trellis peer list --filter banned` shows those that are")
            .into());
    }
    guard.saved().await;
    Ok(json!({"id": id, "unbanned": true}))
}

/// This node itself, with what to give to others.
fn own_info(network: &NetworkHandle) -> Value {
    let (id, listening) = (network.local_id(), network.listen_addresses());
    let dark: Vec<String> = DarkAddress::of(id, &listening).iter().map(ToString::to_string).collect();
    json!({"id": id, "status": "self", "address": listening.first(), "addresses": listening, "dark_addresses": dark})
}

fn info(network: &NetworkHandle, params: &Value) -> Result<Value> {
    if text(params, "id")? == "self" || who(network, text(params, "id")?)? == network.local_id() {
        return Ok(own_info(network));
    }
    let id = who(network, text(params, "id")?)?;
    let (info, standing) = known(network, id)?;
    let mut shown = info.as_ref().map_or_else(|| json!({"id": id, "status": "disconnected"}), peer_json);
    let history = info.iter().flat_map(|info| &info.history);
    let step = |change: &trellis_net_peers::state::StateChange| json!({"state": change.state, "since": change.since.to_rfc3339(), "reason": change.reason});
    shown["history"] = history.map(step).collect();
    if let Some(standing) = standing {
        shown["reputation"] = score_json(&standing);
        shown["ban"] = standing.ban.as_ref().map_or(Value::Null, ban_json);
        shown["banned"] = json!(standing.ban.is_some());
        shown["known_addresses"] = standing.addresses.iter().map(known_address).collect();
        shown["last_seen"] = json!(UnixMs::to_rfc3339(standing.seen));
        if info.is_none() {
            shown["version"] = json!(standing.user_agent);
        }
    }
    Ok(shown)
}

fn known_address(known: &KnownAddress) -> Value {
    json!({"address": known.address, "source": known.source, "seen": known.seen.to_rfc3339()})
}

async fn ping(network: &NetworkHandle, params: &Value) -> Result<Value> {
    let id = who(network, text(params, "id")?)?;
    let count = params["count"].as_u64().unwrap_or(1).clamp(1, PINGS_MAX);
    let mut replies = Vec::new();
    for n in 0..count {
        if n > 0 {
            tokio::time::sleep(Duration::from_millis(PING_INTERVAL_MS)).await;
        }
        let pong = network.ping(id).await.map_err(|error| {
            Failure::new(format!("no reply from {id}: {error}")).hint(
                "`trellis peer list --filter connected` shows who can be asked; `trellis peer add ADDRESS` connects",
            )
        })?;
        let ms = pong.round_trip.as_secs_f64() * 1_000.0;
        replies.push(json!({"path": pong.path, "address": pong.address, "ms": (ms * 1_000.0).round() / 1_000.0}));
    }
    Ok(json!({"id": id, "replies": replies}))
}

async fn import(network: &NetworkHandle, params: &Value) -> Result<Value> {
    let book = Book::parse(&serde_json::to_vec(&params["book"])?).map_err(|error| {
        Failure::new(format!("the file cannot be taken over: {error}")).hint("`trellis peer export` prints the form")
    })?;
    let guard = network.guard();
    let changed = guard.import(book);
    guard.saved().await;
    // Whoever is banned now has to go now.
    for id in network.peers().into_iter().filter(|peer| peer.connected_since.is_some()).filter_map(|peer| peer.id) {
        if let Some(ban) = guard.ban_of(id) {
            tracing::info!(%id, cause = ban.cause.name(), "disconnected: an imported ban");
            network.disconnect(id, DisconnectReason::UserRequest).await;
        }
    }
    Ok(serde_json::to_value(changed)?)
}
