//! When a node ends: on Ctrl-C, on SIGTERM, or, as a child of `trellis dev`, when its parent is gone.

use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

/// Set for the children of `trellis dev`: they end when their standard input closes, which also a killed parent does.
pub const VARIABLE: &str = "TRELLIS_SUPERVISED";

/// Waits for the first reason to end, and names it.
pub async fn until_told_to_end() -> &'static str {
    let supervised = std::env::var_os(VARIABLE).is_some();
    let parent_gone = async {
        if !supervised {
            std::future::pending::<()>().await;
        }
        let mut sink = [0u8; 64];
        let mut input = tokio::io::stdin();
        while matches!(input.read(&mut sink).await, Ok(count) if count > 0) {}
    };
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut stream) => {
                stream.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "interrupt",
        () = terminated => "terminate",
        () = parent_gone => "parent gone",
    }
}
