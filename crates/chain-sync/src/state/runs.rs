//! Headers: which runs are wanted, and what of those that came is proved.

use crate::config::{HEADERS_AHEAD_MAX, HEADERS_PER_RUN_MAX, RUNS_MAX};
use crate::error::Fault;
use crate::sink::Head;
use crate::wire::Run;
use std::collections::{BTreeMap, VecDeque};
use trellis_chain_finality::{CommitteeChain, FinalityProof, HandoverError, ProofError};
use trellis_primitives::{B256, CommitCertificate, Header, NodeId, keccak256};

/// A header that is proved to be final.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) header: Header,
    pub(crate) hash: B256,
}

/// What became of a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// These heights are proved.
    Proved { first: u64, last: u64 },
    /// It proves nothing.
    Lie { peer: NodeId, fault: Fault },
}

enum Place {
    Wanted,
    Asked(u64),
    Here(NodeId, Run),
}

struct Planned {
    last: u64,
    place: Place,
}

/// Headers above the head: proved, on their way, wanted.
pub(crate) struct Runs {
    committees: CommitteeChain,
    epoch_blocks: Option<u64>,
    /// The last header that is proved.
    pub(crate) tip: Head,
    /// Proved and not handed on; the last is `tip`.
    verified: VecDeque<Verified>,
    /// Certificates of the last headers of runs.
    certificates: BTreeMap<u64, CommitCertificate>,
    planned: BTreeMap<u64, Planned>,
}

impl Runs {
    pub(crate) fn new(head: Head, committees: CommitteeChain, epoch_blocks: Option<u64>) -> Self {
        Self {
            committees,
            epoch_blocks,
            tip: head,
            verified: VecDeque::new(),
            certificates: BTreeMap::new(),
            planned: BTreeMap::new(),
        }
    }

    /// The first block at or above a height that names a committee: a run ends there, so that the next one can be proved.
    fn handover(&self, height: u64) -> Option<u64> {
        let blocks = self.epoch_blocks.filter(|blocks| *blocks > 0)?;
        let epoch = height.saturating_sub(1).div_ceil(blocks).max(1);
        epoch.checked_mul(blocks)?.checked_add(1)
    }

    /// Plans runs up to `target`; forgets those that nobody claims to have any more.
    pub(crate) fn plan(&mut self, head: u64, target: u64) {
        self.planned.retain(|first, run| *first <= target || !matches!(run.place, Place::Wanted));
        for run in self.planned.values_mut().filter(|run| matches!(run.place, Place::Wanted)) {
            run.last = run.last.min(target);
        }
        let mut first = self.tip.height.saturating_add(1);
        while self.planned.len() < RUNS_MAX {
            // The gap below the next run that is planned, or what is above all of them.
            let next = self.planned.range(first..).next().map(|(next, run)| (*next, run.last));
            if let Some((next, last)) = next.filter(|(next, _)| *next == first) {
                first = last.max(next).saturating_add(1);
                continue;
            }
            let below_next = next.map_or(u64::MAX, |(next, _)| next.saturating_sub(1));
            let last = [
                first.saturating_add(HEADERS_PER_RUN_MAX - 1),
                target,
                head.saturating_add(HEADERS_AHEAD_MAX),
                self.handover(first).unwrap_or(u64::MAX),
                below_next,
            ];
            let last = last.into_iter().min().unwrap_or(0);
            if last < first {
                return;
            }
            self.planned.insert(first, Planned { last, place: Place::Wanted });
            first = last.saturating_add(1);
        }
    }

    /// Runs that nobody was asked for, the lowest first.
    pub(crate) fn wanted(&self) -> Vec<(u64, u64)> {
        let wanted = self.planned.iter().filter(|(_, run)| matches!(run.place, Place::Wanted));
        wanted.map(|(first, run)| (*first, run.last)).collect()
    }

    pub(crate) fn asked(&mut self, first: u64, request: u64) {
        if let Some(run) = self.planned.get_mut(&first) {
            run.place = Place::Asked(request);
        }
    }

    /// The request that everything else waits for, where it is one of headers.
    pub(crate) fn awaited(&self) -> Option<u64> {
        let (first, run) = self.planned.first_key_value()?;
        match run.place {
            Place::Asked(request) if *first == self.tip.height.saturating_add(1) => Some(request),
            _ => None,
        }
    }

    pub(crate) fn arrived(&mut self, request: u64, peer: NodeId, run: Run) {
        if let Some(planned) =
            self.planned.values_mut().find(|run| matches!(run.place, Place::Asked(r) if r == request))
        {
            planned.place = Place::Here(peer, run);
        }
    }

