//! Providers that cheat, each in one way. They speak the protocol by hand; nothing of the real provider is in them.

use crate::world::{
    CHAIN_ID, MODEL, RISK, WEI_PER_TOKEN, World, channels_domain, payee_key, prices, settlement_domain,
};
use std::sync::Arc;
use tokio::runtime::Runtime;
use trellis_crypto::AccountKey;
use trellis_market_channel::sign_voucher;
use trellis_market_receipt::wire::{
    Accept, Accepted, ChannelState, Chunk, Due, GatewayFrame, JOB_FRAME_BYTES_MAX, JOB_PROTOCOL, Prompt, ProviderFrame,
    ProviderReceipt,
};
use trellis_market_receipt::{
    Advert, FinishReason, InstructionSet, JobRequest, KIND_BIT_CHAT, ModelOffer, OutputHasher, RECEIPT_VERSION,
    Receipt, ReceiptDetails, SignedAdvert, SignedReceipt, engine_build_digest,
};
use trellis_net_peers::frame::{read_frame, write_frame};
use trellis_net_peers::{NetStream, Protocol};
use trellis_primitives::{B256, Clock, NodeId, Role, SystemClock, UnixMs, Wei, keccak256};

/// How it cheats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Charges more output tokens than its text can have.
    Overmeter,
    /// Charges more prompt tokens than the request has bytes.
    OvermeterPrompt,
    /// Wants output paid long before it comes.
    DemandAhead,
    OutputDigest,
    Model,
    Price,
    Cost,
    /// Signs with another account than the channel's payee.
    ForeignSignature,
    StopMidway,
    /// Shows a voucher that the gateway never signed.
    ForgedVoucher,
    Garbage,
}

const TEXT: &str = "The capital of France is Paris. ";
const TOKENS_IN: u64 = 20;
const TOKENS_OUT: u64 = 8;

/// Starts one; it lives as long as the runtime.
pub fn liar(world: &World, lie: Lie) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let network = world.node(&world.provider_key, Role::Provider, payee_key().address());
    let (provider, aggregator) = (world.provider_id(), world.provider_config.aggregator);
    let mut acceptor = network.accept(Protocol(JOB_PROTOCOL)).unwrap();
    let advert = SignedAdvert::sign(&advert(provider, aggregator), CHAIN_ID, &payee_key());
    runtime.spawn(async move {
        let advert = Arc::new(advert);
        let _network = network;
        while let Some((gateway, stream)) = acceptor.next().await {
            tokio::spawn(serve(stream, lie, gateway, provider, Arc::clone(&advert)));
        }
    });
    runtime
}

fn advert(provider: NodeId, aggregator: trellis_primitives::Address) -> Advert {
    let now = SystemClock.now();
    Advert {
        provider: provider.to_b256(),
        payee: payee_key().address(),
        payout: payee_key().address(),
        aggregator,
        risk_limit: RISK,
        deposit_min: RISK,
        challenge_seconds_min: 5,
        made_at_ms: now.0,
        expires_ms: now.plus_ms(60_000).0,
        models: vec![ModelOffer {
            name: MODEL.into(),
            model_digest: keccak256("honest model"),
            tokenizer_digest: B256::ZERO,
            price_in: prices().input,
            price_out: prices().output,
            context_tokens: 10_000,
            capacity: 1,
            running: 0,
            kinds: KIND_BIT_CHAT,
            engine: "honest engine".into(),
            instruction_set: 0,
            region: String::new(),
        }],
    }
}

async fn read(stream: &mut NetStream) -> Option<GatewayFrame> {
    let bytes = read_frame(stream, JOB_FRAME_BYTES_MAX).await.ok()?;
    GatewayFrame::decode(&bytes).ok()
}

async fn write(stream: &mut NetStream, frame: ProviderFrame) {
    let _ = write_frame(stream, &frame.encode()).await;
}

async fn serve(mut stream: NetStream, lie: Lie, gateway: NodeId, provider: NodeId, advert: Arc<SignedAdvert>) {
    while let Some(frame) = read(&mut stream).await {
        match frame {
            GatewayFrame::AdvertRequest => write(&mut stream, ProviderFrame::Advert((*advert).clone())).await,
            GatewayFrame::ChannelSync(channel) => {
                let state = ChannelState { channel, held: None, half_signed: Vec::new() };
                write(&mut stream, ProviderFrame::ChannelState(state)).await;
            }
            GatewayFrame::Accept(accept) => {
                let Some(GatewayFrame::Prompt(prompt)) = read(&mut stream).await else { return };
                cheat(&mut stream, lie, &accept, &prompt, (gateway, provider)).await;
                if lie == Lie::StopMidway {
                    return;
                }
            }
            _ => {}
        }
    }
}

