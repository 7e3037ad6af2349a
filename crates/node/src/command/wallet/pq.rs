//! `trellis wallet pq …` (CHN-21): accounts that only an ML-DSA-44 key can spend from.
//!
//! The owner signs calls; whoever brings them to the chain pays the gas with an ordinary account and decides nothing.

mod fate;
mod signed;

use crate::amount::{trl, trl_above_zero};
use crate::bridge::{connect, wallet};
use crate::chain::Chain;
use crate::cli::{ListArgs, QuantumArgs, QuantumCall, QuantumCommand, RelayArgs};
use crate::command::wallet::chain_endpoint;
use crate::command::{nodes, place, spec_of};
use crate::control::nodes_below;
use crate::failure::Failure;
use crate::keys::{KeyMaker, dev_account, key_path, make_quantum_key, quantum_key};
use crate::table::{print, print_json};
use eyre::Result;
use fate::{Standing, Use, deadline, displaced, standing, time, undone, unfit, use_of};
use serde_json::json;
use signed::Signed;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use trellis_chain_spec::{ChainSpec, is_public_chain};
use trellis_contracts::accounts::{AccountContracts, Call, Execute, signer};
use trellis_crypto::keystore::SecretKind;
use trellis_crypto::{AccountKey, QuantumKey, VoteScheme};
use trellis_market_chain::{ChainClient, ChainError, RpcChainClient, SignedCalls, SmartAccounts, TxReceipt, Wallet};
use trellis_primitives::{Address, B256, Bytes, Clock, SystemClock, Wei};

/// Tells several accounts of one key apart; the CLI has one.
const SALT: B256 = B256::ZERO;

/// Runs a command.
pub async fn run(command: QuantumCommand, datadir: Option<&Path>) -> Result<()> {
    match command {
        QuantumCommand::Create { hybrid, args, list } => create(hybrid, &args, list, datadir),
        QuantumCommand::Show { args, list } => show(&args, list, datadir).await,
        QuantumCommand::Send { call, args, relay, list } => {
            let (online, owner) = opened(&args, datadir).await?;
            let signed = online.signed(&owner, &call).await?;
            let bringing = Bringing { args: &args, relay: &relay, list, datadir, file: Kept::Beside(&owner.file) };
            online.bring(&signed, &bringing).await
        }
        QuantumCommand::Sign { call, args } => {
            let (online, owner) = opened(&args, datadir).await?;
            print_json(&serde_json::to_value(online.signed(&owner, &call).await?)?);
            Ok(())
        }
        QuantumCommand::Relay { file, args, relay, list } => {
            let signed = Signed::read(&file)?;
            let bringing = Bringing { args: &args, relay: &relay, list, datadir, file: Kept::At(&file) };
            Online::connect(&args, datadir).await?.bring(&signed, &bringing).await
        }
    }
}

/// Who brings calls, and how it is shown.
struct Bringing<'a> {
    args: &'a QuantumArgs,
    relay: &'a RelayArgs,
    list: ListArgs,
    datadir: Option<&'a Path>,
    file: Kept<'a>,
}

/// Where signed calls are, or will be if they must be brought again.
enum Kept<'a> {
    /// In this file.
    At(&'a Path),
    /// Nowhere yet; then beside this keystore.
    Beside(&'a Path),
}

impl Kept<'_> {
    /// The file that has them; none where it cannot be written, and they are printed.
    fn keep(&self, signed: &Signed) -> Result<Option<PathBuf>> {
        let key = match self {
            Self::At(file) => return Ok(Some(file.to_path_buf())),
            Self::Beside(key) => key,
        };
        let (file, value) =
            (key.with_extension(format!("signed-{}.json", signed.nonce)), serde_json::to_value(signed)?);
        if let Err(error) = std::fs::write(&file, value.to_string()) {
            eprintln!(
                "cannot write {}: {error}; the signed calls are printed instead: keep them in a file",
                file.display()
            );
            print_json(&value);
            return Ok(None);
        }
        Ok(Some(file))
    }
}

/// A key and the account it owns.
struct Owner {
    file: PathBuf,
    key: QuantumKey,
    signer: Bytes,
    account: Address,
}

impl Owner {
    fn of(key: QuantumKey, file: PathBuf) -> Self {
        let (signer, account) = owned(&key);
        Self { file, key, signer, account }
    }
}

