//! One table of buckets with a fixed number of places.

use std::net::SocketAddr;

use rand::Rng;

use super::BUCKET_ADDRESSES_MAX;

/// A place in a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot {
    pub(super) bucket: u16,
    pub(super) place: u16,
}

#[derive(Clone, Debug)]
pub(super) struct Slots {
    buckets: Vec<Vec<Option<SocketAddr>>>,
    /// Places taken in each bucket.
    taken: Vec<u16>,
}

impl Slots {
    pub(super) fn new(buckets: u16) -> Self {
        let places = vec![None; usize::from(BUCKET_ADDRESSES_MAX)];
        Self { buckets: vec![places; usize::from(buckets)], taken: vec![0; usize::from(buckets)] }
    }

    pub(super) fn at(&self, slot: Slot) -> Option<SocketAddr> {
        *self.buckets.get(usize::from(slot.bucket))?.get(usize::from(slot.place))?
    }

    pub(super) fn set(&mut self, slot: Slot, socket: SocketAddr) {
        self.put(slot, Some(socket));
    }

    pub(super) fn clear(&mut self, slot: Slot) {
        self.put(slot, None);
    }

    fn put(&mut self, slot: Slot, value: Option<SocketAddr>) {
        let bucket = self.buckets.get_mut(usize::from(slot.bucket));
        let place = bucket.and_then(|bucket| bucket.get_mut(usize::from(slot.place)));
        let (Some(place), Some(taken)) = (place, self.taken.get_mut(usize::from(slot.bucket))) else { return };
        *taken = taken.saturating_sub(u16::from(place.is_some())) + u16::from(value.is_some());
        *place = value;
    }

    /// A random address: a bucket that is not empty, then one of its addresses, so that a full bucket weighs no more
    /// than a bucket with one address.
    pub(super) fn draw<R: Rng>(&self, rng: &mut R) -> Option<SocketAddr> {
        let filled = self.taken.iter().filter(|taken| **taken > 0).count();
        let nth = rng.random_range(0..filled.max(1));
        let (index, taken) = self.taken.iter().enumerate().filter(|(_, taken)| **taken > 0).nth(nth)?;
        let nth = usize::from(rng.random_range(0..*taken));
        self.buckets.get(index)?.iter().flatten().nth(nth).copied()
    }

    /// Addresses in all places, for the tests of the whole.
    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<(Slot, SocketAddr)> {
        let narrow = |number: usize| u16::try_from(number).unwrap();
        let bucket = |(bucket, places): (usize, &Vec<Option<SocketAddr>>)| {
            let held = places.iter().enumerate().filter_map(move |(place, socket)| {
                Some((Slot { bucket: narrow(bucket), place: narrow(place) }, (*socket)?))
            });
            held.collect::<Vec<_>>()
        };
        self.buckets.iter().enumerate().flat_map(bucket).collect()
    }
}