    /// A request came to nothing.
    pub(crate) fn back(&mut self, request: u64) {
        for run in self.planned.values_mut() {
            if matches!(run.place, Place::Asked(asked) if asked == request) {
                run.place = Place::Wanted;
            }
        }
    }

    /// What a liar sent and nobody has looked at is not looked at.
    pub(crate) fn discard(&mut self, peer: NodeId) {
        for run in self.planned.values_mut() {
            if matches!(run.place, Place::Here(from, _) if from == peer) {
                run.place = Place::Wanted;
            }
        }
    }

    /// A peer shows the header that comes next without having been asked for it.
    pub(crate) fn offered(&mut self, peer: NodeId, height: u64, tip: Run) {
        if height != self.tip.height.saturating_add(1) {
            return;
        }
        let planned = self.planned.entry(height).or_insert(Planned { last: height, place: Place::Wanted });
        // A longer run that is wanted begins with this one; what is left of it is planned again.
        if matches!(planned.place, Place::Wanted) {
            *planned = Planned { last: height, place: Place::Here(peer, tip) };
        }
    }

    /// Judges the runs that are here, as far as they follow what is proved.
    pub(crate) fn judge(&mut self) -> Vec<Judged> {
        let mut judged = Vec::new();
        loop {
            let first = self.tip.height.saturating_add(1);
            let Some(run) = self.planned.get_mut(&first) else { return judged };
            if !matches!(run.place, Place::Here(..)) {
                return judged;
            }
            let last = run.last;
            let Place::Here(peer, given) = std::mem::replace(&mut run.place, Place::Wanted) else { return judged };
            match self.prove(first, last, given) {
                Ok(proved) => {
                    self.planned.remove(&first);
                    judged.push(Judged::Proved { first, last: proved });
                }
                Err(fault) => {
                    judged.push(Judged::Lie { peer, fault });
                    return judged;
                }
            }
        }
    }

    fn prove(&mut self, first: u64, last: u64, run: Run) -> Result<u64, Fault> {
        let room = last.saturating_sub(first).saturating_add(1);
        if run.headers.is_empty() || u64::try_from(run.headers.len()).unwrap_or(u64::MAX) > room {
            return Err(Fault::WrongHeaders);
        }
        let mut tip = self.tip;
        let mut proved = Vec::with_capacity(run.headers.len());
        for bytes in &run.headers {
            let header: Header = alloy_rlp::decode_exact(bytes).map_err(|_| Fault::Undecodable)?;
            if header.parent_hash != tip.hash || header.number != tip.height.saturating_add(1) {
                return Err(Fault::WrongHeaders);
            }
            tip = Head { height: header.number, hash: keccak256(bytes) };
            proved.push(Verified { header, hash: tip.hash });
        }
        let header_rlp = run.headers.last().cloned().unwrap_or_default().into();
        let certificate = run.certificate.ok_or(Fault::WrongHeaders)?;
        let proof = FinalityProof { header_rlp, certificate };
        if self.committees.needed(u64::MAX) == Some(tip.height) {
            let section = run.section.ok_or(Fault::WrongHeaders)?;
            self.committees.learn(&proof, &section).map_err(|error| match error {
                HandoverError::Proof(error) => fault_of(&error),
                _ => Fault::WrongHeaders,
            })?;
        } else {
            self.committees.check(&proof).map_err(|error| fault_of(&error))?;
        }
        self.certificates.insert(tip.height, proof.certificate);
        self.verified.extend(proved);
        self.tip = tip;
        Ok(tip.height)
    }

    /// A header that is proved and not handed on.
    pub(crate) fn verified(&self, height: u64) -> Option<&Verified> {
        let first = self.verified.front()?.header.number;
        self.verified.get(usize::try_from(height.checked_sub(first)?).ok()?)
    }

    /// The certificate of a run's last header.
    pub(crate) fn certificate(&self, height: u64) -> Option<&CommitCertificate> {
        self.certificates.get(&height)
    }

    /// Takes out the lowest header that is proved, with its certificate where it ends a run.
    pub(crate) fn take(&mut self) -> Option<Verified> {
        let taken = self.verified.pop_front()?;
        self.certificates.remove(&taken.header.number);
        Some(taken)
    }
}

fn fault_of(error: &ProofError) -> Fault {
    match error {
        ProofError::Certificate(_) => Fault::ForgedCertificate,
        ProofError::Encoding(_) => Fault::Undecodable,
        _ => Fault::WrongHeaders,
    }
}
