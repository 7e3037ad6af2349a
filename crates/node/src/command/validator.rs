//! `trellis validator …` (CHN-19): stake, delegations, and who sits.

use crate::amount::trl_above_zero;
use crate::bridge::{connect, wallet};
use crate::chain::{Chain, staking_of};
use crate::cli::{ListArgs, StakeArgs, ValidatorCommand};
use crate::command::wallet::chain_endpoint;
use crate::command::{chain_of, node_of};
use crate::failure::Failure;
use crate::keys::{KeyMaker, dev_account};
use crate::table::{print, print_json};
use eyre::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use trellis_chain_spec::is_public_chain;
use trellis_contracts::staking::{KeyKind, ProvenKeys, proof_digest};
use trellis_crypto::{AccountKey, CheckpointKey, VoteKey};
use trellis_market_chain::{ChainError, RpcChainClient, ValidatorView, ValidatorsContract, Wallet};
use trellis_primitives::{Address, Bytes, SystemClock, UnixMs};

/// A chain with stake, and a connection to it.
struct Chained {
    chain: Chain,
    client: Arc<RpcChainClient>,
    contract: ValidatorsContract,
}

impl Chained {
    async fn connect(args: &StakeArgs, datadir: Option<&Path>) -> Result<Self> {
        let chain = match &args.chain {
            Some(named) => Chain::load(named)?,
            None => chain_of(datadir)?,
        };
        let Some(address) = staking_of(&chain.spec) else {
            let name = &chain.spec.genesis.name;
            return Err(Failure::new(format!("the chain {name} has no stake: its first committee sits for ever"))
                .hint("a chain spec with [genesis.staking] has")
                .into());
        };
        let endpoint = match &args.rpc {
            Some(url) => url.clone(),
            None => chain_endpoint(datadir).await?,
        };
        let client = connect(&chain, &[endpoint], Arc::new(SystemClock)).await?;
        Ok(Self { chain, client, contract: ValidatorsContract::new(address) })
    }

    /// The keys of the node in this folder.
    fn keys<'a>(&self, folder: &'a Path) -> KeyMaker<'a> {
        let spec = &self.chain.spec;
        let (chain_id, vote_scheme) = (spec.genesis.chain_id, spec.vote_scheme());
        KeyMaker { datadir: folder, chain_id, vote_scheme, dev_account: None, passphrase_file: None }
    }

    /// The account that acts.
    fn wallet(&self, args: &StakeArgs, datadir: Option<&Path>) -> Result<Wallet> {
        let chain_id = self.chain.spec.genesis.chain_id;
        let account: AccountKey = match args.dev_account {
            Some(index) if is_public_chain(chain_id) => dev_account(index)?,
            Some(_) => {
                return Err(
                    Failure::usage("--dev-account is for the chains `dev` and `local`: its keys are public").into()
                );
            }
            None => {
                let folder = node_of(datadir, "validator")?;
                self.keys(&folder).open_or_make()?.account
            }
        };
        wallet(self.client.clone(), &account)
    }

    /// Power in the committee that decides the next block, by account.
    async fn powers(&self) -> Result<BTreeMap<Address, u64>> {
        Ok(self.client.sitting().await?.into_iter().collect())
    }
}

