//! Peers, receipts and channels as JSON, in the forms that commands and programs read (NET-70).

use serde_json::{Value, json};
use trellis_net_peers::PeerInfo;
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
        "version": peer.user_agent,
        "protocol_version": peer.protocol_version,
        "latency_ms": peer.latency_ms,
        "messages_exchanged": peer.messages_in.saturating_add(peer.messages_out),
        "bytes_in": peer.bytes_in,
        "bytes_out": peer.bytes_out,
        "connected_since": time(peer.connected_since),
        "last_activity": time(peer.last_activity),
        "capabilities": peer.roles.iter().map(Role::word).collect::<Vec<_>>(),
        "models": peer.record.as_ref().map(|record| record.models.clone()).unwrap_or_default(),
        "direction": peer.direction,
        "path": peer.path,
        "key_exchange": peer.key_exchange,
        "mldsa_authenticated": peer.mldsa_authenticated,
        "best_height": peer.best_height,
        "disconnect_reason": peer.disconnect_reason,
        "refusal_reason": peer.refusal_reason,
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