async fn cheat(stream: &mut NetStream, lie: Lie, accept: &Accept, prompt: &Prompt, nodes: (NodeId, NodeId)) {
    let job = accept.job;
    let forged = sign_voucher(&channels_domain(), accept.channel, Wei(RISK.0 * 50), &payee_key());
    let held = (lie == Lie::ForgedVoucher).then_some(forged);
    write(stream, ProviderFrame::Accepted(Accepted { job, held, prepay: false })).await;
    match lie {
        Lie::Garbage => {
            let _ = write_frame(stream, b"\x00garbage").await;
            return;
        }
        Lie::OvermeterPrompt => {
            let tokens_in = 1_000_000;
            let due = Due { job, tokens_in, tokens_out: 0, due: Wei(RISK.0) };
            write(stream, ProviderFrame::Due(due)).await;
        }
        Lie::DemandAhead => {
            let due = Wei((u128::from(TOKENS_IN) + 400) * WEI_PER_TOKEN);
            let due = Due { job, tokens_in: TOKENS_IN, tokens_out: 400, due };
            write(stream, ProviderFrame::Due(due)).await;
        }
        _ => {}
    }
    let tokens_out = if lie == Lie::Overmeter { 100_000 } else { TOKENS_OUT };
    let chunk = Chunk { job, text: TEXT.into(), tokens_in: TOKENS_IN, tokens_out };
    write(stream, ProviderFrame::Chunk(chunk.clone())).await;
    if lie == Lie::StopMidway {
        return;
    }
    let request = JobRequest::parse(prompt.kind, prompt.request.clone()).unwrap();
    let mut output = OutputHasher::new(&prompt.salt);
    output.update(TEXT);
    let mut receipt = honest(accept, nodes, output.digest());
    match lie {
        Lie::OutputDigest => receipt.output_digest = keccak256("another answer"),
        Lie::Model => receipt.model_digest = keccak256("a smaller model"),
        Lie::Price => receipt.price_out = Wei(accept.price_out.0 * 2),
        Lie::Cost => receipt.cost = Wei(receipt.cost.0 + 1),
        _ => {}
    }
    let details = ReceiptDetails {
        model: MODEL.into(),
        engine: "honest engine".into(),
        parameters: request.parameters,
        error: String::new(),
    };
    let mut signed = SignedReceipt::unsigned(receipt, details);
    let stranger = AccountKey::from_bytes(&[0x77; 32]).unwrap();
    let key = if lie == Lie::ForeignSignature { stranger } else { payee_key() };
    signed.sign_as_provider(&settlement_domain(), &key);
    let last = Chunk { text: String::new(), ..chunk };
    let receipt = ProviderReceipt { last, receipt: signed, token_ids: Vec::new() };
    write(stream, ProviderFrame::Receipt(Box::new(receipt))).await;
}

fn honest(accept: &Accept, (gateway, provider): (NodeId, NodeId), output_digest: B256) -> Receipt {
    Receipt {
        version: RECEIPT_VERSION,
        chain_id: CHAIN_ID,
        channels: channels_domain().contract,
        aggregator: accept.aggregator,
        channel: accept.channel,
        sequence: accept.sequence,
        job: accept.job,
        gateway,
        provider,
        model_digest: keccak256("honest model"),
        tokenizer_digest: B256::ZERO,
        engine_build: engine_build_digest("honest engine"),
        instruction_set: InstructionSet::UNKNOWN,
        request_digest: accept.request_digest,
        parameters_hash: accept.parameters_hash,
        prompt_commitment: accept.prompt_commitment,
        output_digest,
        fingerprint_root: B256::ZERO,
        tokens_in: TOKENS_IN,
        tokens_out: TOKENS_OUT,
        finish_reason: FinishReason::Stop,
        started_at: UnixMs(1),
        time_to_first_token_ms: 1,
        duration_ms: 2,
        price_in: accept.price_in,
        price_out: accept.price_out,
        cost: Wei(u128::from(TOKENS_IN + TOKENS_OUT) * WEI_PER_TOKEN),
        written_off: Wei::ZERO,
        error_hash: B256::ZERO,
    }
}
