//! Cheaters on either side, each stopped within one risk limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "world/liar.rs"]
mod liar;
#[path = "world/world.rs"]
mod world;

use liar::{Lie, liar};
use tokio::io::AsyncWriteExt;
use trellis_market_channel::{PayerFault, sign_voucher};
use trellis_market_gateway::{ChannelNeed, ChannelOpener, JobFault};
use trellis_market_receipt::wire::{
    Accept, GatewayFrame, JOB_FRAME_BYTES_MAX, JOB_PROTOCOL, JobErrorCode, Prompt, ProviderFrame, VoucherFrame,
};
use trellis_market_receipt::{prompt_commitment, request_digest};
use trellis_net_peers::frame::{read_frame, write_frame};
use trellis_net_peers::sim::SimNet;
use trellis_net_peers::{NetStream, NetworkHandle, Protocol};
use trellis_primitives::{Address, B256, ChannelId, JobId, Role, Wei, keccak256};
use world::script::Script;
use world::{
    CHAIN_ID, GatewaySide, MODEL, RISK, WEI_PER_TOKEN, World, channels_domain, cost, payee_key, prices, request,
    signer_key,
};

fn against(lie: Lie) -> (World, GatewaySide, JobFault) {
    let world = World::new();
    let runtime = liar(&world, lie);
    let gateway = world.gateway();
    gateway.connect(&world);
    let fault = gateway.ask(&world, "what is the capital of France?", 500).end.expect_err("the lie must be noticed");
    drop(runtime);
    (world, gateway, fault)
}

fn promised(gateway: &GatewaySide) -> Wei {
    gateway.client.channels().iter().map(|summary| summary.cumulative).sum()
}

// row: MKT-20, MKT-31
#[test]
fn a_provider_that_overmeters_its_answer_is_not_paid_for_it() {
    let (_world, gateway, fault) = against(Lie::Overmeter);
    assert!(matches!(fault, JobFault::Claim(PayerFault::OutputTokens { .. })), "{fault}");
    assert!(promised(&gateway) <= RISK);
}

#[test]
fn a_provider_that_overmeters_the_prompt_is_not_paid_for_it() {
    let (_world, gateway, fault) = against(Lie::OvermeterPrompt);
    assert!(matches!(fault, JobFault::Claim(PayerFault::PromptTokens { .. })), "{fault}");
    assert_eq!(promised(&gateway), Wei::ZERO);
}

#[test]
fn a_provider_that_asks_to_be_paid_far_ahead_gets_nothing() {
    let (_world, gateway, fault) = against(Lie::DemandAhead);
    assert!(matches!(fault, JobFault::Claim(PayerFault::Ahead { .. })), "{fault}");
    assert_eq!(promised(&gateway), Wei::ZERO);
}

// row: MKT-20
#[test]
fn a_provider_that_lies_in_its_receipt_gets_no_signature() {
    for (lie, field) in [
        (Lie::OutputDigest, "output digest"),
        (Lie::Model, "model digest"),
        (Lie::Price, "output price"),
        (Lie::ForeignSignature, "provider signature"),
    ] {
        let (world, gateway, fault) = against(lie);
        assert_eq!(fault, JobFault::Receipt { field }, "{lie:?}");
        assert!(promised(&gateway) <= RISK, "{lie:?}");
        assert_eq!(world.ledger.receipts().len(), 0);
    }
}

#[test]
fn a_provider_that_writes_a_higher_cost_into_the_receipt_gets_no_signature() {
    let (_world, gateway, fault) = against(Lie::Cost);
    assert!(matches!(fault, JobFault::Claim(PayerFault::ReceiptCost { .. })), "{fault}");
    assert!(promised(&gateway) <= RISK);
}

#[test]
fn a_provider_that_stops_midway_or_shows_a_forged_voucher_costs_at_most_one_risk_limit() {
    let (_world, gateway, fault) = against(Lie::StopMidway);
    assert!(matches!(fault, JobFault::Lost { .. }), "{fault}");
    assert!(promised(&gateway) <= RISK);
    let (_world, gateway, fault) = against(Lie::ForgedVoucher);
    assert!(matches!(fault, JobFault::Payer(_)), "{fault}");
    assert_eq!(promised(&gateway), Wei::ZERO);
}

#[test]
fn a_provider_that_sends_garbage_is_named() {
    let (_world, _gateway, fault) = against(Lie::Garbage);
    assert!(matches!(fault, JobFault::Wire(_)), "{fault}");
}

/// A gateway that is written by hand, frame by frame.
struct Hand {
    stream: NetStream,
}

