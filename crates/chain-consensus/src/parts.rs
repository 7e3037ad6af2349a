//! Blocks in pieces: cutting, and putting together again what hostile peers may have sent. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use trellis_primitives::{BLOCK_BYTES_MAX, keccak256};

use crate::context::{Part, PartsInit};

/// Bytes of a block in one part at most.
pub(crate) const PART_BYTES_MAX: usize = 128 * 1024;

/// Streams of one peer that are put together at a time; a proposer needs one, two when it proposes again.
pub(crate) const STREAMS_PER_PEER_MAX: usize = 2;

/// Bytes of all unfinished streams of one peer at most.
pub(crate) const PEER_BYTES_MAX: usize = BLOCK_BYTES_MAX + BLOCK_BYTES_MAX / 2;

/// Cuts a block into its head and the parts that follow.
pub(crate) fn cut(init: PartsInit, block_rlp: &Bytes) -> Vec<Part> {
    let mut parts = vec![Part::Init(init)];
    let mut rest = block_rlp.clone();
    loop {
        let bytes = rest.split_to(rest.len().min(PART_BYTES_MAX));
        let last = rest.is_empty();
        parts.push(Part::Data { bytes, last });
        if last {
            return parts;
        }
    }
}

/// Why a part was thrown away. Each is counted against the peer that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartRefusal {
    /// Data without a head, or out of order.
    OutOfOrder,
    /// The head promises more than a block may have, or nothing.
    Size,
    /// More or fewer bytes than the head promised, or other bytes.
    OtherBytes,
}

#[derive(Debug)]
struct Stream {
    init: PartsInit,
    next: u64,
    body: Vec<u8>,
}

/// Unfinished streams, by peer and stream id.
#[derive(Debug)]
pub(crate) struct Assembler<P: Ord + Copy> {
    streams: BTreeMap<(P, Bytes), Stream>,
}

impl<P: Ord + Copy> Default for Assembler<P> {
    fn default() -> Self {
        Self { streams: BTreeMap::new() }
    }
}

impl<P: Ord + Copy> Assembler<P> {
    /// Takes the `sequence`th part of a stream; gives the block when it is whole and has the promised bytes.
    /// The caller has checked the head's signature, or checks it before it uses the block.
    pub(crate) fn take(
        &mut self,
        peer: P,
        stream: &Bytes,
        sequence: u64,
        part: Part,
    ) -> Result<Option<(PartsInit, Bytes)>, PartRefusal> {
        let key = (peer, stream.clone());
        let (bytes, last) = match part {
            Part::Init(init) => return self.begin(key, sequence, init).map(|()| None),
            Part::Data { bytes, last } => (bytes, last),
        };
        let open = self.streams.get_mut(&key).ok_or(PartRefusal::OutOfOrder)?;
        let room = open.init.payload_bytes.saturating_sub(open.body.len());
        if sequence != open.next || bytes.len() > room || bytes.len() > PART_BYTES_MAX {
            let refusal = if sequence == open.next { PartRefusal::OtherBytes } else { PartRefusal::OutOfOrder };
            self.streams.remove(&key);
            return Err(refusal);
        }
        open.next = open.next.saturating_add(1);
        open.body.extend_from_slice(&bytes);
        if !last {
            return Ok(None);
        }
        let Some(done) = self.streams.remove(&key) else {
            return Ok(None);
        };
        if done.body.len() != done.init.payload_bytes || keccak256(&done.body) != done.init.payload_hash {
            return Err(PartRefusal::OtherBytes);
        }
        Ok(Some((done.init, done.body.into())))
    }

    fn begin(&mut self, key: (P, Bytes), sequence: u64, init: PartsInit) -> Result<(), PartRefusal> {
        if sequence != 0 {
            return Err(PartRefusal::OutOfOrder);
        }
        if init.payload_bytes == 0 || init.payload_bytes > BLOCK_BYTES_MAX {
            return Err(PartRefusal::Size);
        }
        let peer = key.0;
        let open = self.streams.iter().filter(|((p, id), _)| *p == peer && *id != key.1);
        let (count, promised) =
            open.fold((0usize, 0usize), |(n, sum), (_, s)| (n + 1, sum.saturating_add(s.init.payload_bytes)));
        if count >= STREAMS_PER_PEER_MAX || promised.saturating_add(init.payload_bytes) > PEER_BYTES_MAX {
            // An unfinished stream is one whose sender lost messages: newer ones take its place.
            self.streams.retain(|(p, _), _| *p != peer);
        }
        self.streams.insert(key, Stream { init, next: 1, body: Vec::new() });
        Ok(())
    }

