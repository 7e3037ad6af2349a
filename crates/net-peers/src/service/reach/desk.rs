//! Circuits that this relay is asked for: each has a place from its question to its end, and a budget (NET-42).
//!
//! The place and the budget depend on both ends of a circuit, which only its stream tells ([`super::hop`]). So the decision is
//! made when the stream is read, and held by the [`Ask`] that goes with the stream. libp2p's relay asks afterwards, by peer
//! alone: [`CircuitDesk::decide`] answers from the questions of that peer that wait. Should a peer ask for several at once and
//! libp2p let through another than was meant, that one's stream carries nothing.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use libp2p::PeerId;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Sleep;
use trellis_net_reach::relay::budget::{CircuitBudget, RelayBudget};
use trellis_net_reach::relay::gate::RelayRefusal;
use trellis_net_reach::relay::places::{Places, PlacesReport};
use trellis_primitives::Address;

/// What a refused stream may carry, for the refusal itself, and how long it may stand.
const REFUSED: CircuitBudget = CircuitBudget { ms_max: 60_000, bytes_max: 64 };

/// The circuits of this node's relay.
pub(crate) struct CircuitDesk {
    budget: RelayBudget,
    asks: Mutex<Asks>,
    cut: Counter,
}

struct Asks {
    next: u64,
    places: Places<u64, Address>,
    /// Questions about which libp2p's relay has not asked yet; as many as there are streams, which are bounded.
    waiting: HashMap<PeerId, VecDeque<(u64, Option<RelayRefusal>)>>,
}

impl CircuitDesk {
    /// A desk that gives away so much, and counts in `cut` the circuits that pass their budget.
    pub(super) fn new(budget: RelayBudget, cut: Counter) -> Arc<Self> {
        let places = Places::new(budget.circuits_max, budget.circuits_per_account_max);
        Arc::new(Self { budget, asks: Mutex::new(Asks { next: 0, places, waiting: HashMap::new() }), cut })
    }

    /// A peer asks for a circuit; `account` has the stake behind one of its ends.
    pub(super) fn asked(self: &Arc<Self>, source: PeerId, account: Option<Address>) -> Ask {
        let mut asks = self.asks.lock();
        let id = asks.next;
        asks.next += 1;
        let refusal = asks.places.take(&id, account.as_ref(), 0, u64::MAX).err();
        asks.waiting.entry(source).or_default().push_back((id, refusal));
        drop(asks);
        let budget = if refusal.is_some() { REFUSED } else { self.budget.circuit_of(account.is_some()) };
        let ends = Box::pin(tokio::time::sleep(Duration::from_millis(budget.ms_max)));
        Ask { desk: Arc::clone(self), source, id, left_bytes: budget.bytes_max, ends, ended: refusal.is_some() }
    }

    /// libp2p's relay asks whether a peer gets the circuit that it asked for.
    pub(super) fn decide(&self, source: &PeerId) -> Result<(), RelayRefusal> {
        let mut asks = self.asks.lock();
        let waiting = asks.waiting.get_mut(source).ok_or(RelayRefusal::Unseen)?;
        let granted = waiting.iter().position(|(_, refusal)| refusal.is_none()).unwrap_or(0);
        let decided = waiting.remove(granted);
        if waiting.is_empty() {
            asks.waiting.remove(source);
        }
        match decided {
            Some((_, None)) => Ok(()),
            Some((_, Some(refusal))) => Err(refusal),
            None => Err(RelayRefusal::Unseen),
        }
    }

    /// How the places are used.
    pub(super) fn report(&self) -> PlacesReport {
        self.asks.lock().places.report()
    }

    fn left(&self, source: &PeerId, id: u64) {
        let mut asks = self.asks.lock();
        asks.places.free(&id);
        if let Some(waiting) = asks.waiting.get_mut(source) {
            waiting.retain(|(other, _)| *other != id);
            if waiting.is_empty() {
                asks.waiting.remove(source);
            }
        }
    }
}

/// A question for a circuit and, if it is granted, the circuit: its place is free when this is dropped with its stream.
pub(crate) struct Ask {
    desk: Arc<CircuitDesk>,
    source: PeerId,
    id: u64,
    left_bytes: u64,
    ends: Pin<Box<Sleep>>,
    /// It was refused, or cut before: the end is not counted again.
    ended: bool,
}

