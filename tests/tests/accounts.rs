//! A person with a post-quantum account: made, paid, spending; and everybody who is not its owner.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_primitives::{Address, Bytes, U256, hex};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use trellis_contracts::accounts::{Call, Execute};
use trellis_crypto::QuantumKey;
use trellis_scenarios::chain::{ask, call, number};
use trellis_scenarios::network::Network;
use trellis_scenarios::program::Ended;
use trellis_scenarios::wait::until;
use trellis_scenarios::wallet::{SECOND_ACCOUNT, Wallet};

/// A loaded machine is slow.
const PATIENCE: Duration = Duration::from_secs(90);
const TRL: u128 = 10u128.pow(18);
const DEV_CHAIN: u64 = 97_001;
/// Who is paid; nobody else pays it.
const SHOP: Address = Address::repeat_byte(0x5b);
/// Which account of the test mnemonic brings the calls.
const RELAYER: &str = "2";

/// A network, and an ordinary account on it that pays.
struct Town {
    network: Network,
    rpc: String,
    payer: Wallet,
}

impl Town {
    fn start() -> Self {
        let network = Network::start();
        let rpc = network.rpc();
        Self { network, rpc, payer: Wallet::new(&SECOND_ACCOUNT, DEV_CHAIN) }
    }

    fn balance(&self, of: Address) -> u128 {
        number(&call(&self.rpc, "eth_getBalance", json!([of, "latest"])))
    }

    fn pay(&mut self, to: Address, wei: u128) {
        let goal = self.balance(to) + wei;
        let (raw, _) = self.payer.pay(to, wei);
        call(&self.rpc, "eth_sendRawTransaction", json!([raw]));
        until(PATIENCE, "the account is paid", || self.balance(to) == goal);
    }

    /// With the owner's passphrase, which every key of such an account has.
    fn pq(&self, arguments: &[&str]) -> Ended {
        let file = self.network.folder().join("passphrase");
        std::fs::write(&file, "of the owner\n").expect("file");
        self.pq_with(file.to_str().expect("UTF-8"), arguments)
    }

    fn pq_with(&self, passphrase_file: &str, arguments: &[&str]) -> Ended {
        let passphrase = ["--passphrase-file", passphrase_file];
        self.network.trellis(&[&["wallet", "pq"], arguments, &passphrase].concat())
    }

    fn create(&self, more: &[&str]) -> Address {
        let made = self.pq(&[&["create", "--json"], more].concat()).succeeded().json();
        made["account"].as_str().expect("an address").parse().expect("an address")
    }

    fn send(&self, trl: &str, more: &[&str]) -> Value {
        let shop = SHOP.to_string();
        let sent = self.pq(&[&["send", &shop, trl, "--dev-account", RELAYER, "--json"], more].concat());
        let sent = sent.succeeded().json();
        println!("{trl} TRL {more:?}: gas {}, making the account {}", sent["gas_used"], sent["made_gas_used"]);
        sent
    }

    /// Signs a payment to the shop into a file.
    fn sign(&self, trl: &str, name: &str) -> PathBuf {
        let signed = self.pq(&["sign", &SHOP.to_string(), trl]).succeeded();
        let file = self.network.folder().join(name);
        std::fs::write(&file, signed.stdout).expect("file");
        file
    }

    fn relay(&self, file: &Path) -> Ended {
        let file = file.to_str().expect("UTF-8");
        self.pq(&["relay", file, "--dev-account", RELAYER, "--json"])
    }
}

/// The file with one field changed.
fn changed(file: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut signed: Value = serde_json::from_slice(&std::fs::read(file).expect("file")).expect("JSON");
    change(&mut signed);
    let path = file.with_extension("changed.json");
    std::fs::write(&path, signed.to_string()).expect("file");
    path
}