/// Runs a staking command.
pub async fn run(command: ValidatorCommand, datadir: Option<&Path>) -> Result<()> {
    match command {
        ValidatorCommand::List { stake, list } => {
            let chained = Chained::connect(&stake, datadir).await?;
            let all = chained.contract.list(chained.client.as_ref()).await?;
            show(&all, &chained.powers().await?, list);
            Ok(())
        }
        ValidatorCommand::Count { stake, list } => count(&Chained::connect(&stake, datadir).await?, list).await,
        ValidatorCommand::Show { validator, stake, list } => {
            let chained = Chained::connect(&stake, datadir).await?;
            let found = chained.contract.show(chained.client.as_ref(), validator).await?;
            let found = found.ok_or_else(|| {
                Failure::new(format!("{validator} is no validator")).hint("`trellis validator list` shows them")
            })?;
            show(&[found], &chained.powers().await?, list);
            Ok(())
        }
        ValidatorCommand::Register { stake, commission, args } => register(&args, &stake, commission, datadir).await,
        ValidatorCommand::Delegate { validator, trl, stake } => {
            let chained = Chained::connect(&stake, datadir).await?;
            let (wallet, amount) = (chained.wallet(&stake, datadir)?, trl_above_zero(&trl)?);
            chained.contract.delegate(&wallet, validator, amount).await?;
            let staked = chained.contract.delegation(chained.client.as_ref(), validator, wallet.address()).await?;
            println!("{} has {staked} with {validator}; it counts from the next epoch on", wallet.address());
            Ok(())
        }
        ValidatorCommand::Undelegate { validator, trl, stake } => undelegate(validator, &trl, &stake, datadir).await,
        ValidatorCommand::Withdraw { validator, stake } => {
            let chained = Chained::connect(&stake, datadir).await?;
            chained.contract.withdraw(&chained.wallet(&stake, datadir)?, validator).await?;
            println!("paid out");
            Ok(())
        }
        ValidatorCommand::Commission { bps, stake } => {
            let chained = Chained::connect(&stake, datadir).await?;
            chained.contract.set_commission(&chained.wallet(&stake, datadir)?, bps).await?;
            println!("commission {bps} basis points");
            Ok(())
        }
        ValidatorCommand::Report { first, second, stake } => report(first, second, &stake, datadir).await,
        ValidatorCommand::Claim(stake) => {
            let chained = Chained::connect(&stake, datadir).await?;
            chained.contract.claim(&chained.wallet(&stake, datadir)?).await?;
            println!("paid out");
            Ok(())
        }
        ValidatorCommand::RotateKey(stake) => rotate_key(&stake, datadir).await,
        ValidatorCommand::Unjail(stake) => {
            let chained = Chained::connect(&stake, datadir).await?;
            chained.contract.unjail(&chained.wallet(&stake, datadir)?).await?;
            println!("may be chosen from the next epoch on");
            Ok(())
        }
        ValidatorCommand::Leave(stake) => {
            let chained = Chained::connect(&stake, datadir).await?;
            let wallet = chained.wallet(&stake, datadir)?;
            chained.contract.leave(&wallet).await?;
            let seconds = chained.chain.spec.protocol.unbonding_s;
            println!("out of the committee with the next epochs; the stake unbonds in {seconds} s");
            Ok(())
        }
    }
}

async fn register(args: &StakeArgs, stake: &str, commission_bps: u16, datadir: Option<&Path>) -> Result<()> {
    let stake = trl_above_zero(stake)?;
    let chained = Chained::connect(args, datadir).await?;
    let least = chained.chain.spec.genesis.staking.as_ref().map(|staking| staking.min_stake_wei).unwrap_or_default();
    if stake < least {
        return Err(Failure::usage(format!("a validator stakes {least} at least, got {stake}"))
            .hint("stake more, or delegate to a validator: `trellis validator delegate`")
            .into());
    }
    let folder = node_of(datadir, "validator")?;
    let chain_id = chained.chain.spec.genesis.chain_id;
    let maker = chained.keys(&folder);
    let wallet = chained.wallet(args, datadir)?;
    let keys =
        proven((&maker.vote_key()?, &maker.checkpoint_key()?), chain_id, chained.contract.address, wallet.address())?;
    chained.contract.register(&wallet, &keys, commission_bps, stake).await?;
    println!("{} is a validator with {stake}; it can sit from the next epoch on", wallet.address());
    Ok(())
}

async fn undelegate(validator: Address, trl: &str, stake: &StakeArgs, datadir: Option<&Path>) -> Result<()> {
    let chained = Chained::connect(stake, datadir).await?;
    let (wallet, amount) = (chained.wallet(stake, datadir)?, trl_above_zero(trl)?);
    chained.contract.undelegate(&wallet, validator, amount).await?;
    let seconds = chained.chain.spec.protocol.unbonding_s;
    println!("{amount} unbond in {seconds} s; then `trellis validator withdraw {validator}` pays them out");
    Ok(())
}

async fn report(first: Bytes, second: Bytes, stake: &StakeArgs, datadir: Option<&Path>) -> Result<()> {
    let chained = Chained::connect(stake, datadir).await?;
    let wallet = chained.wallet(stake, datadir)?;
    chained.contract.report_equivocation(&wallet, first, second).await.map_err(unproven)?;
    println!("slashed; `trellis validator claim` pays out the reward");
    Ok(())
}

