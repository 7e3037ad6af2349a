//! The log of a simulated node: what a real one holds, encoded, and decoded again at replay.

use arc_malachitebft_codec::Codec;
use arc_malachitebft_core_consensus::{Input, SignedConsensusMsg};
use arc_malachitebft_core_types::{Round, Timeout, ValueOrigin};
use bytes::Bytes;

use crate::codec::EngineCodec;
use crate::context::Trellis;

/// An entry as it lies on the disk.
pub(super) fn encode_entry(entry: &Input<Trellis>) -> (u8, Bytes) {
    match entry {
        Input::Vote(vote) => (1, EngineCodec.encode(&SignedConsensusMsg::Vote(vote.clone())).unwrap()),
        Input::Proposal(proposal) => (1, EngineCodec.encode(&SignedConsensusMsg::Proposal(proposal.clone())).unwrap()),
        Input::ProposedValue(value, _) => (2, EngineCodec.encode(value).unwrap()),
        Input::PolkaCertificate(polka) => (3, EngineCodec.encode(polka).unwrap()),
        Input::TimeoutElapsed(timeout) => {
            use arc_malachitebft_core_types::TimeoutKind::{Precommit, Prevote, Propose, Rebroadcast};
            let kind = match timeout.kind {
                Propose => 4,
                Prevote => 5,
                Precommit => 6,
                Rebroadcast => 7,
                other => panic!("{other:?} is not logged"),
            };
            (kind, Bytes::copy_from_slice(&timeout.round.as_u32().unwrap().to_be_bytes()))
        }
        other => panic!("{other:?} is not logged"),
    }
}

/// What it was.
pub(super) fn decode_entry((kind, bytes): &(u8, Bytes)) -> Input<Trellis> {
    let round = || Round::new(u32::from_be_bytes(bytes.as_ref().try_into().unwrap()));
    match kind {
        1 => match Codec::<SignedConsensusMsg<Trellis>>::decode(&EngineCodec, bytes.clone()).unwrap() {
            SignedConsensusMsg::Vote(vote) => Input::Vote(vote),
            SignedConsensusMsg::Proposal(proposal) => Input::Proposal(proposal),
        },
        2 => Input::ProposedValue(EngineCodec.decode(bytes.clone()).unwrap(), ValueOrigin::Consensus),
        3 => Input::PolkaCertificate(EngineCodec.decode(bytes.clone()).unwrap()),
        4 => Input::TimeoutElapsed(Timeout::propose(round())),
        5 => Input::TimeoutElapsed(Timeout::prevote(round())),
        6 => Input::TimeoutElapsed(Timeout::precommit(round())),
        _ => Input::TimeoutElapsed(Timeout::rebroadcast(round())),
    }
}
