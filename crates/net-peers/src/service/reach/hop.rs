//! Reads from the first bytes of a stream whom its sender asks this relay to connect it to (NET-42).
//!
//! libp2p's relay decides by who asks and never tells about which stream; what a circuit may carry depends on both its ends.
//! So the relay reads along: a stream begins with the names that multistream-select exchanges and then, where the relay's
//! protocol is chosen, with one message. All of them are frames of a length and so many bytes.

use libp2p::PeerId;

/// The name of the protocol with which a relay is asked.
const HOP_PROTOCOL: &[u8] = b"/libp2p/circuit/relay/0.2.0/hop\n";
/// Frames before the protocol is chosen: whoever proposes more names first is not read along, and gets no circuit.
const FRAMES_MAX: usize = 8;
/// Bytes of one frame; a relay's message has at most 4,096.
const FRAME_BYTES_MAX: usize = 4_096;
/// Bytes of a length.
const LENGTH_BYTES_MAX: usize = 3;
/// The kind of message that asks for a circuit.
const CONNECT: u64 = 1;
/// Fields of the messages: a kind, a peer, and the peer's id.
/// Fields: the kind of a message, its peer, and the peer's id.
const KIND_FIELD: u64 = 1;
const PEER_FIELD: u64 = 2;
const ID_FIELD: u64 = 1;

/// What the bytes so far say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// Nothing yet.
    Nothing,
    /// The relay is asked; what for is still to come.
    Asked,
    /// The relay is asked for a circuit to a peer.
    Connect(PeerId),
    /// The relay is asked for something else.
    OtherAsk,
    /// The stream is another protocol's, or its sender hides what it asks.
    OtherProtocol,
}

/// Reads along, a piece at a time.
#[derive(Debug, Default)]
pub(super) struct Listener {
    frame: Vec<u8>,
    frames: usize,
    asked: bool,
}

impl Listener {
    /// Takes bytes that came in. After [`Heard::Connect`], [`Heard::OtherAsk`] or [`Heard::OtherProtocol`] there is nothing
    /// more to hear.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Heard {
        for byte in bytes {
            self.frame.push(*byte);
            let Some(body) = body(&self.frame) else { return Heard::OtherProtocol };
            let Some(body) = body else { continue };
            if self.asked {
                return connect(body).map_or(Heard::OtherAsk, Heard::Connect);
            }
            self.asked = body == HOP_PROTOCOL;
            self.frame.clear();
            self.frames += 1;
            if !self.asked && self.frames >= FRAMES_MAX {
                return Heard::OtherProtocol;
            }
        }
        if self.asked { Heard::Asked } else { Heard::Nothing }
    }
}

/// The body of a whole frame, `Some(None)` while bytes are missing, `None` where it can be no frame of ours.
fn body(frame: &[u8]) -> Option<Option<&[u8]>> {
    let Some((length, rest)) = number(frame, LENGTH_BYTES_MAX) else {
        return (frame.len() < LENGTH_BYTES_MAX).then_some(None);
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX)?;
    Some((rest.len() >= length).then_some(rest))
}

