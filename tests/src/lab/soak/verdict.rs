//! Whether something grows: slopes over time, and the bounds they are held against.

use serde::Serialize;
use std::collections::BTreeMap;

/// Seconds in a minute.
const MINUTE_S: f64 = 60.0;

/// How much may grow while it is judged: a little at once, which is caches and the allocator, and so much for each minute.
/// Every node is held to it, not the mean of them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bounds {
    /// Memory that comes once, KiB.
    pub rss_kib: f64,
    /// Memory for each minute, KiB.
    pub rss_kib_per_min: f64,
    /// Descriptors that come once.
    pub fds: f64,
    /// Descriptors for each minute.
    pub fds_per_min: f64,
    /// Peers that come or go once.
    pub peers: f64,
    /// Peers for each minute, either way.
    pub peers_per_min: f64,
    /// What a node never has fewer peers than.
    pub peers_least: u64,
}

/// What a soak of some length is judged by.
pub const BOUNDS: Bounds = Bounds {
    rss_kib: 4_096.0,
    rss_kib_per_min: 64.0,
    fds: 6.0,
    fds_per_min: 0.1,
    peers: 3.0,
    peers_per_min: 0.1,
    peers_least: 1,
};

/// What a run of a minute is judged by: what does not hold a descriptor or a megabyte for each look is not seen by it.
pub const BOUNDS_SHORT: Bounds =
    Bounds { rss_kib: 32_768.0, rss_kib_per_min: 8_192.0, fds: 24.0, fds_per_min: 6.0, peers: 3.0, ..BOUNDS };

impl Bounds {
    /// For people.
    pub fn words(&self) -> String {
        format!(
            "each node at most +{} KiB and {} KiB/min, +{} descriptors and {}/min, {} peers and {}/min either way, never under {}",
            self.rss_kib,
            self.rss_kib_per_min,
            self.fds,
            self.fds_per_min,
            self.peers,
            self.peers_per_min,
            self.peers_least
        )
    }
}

/// One look at one node.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Seconds since the last node started.
    pub at_s: f64,
    /// Memory that is resident, KiB.
    pub rss_kib: u64,
    /// Open descriptors.
    pub fds: u64,
    /// Connected peers.
    pub peers: u64,
}

/// All looks at one node.
#[derive(Clone, Debug)]
pub struct Track {
    /// Role and place.
    pub kind: String,
    /// Which node of the kind.
    pub name: String,
    /// In the order of time.
    pub samples: Vec<Sample>,
}

impl Track {
    /// Of a node that was not looked at yet.
    pub fn new(kind: &str, host: &str, pid: u32) -> Self {
        Self { kind: kind.to_owned(), name: format!("{host}, process {pid}"), samples: Vec::new() }
    }
}

/// How one figure went among all nodes of a kind.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Course {
    /// Median at the first judged look.
    pub first: f64,
    /// Median at the last.
    pub last: f64,
    /// Median slope, for each minute.
    pub median_per_min: f64,
    /// The slope that is farthest up (of peers: farthest from level), for each minute.
    pub worst_per_min: f64,
}

/// A kind of node and its verdict.
#[derive(Clone, Debug, Serialize)]
pub struct KindRow {
    /// Role and place.
    pub kind: String,
    /// How many of it.
    pub nodes: usize,
    /// Every one kept within the bounds.
    pub steady: bool,
    /// Memory, KiB.
    pub rss_kib: Course,
    /// Descriptors.
    pub fds: Course,
    /// Peers.
    pub peers: Course,
    /// The fewest peers that one of them had.
    pub peers_least: u64,
    /// What was out of bounds, and where.
    pub faults: Vec<String>,
}

/// Judges what was seen after the warm-up, one row for each kind, in the order of their names.
///
/// # Panics
/// Where a node was not looked at twice after the warm-up.
pub fn judge(tracks: &[Track], warm_up_s: f64, bounds: &Bounds) -> Vec<KindRow> {
    let mut kinds: BTreeMap<&str, Vec<Track>> = BTreeMap::new();
    for track in tracks {
        let samples: Vec<Sample> = track.samples.iter().filter(|sample| sample.at_s >= warm_up_s).copied().collect();
        assert!(samples.len() >= 2, "{} ({}) was judged by {} looks", track.kind, track.name, samples.len());
        kinds.entry(&track.kind).or_default().push(Track { samples, ..track.clone() });
    }
    kinds.into_iter().map(|(kind, tracks)| row(kind, &tracks, bounds)).collect()
}

fn row(kind: &str, tracks: &[Track], bounds: &Bounds) -> KindRow {
    let mut faults = Vec::new();
    for track in tracks {
        let minutes = minutes_of(track);
        let mut hold = |what: &str, unit: &str, grown: f64, allowed: f64| {
            if grown > allowed {
                let name = &track.name;
                faults.push(format!("{what} of {name}: {grown:+.1} {unit} in {minutes:.1} min, allowed {allowed:.1}"));
            }
        };
        let grown = |of: fn(&Sample) -> f64| slope(track, of) * minutes;
        hold("memory", "KiB", grown(rss), bounds.rss_kib + bounds.rss_kib_per_min * minutes);
        hold("descriptors", "open", grown(fds), bounds.fds + bounds.fds_per_min * minutes);
        hold("peers", "peers either way", grown(peers).abs(), bounds.peers + bounds.peers_per_min * minutes);
        if let Some(alone) = track.samples.iter().find(|sample| sample.peers < bounds.peers_least) {
            faults.push(format!("{} had {} peers after {:.0} s", track.name, alone.peers, alone.at_s));
        }
    }
    let least = tracks.iter().flat_map(|track| &track.samples).map(|sample| sample.peers).min();
    KindRow {
        kind: kind.to_owned(),
        nodes: tracks.len(),
        steady: faults.is_empty(),
        rss_kib: course(tracks, rss, |slope| slope),
        fds: course(tracks, fds, |slope| slope),
        peers: course(tracks, peers, f64::abs),
        peers_least: least.unwrap_or_default(),
        faults,
    }
}

