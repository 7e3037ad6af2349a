//! The TURN servers of `trellis netcheck`: an address is asked for at each, and given back (NET-44).

use crate::cli::NetcheckArgs;
use crate::role::turn::{Written, to_json};
use eyre::Result;
use serde_json::Value;
use std::time::Instant;
use trellis_net_reach::turn::{ServerReport, TurnSettings, client_config, open};

/// What the flags say.
///
/// # Errors
/// A usage failure that names the flag's setting.
pub(super) fn settings(args: &NetcheckArgs) -> Result<Option<TurnSettings>> {
    let written = Written {
        servers: &args.turn,
        user: args.turn_user.as_deref(),
        password_file: args.turn_password_file.as_deref(),
        authorities: args.turn_ca.as_deref(),
    };
    Ok(written.read()?)
}

/// Tries every server at once; each ends within the bound of an allocation.
pub(super) async fn check(settings: Option<&TurnSettings>) -> Value {
    let Some(settings) = settings else { return Value::Array(Vec::new()) };
    let tls = client_config(settings.authorities.as_deref());
    let tries = settings.servers.iter().map(|server| async {
        let began = Instant::now();
        let opened = match &tls {
            Ok(tls) => open(server, &settings.credentials, tls).await,
            Err(error) => Err(error.clone()),
        };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Ok(socket) = &opened {
            // This process may end before a task of its own would have said it.
            socket.give_back().await;
        }
        to_json(&ServerReport {
            server: server.to_string(),
            relayed: opened.as_ref().ok().map(|socket| socket.relayed()),
            took_ms: opened.is_ok().then_some(took_ms),
            problem: opened.err(),
        })
    });
    Value::Array(futures::future::join_all(tries).await)
}

/// For people: each server and what became of it.
pub(super) fn lines(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |server: &Value| {
        let outcome = if server["works"] == true {
            format!("address {} in {} ms", text(&server["relayed"]), server["took_ms"])
        } else {
            format!("{} (hint: {})", text(&server["problem"]), text(&server["hint"]))
        };
        (text(&server["server"]), outcome)
    };
    report["turn"].as_array().into_iter().flatten().map(line).collect()
}