impl Ask {
    /// Whether it may go on. The task is woken when its time is over.
    pub(super) fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let late = self.ends.is_elapsed() || self.ends.as_mut().poll(cx).is_ready();
        if self.left_bytes > 0 && !late {
            return Ok(());
        }
        if !self.ended {
            self.ended = true;
            self.desk.cut.inc();
            tracing::debug!(source = %self.source, late, "a circuit has used up its budget");
        }
        let kind = if late { io::ErrorKind::TimedOut } else { io::ErrorKind::QuotaExceeded };
        Err(io::Error::new(kind, "the circuit's budget is used up"))
    }

    /// So many bytes passed.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.left_bytes = self.left_bytes.saturating_sub(bytes as u64);
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        self.desk.left(&self.source, self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    fn desk(reservations: usize) -> Arc<CircuitDesk> {
        CircuitDesk::new(RelayBudget::sized(reservations), Counter::default())
    }

    fn account(seed: u8) -> Option<Address> {
        Some(Address::repeat_byte(seed))
    }

    // row: NET-42
    #[tokio::test]
    async fn circuits_without_stake_leave_a_quarter_of_the_places_and_each_is_free_again_with_its_stream() {
        let (desk, plain, staked) = (desk(4), PeerId::random(), PeerId::random());
        let mut asks: Vec<Ask> = (0..100).map(|_| desk.asked(plain, None)).collect();
        assert_eq!(desk.report(), PlacesReport { max: 16, kept: 4, used: 12, staked: 0 });
        let granted = (0..100).filter(|_| desk.decide(&plain).is_ok()).count();
        assert_eq!(granted, 12);
        let _circuit = desk.asked(staked, account(1));
        assert_eq!(desk.decide(&staked), Ok(()));
        assert_eq!(desk.asked(plain, None).left_bytes, REFUSED.bytes_max);
        asks.drain(..6);
        assert_eq!(desk.report(), PlacesReport { max: 16, kept: 4, used: 7, staked: 1 });
        drop(asks);
        assert!(desk.asks.lock().waiting.is_empty());
    }

    // row: NET-42
    #[tokio::test]
    async fn a_circuit_whose_question_was_not_seen_is_refused() {
        let (desk, peer) = (desk(4), PeerId::random());
        assert_eq!(desk.decide(&peer), Err(RelayRefusal::Unseen));
        let ask = desk.asked(peer, None);
        assert_eq!(desk.decide(&peer), Ok(()));
        assert_eq!(desk.decide(&peer), Err(RelayRefusal::Unseen), "one question is one circuit");
        drop(ask);
        drop(desk.asked(peer, None));
        assert_eq!(desk.decide(&peer), Err(RelayRefusal::Unseen), "whoever has gone asks no more");
    }

    // row: NET-42
    #[tokio::test]
    async fn a_staked_peer_at_one_end_makes_the_budget_larger_and_a_used_up_one_is_cut_and_counted() {
        let (desk, peer) = (desk(4), PeerId::random());
        let (mut plain, staked) = (desk.asked(peer, None), desk.asked(peer, account(1)));
        assert_eq!(plain.left_bytes, desk.budget.circuit.bytes_max);
        assert!(staked.left_bytes > plain.left_bytes && staked.ends.deadline() > plain.ends.deadline());
        let check = |ask: &mut Ask| ask.check(&mut Context::from_waker(futures::task::noop_waker_ref()));
        plain.spend(1_000);
        assert!(check(&mut plain).is_ok());
        plain.spend(usize::MAX);
        assert_eq!(check(&mut plain).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        assert!(check(&mut plain).is_err() && desk.cut.get() == 1);
    }

    // row: NET-42
    #[tokio::test]
    async fn a_circuit_whose_time_is_over_is_cut() {
        let mut budget = RelayBudget::sized(4);
        budget.circuit.ms_max = 10;
        let (desk, peer) = (CircuitDesk::new(budget, Counter::default()), PeerId::random());
        let mut ask = desk.asked(peer, None);
        let over = std::future::poll_fn(|cx| ask.check(cx).err().map_or(Poll::Pending, Poll::Ready)).await;
        assert_eq!(over.kind(), io::ErrorKind::TimedOut);
        assert_eq!(desk.cut.get(), 1);
    }
}
