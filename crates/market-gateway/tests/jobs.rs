//! Paid jobs between the real provider and the real job client over the simulated network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "world/world.rs"]
mod world;

use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use trellis_market_gateway::jobs::{FailureKind, JobEvent as MarketEvent, JobFailure, Jobs};
use trellis_market_gateway::{JobEvent, JobFault, Market, WaitedFor};
use trellis_market_inference::{Engine, EngineConfig, LoadOptions, Model};
use trellis_market_journal::{JournalConfig, JournalReader, Record};
use trellis_market_provider::EmbeddedBackend;
use trellis_market_receipt::wire::JobErrorCode;
use trellis_market_receipt::{FinishReason, PqProof, ReceiptParties, SignedPairRoot};
use trellis_net_peers::DisconnectReason;
use trellis_primitives::{B256, Wei};
use world::script::{End, Script};
use world::{
    GatewaySide, MODEL, WEI_PER_TOKEN, World, channels_domain, collect, cost, payee_key, request, settlement_domain,
    signer_key, until,
};

// row: MKT-11, MKT-20, MKT-21, MKT-31
#[test]
fn a_paid_streamed_job_ends_with_a_receipt_that_both_signed() {
    let world = World::new();
    let (provider, gateway) = (world.provider(Script::new(20, 30)), world.gateway());
    gateway.connect(&world);
    let answer = gateway.ask(&world, "hello", 64);
    let done = answer.end.unwrap();
    assert_eq!(answer.text, Script::text(30));
    assert_eq!((done.usage(), done.cost(), done.finish()), ((20, 30), cost(20, 30), FinishReason::Stop));
    let parties = ReceiptParties { gateway_signer: signer_key().address(), provider_payee: payee_key().address() };
    done.receipt.verify(&settlement_domain(), channels_domain().contract, &parties).unwrap();
    until("the receipt's way into the provider's journal", || world.audit(false).complete == 1);
    assert_eq!(world.audit(true).promised, cost(20, 30));
    let summary = provider.provider.channels()[0];
    assert_eq!((summary.cumulative, summary.open_jobs, summary.arrears), (cost(20, 30), 0, Wei::ZERO));
}

// row: MKT-31
#[test]
fn a_job_far_beyond_the_risk_limit_is_paid_as_it_goes_and_parallel_jobs_share_the_counter() {
    let world = World::new();
    let (_provider, gateway) = (world.provider(Script::new(350, 400)), world.gateway());
    gateway.connect(&world);
    let long = "a long prompt ".repeat(60);
    let jobs: Vec<_> = (0..6)
        .map(|_| {
            let (client, order) = (gateway.client.clone(), gateway.order(&world, request(MODEL, &long, 1_000)));
            gateway.runtime.spawn(collect(client, order))
        })
        .collect();
    for job in jobs {
        let done = gateway.runtime.block_on(job).unwrap().end.unwrap();
        assert_eq!(done.cost(), cost(350, 400));
    }
    assert_eq!(world.ledger.all().len(), 1, "one channel for all jobs");
    until("all receipts in both journals", || world.audit(false).complete == 6);
    assert_eq!(world.audit(true).promised.0, 6 * cost(350, 400).0);
}

fn is_connected(gateway: &GatewaySide, world: &World) -> bool {
    gateway.network.peers().iter().any(|peer| peer.id == Some(world.provider_id()))
}

fn disconnect(gateway: &GatewaySide, world: &World) {
    gateway.runtime.block_on(gateway.network.disconnect(world.provider_id(), DisconnectReason::Inactivity));
}

// row: NET-57
#[test]
fn a_provider_that_served_well_is_connected_again_without_a_job_and_after_a_restart_too() {
    let world = World::new();
    let (_provider, gateway) = (world.provider(Script::new(20, 30)), world.gateway());
    gateway.connect(&world);
    disconnect(&gateway, &world);
    // Several looks at who is a favourite pass, and nobody has served yet.
    std::thread::sleep(Duration::from_millis(5_000));
    assert!(!is_connected(&gateway, &world));
    gateway.connect(&world);
    gateway.ask(&world, "hello", 64).end.unwrap();
    disconnect(&gateway, &world);
    until("the connection to the favourite", || is_connected(&gateway, &world));
    gateway.kill(&world);
    let again = world.gateway();
    until("the connection to whom there is a channel with", || is_connected(&again, &world));
}

