use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trellis_primitives::{ManualClock, UnixMs};

use super::*;
use crate::frame::{read_frame, write_frame};
use crate::guard::{CONTROL_MESSAGES_PER_MINUTE, GOSSIP_BYTES_PER_MINUTE, STREAMS_AT_ONCE, Thresholds};
use crate::meter::{Counters, Metered};
use crate::metrics::NetMetrics;

const PEER: NodeId = NodeId([7; 32]);
const PING: Protocol = Protocol("/trellis/ping/1");
const GOSSIP: Protocol = Protocol("/trellis/gossip/1");
const JOB: Protocol = Protocol("/trellis/job/1");

fn sentry() -> (Arc<Sentry>, mpsc::Receiver<Offence>) {
    let clock = Arc::new(ManualClock::new(UnixMs(1_000_000)));
    let events = tokio::sync::broadcast::channel(16).0;
    let guard = Guard::open(Thresholds::default(), None, clock, NetMetrics::default(), events);
    let (offences, seen) = mpsc::channel(OFFENCES_WAITING_MAX);
    (Arc::new(Sentry { guard, bandwidth: Arc::new(Bandwidth::new(0, 0)), offences }), seen)
}

type Watched = Metered<tokio::io::DuplexStream>;

/// A watched stream and its far end.
fn stream(sentry: &Arc<Sentry>, protocol: Protocol, inbound: bool, budget: bool) -> (Watched, tokio::io::DuplexStream) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let budget = budget.then(Arc::default);
    let watch = Box::new(Watch::new(Arc::clone(sentry), PEER, protocol, inbound, budget));
    let clock = Arc::new(ManualClock::new(UnixMs(1_000_000)));
    (Metered::watched(near, clock, Arc::<Counters>::default(), Some(watch)), far)
}

fn patterns(seen: &mut mpsc::Receiver<Offence>) -> Vec<Pattern> {
    std::iter::from_fn(|| seen.try_recv().ok()).map(|offence| offence.pattern).collect()
}

// row: NET-51, NET-55
#[tokio::test]
async fn control_messages_above_the_rate_end_the_stream_and_are_told_once() {
    let (sentry, mut seen) = sentry();
    let (mut near, mut far) = stream(&sentry, PING, true, false);
    for n in 0..CONTROL_MESSAGES_PER_MINUTE {
        write_frame(&mut far, b"ping").await.unwrap();
        assert!(read_frame(&mut near, 64).await.is_ok(), "message {n}");
    }
    write_frame(&mut far, b"ping").await.unwrap();
    assert!(read_frame(&mut near, 64).await.is_err());
    assert_eq!(patterns(&mut seen), [Pattern::StreamFlood]);
    // Another stream does not help, and what this node asked for is no flood.
    let (mut near, mut far) = stream(&sentry, PING, true, false);
    write_frame(&mut far, b"ping").await.unwrap();
    assert!(read_frame(&mut near, 64).await.is_err());
    let (mut near, mut far) = stream(&sentry, PING, false, false);
    write_frame(&mut far, b"pong").await.unwrap();
    assert!(read_frame(&mut near, 64).await.is_ok());
}

// row: NET-51, NET-55
#[tokio::test]
async fn gossip_is_bounded_in_bytes_and_jobs_are_not() {
    let (sentry, mut seen) = sentry();
    for (protocol, passes) in [(JOB, true), (GOSSIP, false)] {
        let (mut near, mut far) = stream(&sentry, protocol, true, false);
        let sending = tokio::spawn(async move {
            let body = vec![0; 60_000];
            for _ in 0..2 * GOSSIP_BYTES_PER_MINUTE / 60_000 {
                if write_frame(&mut far, &body).await.is_err() {
                    return;
                }
            }
        });
        let mut bytes = 0;
        let ended = loop {
            match read_frame(&mut near, 100_000).await {
                Ok(frame) => bytes += frame.len() as u64,
                Err(error) => break error,
            }
        };
        drop(near);
        sending.await.unwrap();
        assert_eq!(matches!(ended, crate::frame::FrameError::End), passes, "{protocol}: {ended}");
        assert_eq!(bytes <= GOSSIP_BYTES_PER_MINUTE, !passes, "{protocol}: {bytes}");
    }
    assert_eq!(patterns(&mut seen), [Pattern::GossipFlood]);
}

// row: NET-55
#[tokio::test]
async fn streams_opened_faster_than_anybody_needs_are_not_taken() {
    let (sentry, mut seen) = sentry();
    let taken = (0..STREAMS_AT_ONCE + 50).filter(|_| sentry.takes_stream(PEER)).count() as u64;
    assert_eq!(taken, STREAMS_AT_ONCE);
    assert_eq!(patterns(&mut seen), [Pattern::StreamFlood; 50]);
    assert!(sentry.takes_stream(NodeId([8; 32])), "others are not concerned");
}