/// A key as its account's signer, and the account.
fn owned(key: &QuantumKey) -> (Bytes, Address) {
    let contracts = AccountContracts::predeployed();
    let verifier = if key.is_hybrid() { contracts.hybrid_verifier } else { contracts.ml_dsa44_verifier };
    let signer = signer(verifier, &key.public());
    let account = contracts.address_of(&signer, SALT);
    (signer, account)
}

const fn scheme(hybrid: bool) -> &'static str {
    if hybrid { "ML-DSA-44 and secp256k1" } else { "ML-DSA-44" }
}

fn key_file(args: &QuantumArgs, datadir: Option<&Path>) -> Result<PathBuf> {
    match &args.key {
        Some(file) => Ok(file.clone()),
        None => Ok(key_path(&place(datadir)?, SecretKind::Quantum)),
    }
}

/// The spec that the flags name, or that of the folder's nodes.
fn spec(args: &QuantumArgs, datadir: Option<&Path>) -> Result<ChainSpec> {
    if let Some(named) = &args.chain {
        return Ok(ChainSpec::load(named)?);
    }
    if datadir.is_none_or(|folder| nodes_below(folder).is_empty()) {
        return Err(Failure::usage("which chain? no node has its data in this folder")
            .hint("give --chain dev, or the file of a chain spec")
            .into());
    }
    spec_of(datadir)
}

fn maker<'a>(chain_id: u64, args: &'a QuantumArgs) -> KeyMaker<'a> {
    let passphrase_file = args.passphrase_file.as_deref();
    // Accounts have no vote key: any scheme does.
    let vote_scheme = VoteScheme::default();
    KeyMaker { datadir: Path::new(""), chain_id, vote_scheme, dev_account: None, passphrase_file }
}

fn create(hybrid: bool, args: &QuantumArgs, list: ListArgs, datadir: Option<&Path>) -> Result<()> {
    let file = key_file(args, datadir)?;
    let key = make_quantum_key(&file, hybrid, args.passphrase_file.as_deref(), |key| owned(key).1.to_string())?;
    let account = owned(&key).1;
    if list.wants_json() {
        print_json(&json!({"account": account, "scheme": scheme(hybrid), "file": file}));
    } else {
        println!("{account}");
        eprintln!("an account of {}; its key is in {}: keep a copy", scheme(hybrid), file.display());
    }
    Ok(())
}

async fn show(args: &QuantumArgs, list: ListArgs, datadir: Option<&Path>) -> Result<()> {
    let (online, owner) = opened(args, datadir).await?;
    let client = online.client.as_ref();
    let made = online.accounts.show(client, owner.account).await?;
    let balance = client.balance(owner.account).await?;
    let (nonce, ours) = made.as_ref().map_or((0, true), |view| (view.nonce, view.signer == owner.signer));
    let scheme = scheme(owner.key.is_hybrid());
    if list.wants_json() {
        print_json(&json!({
            "account": owner.account,
            "scheme": scheme,
            "balance_wei": balance,
            "made": made.is_some(),
            "nonce": nonce,
            "owned": ours,
        }));
        return Ok(());
    }
    let state = match (made.is_some(), ours) {
        (false, _) => "made with its first call",
        (true, true) => "made",
        (true, false) => "owned by another key now",
    };
    let row = [owner.account.to_string(), balance.to_string(), nonce.to_string(), scheme.to_owned(), state.to_owned()];
    print(&["ACCOUNT", "BALANCE", "NONCE", "SCHEME", "STATE"], &[row.to_vec()]);
    Ok(())
}

async fn opened(args: &QuantumArgs, datadir: Option<&Path>) -> Result<(Online, Owner)> {
    let file = key_file(args, datadir)?;
    let key = quantum_key(&file, args.passphrase_file.as_deref())?;
    Ok((Online::connect(args, datadir).await?, Owner::of(key, file)))
}

/// A chain, and a connection to it.
struct Online {
    chain: Chain,
    client: Arc<RpcChainClient>,
    accounts: SmartAccounts,
}

impl Online {
    async fn connect(args: &QuantumArgs, datadir: Option<&Path>) -> Result<Self> {
        let chain = Chain::of(spec(args, datadir)?)?;
        let endpoint = match &args.rpc {
            Some(url) => url.clone(),
            None => chain_endpoint(datadir).await?,
        };
        let client = connect(&chain, &[endpoint], Arc::new(SystemClock)).await?;
        Ok(Self { chain, client, accounts: SmartAccounts::new(AccountContracts::predeployed()) })
    }

