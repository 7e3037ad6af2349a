//! TURN servers: from settings to the network's configuration, and back into `status` (NET-44).

use crate::failure::Failure;
use crate::settings::Settings;
use serde_json::{Value, json};
use std::path::Path;
use trellis_net_reach::turn::{Credentials, SERVERS_MAX, ServerReport, TurnServer, TurnSettings, client_config};
use zeroize::Zeroizing;

/// What every complaint about a server ends with.
const SERVER_FORM: &str = "for example turns:turn.example:443?transport=tcp or turn:192.0.2.1:3478?transport=udp";
/// What every complaint about the credentials ends with.
const CREDENTIALS_FORM: &str =
    "name the user with --turn-user NAME and a file that holds the password with --turn-password-file FILE";
/// Bytes of the password's file.
const PASSWORD_BYTES_MAX: u64 = 4_096;

/// The servers as they were written, and who this node is for them.
#[derive(Clone, Copy, Default)]
pub struct Written<'a> {
    /// In the order in which they are asked.
    pub servers: &'a [String],
    /// The name.
    pub user: Option<&'a str>,
    /// The file of the password.
    pub password_file: Option<&'a Path>,
    /// The file of the authorities.
    pub authorities: Option<&'a Path>,
}

impl<'a> Written<'a> {
    /// What a node is told.
    pub fn of(settings: &'a Settings) -> Self {
        Self {
            servers: &settings.turn,
            user: settings.turn_user.as_deref(),
            password_file: settings.turn_password_file.as_deref(),
            authorities: settings.turn_ca.as_deref(),
        }
    }

    /// What the network is told; `None` where no server is named.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the setting.
    pub fn read(self) -> Result<Option<TurnSettings>, Failure> {
        let named: Vec<&String> = self.servers.iter().filter(|text| !text.is_empty()).collect();
        if named.is_empty() {
            return Ok(None);
        }
        if named.len() > SERVERS_MAX {
            let failure = format!("turn names {} servers, {SERVERS_MAX} at most are used", named.len());
            return Err(Failure::usage(failure).hint("leave out those that are furthest away"));
        }
        let server = |text: &String| {
            text.parse::<TurnServer>()
                .map_err(|error| Failure::usage(format!("turn has {text:?}: {error}")).hint(SERVER_FORM))
        };
        let servers = named.into_iter().map(server).collect::<Result<Vec<_>, _>>()?;
        let missing = |what: &str| Failure::usage(format!("turn is set and {what} is not")).hint(CREDENTIALS_FORM);
        let user = self.user.filter(|user| !user.is_empty()).ok_or_else(|| missing("turn_user"))?;
        let given = |path: &&Path| !path.as_os_str().is_empty();
        let file = self.password_file.filter(given).ok_or_else(|| missing("turn_password_file"))?;
        let authorities = self.authorities.filter(given).map(Path::to_path_buf);
        if let Some(path) = &authorities {
            // Read here too, so that a wrong file stops the start and not the first dial.
            client_config(Some(path)).map_err(|error| Failure::usage(error.to_string()).hint(error.hint()))?;
        }
        let credentials = Credentials { user: user.to_owned(), password: password(file)? };
        Ok(Some(TurnSettings { servers, credentials, authorities }))
    }
}

fn password(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let unreadable = |why: String| {
        let failure = format!("turn_password_file: cannot read {}: {why}", file.display());
        Failure::key_or_funds(failure).hint("the file holds the password alone, on one line")
    };
    let length = std::fs::metadata(file).map_err(|error| unreadable(error.to_string()))?.len();
    if length > PASSWORD_BYTES_MAX {
        return Err(unreadable(format!("it has {length} bytes, {PASSWORD_BYTES_MAX} at most are read")));
    }
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?);
    let password = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if password.is_empty() {
        return Err(unreadable("it is empty".to_owned()));
    }
    Ok(password)
}

/// What a node dials through where nothing else leads; behind a proxy nothing.
///
/// # Errors
/// As [`Written::read`]; both a proxy and TURN servers.
pub fn configured(settings: &Settings) -> Result<Option<TurnSettings>, Failure> {
    let turn = Written::of(settings).read()?;
    if turn.is_some() && settings.proxy.as_ref().is_some_and(|proxy| !proxy.is_empty()) {
        let failure = Failure::usage("both proxy and turn are set, and beside the proxy nothing is dialled");
        return Err(failure.hint("leave out one of the two"));
    }
    Ok(turn)
}

/// A server, as `status` and `netcheck` show it.
pub fn to_json(report: &ServerReport) -> Value {
    json!({
        "server": report.server,
        "works": report.relayed.is_some(),
        "relayed": report.relayed,
        "took_ms": report.took_ms,
        "reason": report.problem.as_ref().map(|problem| problem.name()),
        "problem": report.problem.as_ref().map(ToString::to_string),
        "hint": report.problem.as_ref().map(|problem| problem.hint()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(servers: &[&str], user: Option<&str>, file: Option<&Path>) -> Result<Option<TurnSettings>, String> {
        let servers: Vec<String> = servers.iter().map(|server| (*server).to_owned()).collect();
        let written = Written { servers: &servers, user, password_file: file, authorities: None };
        written.read().map_err(|failure| failure.to_string())
    }

    // row: NET-44
    #[test]
    fn servers_are_read_with_a_password_that_no_output_shows() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("password");
        std::fs::write(&file, "secret\n").expect("write");
        assert_eq!(read(&[""], None, None), Ok(None));
        let uris = ["turns:turn.example:443?transport=tcp", "turn:11.200.0.2"];
        let turn = read(&uris, Some("alice"), Some(&file)).expect("read").expect("set");
        assert_eq!((turn.servers.len(), turn.credentials.password.as_str()), (2, "secret"));
        let shown = format!("{turn:?}");
        assert!(shown.contains("alice") && !shown.contains("secret"), "{shown}");
    }

    // row: NET-44
    #[test]
    fn what_is_wrong_or_missing_is_named_with_a_hint() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (file, empty) = (folder.path().join("password"), folder.path().join("empty"));
        std::fs::write(&file, "secret").expect("write");
        std::fs::write(&empty, "\n").expect("write");
        let turn = ["turn:turn.example"];
        let wrong = [
            (read(&["stun:turn.example"], Some("alice"), Some(&file)), "stun:turn.example"),
            (read(&["turns:turn.example?transport=udp"], Some("alice"), Some(&file)), "TCP only"),
            (read(&["turn:a"; SERVERS_MAX + 1], Some("alice"), Some(&file)), "at most"),
            (read(&turn, None, Some(&file)), "turn_user"),
            (read(&turn, Some("alice"), None), "turn_password_file"),
            (read(&turn, Some("alice"), Some(&empty)), "it is empty"),
            (read(&turn, Some("alice"), Some(folder.path())), "cannot read"),
        ];
        for (outcome, word) in wrong {
            let failure = outcome.expect_err(word);
            assert!(failure.contains(word) && failure.contains("hint: "), "{word}: {failure}");
        }
    }

    #[test]
    fn a_proxy_and_a_turn_server_do_not_go_together() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("password");
        std::fs::write(&file, "secret").expect("write");
        let mut settings = Settings {
            turn: vec!["turn:turn.example".to_owned()],
            turn_user: Some("alice".to_owned()),
            turn_password_file: Some(file),
            ..Settings::default()
        };
        assert!(configured(&settings).expect("fine").is_some());
        settings.proxy = Some("socks5://127.0.0.1:9050".to_owned());
        assert!(configured(&settings).expect_err("refused").to_string().contains("proxy"));
    }
}