// row: CHN-21
#[test]
fn a_post_quantum_account_is_paid_before_it_is_made_and_spends_with_anybodys_gas() {
    let mut town = Town::start();
    let account = town.create(&[]);
    let other = town.network.folder().join("other.key").to_str().unwrap().to_owned();
    assert_ne!(town.create(&["--key", &other]), account, "another key, another account");
    town.pq(&["create"]).failed_with(1, &["exists already"]);
    town.network.trellis(&["wallet", "pq", "show"]).failed_with(4, &["needs a passphrase"]);
    town.pq(&["send", &SHOP.to_string(), "1", "--dev-account", RELAYER]).failed_with(4, &["0 TRL", "pay it"]);
    town.pay(account, 5 * TRL);

    let signed = town.sign("1.5", "first.json");
    let sent = town.relay(&signed).succeeded().json();
    println!("gas {}, making the account {}", sent["gas_used"], sent["made_gas_used"]);
    assert!(sent["made_by"].is_string(), "{sent}");
    assert_eq!((town.balance(SHOP), town.balance(account)), (15 * TRL / 10, 35 * TRL / 10));

    // Once it is there it can still be paid, and spends again; a fee goes to whoever brought the call.
    town.pay(account, TRL);
    let sent = town.send("0.5", &["--fee", "0.25"]);
    assert!(sent["made_by"].is_null(), "{sent}");
    assert_eq!((town.balance(SHOP), town.balance(account)), (2 * TRL, 375 * TRL / 100));
    let shown = town.pq(&["show", "--json"]).succeeded().json();
    assert_eq!((shown["nonce"].as_u64(), &shown["made"], &shown["owned"]), (Some(2), &json!(true), &json!(true)));
    town.network.stop();
}

// row: CHN-21
#[test]
fn nobody_but_its_key_moves_a_post_quantum_account_and_no_call_is_taken_twice() {
    let mut town = Town::start();
    let account = town.create(&[]);
    town.pay(account, 5 * TRL);
    let signed = town.sign("1", "first.json");
    let rival = town.sign("2", "rival.json");
    let done = town.relay(&signed).succeeded().json();
    // Who brings them again learns that they happened; who brings others of that nonce, that they never will.
    let again = town.relay(&signed).succeeded().json();
    assert_eq!((&again["transaction"], &again["relayer"]), (&done["transaction"], &done["relayer"]));
    assert_eq!(town.balance(account), 4 * TRL);
    town.relay(&rival).failed_with(1, &["another call", "never happen"]);

    let next = town.sign("1", "next.json");
    let richer = changed(&next, |signed| signed["calls"][0]["value_wei"] = json!((2 * TRL).to_string()));
    town.relay(&richer).failed_with(1, &["does not take this signature"]);
    let elsewhere = changed(&next, |signed| signed["chain_id"] = json!(1));
    town.relay(&elsewhere).failed_with(2, &["chain 1"]);
    let wrong = town.network.folder().join("wrong");
    std::fs::write(&wrong, "not the passphrase").expect("file");
    let wrong = wrong.to_str().unwrap().to_owned();
    town.pq_with(&wrong, &["sign", &SHOP.to_string(), "1"]).failed_with(4, &["passphrase"]);
    for none in ["0", "1_0", "0.0000000000000000001"] {
        town.pq(&["sign", &SHOP.to_string(), none]).failed_with(2, &["amount of TRL"]);
    }

    // The chain itself is asked with a thief's key, which no command of ours would do.
    let thief = QuantumKey::generate(&mut rand::rng(), false).unwrap();
    let theft = Execute {
        calls: vec![Call { target: SHOP, value: U256::from(TRL), data: Bytes::new() }],
        nonce: 1,
        deadline: u64::MAX,
        relayer: Address::ZERO,
        fee: U256::ZERO,
        gas: U256::ZERO,
    };
    let signature = thief.sign_hash(theft.digest(DEV_CHAIN, account)).unwrap();
    let asked = |signature: Vec<u8>| {
        let data = hex::encode_prefixed(theft.call_data(signature.into()));
        ask(&town.rpc, "eth_call", json!([{"to": account, "data": data}, "latest"]))
    };
    let refused = asked(signature).expect_err("the thief is refused");
    // BadSignature()
    assert_eq!(refused["data"], "0x5cd5d233", "{refused}");
    assert_eq!(town.balance(account), 4 * TRL);
    town.network.stop();
}

// row: CHN-21
#[test]
fn an_account_of_two_keys_spends_when_both_sign() {
    let mut town = Town::start();
    let file = town.network.folder().join("hybrid.key").to_str().unwrap().to_owned();
    let account = town.create(&["--hybrid", "--key", &file]);
    town.pay(account, 2 * TRL);
    town.send("1", &["--key", &file]);
    assert_eq!((town.balance(SHOP), town.balance(account)), (TRL, TRL));
    town.network.stop();
}
