//! How commands ask a running node: JSON-RPC 2.0, one message a line, over a Unix socket in the data folder (OPS-05).

use crate::failure::Failure;
use async_trait::async_trait;
use eyre::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Bytes of one message at most.
const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Connections that are served at once.
const CONNECTIONS_MAX: usize = 32;
/// How long a command waits for its answer; a job is the longest.
const ANSWER_SECONDS_MAX: u64 = 600;
/// JSON-RPC: no such method.
const METHOD_NOT_FOUND: i64 = -32_601;
/// JSON-RPC: the text is no request.
const PARSE_ERROR: i64 = -32_700;
/// JSON-RPC: the node could not do it.
const SERVER_ERROR: i64 = -32_000;

/// What a role answers on its socket.
#[async_trait]
pub trait Admin: Send + Sync + 'static {
    /// Answers one method; `None` where there is no such method in this role.
    async fn call(&self, method: &str, params: Value) -> Option<Result<Value>>;
}

/// Where the socket of a data folder is.
pub fn socket(datadir: &Path) -> PathBuf {
    datadir.join("control.sock")
}

/// Serves the socket until the task is dropped.
///
/// # Errors
/// A [`Failure`] where the socket cannot be made.
pub fn serve(datadir: &Path, admin: Arc<dyn Admin>) -> Result<tokio::task::JoinHandle<()>> {
    let path = socket(datadir);
    // The data folder's lock is ours, so a socket that is there was left by a process that died.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .map_err(|error| Failure::new(format!("cannot make the control socket {}: {error}", path.display())))?;
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let admin = Arc::clone(&admin);
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = converse(stream, admin.as_ref()).await {
                    tracing::debug!(%error, "a control connection ended with an error");
                }
            });
        }
    }))
}

async fn converse(stream: UnixStream, admin: &dyn Admin) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader.take(MESSAGE_BYTES_MAX));
    let mut line = String::new();
    while lines.read_line(&mut line).await? > 0 {
        let answer = answer(&line, admin).await;
        writer.write_all(format!("{answer}\n").as_bytes()).await?;
        line.clear();
        lines.get_mut().set_limit(MESSAGE_BYTES_MAX);
    }
    Ok(())
}

async fn answer(line: &str, admin: &dyn Admin) -> Value {
    let failed = |id: Value, code: i64, message: String| json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}});
    let Ok(request) = serde_json::from_str::<Value>(line) else {
        return failed(Value::Null, PARSE_ERROR, "not a JSON-RPC request".into());
    };
    let id = request.get("id").cloned().unwrap_or(Value::Null);
    let method = request.get("method").and_then(Value::as_str).unwrap_or_default();
    let params = request.get("params").cloned().unwrap_or(Value::Null);
    match admin.call(method, params).await {
        None => failed(id, METHOD_NOT_FOUND, format!("this node has no method {method:?}")),
        Some(Ok(result)) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Some(Err(error)) => failed(id, SERVER_ERROR, format!("{error:#}")),
    }
}

/// Asks the node of a data folder.
///
/// # Errors
/// A [`Failure`] where no node runs there or the node answers with an error.
pub async fn ask(datadir: &Path, method: &str, params: Value) -> Result<Value> {
    let path = socket(datadir);
    let mut stream = UnixStream::connect(&path).await.map_err(|_| {
        Failure::new(format!("no node runs in {}", datadir.display()))
            .hint("start one (`trellis dev --datadir DIR`), or name its folder with --datadir DIR")
    })?;
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    stream.write_all(format!("{request}\n").as_bytes()).await?;
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(MESSAGE_BYTES_MAX));
    tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS_MAX), reader.read_line(&mut line))
        .await
        .map_err(|_| Failure::new(format!("the node did not answer {method} within {ANSWER_SECONDS_MAX} s")))??;
    let answer: Value = serde_json::from_str(&line)
        .map_err(|_| Failure::new(format!("the node went away while it answered {method}")))?;
    match answer.get("error") {
        Some(error) => {
            Err(Failure::new(error.get("message").and_then(Value::as_str).unwrap_or("unknown").to_owned()).into())
        }
        None => Ok(answer.get("result").cloned().unwrap_or(Value::Null)),
    }
}

/// The order in which the nodes of a folder are shown.
const ROLES: [&str; 5] = ["validator", "provider", "gateway", "aggregator", "relay"];

/// The data folders of the nodes below a folder, by name: itself, or one for each as `trellis dev` and `trellis localnet` lay
/// them out.
pub fn nodes_below(datadir: &Path) -> Vec<(String, PathBuf)> {
    if datadir.join("role").exists() {
        return vec![(role_of(datadir), datadir.to_path_buf())];
    }
    let entries = std::fs::read_dir(datadir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<(String, PathBuf)> = entries
        .filter(|folder| folder.join("role").exists())
        .filter_map(|folder| Some((folder.file_name()?.to_str()?.to_owned(), folder)))
        .collect();
    let place = |folder: &Path| ROLES.iter().position(|role| *role == role_of(folder)).unwrap_or(ROLES.len());
    // By length first, so that the tenth comes after the second.
    found.sort_by_cached_key(|(name, folder)| (place(folder), name.len(), name.clone()));
    found
}

fn role_of(datadir: &Path) -> String {
    std::fs::read_to_string(datadir.join("role")).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    #[async_trait]
    impl Admin for Echo {
        async fn call(&self, method: &str, params: Value) -> Option<Result<Value>> {
            match method {
                "admin_echo" => Some(Ok(params)),
                "admin_fail" => Some(Err(Failure::new("it cannot").into())),
                _ => None,
            }
        }
    }

    // row: OPS-05
    #[tokio::test]
    async fn a_command_gets_its_answer_or_the_nodes_error() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let none = ask(folder.path(), "admin_echo", json!(1)).await.expect_err("nobody there").to_string();
        assert!(none.contains("hint:"), "{none}");
        let _server = serve(folder.path(), Arc::new(Echo)).expect("served");
        assert_eq!(ask(folder.path(), "admin_echo", json!([1, 2])).await.expect("answer"), json!([1, 2]));
        assert!(ask(folder.path(), "admin_fail", Value::Null).await.expect_err("error").to_string().contains("cannot"));
        assert!(
            ask(folder.path(), "admin_none", Value::Null).await.expect_err("error").to_string().contains("no method")
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(socket(folder.path())).expect("socket").permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
}
