//! Commands that need no running node, through the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::{Command, Output};

fn trellis(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trellis")).args(arguments).env_remove("TRELLIS_DATADIR").output().unwrap()
}

// row: OPS-01
#[test]
fn a_wrong_use_leaves_with_2_and_a_missing_node_with_1_and_a_hint() {
    assert_eq!(trellis(&["dance"]).status.code(), Some(2));
    let nowhere = tempfile::tempdir().unwrap();
    let output = trellis(&["status", "--datadir", nowhere.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "stdout is for results only");
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint: "));
}

// row: NET-02
#[test]
fn keys_are_made_once_and_shown_without_their_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let made = trellis(&["key", "new", "--datadir", place, "--dev-account", "0"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = String::from_utf8(made.stdout).unwrap();
    assert!(text.contains("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"), "{text}");
    let again = trellis(&["key", "new", "--datadir", place, "--dev-account", "0"]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), text);
    assert!(!text.contains("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"));
}

// row: CHN-01
#[test]
fn a_pinned_chain_spec_is_valid_and_names_the_same_contracts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chain_spec.toml");
    let path = file.to_str().unwrap();
    assert!(trellis(&["chain", "init", "--chain", "dev", "--out", path]).status.success());
    assert!(trellis(&["chain", "validate", "--chain", path]).status.success());
    let contracts = |chain: &str| {
        let output = trellis(&["chain", "inspect", "--chain", chain, "--json"]);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (value["contracts"].clone(), value["state_root"].clone())
    };
    assert_eq!(contracts("dev"), contracts(path));
    assert_eq!(trellis(&["chain", "init", "--chain", "dev", "--out", path]).status.code(), Some(1));
}