    /// Forgets streams for `height` and below.
    pub(crate) fn prune(&mut self, height: u64) {
        self.streams.retain(|_, stream| stream.init.height > height);
    }

    /// Unfinished streams.
    #[cfg(test)]
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use trellis_primitives::{Address, B256};

    fn init(body: &[u8]) -> PartsInit {
        PartsInit {
            height: 5,
            round: 0,
            pol_round: None,
            proposer: Address::ZERO,
            block_hash: B256::repeat_byte(1),
            payload_hash: keccak256(body),
            payload_bytes: body.len(),
            signature: Default::default(),
        }
    }

    fn feed(
        assembler: &mut Assembler<u8>,
        peer: u8,
        id: &[u8],
        parts: Vec<Part>,
    ) -> Result<Option<Bytes>, PartRefusal> {
        let id = Bytes::copy_from_slice(id);
        let mut whole = None;
        for (sequence, part) in parts.into_iter().enumerate() {
            whole = assembler.take(peer, &id, sequence as u64, part)?;
        }
        Ok(whole.map(|(_, body)| body))
    }

    #[test]
    fn a_block_of_many_parts_arrives_whole() {
        let body = Bytes::from(vec![7u8; PART_BYTES_MAX * 3 + 17]);
        let parts = cut(init(&body), &body);
        assert_eq!(parts.len(), 5);
        let mut assembler = Assembler::default();
        assert_eq!(feed(&mut assembler, 1, b"a", parts).unwrap(), Some(body));
        assert_eq!(assembler.open_streams(), 0);
    }

    #[test]
    fn parts_out_of_order_or_without_a_head_are_refused() {
        let body = Bytes::from(vec![7u8; PART_BYTES_MAX + 1]);
        let parts = cut(init(&body), &body);
        let mut assembler = Assembler::default();
        let id = Bytes::from_static(b"a");
        assert_eq!(assembler.take(1u8, &id, 1, parts[1].clone()).unwrap_err(), PartRefusal::OutOfOrder);
        assembler.take(1, &id, 0, parts[0].clone()).unwrap();
        assert_eq!(assembler.take(1, &id, 2, parts[2].clone()).unwrap_err(), PartRefusal::OutOfOrder);
        assert_eq!(assembler.open_streams(), 0);
    }

    #[test]
    fn other_bytes_than_the_head_promised_are_refused() {
        let body = Bytes::from_static(b"the block");
        let mut assembler = Assembler::default();
        for lie in [&b"the blocK"[..], &b"the bloc"[..], &b"the block!"[..]] {
            let parts = cut(init(&body), &Bytes::copy_from_slice(lie));
            assert_eq!(feed(&mut assembler, 1, b"a", parts).unwrap_err(), PartRefusal::OtherBytes);
        }
        let mut huge = init(&body);
        huge.payload_bytes = BLOCK_BYTES_MAX + 1;
        assert_eq!(feed(&mut assembler, 1, b"a", cut(huge, &body)).unwrap_err(), PartRefusal::Size);
    }

    #[test]
    fn a_peer_that_opens_streams_without_end_pushes_out_only_its_own() {
        let body = Bytes::from_static(b"the block");
        let mut assembler = Assembler::default();
        let honest = cut(init(&body), &body);
        assembler.take(1u8, &Bytes::from_static(b"h"), 0, honest[0].clone()).unwrap();
        for n in 0..100u8 {
            assembler.take(2, &Bytes::copy_from_slice(&[n]), 0, honest[0].clone()).unwrap();
        }
        assert!(assembler.open_streams() <= 1 + STREAMS_PER_PEER_MAX);
        let whole = assembler.take(1, &Bytes::from_static(b"h"), 1, honest[1].clone()).unwrap();
        assert!(whole.is_some());
    }

    proptest! {
        #[test]
        fn any_block_survives_cutting(len in 1usize..400_000) {
            let body = Bytes::from(vec![3u8; len]);
            let mut assembler = Assembler::default();
            prop_assert_eq!(feed(&mut assembler, 1, b"a", cut(init(&body), &body)).unwrap(), Some(body));
        }
    }
}
