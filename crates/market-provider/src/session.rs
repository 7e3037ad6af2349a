//! What a peer may ask on a stream: adverts, quotes, jobs, late countersignatures, the state of a channel, pair roots.

use crate::job;
use crate::link::{Came, Link, Silence, protocol_error};
use crate::pairs;
use crate::service::Shared;
use crate::settle;
use std::sync::Arc;
use trellis_market_receipt::wire::{
    ChannelState, GatewayFrame, HALF_SIGNED_MAX, JobError, JobErrorCode, ProviderFrame, Quote, QuoteRequest,
};
use trellis_market_receipt::{Advert, KIND_BIT_CHAT, KIND_BIT_COMPLETION, ModelOffer, SignedAdvert};
use trellis_net_peers::{NetStream, Witness};
use trellis_primitives::{ChannelId, JobId, NodeId};

/// The last frames of a stream must be taken within this, in milliseconds.
const FINISH_WAIT_MS: u64 = 2_000;

/// Serves one stream to its end.
pub(crate) async fn serve(shared: Arc<Shared>, peer: NodeId, stream: NetStream) {
    let mut link = Link::new(stream, Arc::clone(&shared.book), Witness::new(shared.network.clone(), peer));
    loop {
        let came = tokio::select! {
            came = link.next(shared.config.idle_wait_ms) => came,
            () = shared.stop.cancelled() => break,
        };
        let answered = match came {
            Ok(Came::Frame(frame)) => answer(&shared, peer, &mut link, *frame).await,
            Ok(Came::Bad(error)) => Err(error),
            Err(Silence::Closed | Silence::Late) => break,
        };
        if let Err(error) = answered {
            shared.metrics.jobs_refused.inc();
            tracing::debug!(peer = %peer.short(), code = %error.code, "stream ended with an error");
            let _ = link.send(ProviderFrame::Error(error)).await;
            break;
        }
    }
    link.finish(FINISH_WAIT_MS).await;
}

async fn answer(shared: &Arc<Shared>, peer: NodeId, link: &mut Link, frame: GatewayFrame) -> Result<(), JobError> {
    let reply = match frame {
        GatewayFrame::AdvertRequest => ProviderFrame::Advert(advert(shared)),
        GatewayFrame::QuoteRequest(request) => ProviderFrame::Quote(quote(shared, &request)?),
        GatewayFrame::Accept(accept) => return job::run(shared, peer, link, accept).await,
        GatewayFrame::ChannelSync(channel) => ProviderFrame::ChannelState(channel_state(shared, peer, channel).await?),
        GatewayFrame::Countersign(countersign) => {
            settle::late_countersign(shared, peer, &countersign).await?;
            ProviderFrame::ReceiptAck(countersign.job)
        }
        GatewayFrame::PairRootOffer(offer) => ProviderFrame::PairRootAnswer(pairs::sign(shared, peer, offer).await?),
        // A job that ended while its cancellation was under way.
        GatewayFrame::Cancel(_) => return Ok(()),
        GatewayFrame::Prompt(_) | GatewayFrame::Voucher(_) => {
            return Err(protocol_error("a prompt comes after its accept".to_owned()));
        }
    };
    link.send(reply).await.map_err(|_| protocol_error("the stream is closed".to_owned()))
}

/// What is for sale now.
pub(crate) fn advert(shared: &Shared) -> SignedAdvert {
    let (config, now) = (&shared.config, shared.clock.now());
    let running = u32::try_from(shared.admission.running()).unwrap_or(u32::MAX);
    let models = shared.models.iter().map(|model| {
        let info = model.backend.info();
        ModelOffer {
            name: model.name.clone(),
            model_digest: info.model_digest,
            tokenizer_digest: info.tokenizer_digest,
            price_in: model.prices.input,
            price_out: model.prices.output,
            context_tokens: info.context_tokens,
            capacity: info.capacity.min(u32::try_from(config.jobs_max).unwrap_or(u32::MAX)),
            running,
            kinds: KIND_BIT_CHAT | KIND_BIT_COMPLETION,
            engine: info.engine,
            instruction_set: info.instruction_set.0,
            region: config.region.clone(),
        }
    });
    let advert = Advert {
        provider: shared.network.local_id().to_b256(),
        payee: shared.account.address(),
        payout: config.payout,
        aggregator: config.aggregator,
        risk_limit: config.risk_limit,
        deposit_min: config.deposit_min,
        challenge_seconds_min: config.challenge_seconds_min,
        made_at_ms: now.0,
        expires_ms: now.plus_ms(config.advert_ttl_ms).0,
        models: models.collect(),
    };
    SignedAdvert::sign(&advert, config.chain_id, &shared.account)
}

fn quote(shared: &Shared, request: &QuoteRequest) -> Result<Quote, JobError> {
    let model = shared.model(&request.model)?;
    let credit = request.channel.and_then(|id| shared.book.known(id)).is_some_and(|entry| entry.has_credit());
    Ok(Quote {
        price_in: model.prices.input,
        price_out: model.prices.output,
        expires_ms: shared.clock.now().plus_ms(shared.config.advert_ttl_ms).0,
        queued: u32::try_from(shared.admission.queued()).unwrap_or(u32::MAX),
        prepay: !credit,
    })
}

async fn channel_state(shared: &Shared, peer: NodeId, channel: ChannelId) -> Result<ChannelState, JobError> {
    let entry = shared.book.serving(channel, peer).await.or_else(|error| {
        // A channel that is served no longer is still accounted for.
        shared.book.known(channel).filter(|entry| entry.peer == peer).ok_or(error)
    })?;
    let half_signed = settle::half_signed(shared, channel, HALF_SIGNED_MAX).map_err(|error| JobError {
        job: JobId::default(),
        code: JobErrorCode::Internal,
        message: error.to_string(),
    })?;
    Ok(ChannelState { channel, held: entry.held(), half_signed })
}