/// What one prompt on the market gives: the provider's text, or why there is none.
fn buy(gateway: &GatewaySide) -> Result<String, JobFailure> {
    let market = Market::new(gateway.client.clone());
    gateway.runtime.block_on(async {
        let mut stream = market.start(request(MODEL, "hello", 64)).await?;
        let mut text = String::new();
        while let Some(event) = stream.next().await {
            match event {
                MarketEvent::Text(more) => text.push_str(&more),
                MarketEvent::Failed(failure) => return Err(failure),
                MarketEvent::Done(_) => return Ok(text),
            }
        }
        panic!("the job ended without a word")
    })
}

// row: NET-57, MKT-13
#[test]
fn a_provider_whose_connection_is_gone_is_brought_back_for_a_job_and_one_that_is_dead_is_forgotten() {
    let mut world = World::new();
    world.gateway_config.favourites_max = 0;
    let (provider, gateway) = (world.provider(Script::new(20, 30)), world.gateway());
    gateway.connect(&world);
    let market = Market::new(gateway.client.clone());
    let offered = || gateway.runtime.block_on(market.offers()).len();
    assert_eq!((offered(), buy(&gateway).unwrap()), (1, Script::text(30)));
    disconnect(&gateway, &world);
    assert_eq!(offered(), 0, "what nobody can buy is not shown");
    assert_eq!(buy(&gateway).unwrap(), Script::text(30), "its advert still holds, and it answers");
    assert!(is_connected(&gateway, &world));
    provider.kill(&world);
    until("the end of the connection", || !is_connected(&gateway, &world));
    let failure = buy(&gateway).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable, "{failure:?}");
    let known = gateway.runtime.block_on(gateway.client.offers());
    assert!(known.is_empty(), "nobody tries it again before it is back: {known:?}");
}

// row: MKT-11
#[test]
fn a_caller_that_goes_away_cancels_the_backend_and_pays_for_what_came() {
    let world = World::new();
    let script = Script { delay_ms: 5, ..Script::new(20, 10_000) };
    let dropped = Arc::clone(&script.dropped);
    let (_provider, gateway) = (world.provider(script), world.gateway());
    gateway.connect(&world);
    let (client, order) = (gateway.client.clone(), gateway.order(&world, request(MODEL, "hi", 20_000)));
    gateway
        .runtime
        .block_on(gateway.runtime.spawn(async move {
            let mut job = client.run(order);
            let mut pieces = 0;
            while pieces < 5 {
                pieces += usize::from(matches!(job.next().await, Some(JobEvent::Text { .. })));
            }
        }))
        .unwrap();
    until("the backend's cancellation", || dropped.load(Ordering::SeqCst) == 1);
    until("the receipt of the cancelled job", || world.audit(false).complete == 1);
    let audit = world.audit(true);
    // How many came before the cancellation is the machine's affair; all of them would take most of a minute.
    assert!(audit.promised >= cost(20, 5) && audit.promised <= cost(20, 9_000), "{audit:?}");
}

// row: MKT-31
#[test]
fn a_cancellation_that_crosses_a_demand_leaves_no_receipt_half_signed() {
    let mut world = World::new();
    // Every token is a demand of its own.
    world.provider_config.risk_limit = Wei(WEI_PER_TOKEN);
    world.gateway_config.risk_limit = Wei(WEI_PER_TOKEN);
    let (_provider, gateway) = (world.provider(Script::new(1, 10_000)), world.gateway());
    gateway.connect(&world);
    const JOBS: usize = 24;
    for number in 0..JOBS {
        let (client, order) = (gateway.client.clone(), gateway.order(&world, request(MODEL, "hi", 20_000)));
        let cancelled = gateway.runtime.spawn(async move {
            let mut job = client.run(order);
            let mut pieces = 0;
            while pieces <= number {
                pieces += usize::from(matches!(job.next().await, Some(JobEvent::Text { .. })));
            }
        });
        gateway.runtime.block_on(cancelled).unwrap();
    }
    until("a receipt with both signatures for each job", || world.audit(false).complete == JOBS);
    assert_eq!(world.audit(true).half_signed, 0);
}