async fn rotate_key(args: &StakeArgs, datadir: Option<&Path>) -> Result<()> {
    let chained = Chained::connect(args, datadir).await?;
    let folder = node_of(datadir, "validator")?;
    let chain_id = chained.chain.spec.genesis.chain_id;
    let maker = chained.keys(&folder);
    let wallet = chained.wallet(args, datadir)?;
    if chained.contract.show(chained.client.as_ref(), wallet.address()).await?.is_none() {
        return Err(Failure::new(format!("{} is no validator", wallet.address()))
            .hint("`trellis validator register` makes it one, with the folder's keys")
            .into());
    }
    // Keys that wait already are registered once more: the transaction before may have been lost.
    let next = (maker.next_vote_key()?, maker.next_checkpoint_key()?);
    let keys = proven((&next.0, &next.1), chain_id, chained.contract.address, wallet.address())?;
    chained.contract.rotate(&wallet, &keys).await?;
    println!("registered vote key {}; the node signs with it from the committee on that has it", next.0.address());
    Ok(())
}

/// Evidence that convicts nobody is the caller's mistake, and says so.
fn unproven(error: ChainError) -> eyre::Report {
    if !matches!(error, ChainError::Reverted { .. }) {
        return error.into();
    }
    Failure::new(format!("the evidence is refused: {error}"))
        .hint("it takes two messages of one validator for one height, round and kind, both signed, of an epoch not too old")
        .into()
}

/// Keys, each with the proof that it is there.
fn proven(
    (vote, checkpoint): (&VoteKey, &CheckpointKey),
    chain_id: u64,
    contract: Address,
    account: Address,
) -> Result<ProvenKeys> {
    let digest = |kind, key: &[u8]| proof_digest(chain_id, contract, account, kind, key);
    let (public, bls, mldsa44) = (vote.public(), checkpoint.bls_public(), checkpoint.mldsa44_public());
    let proof = vote.sign(digest(KeyKind::Vote, public.as_bytes()).as_slice())?;
    let bls_proof = checkpoint.prove_bls(digest(KeyKind::Bls, &bls).as_slice());
    let mldsa44_proof = checkpoint.sign_mldsa44(digest(KeyKind::MlDsa44, &mldsa44).as_slice())?;
    Ok(ProvenKeys {
        scheme: vote.scheme().contract_byte(),
        vote: (Bytes::copy_from_slice(public.as_bytes()), proof.into()),
        bls: (bls.to_vec().into(), bls_proof.to_vec().into()),
        mldsa44: (mldsa44.into(), mldsa44_proof.into()),
    })
}

fn state(validator: &ValidatorView) -> &'static str {
    match validator {
        ValidatorView { tombstoned: true, .. } => "tombstoned",
        ValidatorView { leaving: true, .. } => "leaving",
        ValidatorView { jailed_until_s: 1.., .. } => "jailed",
        ValidatorView { candidate: true, .. } => "candidate",
        _ => "below minimum",
    }
}

fn show(all: &[ValidatorView], powers: &BTreeMap<Address, u64>, list: ListArgs) {
    let power = |validator: &ValidatorView| powers.get(&validator.account).copied().unwrap_or(0);
    if list.wants_json() {
        let one = |validator: &ValidatorView| {
            let jailed = validator.jailed_until_s;
            json!({
                "account": validator.account,
                "state": state(validator),
                "power": power(validator),
                "own_wei": validator.own,
                "delegated_wei": validator.delegated,
                "unbonding_wei": validator.unbonding,
                "commission_bps": validator.commission_bps,
                "jailed_until": (jailed > 0).then(|| UnixMs(jailed.saturating_mul(1_000)).to_rfc3339()),
                "vote_key_hash": validator.vote_key_hash,
            })
        };
        print_json(&json!({"validators": all.iter().map(one).collect::<Vec<_>>()}));
        return;
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|validator| {
            vec![
                validator.account.to_string(),
                state(validator).to_owned(),
                power(validator).to_string(),
                validator.own.to_string(),
                validator.delegated.to_string(),
                validator.unbonding.to_string(),
                format!("{}.{:02} %", validator.commission_bps / 100, validator.commission_bps % 100),
            ]
        })
        .collect();
    print(&["VALIDATOR", "STATE", "POWER", "OWN", "DELEGATED", "UNBONDING", "COMMISSION"], &rows);
}

async fn count(chained: &Chained, list: ListArgs) -> Result<()> {
    let all = chained.contract.list(chained.client.as_ref()).await?;
    let sitting = chained.powers().await?.len();
    let candidates = all.iter().filter(|validator| validator.candidate).count();
    if list.wants_json() {
        print_json(&json!({"registered": all.len(), "candidates": candidates, "sitting": sitting}));
    } else {
        println!("{} registered, {candidates} may be chosen, {sitting} sit", all.len());
    }
    Ok(())
}
