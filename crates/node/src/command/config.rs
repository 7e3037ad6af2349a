//! `trellis config …` (OPS-10)

use crate::cli::ConfigCommand;
use crate::command::place;
use crate::failure::Failure;
use crate::settings::{commented_defaults, settle};
use crate::table::{print, print_json};
use eyre::Result;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Runs a config command; both work offline.
pub fn run(command: ConfigCommand, datadir: Option<&Path>, matches: &clap::ArgMatches) -> Result<()> {
    match command {
        ConfigCommand::Show { list, given } => {
            let file = datadir.map_or_else(PathBuf::new, |folder| folder.join("config.toml"));
            let inner = matches.subcommand().and_then(|(_, sub)| sub.subcommand()).map(|(_, sub)| sub);
            let settled = settle(&given, inner, &file)?;
            let Value::Object(mut values) = serde_json::to_value(&settled.values)? else { return Ok(()) };
            if values.get("api_keys").is_some_and(|keys| keys.as_array().is_some_and(|keys| !keys.is_empty())) {
                values.insert("api_keys".into(), json!("(set)"));
            }
            if list.wants_json() {
                let shown: serde_json::Map<String, Value> = values
                    .into_iter()
                    .map(|(key, value)| {
                        let source = settled.sources.get(&key);
                        (key, json!({"value": value, "source": source}))
                    })
                    .collect();
                print_json(&Value::Object(shown));
                return Ok(());
            }
            let rows: Vec<Vec<String>> = values
                .into_iter()
                .map(|(key, value)| {
                    let source = settled.sources.get(&key).map(|source| format!("{source:?}").to_lowercase());
                    vec![key, value.to_string(), source.unwrap_or_default()]
                })
                .collect();
            print(&["KEY", "VALUE", "SOURCE"], &rows);
            Ok(())
        }
        ConfigCommand::Init => {
            let file = place(datadir)?.join("config.toml");
            if file.exists() {
                return Err(Failure::new(format!("{} exists already and is never overwritten", file.display())).into());
            }
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(&file, commented_defaults()?)?;
            println!("{}", file.display());
            Ok(())
        }
    }
}