fn rss(sample: &Sample) -> f64 {
    sample.rss_kib as f64
}

fn fds(sample: &Sample) -> f64 {
    sample.fds as f64
}

fn peers(sample: &Sample) -> f64 {
    sample.peers as f64
}

fn course(tracks: &[Track], of: fn(&Sample) -> f64, badness: fn(f64) -> f64) -> Course {
    let at = |pick: fn(&[Sample]) -> Option<&Sample>| {
        median(&mut tracks.iter().filter_map(|track| pick(&track.samples).map(of)).collect::<Vec<f64>>())
    };
    let mut slopes: Vec<f64> = tracks.iter().map(|track| slope(track, of)).collect();
    let worst = slopes.iter().copied().max_by(|a, b| badness(*a).total_cmp(&badness(*b)));
    Course {
        first: rounded(at(|samples| samples.first())),
        last: rounded(at(|samples| samples.last())),
        median_per_min: rounded(median(&mut slopes)),
        worst_per_min: rounded(worst.unwrap_or_default()),
    }
}

fn minutes_of(track: &Track) -> f64 {
    let (Some(first), Some(last)) = (track.samples.first(), track.samples.last()) else { return 0.0 };
    (last.at_s - first.at_s) / MINUTE_S
}

/// Growth for each minute: the median of the slopes between any two looks (Theil and Sen), which a step or a spike does not
/// turn as it turns a line of least squares.
fn slope(track: &Track, of: fn(&Sample) -> f64) -> f64 {
    let samples = &track.samples;
    let mut slopes = Vec::new();
    for (place, early) in samples.iter().enumerate() {
        for late in samples.iter().skip(place + 1) {
            let minutes = (late.at_s - early.at_s) / MINUTE_S;
            if minutes > 0.0 {
                slopes.push((of(late) - of(early)) / minutes);
            }
        }
    }
    median(&mut slopes)
}

/// The middle one; zero of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.get(half) {
        None => 0.0,
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => f64::midpoint(values[half - 1], *upper),
    }
}

/// To a thousandth, for reading.
pub fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node looked at every ten seconds for twenty minutes.
    fn track(kind: &str, at: impl Fn(f64) -> (u64, u64, u64)) -> Track {
        let mut track = Track::new(kind, "h1", 7);
        track.samples = (0..120)
            .map(|n| {
                let at_s = f64::from(n) * 10.0;
                let (rss_kib, fds, peers) = at(at_s);
                Sample { at_s, rss_kib, fds, peers }
            })
            .collect();
        track
    }

    fn faults(at: impl Fn(f64) -> (u64, u64, u64)) -> Vec<String> {
        judge(&[track("relay", at)], 300.0, &BOUNDS).remove(0).faults
    }

    #[test]
    fn a_node_that_stays_as_it_is_is_steady_whatever_its_warm_up_was() {
        let rows = judge(
            &[track("relay", |s| if s < 200.0 { (1_000 + s as u64 * 100, s as u64, 0) } else { (60_000, 40, 9) })],
            300.0,
            &BOUNDS,
        );
        assert!(rows[0].steady, "{rows:?}");
        assert_eq!((rows[0].rss_kib.first, rows[0].fds.worst_per_min, rows[0].peers_least), (60_000.0, 0.0, 9));
    }

    #[test]
    fn noise_and_one_spike_are_no_growth() {
        let noisy = |s: f64| {
            let wave = (s as u64 / 10) % 7;
            let spike = if s > 1_150.0 { 30_000 } else { 0 };
            (60_000 + wave * 300 + spike, 40 + wave % 3, 9 - wave % 2)
        };
        assert_eq!(faults(noisy), Vec::<String>::new());
    }

    #[test]
    fn a_leak_of_memory_or_of_descriptors_is_named_with_its_amount() {
        let leak = faults(|s| (60_000 + (s * 8.0) as u64, 40, 9));
        assert!(leak.len() == 1 && leak[0].contains("memory of h1, process 7: +71"), "{leak:?}");
        let leak = faults(|s| (60_000, 40 + (s / 60.0) as u64, 9));
        assert!(leak.len() == 1 && leak[0].contains("descriptors of h1"), "{leak:?}");
    }

    #[test]
    fn peers_that_drift_either_way_and_a_node_that_is_alone_are_named() {
        for drift in
            [faults(|s| (60_000, 40, 10 + (s / 60.0) as u64)), faults(|s| (60_000, 40, 40 - (s / 60.0) as u64))]
        {
            assert!(drift.len() == 1 && drift[0].contains("peers either way"), "{drift:?}");
        }
        let alone = faults(|s| (60_000, 40, u64::from(!(600.0..620.0).contains(&s)) * 9));
        assert_eq!(alone, ["h1, process 7 had 0 peers after 600 s"]);
    }

    #[test]
    fn one_node_out_of_many_of_a_kind_is_enough() {
        let mut tracks: Vec<Track> = (0..9).map(|_| track("provider", |_| (60_000, 40, 9))).collect();
        tracks.push(track("provider", |s| (60_000 + (s * 8.0) as u64, 40, 9)));
        let rows = judge(&tracks, 300.0, &BOUNDS);
        assert!(rows.len() == 1 && rows[0].nodes == 10 && !rows[0].steady, "{rows:?}");
        assert_eq!((rows[0].rss_kib.median_per_min, rows[0].rss_kib.worst_per_min.round()), (0.0, 480.0));
    }
}
