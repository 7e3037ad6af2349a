//! The RPC compatibility suite against the binary (CHN-41): imports its chain, serves it, asks every file.

use eyre::{Result, bail};
use std::path::Path;
use std::process::Command;
use trellis_scenarios::compat::served::score_of;

/// The part of the suite that is checked in.
const SAMPLE: &str = "tests/data/rpc-compat-sample.tar.gz";

/// Plays a folder of the suite, or the sample, and prints the score; fails where the share of right files is under `bar`.
pub fn run(root: &Path, folder: Option<&Path>, bar_percent: usize) -> Result<()> {
    let unpacked = tempfile::tempdir()?;
    let suite = match folder {
        Some(folder) => folder,
        None => {
            let done = Command::new("tar").arg("xzf").arg(root.join(SAMPLE)).arg("-C").arg(unpacked.path()).status()?;
            if !done.success() {
                bail!("{SAMPLE} cannot be unpacked");
            }
            unpacked.path()
        }
    };
    let score = score_of(suite)?;
    print!("{}", score.table());
    let (right, all) = score.total();
    if right * 100 < all * bar_percent {
        bail!("{right} of {all} files are right, which is under the bar of {bar_percent} %");
    }
    Ok(())
}