    fn chain_id(&self) -> u64 {
        self.chain.spec.genesis.chain_id
    }

    /// Signs a call with the account's next number.
    async fn signed(&self, owner: &Owner, call: &QuantumCall) -> Result<Signed> {
        let client = self.client.as_ref();
        let made = self.accounts.show(client, owner.account).await?;
        if made.as_ref().is_some_and(|view| view.signer != owner.signer) {
            return Err(Failure::key_or_funds(format!("{} is owned by another key now", owner.account))
                .hint("sign with the key that it was given")
                .into());
        }
        // Nothing is paid to nobody by mistake, but a contract may be called without coins.
        let value = if call.data.is_empty() { trl_above_zero(&call.trl)? } else { trl(&call.trl)? };
        let fee = trl(&call.fee)?;
        let clock_s = SystemClock.now().0 / 1_000;
        let execute = Execute {
            calls: vec![Call { target: call.to, value: value.to_u256(), data: call.data.clone() }],
            nonce: made.map_or(0, |view| view.nonce),
            deadline: deadline(client.head().await?.time_s, clock_s, call.within_s)?,
            relayer: call.relayer.unwrap_or_default(),
            fee: fee.to_u256(),
            gas: alloy_primitives::U256::from(call.gas),
        };
        let signature = owner.key.sign_hash(execute.digest(self.chain_id(), owner.account))?;
        let calls = SignedCalls { account: owner.account, execute, signature: signature.into() };
        self.check(&owner.signer, &calls).await?;
        // Both come from the chain that was asked; the owner sees what they became.
        eprintln!("signed as number {}, good until {}", calls.execute.nonce, time(calls.execute.deadline));
        Signed::of(self.chain_id(), &owner.signer, SALT, &calls)
    }

    /// Refuses before gas is spent what the chain would refuse.
    async fn check(&self, signer: &Bytes, calls: &SignedCalls) -> Result<()> {
        let client = self.client.as_ref();
        let digest = calls.execute.digest(self.chain_id(), calls.account);
        match self.accounts.verifies(client, signer, digest, calls.signature.clone()).await? {
            Some(true) => {}
            Some(false) => {
                return Err(Failure::new("the chain does not take this signature")
                    .hint("the calls were changed or signed by another key, or the chain has no ML-DSA-44 precompile")
                    .into());
            }
            None => {
                let name = &self.chain.spec.genesis.name;
                return Err(Failure::new(format!("the chain {name} has no post-quantum accounts"))
                    .hint(
                        "a chain spec with [genesis.contracts] has them, where its state was made by a build that has",
                    )
                    .into());
            }
        }
        let has = client.balance(calls.account).await?;
        if has.to_u256() < calls.execute.spent() {
            let needed =
                Wei::try_from(calls.execute.spent()).map_or_else(|error| error.to_string(), |wei| wei.to_string());
            return Err(Failure::key_or_funds(format!("{} has {has}, this takes {needed}", calls.account))
                .hint(format!("pay it: any wallet can send coins to {}", calls.account))
                .into());
        }
        Ok(())
    }

    /// Brings signed calls to the chain, after making the account where it is not there.
    async fn bring(&self, signed: &Signed, bringing: &Bringing<'_>) -> Result<()> {
        let calls = signed.calls(self.chain_id())?;
        let at = self.accounts.contracts.address_of(&signed.signer, signed.salt);
        if at != calls.account {
            return Err(Failure::new(format!("the signer's account is {at}, not {}", calls.account))
                .hint("the signed calls were changed; have them signed again")
                .into());
        }
        let client = self.client.as_ref();
        let view = self.accounts.show(client, calls.account).await?;
        let next_nonce = view.as_ref().map_or(0, |view| view.nonce);
        let now = standing(&calls.execute, next_nonce, client.head().await?.time_s);
        if now == Standing::Used {
            return self.used(&calls, None, bringing.list).await;
        }
        let relayer = self.relayer(bringing.args, bringing.relay, bringing.datadir)?;
        if let Some(failure) = unfit(&calls.execute, now, next_nonce, relayer.address()) {
            return Err(failure.into());
        }
        // The key of a made account may be a later one than that of its address.
        self.check(view.as_ref().map_or(&signed.signer, |view| &view.signer), &calls).await?;
        let mut made = None;
        if view.is_none() {
            match self.accounts.create(&relayer, signed.signer.clone(), signed.salt).await {
                Ok(receipt) => made = Some(receipt),
                Err(error) => return self.settled(&error, signed, &calls, (&relayer, None), bringing).await,
            }
        }
        match self.accounts.relay(&relayer, &calls).await {
            Ok(receipt) => {
                let place = Place { tx: receipt.tx, block: receipt.block, gas_used: Some(receipt.gas_used) };
                brought(&calls, made.as_ref(), &place, relayer.address(), bringing.list);
                Ok(())
            }
            Err(error) => self.settled(&error, signed, &calls, (&relayer, made.as_ref()), bringing).await,
        }
    }

