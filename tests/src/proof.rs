//! What a full-size run leaves for `cargo xtask prove`.

use serde_json::Value;

/// The folder into which a test writes what it measured; the chore that runs the proof sets it.
pub const OUT_VARIABLE: &str = "TRELLIS_PROOF_OUT";

/// Writes a result where somebody asked for it.
pub fn write(name: &str, result: &Value) {
    let Some(folder) = std::env::var_os(OUT_VARIABLE) else { return };
    let path = std::path::Path::new(&folder).join(format!("{name}.json"));
    std::fs::write(&path, result.to_string()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
