//! Cores apart for those who are measured and those who make the load, so that neither takes the other's time.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The cores of this process in two halves.
#[derive(Clone, Copy)]
pub struct Cores {
    /// Of what is measured.
    pub measured: CpuSet,
    /// Of what makes the load.
    pub load: CpuSet,
}

impl Cores {
    /// `None` where there is only one core.
    ///
    /// # Panics
    /// Where the system does not tell which cores there are.
    pub fn apart() -> Option<Self> {
        let all = sched_getaffinity(Pid::from_raw(0)).expect("the cores of this thread");
        let cores: Vec<usize> = (0..CpuSet::count()).filter(|core| all.is_set(*core).unwrap_or_default()).collect();
        let half = cores.len() / 2;
        let set = |cores: &[usize]| {
            let mut set = CpuSet::new();
            cores.iter().for_each(|core| set.set(*core).expect("a core of this machine"));
            set
        };
        (half > 0).then(|| Self { measured: set(&cores[..half]), load: set(&cores[half..]) })
    }
}

/// Keeps the calling thread, and every thread and process that it makes from now on, on these cores.
///
/// # Panics
/// Where the system refuses.
pub fn keep_to(cores: &CpuSet) {
    sched_setaffinity(Pid::from_raw(0), cores).expect("cores of this process");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_have_cores_and_share_none() {
        let Some(cores) = Cores::apart() else { return };
        let of = |set: &CpuSet| (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap()).collect::<Vec<_>>();
        let (measured, load) = (of(&cores.measured), of(&cores.load));
        assert!(!measured.is_empty() && !load.is_empty() && measured.iter().all(|core| !load.contains(core)));
        let seen = std::thread::spawn(move || {
            keep_to(&cores.load);
            of(&sched_getaffinity(Pid::from_raw(0)).unwrap())
        });
        assert_eq!(seen.join().unwrap(), load);
    }
}