impl Hand {
    async fn open(world: &World, network: &NetworkHandle) -> Self {
        network.dial(&SimNet::address(world.provider_id())).await.unwrap();
        Self { stream: network.open(world.provider_id(), Protocol(JOB_PROTOCOL)).await.unwrap() }
    }

    async fn send(&mut self, frame: &GatewayFrame) {
        write_frame(&mut self.stream, &frame.encode()).await.unwrap();
    }

    async fn next(&mut self) -> ProviderFrame {
        ProviderFrame::decode(&read_frame(&mut self.stream, JOB_FRAME_BYTES_MAX).await.unwrap()).unwrap()
    }

    /// Reads on until an error comes; gives it with the text delivered before.
    async fn until_error(&mut self) -> (JobErrorCode, String) {
        let mut text = String::new();
        loop {
            match self.next().await {
                ProviderFrame::Error(error) => return (error.code, text),
                ProviderFrame::Chunk(chunk) => text.push_str(&chunk.text),
                _ => {}
            }
        }
    }
}

fn accept(world: &World, channel: ChannelId, sequence: u64) -> (Accept, Prompt) {
    let order = request(MODEL, "hello", 5_000);
    let (job, salt) = (JobId(keccak256(sequence.to_be_bytes())), B256::repeat_byte(3));
    let mut accept = Accept {
        job,
        channel,
        sequence,
        model: MODEL.into(),
        price_in: prices().input,
        price_out: prices().output,
        max_cost: Wei(RISK.0 * 100),
        aggregator: world.provider_config.aggregator,
        request_digest: request_digest(&salt, order.kind, &order.bytes),
        parameters_hash: order.parameters.hash(),
        prompt_commitment: prompt_commitment(&salt, &order.bytes),
        signature: [0; 65],
    };
    accept.sign(CHAIN_ID, world.gateway_id(), world.provider_id(), &signer_key());
    (accept, Prompt { job, kind: order.kind, salt, request: order.bytes })
}

async fn channel(world: &World) -> ChannelId {
    let need = ChannelNeed {
        provider: world.provider_id(),
        payee: payee_key().address(),
        payout: payee_key().address(),
        signer: signer_key().address(),
        token: world.provider_config.token,
        deposit: Wei(RISK.0 * 1_000),
        challenge_seconds_min: 5,
        alive_until_seconds: 2_000_000_000,
    };
    world.ledger.open(&need).await.unwrap().id
}

fn voucher(channel: ChannelId, job: JobId, from: Wei, to: Wei) -> GatewayFrame {
    let voucher = sign_voucher(&channels_domain(), channel, to, &signer_key());
    GatewayFrame::Voucher(VoucherFrame { voucher, increments: vec![(job, to.saturating_sub(from))] })
}

fn with_hand<F: AsyncFnOnce(&World, Hand, ChannelId)>(test: F) -> World {
    let mut world = World::new();
    world.provider_config.payment_wait_ms = 500;
    let provider = world.provider(Script::new(10, 5_000));
    let network = world.node(&world.gateway_key, Role::Gateway, Address::repeat_byte(0x11));
    provider.runtime.block_on(async {
        let id = channel(&world).await;
        let hand = Hand::open(&world, &network).await;
        test(&world, hand, id).await;
    });
    for summary in provider.provider.channels() {
        assert!(summary.arrears <= RISK, "{summary:?}");
        assert_eq!(summary.open_jobs, 0);
    }
    world
}

// row: NET-73
#[test]
fn a_gateway_that_sends_ten_undecodable_frames_loses_its_connection_and_stays_out() {
    let world = World::new();
    let provider = world.provider(Script::new(10, 5_000));
    let network = world.node(&world.gateway_key, Role::Gateway, Address::repeat_byte(0x11));
    provider.runtime.block_on(async {
        for _ in 0..9 {
            let mut hand = Hand::open(&world, &network).await;
            write_frame(&mut hand.stream, b"\xff\xff\xff").await.unwrap();
            assert_eq!(hand.until_error().await.0, JobErrorCode::Protocol);
        }
        let mut hand = Hand::open(&world, &network).await;
        // The connection may be gone before the last write has returned.
        let _ = write_frame(&mut hand.stream, b"\xff\xff\xff").await;
        while read_frame(&mut hand.stream, JOB_FRAME_BYTES_MAX).await.is_ok() {}
        let again = network.dial(&SimNet::address(world.provider_id())).await.unwrap_err();
        assert!(again.to_string().contains("banned"), "{again}");
    });
}

