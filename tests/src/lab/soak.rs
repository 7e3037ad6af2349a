//! Many nodes of every kind for a long time: peer counts stay, memory and descriptors do not grow.
//!
//! A validator, an aggregator, relays and providers are on public hosts, gateways and providers in homes of every kind, all
//! real processes. They are told of the relays alone and find each other. All the while gateways buy, one job after
//! another, and a few visitors come and go, so that whatever is not given back when a job or a connection ends shows as growth.

pub mod town;
pub mod verdict;

use self::town::Town;
use self::verdict::{BOUNDS, BOUNDS_SHORT, Bounds, KindRow, Sample, Track, judge};
use super::Lab;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The fewest nodes of a soak: the public ones and one home.
pub const NODES_MIN: usize = 5;
/// The most: the laboratory has room for so many homes beside the public nodes.
pub const NODES_MAX: usize = 100;
/// One part in so many of the time is for finding each other and for caches and pools to fill.
const WARM_UP_SHARE: u32 = 3;
/// What is judged for less than this is a short run.
const SHORT: Duration = Duration::from_secs(180);
/// Samples of one node in the whole run.
const SAMPLES: u32 = 180;
/// The least time between two samples.
const SAMPLE_EVERY_MIN: Duration = Duration::from_secs(2);

/// How large and how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Processes, visitors apart.
    pub nodes: usize,
    /// Before anything is judged.
    pub warm_up: Duration,
    /// What is judged.
    pub measured: Duration,
}

impl Plan {
    /// So many nodes, watched for so long after the last has started; the first third is not judged.
    pub fn of(nodes: usize, whole: Duration) -> Self {
        let warm_up = whole / WARM_UP_SHARE;
        Self { nodes, warm_up, measured: whole - warm_up }
    }

    /// Short runs are judged while pools and caches still fill.
    fn bounds(&self) -> Bounds {
        if self.measured < SHORT { BOUNDS_SHORT } else { BOUNDS }
    }

    fn sample_every(&self) -> Duration {
        ((self.warm_up + self.measured) / SAMPLES).max(SAMPLE_EVERY_MIN)
    }
}

/// What a soak found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether every node kept within the bounds.
    pub steady: bool,
    /// Processes, visitors apart.
    pub nodes: usize,
    /// Seconds that were not judged.
    pub warm_up_s: u64,
    /// Seconds that were.
    pub measured_s: u64,
    /// What growth was allowed.
    pub bounds: Bounds,
    /// One row for each kind of node.
    pub kinds: Vec<KindRow>,
    /// Medians over all nodes of each kind, minute by minute, warm-up included.
    pub timeline: Vec<Minute>,
    /// Paid jobs that were done.
    pub jobs_done: u64,
    /// Those that were not, by the code of their error.
    pub jobs_failed: BTreeMap<String, u64>,
    /// How often a node came, met peers and went.
    pub visits: u64,
}

/// A minute of one kind of node.
#[derive(Clone, Debug, Serialize)]
pub struct Minute {
    /// Which minute since the last node started.
    pub minute: u64,
    /// Kind of node.
    pub kind: String,
    /// Memory that is resident, MiB.
    pub rss_mib: f64,
    /// Open descriptors.
    pub fds: f64,
    /// Connected peers.
    pub peers: f64,
}

/// Runs one.
///
/// # Panics
/// Where the laboratory or a node does not start, a node ends before it is told to, or the plan is out of range.
pub fn run(plan: &Plan) -> Report {
    assert!((NODES_MIN..=NODES_MAX).contains(&plan.nodes), "{NODES_MIN} to {NODES_MAX} nodes, got {}", plan.nodes);
    let homes = Town::homes(plan.nodes);
    let lab = Lab::up(&homes);
    let town = Town::start(&lab, plan.nodes);
    eprintln!("soak: {} nodes run; {} s of warm-up, {} s judged", plan.nodes, secs(plan.warm_up), secs(plan.measured));
    let over = AtomicBool::new(false);
    let (tracks, jobs, visits) = std::thread::scope(|scope| {
        let buying = scope.spawn(|| town.buy(&over));
        let visiting = scope.spawn(|| town.receive(&over));
        let ends = Ends(&over);
        let tracks = watch(&town, plan);
        drop(ends);
        let joined = (buying.join(), visiting.join());
        let (Ok(jobs), Ok(visits)) = joined else { panic!("a buyer or a visitor failed: see above") };
        (tracks, jobs, visits)
    });
    let warm_up_s = plan.warm_up.as_secs_f64();
    let bounds = plan.bounds();
    let kinds = judge(&tracks, warm_up_s, &bounds);
    Report {
        steady: kinds.iter().all(|kind| kind.steady) && jobs.done > 0,
        nodes: plan.nodes,
        warm_up_s: secs(plan.warm_up),
        measured_s: secs(plan.measured),
        bounds,
        timeline: timeline(&tracks),
        kinds,
        jobs_done: jobs.done,
        jobs_failed: jobs.failed,
        visits,
    }
}

