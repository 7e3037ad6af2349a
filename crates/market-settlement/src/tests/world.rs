//! Parties, keys, channels and receipts over the chain of tests.

use std::sync::Arc;
use std::time::Duration;

use trellis_contracts::deployment::{Addresses, Parameters as Deployment, steps};
use trellis_contracts::typed;
use trellis_crypto::AccountKey;
use trellis_market_chain::{
    ChainClient, ChannelTerms, ChannelsContract, SettlementContract, SettlementTerms, Wallet, WtrlContract,
};
use trellis_market_journal::{Journal, JournalConfig};
use trellis_market_receipt::eip712::Domain;
use trellis_market_receipt::{
    FinishReason, InstructionSet, Receipt, ReceiptDetails, SignedReceipt, engine_build_digest, error_digest,
};
use trellis_primitives::{Address, B256, Bytes, ChannelId, JobId, ManualClock, NodeId, UnixMs, Wei, keccak256};

use super::evm::{CHAIN_ID, EvmChain};
use crate::{Aggregator, AggregatorConfig, Contracts, LatestVoucher};

const START_S: u64 = 1_795_257_000;
/// What everybody begins with.
pub(super) const COINS: Wei = Wei::from_trl(1_000);

/// A chain with the contracts, a gateway, a provider.
pub(super) struct World {
    pub(super) chain: Arc<EvmChain>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) contracts: Contracts,
    pub(super) channels: ChannelsContract,
    pub(super) settlement: SettlementContract,
    pub(super) domain: Domain,
    pub(super) folder: tempfile::TempDir,
}

pub(super) fn key(n: u8) -> Arc<AccountKey> {
    Arc::new(AccountKey::from_bytes(&[n; 32]).unwrap())
}

