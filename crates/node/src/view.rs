//! Peers, receipts and channels as JSON, in the forms that commands and programs read (NET-70).

use serde_json::{Value, json};
use trellis_net_peers::guard::{Ban, Standing, WEIGHTS};
use trellis_net_peers::{PeerInfo, ReachReport};
use trellis_primitives::{Role, UnixMs};

/// One peer.
pub fn peer_json(peer: &PeerInfo) -> Value {
    let time = |moment: Option<UnixMs>| moment.map(UnixMs::to_rfc3339);
    json!({
        "id": peer.id,
        "peer_id": peer.peer_id,
        "address": peer.addresses.first(),
        "addresses": peer.addresses,
        "status": peer.state,
        "status_since": peer.state_since.to_rfc3339(),
        "banned": peer.banned,
        "reputation_score": rounded(peer.reputation),
        "version": peer.user_agent,
        "protocol_version": peer.protocol_version,
        "latency_ms": peer.latency_ms,
        "messages_exchanged": peer.messages_in.saturating_add(peer.messages_out),
        "messages_in": peer.messages_in,
        "messages_out": peer.messages_out,
        "bytes_in": peer.bytes_in,
        "bytes_out": peer.bytes_out,
        "connected_since": time(peer.connected_since),
        "last_activity": time(peer.last_activity),
        "capabilities": peer.roles.iter().map(Role::word).collect::<Vec<_>>(),
        "models": peer.record.as_ref().map(|record| record.models.clone()).unwrap_or_default(),
        "direction": peer.direction,
        "path": peer.path,
        "direct_after_ms": peer.direct_after_ms,
        "key_exchange": peer.key_exchange,
        "mldsa_authenticated": peer.mldsa_authenticated,
        "best_height": peer.best_height,
        "disconnect_reason": peer.disconnect_reason,
        "refusal_reason": peer.refusal_reason,
    })
}

/// A peer that is kept out and not here.
pub fn banned_json(standing: &Standing) -> Value {
    json!({
        "id": standing.id,
        "address": standing.addresses.last().map(|known| known.address.clone()),
        "addresses": standing.addresses.iter().map(|known| known.address.clone()).collect::<Vec<_>>(),
        "status": "disconnected",
        "banned": true,
        "reputation_score": rounded(standing.score),
        "version": standing.user_agent,
        "messages_exchanged": 0,
        "last_activity": standing.seen.to_rfc3339(),
        "capabilities": [],
    })
}

/// The way in to a node: whether others reach it, its relays, what it relays for others.
pub fn reach_json(report: &ReachReport) -> Value {
    let relay =
        |(peer, stage, ms): &(String, _, Option<f64>)| json!({"peer_id": peer, "stage": stage, "latency_ms": ms});
    json!({
        "reachability": report.reachability,
        "nat": report.nat,
        "confirmed": report.confirmed,
        "mapped": report.mapped,
        "relays": report.relays.iter().map(relay).collect::<Vec<_>>(),
        "circuits": report.circuits,
        "reservations_given": report.reservations_given,
        "circuits_carried": report.circuits_carried,
        "relay": report.relay,
        "turn": report.turn.iter().map(crate::role::turn::to_json).collect::<Vec<_>>(),
    })
}

/// A score as it is shown, with one digit after the point.
fn rounded(score: f64) -> f64 {
    (score * 10.0).round() / 10.0
}

/// A ban.
pub fn ban_json(ban: &Ban) -> Value {
    json!({
        "since": ban.since.to_rfc3339(),
        "until": ban.until.map(UnixMs::to_rfc3339),
        "cause": ban.cause,
    })
}

/// A score: total, cap, and each part with its weight and the inputs it comes from (NET-74).
pub fn score_json(standing: &Standing) -> Value {
    let (parts, inputs) = (&standing.parts, &standing.inputs);
    let part =
        |score: f64, weight: f64, inputs: Value| json!({"score": rounded(score), "weight": weight, "inputs": inputs});
    let ms = |us: f64| (us / 10.0).round() / 100.0;
    json!({
        "total": rounded(standing.score),
        "cap": rounded(standing.cap),
        "parts": {
            "uptime": part(parts.uptime, WEIGHTS.uptime, json!({
                "online_ms": inputs.online_ms, "dropped": inputs.dropped, "unreachable": inputs.unreachable,
            })),
            "latency": part(parts.latency, WEIGHTS.latency, json!({
                "round_trips": inputs.round_trips,
                "mean_ms": ms(inputs.round_trip_us_mean),
                "deviation_ms": ms(inputs.round_trip_us2_variance.sqrt()),
            })),
            "validity": part(parts.validity, WEIGHTS.validity, json!({
                "valid": inputs.valid, "invalid": inputs.invalid, "proven": inputs.proven,
            })),
            "consensus": part(parts.consensus, WEIGHTS.consensus, json!({
                "participated": inputs.participated, "violated": inputs.violated,
            })),
            "relay": part(parts.relay, WEIGHTS.relay, json!({
                "relayed": inputs.relayed, "failed": inputs.relay_failed,
            })),
        },
        "throttled": standing.throttled,
        "exclusions": standing.exclusions,
        "bans": standing.bans,
    })
}

/// One channel as its provider sees it.
pub fn provider_channel_json(summary: &trellis_market_provider::ChannelSummary) -> Value {
    json!({
        "channel": summary.view.id,
        "side": "provider",
        "peer": summary.gateway,
        "state": summary.view.phase,
        "deposit_wei": summary.view.deposit,
        "paid_wei": summary.view.paid,
        "voucher_wei": summary.held.map(|held| held.cumulative),
        "cumulative_wei": summary.cumulative,
        "open_jobs": summary.open_jobs,
        "arrears_wei": summary.arrears,
        "expires_s": summary.view.terms.expiry_seconds,
    })
}

/// One channel as its gateway sees it.
pub fn gateway_channel_json(summary: &trellis_market_gateway::ChannelSummary) -> Value {
    json!({
        "channel": summary.view.id,
        "side": "gateway",
        "peer": summary.provider,
        "state": summary.view.phase,
        "deposit_wei": summary.view.deposit,
        "paid_wei": summary.view.paid,
        "cumulative_wei": summary.cumulative,
        "available_wei": summary.available,
        "acknowledged_wei": summary.acknowledged,
        "expires_s": summary.view.terms.expiry_seconds,
    })
}