// row: MKT-31
#[test]
fn a_job_ends_where_its_maximum_is_used_up_and_costs_no_more() {
    let world = World::new();
    let (_provider, gateway) = (world.provider(Script::new(20, 300)), world.gateway());
    gateway.connect(&world);
    let mut order = gateway.order(&world, request(MODEL, "hi", 1_000));
    order.max_cost = Some(cost(20, 50));
    let done = gateway.run(order).end.unwrap();
    assert_eq!((done.finish(), done.cost(), done.usage()), (FinishReason::OutOfFunds, cost(20, 50), (20, 50)));
}

#[test]
fn refusals_and_silences_have_names() {
    let mut world = World::new();
    world.provider_config.stall_wait_ms = 1_000;
    let script = Script { end: End::Hang, ..Script::new(20, 3) };
    let (provider, gateway) = (world.provider(script), world.gateway());
    gateway.connect(&world);
    let unknown = gateway.run(gateway.order(&world, request("other", "hi", 5))).end;
    assert!(matches!(unknown, Err(JobFault::UnknownModel { .. })), "{unknown:?}");
    let mut dear = gateway.order(&world, request(MODEL, "hi", 5));
    dear.max_cost = Some(Wei(1));
    // Without a tokenizer this side cannot know the prompt's price; the provider stops before it computes.
    let dear = gateway.run(dear).end.unwrap();
    assert_eq!((dear.finish(), dear.usage(), dear.cost()), (FinishReason::OutOfFunds, (0, 0), Wei::ZERO));
    // The provider notices its backend's silence first, settles what was delivered, and says so in the receipt.
    let stalled = gateway.ask(&world, "hi", 5).end.unwrap();
    assert_eq!((stalled.finish(), stalled.usage()), (FinishReason::Error, (20, 3)));
    assert!(stalled.receipt.details.error.contains("further token"), "{}", stalled.receipt.details.error);
    provider.kill(&world);
    let gone = gateway.ask(&world, "hi", 5).end;
    assert!(matches!(gone, Err(JobFault::Open(_) | JobFault::Lost { .. })), "{gone:?}");
}

#[test]
fn a_backend_that_never_begins_is_a_named_silence_of_the_provider() {
    let mut world = World::new();
    world.gateway_config.first_token_wait_ms = 200;
    let script = Script { end: End::Hang, ..Script::new(5, 0) };
    let (_provider, gateway) = (world.provider(script), world.gateway());
    gateway.connect(&world);
    let late = gateway.ask(&world, "hi", 5).end;
    assert_eq!(late.err(), Some(JobFault::Late { what: WaitedFor::FirstToken, wait_ms: 200 }));
    world.audit(false);
}

#[test]
fn a_backend_that_fails_in_the_middle_is_settled_for_what_it_gave() {
    let world = World::new();
    let (_provider, gateway) = (world.provider(Script { end: End::Fail, ..Script::new(20, 4) }), world.gateway());
    gateway.connect(&world);
    let done = gateway.ask(&world, "hi", 64).end.unwrap();
    assert_eq!((done.finish(), done.cost()), (FinishReason::Error, cost(20, 4)));
    assert!(done.receipt.details.error.contains("the script says so"));
}

#[test]
fn beyond_the_places_and_the_queue_a_job_is_refused_as_busy() {
    let mut world = World::new();
    (world.provider_config.jobs_max, world.provider_config.queue_max) = (1, 0);
    // Long enough for the second job to come while it runs, however slow the machine is.
    let script = Script { delay_ms: 200, ..Script::new(5, 50) };
    let started = Arc::clone(&script.started);
    let (_provider, gateway) = (world.provider(script), world.gateway());
    gateway.connect(&world);
    let (client, order) = (gateway.client.clone(), gateway.order(&world, request(MODEL, "hi", 64)));
    let first = gateway.runtime.spawn(collect(client, order));
    until("the first job's start", || started.load(Ordering::SeqCst) == 1);
    let second = gateway.ask(&world, "hi", 64).end;
    assert!(matches!(&second, Err(JobFault::Provider(error)) if error.code == JobErrorCode::Busy), "{second:?}");
    assert!(gateway.runtime.block_on(first).unwrap().end.is_ok());
}