pub(super) fn gateway() -> Arc<AccountKey> {
    key(1)
}
pub(super) fn signer() -> Arc<AccountKey> {
    key(2)
}
pub(super) fn provider() -> Arc<AccountKey> {
    key(3)
}
pub(super) fn aggregator() -> Arc<AccountKey> {
    key(4)
}
pub(super) fn challenger() -> Arc<AccountKey> {
    key(5)
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_fee(0)
    }

    pub(super) fn with_fee(fee_bps: u16) -> Self {
        let chain = Arc::new(EvmChain::new(START_S));
        let deployer = Address::repeat_byte(0xdd);
        let parameters = Deployment { fee_bps, ..Deployment::dev(Address::repeat_byte(0xee)) };
        for step in steps(&parameters, deployer, 0) {
            let address = chain.genesis_step(deployer, step.to, step.input);
            assert_eq!(address, step.address, "{}", step.name);
        }
        for account in [gateway(), provider(), aggregator(), challenger()] {
            chain.fund(account.address(), COINS);
        }
        let contracts = Contracts::from(&Addresses::of(deployer, 0));
        Self {
            chain,
            clock: Arc::new(ManualClock::new(UnixMs(START_S * 1_000))),
            contracts,
            channels: ChannelsContract::new(contracts.channels),
            settlement: SettlementContract::new(contracts.settlement),
            domain: Domain { chain_id: CHAIN_ID, contract: contracts.settlement },
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn wallet(&self, key: Arc<AccountKey>) -> Wallet {
        let client: Arc<dyn ChainClient> = self.chain.clone();
        Wallet::new(client, key, Duration::from_secs(60))
    }

    pub(super) fn client(&self) -> &dyn ChainClient {
        &*self.chain
    }

    pub(super) fn advance_s(&self, seconds: u64) {
        self.chain.advance_s(seconds);
        self.clock.advance_ms(seconds * 1_000);
    }

    /// A channel from the gateway to the provider; the payout address is its own for each number.
    pub(super) async fn open_channel(&self, n: u8, deposit: Wei) -> ChannelId {
        self.open(payout(n), B256::repeat_byte(n), deposit).await
    }

    pub(super) async fn open(&self, payout: Address, salt: B256, deposit: Wei) -> ChannelId {
        let wallet = self.wallet(gateway());
        WtrlContract::new(self.contracts.token).ensure_balance(&wallet, deposit).await.unwrap();
        let terms = ChannelTerms {
            payee: provider().address(),
            payout,
            signer: signer().address(),
            token: self.contracts.token,
            challengePeriodSeconds: 10,
            expiry: START_S + 100_000,
            salt,
        };
        self.channels.open(&wallet, &terms, deposit).await.unwrap().0
    }

    pub(super) async fn tokens_of(&self, account: Address) -> Wei {
        WtrlContract::new(self.contracts.token).balance_of(self.client(), account).await.unwrap()
    }

    pub(super) async fn terms(&self) -> SettlementTerms {
        self.settlement.terms(self.client()).await.unwrap()
    }

    /// A receipt that both sides signed.
    pub(super) fn receipt(&self, channel: ChannelId, sequence: u64, cost: u128) -> SignedReceipt {
        self.signed(self.unsigned(channel, sequence, cost))
    }

    pub(super) fn unsigned(&self, channel: ChannelId, sequence: u64, cost: u128) -> Receipt {
        let details = details();
        Receipt {
            version: 1,
            chain_id: CHAIN_ID,
            channels: self.contracts.channels,
            aggregator: aggregator().address(),
            channel,
            sequence,
            job: JobId(keccak256([channel.0.as_slice(), &sequence.to_be_bytes()].concat())),
            gateway: NodeId([1; 32]),
            provider: NodeId([2; 32]),
            model_digest: B256::repeat_byte(1),
            tokenizer_digest: B256::repeat_byte(2),
            engine_build: engine_build_digest(&details.engine),
            instruction_set: InstructionSet::X86_64_V3,
            request_digest: B256::repeat_byte(3),
            parameters_hash: details.parameters.hash(),
            prompt_commitment: B256::repeat_byte(4),
            output_digest: B256::repeat_byte(5),
            fingerprint_root: B256::ZERO,
            tokens_in: 10,
            tokens_out: 20,
            finish_reason: FinishReason::Stop,
            started_at: UnixMs(START_S * 1_000),
            time_to_first_token_ms: 5,
            duration_ms: 50,
            price_in: Wei(1),
            price_out: Wei(2),
            cost: Wei(cost),
            written_off: Wei(0),
            error_hash: error_digest(""),
        }
    }

    pub(super) fn signed(&self, receipt: Receipt) -> SignedReceipt {
        let mut signed = SignedReceipt::unsigned(receipt, details());
        signed.sign_as_provider(&self.domain, &provider());
        signed.sign_as_gateway(&self.domain, &signer());
        signed
    }

    pub(super) fn voucher(&self, channel: ChannelId, cumulative: u128) -> LatestVoucher {
        let promised = typed::Voucher { channelId: channel.0, cumulativeAmount: cumulative };
        let digest = typed::digest(&promised, CHAIN_ID, self.contracts.channels);
        let signature = Bytes::copy_from_slice(&signer().sign_hash(digest));
        LatestVoucher { channel, cumulative: Wei(cumulative), signature }
    }

    pub(super) fn journal(&self, name: &str) -> (Journal, JournalConfig) {
        let config = JournalConfig::new(self.folder.path().join(name));
        (Journal::open(&config, self.clock.clone()).unwrap(), config)
    }

    /// The honest aggregator, with its journal as it is now.
    pub(super) async fn aggregator(&self, change: impl FnOnce(&mut AggregatorConfig)) -> (Aggregator, Journal) {
        let mut config = AggregatorConfig::dev(self.contracts);
        change(&mut config);
        let (journal, journal_config) = self.journal("aggregator");
        let wallet = self.wallet(aggregator());
        let opened = Aggregator::open(config, wallet, journal.clone(), &journal_config, self.clock.clone()).await;
        (opened.unwrap(), journal)
    }
}

pub(super) fn details() -> ReceiptDetails {
    ReceiptDetails { model: "m".into(), engine: "test engine".into(), ..ReceiptDetails::default() }
}

pub(super) fn payout(n: u8) -> Address {
    Address::repeat_byte(0x40 + n)
}
