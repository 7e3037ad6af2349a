//! What a process has used of the machine, as Linux counts it.

use std::collections::HashMap;

/// Clock ticks in a second in /proc/PID/stat, on every Linux.
const TICKS_PER_S: f64 = 100.0;
/// Bytes in a kB of /proc/PID/status.
const STATUS_UNIT_BYTES: u64 = 1_024;

/// What a process has used until now; nothing where there is no such process.
#[derive(Clone, Default)]
pub struct Usage {
    /// Its time on all cores.
    pub cpu_seconds: f64,
    /// Its resident memory, in bytes.
    pub memory_bytes: u64,
    /// The most that it ever was, in bytes.
    pub memory_peak_bytes: u64,
    /// Name and time of each of its threads.
    threads: HashMap<u32, (String, f64)>,
}

/// What a process used between two looks.
#[derive(Clone, Default)]
pub struct Spent {
    /// Its time on all cores.
    pub cpu_seconds: f64,
    /// Time of the thread that worked most, which can never have more than one core.
    pub busiest_thread_seconds: f64,
    /// That thread's name.
    pub busiest_thread: String,
}

impl Usage {
    /// Looks at a process.
    pub fn of(pid: u32) -> Self {
        let folder = format!("/proc/{pid}");
        let status = std::fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
        let tasks = std::fs::read_dir(format!("{folder}/task")).into_iter().flatten().flatten();
        let threads = tasks.filter_map(|task| {
            let id = task.file_name().to_str()?.parse().ok()?;
            Some((id, stat(&std::fs::read_to_string(task.path().join("stat")).ok()?)?))
        });
        Self {
            cpu_seconds: std::fs::read_to_string(format!("{folder}/stat"))
                .ok()
                .and_then(|text| stat(&text))
                .map_or(0.0, |(_, seconds)| seconds),
            memory_bytes: memory(&status, "VmRSS:"),
            memory_peak_bytes: memory(&status, "VmHWM:"),
            threads: threads.collect(),
        }
    }

    /// Looks at this very process.
    pub fn own() -> Self {
        Self::of(std::process::id())
    }

    /// What was used since an earlier look.
    pub fn since(&self, before: &Self) -> Spent {
        let spent = |(id, (name, seconds)): (&u32, &(String, f64))| {
            (seconds - before.threads.get(id).map_or(0.0, |(_, earlier)| *earlier), name.clone())
        };
        let busiest = self.threads.iter().map(spent).max_by(|one, other| one.0.total_cmp(&other.0));
        let (busiest_thread_seconds, busiest_thread) = busiest.unwrap_or_default();
        Spent { cpu_seconds: self.cpu_seconds - before.cpu_seconds, busiest_thread_seconds, busiest_thread }
    }
}

/// Name and time on all cores of a process or thread by its `stat`.
fn stat(text: &str) -> Option<(String, f64)> {
    // The name in brackets may hold anything; what follows it is counted from the state, field 3.
    let (head, tail) = text.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    let name = head.split_once('(').map(|(_, name)| name.to_owned()).unwrap_or_default();
    Some((name, (ticks(11)? + ticks(12)?) / TICKS_PER_S))
}

fn memory(status: &str, field: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    let number: u64 = line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0);
    number.saturating_mul(STATUS_UNIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let line = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1";
        assert_eq!(stat(line), Some(("a) b (c".to_owned(), 3.0)));
        assert_eq!(stat("nonsense"), None);
        assert_eq!(memory("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), 2_097_152);
    }

    #[test]
    fn what_a_thread_does_is_its_process_and_its_own_time() {
        let before = Usage::own();
        let worker = std::thread::Builder::new().name("toiler".into()).spawn(|| {
            let began = std::time::Instant::now();
            let mut number = 1u64;
            while Usage::own().since(&Usage::default()).busiest_thread_seconds < 0.5
                && began.elapsed() < std::time::Duration::from_secs(60)
            {
                for step in 0..20_000_000u64 {
                    number = std::hint::black_box(number.wrapping_mul(31).wrapping_add(step));
                }
            }
            Usage::own()
        });
        let after = worker.unwrap().join().unwrap();
        let spent = after.since(&before);
        assert!(spent.cpu_seconds >= spent.busiest_thread_seconds, "{}", spent.cpu_seconds);
        assert!(spent.busiest_thread_seconds >= 0.3, "{}", spent.busiest_thread_seconds);
        assert_eq!(spent.busiest_thread, "toiler");
        assert!(after.memory_bytes > 0 && after.memory_peak_bytes >= after.memory_bytes / 2);
    }
}