// row: MKT-33
#[test]
fn an_outage_of_the_chain_stops_neither_metering_nor_paying() {
    let world = World::new();
    let (_provider, gateway) = (world.provider(Script::new(20, 30)), world.gateway());
    gateway.connect(&world);
    gateway.ask(&world, "hi", 64).end.unwrap();
    world.ledger.set_unreachable(true);
    for _ in 0..3 {
        gateway.ask(&world, "hi", 64).end.unwrap();
    }
    until("all receipts", || world.audit(false).complete == 4);
}

#[test]
fn a_channel_whose_payer_begins_to_close_is_redeemed_and_served_no_longer() {
    let world = World::new();
    let (_provider, gateway) = (world.provider(Script::new(20, 30)), world.gateway());
    gateway.connect(&world);
    gateway.ask(&world, "hi", 64).end.unwrap();
    let channel = world.ledger.all()[0].id;
    world.ledger.start_close(channel, u64::MAX);
    until("the watch-tower's redeem", || world.ledger.all()[0].paid == cost(20, 30));
    let refused = gateway.ask(&world, "hi", 64).end;
    assert!(matches!(&refused, Err(JobFault::Provider(error)) if error.code == JobErrorCode::Channel), "{refused:?}");
    // The refusal made the gateway look at the chain: the next job is paid from a new channel.
    gateway.ask(&world, "hi", 64).end.unwrap();
    assert_eq!(world.ledger.all().len(), 2);
}

// row: MKT-20
#[test]
fn the_pairs_receipts_come_under_a_root_that_both_signed_with_ml_dsa() {
    let world = World::new();
    let (_provider, gateway) = (world.provider(Script::new(5, 5)), world.gateway());
    gateway.connect(&world);
    for _ in 0..3 {
        gateway.ask(&world, "hi", 64).end.unwrap();
    }
    until("the receipts' way to the aggregator", || world.ledger.receipts().len() >= 3);
    let reader = JournalReader::open(&JournalConfig::new(world.folder.path().join("provider"))).unwrap();
    let mut roots: Vec<SignedPairRoot> = Vec::new();
    reader
        .scan(|_, _, record| {
            if let Record::PairRoot(kept) = record {
                roots.push(SignedPairRoot::from_bytes(&kept.payload).unwrap());
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(!roots.is_empty());
    for root in &roots {
        root.verify_gateway(world.gateway_key.public()).unwrap();
        root.verify_provider(world.provider_key.public()).unwrap();
    }
    for receipt in world.ledger.receipts() {
        let proof = PqProof::from_bytes(&receipt.pq_proof).unwrap();
        let root = roots.iter().find(|root| root.hash().unwrap() == proof.pair_root).unwrap();
        proof.verify(&receipt, root).unwrap();
    }
}

// row: MKT-11
#[test]
fn the_embedded_model_answers_and_its_tokens_are_recounted() {
    let mut world = World::new();
    let model = Model::builtin(&LoadOptions::default()).unwrap();
    let (name, tokenizer) = (model.manifest().name.clone(), model.tokenizer().clone());
    world.tokenizers.insert(B256::from(tokenizer.digest()), tokenizer);
    let engine = Arc::new(Engine::start(model, EngineConfig::default()).unwrap());
    let _provider = world.provider_named(&name, Arc::new(EmbeddedBackend::new(engine, 4)));
    let gateway = world.gateway();
    gateway.connect(&world);
    let ask = || gateway.run(gateway.order(&world, request(&name, "In the beginning", 24)));
    let (one, two) = (ask(), ask());
    let (first, second) = (one.end.unwrap(), two.end.unwrap());
    assert_eq!(one.text, two.text, "greedy decoding repeats");
    assert!(first.recounted && !one.text.is_empty());
    let usage = first.usage();
    assert_eq!((usage, first.cost()), (second.usage(), cost(usage.0, usage.1)));
    assert!(usage.1 > 0 && usage.1 <= 24);
    assert!(!first.receipt.receipt.tokenizer_digest.is_zero());
    // Salted: the same text under another salt has another digest.
    assert_ne!(first.receipt.receipt.output_digest, second.receipt.receipt.output_digest);
    until("both receipts", || world.audit(false).complete == 2);
    assert_eq!(world.audit(true).promised.0, first.cost().0 * 2);
}