// row: NET-17, NET-55
#[tokio::test(start_paused = true)]
async fn a_frame_that_never_ends_ends_the_stream_and_a_quiet_stream_may_stay() {
    let (sentry, mut seen) = sentry();
    let (mut near, mut far) = stream(&sentry, JOB, true, false);
    let began = Instant::now();
    // A quiet stream is no slow one.
    tokio::time::timeout(Duration::from_secs(3_600), read_frame(&mut near, 4_000)).await.unwrap_err();
    assert!(patterns(&mut seen).is_empty() && began.elapsed() >= Duration::from_secs(3_600));
    far.write_all(&[0, 0, 3, 0, 1]).await.unwrap();
    let dribbled = tokio::spawn(async move {
        while far.write_all(&[1]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
    let began = Instant::now();
    let error = read_frame(&mut near, 4_000).await.unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(SLOW_FRAME_MS) && took < Duration::from_secs(60), "{took:?}");
    assert_eq!(patterns(&mut seen), [Pattern::SlowPeer]);
    drop(near);
    dribbled.await.unwrap();
}

// row: NET-17, NET-55
#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_ends_the_stream_and_one_that_takes_little_does_not() {
    let (sentry, mut seen) = sentry();
    let (mut near, mut far) = stream(&sentry, JOB, true, false);
    let taking = tokio::spawn(async move {
        let mut piece = [0; 1_000];
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(40)).await;
            far.read_exact(&mut piece).await.unwrap();
        }
        far
    });
    let began = Instant::now();
    near.write_all(&vec![0; 64 * 1024 + 90_000]).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(3_000) && patterns(&mut seen).is_empty());
    let _far = taking.await.unwrap();
    let error = near.write_all(&vec![0; 128 * 1024]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(patterns(&mut seen), [Pattern::SlowPeer]);
}

// row: NET-18
#[tokio::test(start_paused = true)]
async fn a_stream_keeps_to_the_bandwidth_and_a_change_of_it_is_heeded_at_once() {
    let (sentry, _seen) = sentry();
    let rate = 1_000_000;
    let (mut near, mut far) = stream(&sentry, JOB, true, true);
    let swallow = tokio::spawn(async move {
        let mut chunk = vec![0; 64 * 1024];
        let mut bytes = 0;
        while let Ok(read @ 1..) = far.read(&mut chunk).await {
            bytes += read;
        }
        bytes
    });
    near.write_all(&vec![0; 4_000_000]).await.unwrap();
    sentry.bandwidth.set_rate(Way::Up, rate);
    let waited = tokio::time::timeout(Duration::from_millis(100), near.write_all(&vec![0; 4_000_000])).await;
    assert!(waited.is_err(), "four seconds' worth cannot pass at once");
    sentry.bandwidth.set_rate(Way::Up, 0);
    tokio::time::timeout(Duration::from_secs(5), near.write_all(&vec![0; 4_000_000])).await.unwrap().unwrap();
    near.shutdown().await.unwrap();
    drop(near);
    assert!(swallow.await.unwrap() >= 8_000_000);
    sentry.bandwidth.sample();
    let work = sentry.bandwidth.usage().into_iter().find(|(class, _)| *class == MessageClass::Work).unwrap().1;
    assert!(work.up_bytes >= 8_000_000 && work.up_bytes_per_s > 0, "{work:?}");
}

// row: NET-16
#[tokio::test]
async fn a_watched_stream_counts_as_any_other() {
    let (sentry, _seen) = sentry();
    let counters = Arc::<Counters>::default();
    let (near, mut far) = tokio::io::duplex(1_024);
    let watch = Box::new(Watch::new(Arc::clone(&sentry), PEER, JOB, true, None));
    let clock = Arc::new(ManualClock::new(UnixMs(5)));
    let mut near = Metered::watched(near, clock, Arc::clone(&counters), Some(watch));
    write_frame(&mut far, b"question").await.unwrap();
    read_frame(&mut near, 64).await.unwrap();
    write_frame(&mut near, b"answer").await.unwrap();
    assert_eq!(counters.messages_in.load(Ordering::Relaxed), 1);
    assert_eq!(counters.messages_out.load(Ordering::Relaxed), 1);
    assert_eq!(counters.bytes_in.load(Ordering::Relaxed), 12);
}

// row: NET-55, NET-56
#[test]
fn a_peer_holds_few_places_for_control_messages_and_gives_them_back() {
    let counters = Arc::<Counters>::default();
    let held: Vec<ControlPlace> =
        (0..CONTROL_STREAMS_PER_PEER_MAX + 5).filter_map(|_| ControlPlace::take(&counters)).collect();
    assert_eq!(held.len() as u64, CONTROL_STREAMS_PER_PEER_MAX);
    drop(held);
    assert_eq!(counters.control_streams.load(Ordering::Relaxed), 0);
}
