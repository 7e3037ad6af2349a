//! `trellis chain …` (CHN-01)

mod checkpoint;
mod ethereum;
mod fees;

use crate::chain::Chain;
use crate::cli::ChainCommand;
use crate::failure::Failure;
use crate::table::print_json;
use eyre::Result;
use serde_json::json;
use std::path::Path;
use trellis_chain_spec::{ChainSpec, is_public_chain};
use trellis_crypto::VoteScheme;

/// Runs a chain command; `serve`, `checkpoint` and `fees --rpc` are online.
pub async fn run(command: ChainCommand, datadir: Option<&Path>) -> Result<()> {
    match command {
        ChainCommand::Init { chain, vote_scheme, out } => {
            if out.exists() {
                return Err(Failure::new(format!("{} exists already and is never overwritten", out.display()))
                    .hint("choose another file: a chain's spec does not change once the chain lives")
                    .into());
            }
            let pinned = Chain::of(with_votes(ChainSpec::load(&chain)?, vote_scheme)?)?.pinned()?;
            std::fs::write(&out, pinned.to_toml()?)
                .map_err(|error| Failure::new(format!("cannot write {}: {error}", out.display())))?;
            println!("{}", Chain::of(pinned)?.genesis_hash);
            Ok(())
        }
        ChainCommand::Fees(args) => fees::run(&args).await,
        ChainCommand::Checkpoint(args) => checkpoint::run(&args).await,
        ChainCommand::Import(args) => ethereum::import(&args, datadir),
        ChainCommand::Serve(args) => ethereum::serve(&args, datadir).await,
        ChainCommand::Inspect { chain, json } => inspect(&Chain::load(&chain)?, json),
        ChainCommand::Validate { chain } => {
            ChainSpec::load(&chain)?.check()?;
            let chain = Chain::load(&chain)?;
            println!(
                "valid: {} (chain id {}), block zero {}",
                chain.spec.genesis.name, chain.spec.genesis.chain_id, chain.genesis_hash
            );
            Ok(())
        }
    }
}

/// The spec with vote keys of this scheme, where there is one to choose.
fn with_votes(spec: ChainSpec, scheme: Option<VoteScheme>) -> Result<ChainSpec> {
    let own = spec.vote_scheme();
    let Some(scheme) = scheme.filter(|scheme| *scheme != own) else { return Ok(spec) };
    let pinned = spec.genesis.contracts.as_ref().is_some_and(|contracts| contracts.pinned);
    if pinned || !is_public_chain(spec.genesis.chain_id) {
        return Err(Failure::usage(format!(
            "the validators of {} have {own} vote keys, not {scheme}",
            spec.genesis.name
        ))
        .hint("put their public keys of the other scheme into [[genesis.validators]]")
        .into());
    }
    Ok(spec.with_dev_votes(scheme)?)
}

fn inspect(chain: &Chain, as_json: bool) -> Result<()> {
    if !as_json {
        print!("{}", chain.spec.to_toml()?);
        eprintln!("# identity {}", chain.spec.identity());
        eprintln!("# block zero {}", chain.genesis_hash);
        return Ok(());
    }
    print_json(&json!({
        "name": chain.spec.genesis.name,
        "chain_id": chain.spec.genesis.chain_id,
        "identity": chain.spec.identity(),
        "network_magic": format!("0x{:08x}", chain.spec.network_magic()),
        "genesis_hash": chain.genesis_hash,
        "state_root": chain.genesis.block.header.state_root,
        "supply_wei": chain.spec.supply().to_string(),
        "contracts": {
            "wtrl": chain.contracts.wtrl,
            "fee_pool": chain.contracts.fee_pool,
            "payment_channels": chain.contracts.payment_channels,
            "settlement": chain.contracts.settlement,
            "provider_staking": chain.contracts.provider_staking,
        },
        "vote_scheme": chain.spec.vote_scheme().word(),
        "validators": chain.spec.genesis.validators,
    }));
    Ok(())
}
