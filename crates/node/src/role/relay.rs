//! The relay: a place for nodes that cannot be reached, and a way for their traffic (NET-42).

use crate::failure::Failure;
use crate::monitor::Health;
use crate::role::{open, serve_control, serve_metrics};
use crate::settings::Settings;
use crate::supervised::until_told_to_end;
use eyre::Result;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use trellis_net_peers::config::{REGION_BYTES_MAX, RelayProfile};
use trellis_primitives::{Role, RoleSet};

/// Runs a relay until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting, with a hint.
pub async fn run(settings: Settings, datadir: Option<&Path>) -> Result<()> {
    let mut base = open(Role::Relay, settings, datadir, Vec::new()).await?;
    let health = Health::new(&mut base.registry);
    health.set("relay", true, "relaying");
    let registry = std::mem::take(&mut base.registry);
    let _monitor = serve_metrics(&base.settings, registry, health, &base.status).await?;
    let answers = base.answers();
    let control = serve_control(&base.datadir, Arc::new(answers))?;
    base.status.set("region", json!(base.settings.region));
    base.status.set("ready", json!(true));
    let cause = until_told_to_end().await;
    tracing::info!(cause, "relay ending");
    control.abort();
    base.network.shutdown().await;
    Ok(())
}

/// How large a relay a node of this role is; `None` where it is none.
///
/// # Errors
/// A usage failure where the word means nothing.
pub fn profile(roles: RoleSet, word: &str) -> Result<Option<RelayProfile>> {
    let profile = match word {
        "infra" => RelayProfile::Infra,
        "standard" => RelayProfile::Standard,
        "home" => RelayProfile::Home,
        other => {
            let message = format!("relay_profile is `infra`, `standard` or `home`, got {other:?}");
            return Err(Failure::usage(message).into());
        }
    };
    Ok(roles.contains(Role::Relay).then_some(profile))
}

/// A region's name as peers take it.
///
/// # Errors
/// A usage failure where it is no short word.
pub fn region(name: &str) -> Result<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > REGION_BYTES_MAX || !name.chars().all(word) {
        let shown: String = name.chars().take(REGION_BYTES_MAX).collect();
        let message = format!("region is at most {REGION_BYTES_MAX} letters, digits, '-', '_' and '.', got {shown:?}");
        return Err(Failure::usage(message).hint("a region is a short word, as eu-west").into());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-42
    #[test]
    fn only_the_relays_role_relays_and_wrong_words_are_named() {
        assert_eq!(profile(RoleSet::of(&[Role::Relay]), "infra").expect("known"), Some(RelayProfile::Infra));
        assert_eq!(profile(RoleSet::of(&[Role::Provider]), "infra").expect("known"), None);
        let error = profile(RoleSet::of(&[Role::Relay]), "huge").expect_err("refused").to_string();
        assert!(error.contains("relay_profile") && error.contains("huge"), "{error}");
        assert!(
            region(&"x".repeat(REGION_BYTES_MAX + 1)).is_err()
                && region("no good").is_err()
                && region("eu-west").is_ok()
        );
    }
}