/// A number of seven bits a byte, the lowest first, and what follows it.
fn number(bytes: &[u8], bytes_max: usize) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().take(bytes_max).enumerate() {
        let shift = u32::try_from(at).ok()?.checked_mul(7)?;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

/// Whom a message asks for a circuit to. Of a field that is there twice the last counts, as the relay reads it.
fn connect(message: &[u8]) -> Option<PeerId> {
    let (mut kind, mut peer) = (None, None);
    each_field(message, |field, value| match (field, value) {
        (KIND_FIELD, Value::Number(number)) => kind = Some(number),
        (PEER_FIELD, Value::Bytes(bytes)) => peer = peer_id(bytes).or(peer),
        _ => {}
    })?;
    peer.filter(|_| kind == Some(CONNECT))
}

fn peer_id(message: &[u8]) -> Option<PeerId> {
    let mut id = None;
    each_field(message, |field, value| {
        if let (ID_FIELD, Value::Bytes(bytes)) = (field, value) {
            id = Some(bytes);
        }
    })?;
    PeerId::from_bytes(id?).ok()
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// Goes through the fields of a protobuf message; `None` where it is none.
fn each_field<'a>(mut message: &'a [u8], mut take: impl FnMut(u64, Value<'a>)) -> Option<()> {
    const NUMBER_BYTES_MAX: usize = 10;
    while !message.is_empty() {
        let (key, rest) = number(message, NUMBER_BYTES_MAX)?;
        let (value, rest) = match key & 7 {
            0 => {
                let (value, rest) = number(rest, NUMBER_BYTES_MAX)?;
                (Value::Number(value), rest)
            }
            1 => (Value::Other, rest.get(8..)?),
            2 => {
                let (length, rest) = number(rest, NUMBER_BYTES_MAX)?;
                let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Value::Bytes(bytes), rest)
            }
            5 => (Value::Other, rest.get(4..)?),
            _ => return None,
        };
        take(key >> 3, value);
        message = rest;
    }
    Some(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if body.len() >= 0x80 {
            out.push(u8::try_from(body.len() & 0x7f).unwrap() | 0x80);
            out.push(u8::try_from(body.len() >> 7).unwrap());
        } else {
            out.push(u8::try_from(body.len()).unwrap());
        }
        out.extend(body);
        out
    }

    fn message(kind: u8, peer: Option<PeerId>, address_bytes: usize) -> Vec<u8> {
        let mut out = vec![0x08, kind];
        if let Some(peer) = peer {
            let mut inner = vec![0x0a];
            inner.extend(frame(&peer.to_bytes()));
            inner.push(0x12);
            inner.extend(frame(&vec![7; address_bytes]));
            out.push(0x12);
            out.extend(frame(&inner));
        }
        out
    }

    /// What a peer sends that asks for a circuit.
    pub(in crate::service::reach) fn asks_for(peer: PeerId) -> Vec<u8> {
        let mut bytes = frame(b"/multistream/1.0.0\n");
        bytes.extend(frame(HOP_PROTOCOL));
        bytes.extend(frame(&message(1, Some(peer), 20)));
        bytes
    }

    fn begin(proposals: usize) -> Vec<u8> {
        let mut bytes = frame(b"/multistream/1.0.0\n");
        for _ in 0..proposals {
            bytes.extend(frame(b"/other/1\n"));
        }
        bytes.extend(frame(HOP_PROTOCOL));
        bytes
    }

    fn hear(bytes: &[u8], at_once: usize) -> Heard {
        let mut listener = Listener::default();
        for piece in bytes.chunks(at_once) {
            let heard = listener.hear(piece);
            if !matches!(heard, Heard::Nothing | Heard::Asked) {
                return heard;
            }
        }
        if listener.asked { Heard::Asked } else { Heard::Nothing }
    }

    // row: NET-42
    #[test]
    fn whom_a_circuit_is_asked_to_is_read_whatever_pieces_it_comes_in() {
        let peer = PeerId::random();
        for at_once in [1, 2, 7, 64, 4_096] {
            for address_bytes in [0, 100, 1_000] {
                let mut bytes = begin(2);
                bytes.extend(frame(&message(1, Some(peer), address_bytes)));
                bytes.extend([9; 100]);
                assert_eq!(hear(&bytes, at_once), Heard::Connect(peer), "{at_once} {address_bytes}");
            }
            assert_eq!(hear(&begin(0), at_once), Heard::Asked);
            let mut bytes = begin(0);
            bytes.extend(frame(&message(0, None, 0)));
            assert_eq!(hear(&bytes, at_once), Heard::OtherAsk, "a reservation");
            assert_eq!(hear(&asks_for(peer), at_once), Heard::Connect(peer));
        }
    }

    // row: NET-42, NET-56
    #[test]
    fn what_hides_its_question_or_is_of_another_protocol_is_not_followed_for_ever() {
        let peer = PeerId::random();
        let mut bytes = begin(100);
        bytes.extend(frame(&message(1, Some(peer), 0)));
        assert_eq!(hear(&bytes, 64), Heard::OtherProtocol);
        assert_eq!(hear(&[0xff; 64], 64), Heard::OtherProtocol);
        let mut listener = Listener::default();
        for _ in 0..1_000 {
            listener.hear(&[b'x'; 4_096]);
            assert!(listener.frame.len() <= FRAME_BYTES_MAX + LENGTH_BYTES_MAX);
        }
    }

    proptest! {
        // row: NET-56
        #[test]
        fn any_bytes_are_heard_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..600), at_once in 1usize..64) {
            let mut all = begin(0);
            all.extend(&bytes);
            let _ = hear(&all, at_once);
            let _ = hear(&bytes, at_once);
            let _ = connect(&bytes);
        }
    }
}