/// The run is over, however it ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Looks at every node again and again.
fn watch(town: &Town<'_>, plan: &Plan) -> Vec<Track> {
    let mut tracks: Vec<Track> =
        town.members().iter().map(|member| Track::new(&member.kind, &member.host, member.node.pid())).collect();
    let (began, whole) = (Instant::now(), plan.warm_up + plan.measured);
    let mut next = Duration::ZERO;
    while next < whole {
        std::thread::sleep(next.saturating_sub(began.elapsed()));
        for (track, member) in tracks.iter_mut().zip(town.members()) {
            let status = member.node.asked("admin_status");
            track.samples.push(Sample {
                at_s: began.elapsed().as_secs_f64(),
                rss_kib: member.node.resident_kib(),
                fds: member.node.descriptors(),
                peers: status["peers_connected"].as_u64().unwrap_or_else(|| panic!("{}: {status}", member.kind)),
            });
        }
        next += plan.sample_every();
    }
    tracks
}

fn timeline(tracks: &[Track]) -> Vec<Minute> {
    let mut of: BTreeMap<(u64, &str), Vec<&Sample>> = BTreeMap::new();
    for track in tracks {
        for sample in &track.samples {
            // Whole minutes since the start.
            of.entry(((sample.at_s / 60.0) as u64, &track.kind)).or_default().push(sample);
        }
    }
    let middle = |samples: &[&Sample], of: fn(&Sample) -> f64| {
        verdict::rounded(verdict::median(&mut samples.iter().map(|sample| of(sample)).collect::<Vec<f64>>()))
    };
    of.into_iter()
        .map(|((minute, kind), samples)| Minute {
            minute,
            kind: kind.to_owned(),
            rss_mib: middle(&samples, |sample| sample.rss_kib as f64 / 1_024.0),
            fds: middle(&samples, |sample| sample.fds as f64),
            peers: middle(&samples, |sample| sample.peers as f64),
        })
        .collect()
}

fn secs(time: Duration) -> u64 {
    time.as_secs()
}

impl Report {
    /// One line for each kind of node, and what was done meanwhile.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let heads = ["", "peers", "per min", "least", "RSS MiB", "KiB/min", "fds", "per min"];
        let row = |text: &mut String, cells: [&str; 8], verdict: &str| {
            let [kind, rest @ ..] = cells;
            let _ = write!(text, "{kind:<28}");
            rest.iter().for_each(|cell| text.push_str(&format!("{cell:>14}")));
            let _ = writeln!(text, "  {verdict}");
        };
        row(&mut text, heads, "");
        for kind in &self.kinds {
            let span = |from: f64, to: f64| format!("{from:.0} to {to:.0}");
            let cells = [
                format!("{} x{}", kind.kind, kind.nodes),
                span(kind.peers.first, kind.peers.last),
                format!("{:+.2}", kind.peers.worst_per_min),
                kind.peers_least.to_string(),
                span(kind.rss_kib.first / 1_024.0, kind.rss_kib.last / 1_024.0),
                format!("{:+.0}", kind.rss_kib.worst_per_min),
                span(kind.fds.first, kind.fds.last),
                format!("{:+.2}", kind.fds.worst_per_min),
            ];
            let verdict = if kind.steady { "steady" } else { &kind.faults.join("; ") };
            row(&mut text, cells.each_ref().map(String::as_str), verdict);
        }
        let _ = writeln!(
            text,
            "{} jobs paid, not done: {:?}; {} visits; bounds: {}",
            self.jobs_done,
            self.jobs_failed,
            self.visits,
            self.bounds.words()
        );
        text
    }
}