// row: MKT-31
#[test]
fn a_gateway_that_never_pays_gets_no_token() {
    with_hand(async |world, mut hand, channel| {
        let (accept, prompt) = accept(world, channel, 1);
        hand.send(&GatewayFrame::Accept(accept)).await;
        hand.send(&GatewayFrame::Prompt(prompt)).await;
        assert_eq!(hand.until_error().await, (JobErrorCode::PaymentLate, String::new()));
    });
}

// row: MKT-31
#[test]
fn a_gateway_that_stops_paying_gets_at_most_one_risk_limit_more() {
    with_hand(async |world, mut hand, channel| {
        let (accept, prompt) = accept(world, channel, 1);
        let job = accept.job;
        hand.send(&GatewayFrame::Accept(accept)).await;
        hand.send(&GatewayFrame::Prompt(prompt)).await;
        let mut paid = Wei::ZERO;
        let mut delivered = 0;
        loop {
            match hand.next().await {
                ProviderFrame::Due(due) if paid < RISK => {
                    hand.send(&voucher(channel, job, paid, due.due)).await;
                    paid = due.due;
                }
                ProviderFrame::Chunk(chunk) => delivered = chunk.tokens_out,
                ProviderFrame::Error(error) => {
                    assert_eq!(error.code, JobErrorCode::PaymentLate);
                    break;
                }
                _ => {}
            }
        }
        let value = cost(10, delivered);
        assert!(value.saturating_sub(paid) <= RISK, "{value} delivered for {paid}");
        assert!(delivered > 0 && u128::from(delivered) * WEI_PER_TOKEN >= RISK.0);
    });
}

#[test]
fn replayed_forged_and_overdrawn_vouchers_pay_nothing() {
    let world = with_hand(async |world, mut hand, channel| {
        let (accept, prompt) = accept(world, channel, 1);
        let job = accept.job;
        hand.send(&GatewayFrame::Accept(accept)).await;
        hand.send(&GatewayFrame::Prompt(prompt)).await;
        while !matches!(hand.next().await, ProviderFrame::Due(_)) {}
        let first = voucher(channel, job, Wei::ZERO, Wei(5 * WEI_PER_TOKEN));
        for _ in 0..3 {
            hand.send(&first).await;
        }
        let mut acknowledged = 0;
        while acknowledged < 3 {
            if let ProviderFrame::VoucherAck(held) = hand.next().await {
                assert_eq!(held.cumulative, Wei(5 * WEI_PER_TOKEN));
                acknowledged += 1;
            }
        }
        hand.send(&voucher(channel, job, Wei(5 * WEI_PER_TOKEN), Wei(RISK.0 * 1_001))).await;
        assert_eq!(hand.until_error().await, (JobErrorCode::Voucher, String::new()));
    });
    assert_eq!(world.ledger.all()[0].paid, Wei::ZERO);
}

#[test]
fn an_accept_by_a_stranger_a_used_sequence_a_low_price_or_another_prompt_is_refused() {
    with_hand(async |world, mut hand, channel| {
        let (mut stolen, _) = accept(world, channel, 1);
        stolen.signature[5] ^= 1;
        hand.send(&GatewayFrame::Accept(stolen)).await;
        assert_eq!(hand.until_error().await.0, JobErrorCode::Channel);
        let _ = hand.stream.shutdown().await;
    });
    with_hand(async |world, mut hand, channel| {
        let (mut cheap, _) = accept(world, channel, 1);
        cheap.price_out = Wei(1);
        cheap.sign(CHAIN_ID, world.gateway_id(), world.provider_id(), &signer_key());
        hand.send(&GatewayFrame::Accept(cheap)).await;
        assert_eq!(hand.until_error().await.0, JobErrorCode::Price);
    });
    with_hand(async |world, mut hand, channel| {
        let (accept, mut other) = accept(world, channel, 1);
        other.request = request(MODEL, "something else", 5_000).bytes;
        hand.send(&GatewayFrame::Accept(accept)).await;
        hand.send(&GatewayFrame::Prompt(other)).await;
        assert_eq!(hand.until_error().await.0, JobErrorCode::BadRequest);
    });
    with_hand(async |world, mut hand, _| {
        let (unknown, _) = accept(world, ChannelId(B256::ZERO), 1);
        hand.send(&GatewayFrame::Accept(unknown)).await;
        assert_eq!(hand.until_error().await.0, JobErrorCode::Channel);
    });
    with_hand(async |_, mut hand, _| {
        write_frame(&mut hand.stream, b"\xff\xff\xff").await.unwrap();
        assert_eq!(hand.until_error().await.0, JobErrorCode::Protocol);
    });
}
