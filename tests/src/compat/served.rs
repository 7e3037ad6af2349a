//! The suite's chain behind the real binary: imported into a folder, and served.

use crate::compat::{Case, Score, read_folder};
use crate::http::send;
use crate::program::{clean_command, run};
use serde_json::Value;
use std::io::{BufRead, BufReader, Error, Result};
use std::path::Path;
use std::process::{Child, Stdio};
use tempfile::TempDir;

/// A server over an imported chain; it ends when this is dropped.
pub struct Served {
    /// Where it answers.
    pub url: String,
    /// What the import printed: height and hash of the head.
    pub head: String,
    process: Child,
    _folder: TempDir,
}

impl Served {
    /// Imports `chain.rlp` by `genesis.json` and `headfcu.json` of a folder of the suite, and serves it.
    ///
    /// # Errors
    /// A file that is missing, an import that fails, a server that does not say where it listens.
    pub fn start(suite: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut import = clean_command();
        import.args(["chain", "import"]).arg(suite.join("chain.rlp"));
        import.arg("--genesis").arg(suite.join("genesis.json")).arg("--head").arg(suite.join("headfcu.json"));
        import.arg("--datadir").arg(folder.path());
        let imported = run(import);
        if imported.code != 0 {
            return Err(Error::other(imported.stderr));
        }
        let mut process = clean_command()
            .args(["chain", "serve", "--listen", "127.0.0.1:0", "--datadir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut url = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut url)?;
        }
        let served = Self { url: url.trim().to_owned(), head: imported.stdout, process, _folder: folder };
        if served.url.is_empty() { Err(Error::other("the server ended at once")) } else { Ok(served) }
    }

    /// Asks one question.
    ///
    /// # Errors
    /// What the connection says.
    pub fn ask(&self, request: &Value) -> std::result::Result<Value, String> {
        let answer = send("POST", &self.url, &[], request.to_string().as_bytes()).and_then(|response| response.json());
        answer.map_err(|error| error.to_string())
    }

    /// Plays the suite's files.
    pub fn score(&self, cases: &[Case]) -> Score {
        Score::of(cases, &mut |request| self.ask(request))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Imports, serves and plays a folder of the suite.
///
/// # Errors
/// As [`Served::start`]; files that cannot be read.
pub fn score_of(suite: &Path) -> Result<Score> {
    Ok(Served::start(suite)?.score(&read_folder(suite)?))
}