    /// After an error of our own transaction: what became of the calls, which others may have brought.
    async fn settled(
        &self,
        error: &ChainError,
        signed: &Signed,
        calls: &SignedCalls,
        (relayer, made): (&Wallet, Option<&TxReceipt>),
        bringing: &Bringing<'_>,
    ) -> Result<()> {
        let now = self.standing(calls).await.ok();
        if now == Some(Standing::Used) {
            return self.used(calls, made, bringing.list).await;
        }
        let file = bringing.file.keep(signed)?;
        Err(undone(error, &calls.execute, now, relayer.address(), file.as_deref()).into())
    }

    async fn standing(&self, calls: &SignedCalls) -> Result<Standing, ChainError> {
        let client = self.client.as_ref();
        let next_nonce = self.accounts.show(client, calls.account).await?.map_or(0, |view| view.nonce);
        Ok(standing(&calls.execute, next_nonce, client.head().await?.time_s))
    }

    /// The calls' nonce is used: by them, and all is well, or by others.
    async fn used(&self, calls: &SignedCalls, made: Option<&TxReceipt>, list: ListArgs) -> Result<()> {
        let found = use_of(self.client.as_ref(), calls.account, &calls.execute).await?;
        if let Some(Use { tx, block, relayer, same: Some(true) }) = found {
            brought(calls, made, &Place { tx, block, gas_used: None }, relayer, list);
            return Ok(());
        }
        Err(displaced(calls.account, calls.execute.nonce, found.as_ref()).into())
    }

    /// Whose coins pay the gas.
    fn relayer(&self, args: &QuantumArgs, relay: &RelayArgs, datadir: Option<&Path>) -> Result<Wallet> {
        let chain_id = self.chain_id();
        let account: AccountKey = match (relay.dev_account, &relay.relay_key) {
            (Some(index), _) if is_public_chain(chain_id) => dev_account(index)?,
            (Some(_), _) => {
                return Err(
                    Failure::usage("--dev-account is for the chains `dev` and `local`: its keys are public").into()
                );
            }
            (None, Some(file)) => maker(chain_id, args).account_key(file)?,
            (None, None) => {
                let own = nodes(datadir).ok().and_then(|all| all.into_iter().next());
                let (_, folder) = own.ok_or_else(|| {
                    Failure::key_or_funds("nobody is there to pay the gas")
                        .hint("name an account with --relay-key FILE, or on `dev` with --dev-account INDEX")
                })?;
                maker(chain_id, args).account_key(&key_path(&folder, SecretKind::Account))?
            }
        };
        wallet(self.client.clone(), &account)
    }
}

/// Where calls happened; the gas is known of our own transactions.
struct Place {
    tx: B256,
    block: u64,
    gas_used: Option<u64>,
}

fn brought(calls: &SignedCalls, made: Option<&TxReceipt>, place: &Place, relayer: Address, list: ListArgs) {
    if list.wants_json() {
        print_json(&json!({
            "account": calls.account,
            "nonce": calls.execute.nonce,
            "transaction": place.tx,
            "block": place.block,
            "gas_used": place.gas_used,
            "relayer": relayer,
            "made_by": made.map(|made| made.tx),
            "made_gas_used": made.map(|made| made.gas_used),
        }));
        return;
    }
    if let Some(made) = made {
        println!("made {} in {}, gas {}", calls.account, made.tx, made.gas_used);
    }
    match place.gas_used {
        Some(gas) => println!("done in {}, gas {gas}", place.tx),
        None => println!("done, brought by {relayer} in {}", place.tx),
    }
}
