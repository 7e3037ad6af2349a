//! `trellis key …` (NET-02)

use crate::chain::Chain;
use crate::cli::KeyCommand;
use crate::command::{nodes, place};
use crate::datadir::DataDir;
use crate::keys::{KeyMaker, key_path};
use crate::settings::settle;
use crate::table::{print, print_json};
use eyre::Result;
use serde_json::json;
use std::path::Path;
use trellis_crypto::keystore::{SecretKind, describe};

/// The kinds of keys that are listed.
const SHOWN: [SecretKind; 5] =
    [SecretKind::Node, SecretKind::Account, SecretKind::Voucher, SecretKind::Vote, SecretKind::Quantum];

/// Runs a key command; both work offline.
pub fn run(command: KeyCommand, datadir: Option<&Path>) -> Result<()> {
    match command {
        KeyCommand::New(given) => {
            let folder = DataDir::open(&place(datadir)?)?;
            let settings = settle(&given, None, &folder.join("config.toml"))?.values;
            let chain = Chain::load(&settings.chain)?;
            let maker = KeyMaker {
                datadir: folder.path(),
                chain_id: chain.spec.genesis.chain_id,
                vote_scheme: chain.spec.vote_scheme(),
                dev_account: settings.dev_account,
                passphrase_file: settings.passphrase_file.as_deref(),
            };
            let keys = maker.open_or_make()?;
            println!("node     {}", keys.node.node_id());
            println!("account  {}", keys.account.address());
            println!("voucher  {}", keys.voucher.address());
            Ok(())
        }
        KeyCommand::Show(list) => {
            let mut shown = Vec::new();
            for (role, folder) in nodes(datadir)? {
                for kind in SHOWN {
                    let path = key_path(&folder, kind);
                    if path.exists() {
                        let (kind, name) = describe(&path)?;
                        shown.push((role.clone(), kind.word(), name, path.display().to_string()));
                    }
                }
            }
            if list.wants_json() {
                let keys: Vec<_> = shown
                    .iter()
                    .map(|(role, kind, name, path)| json!({"role": role, "kind": kind, "name": name, "path": path}))
                    .collect();
                print_json(&json!({"keys": keys}));
            } else {
                let rows: Vec<Vec<String>> =
                    shown.into_iter().map(|(role, kind, name, path)| vec![role, kind.to_owned(), name, path]).collect();
                print(&["ROLE", "KIND", "NAME", "FILE"], &rows);
            }
            Ok(())
        }
    }
}
