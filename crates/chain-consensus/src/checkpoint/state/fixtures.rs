//! A committee of four, its keys, and what it signs.

use std::sync::Arc;

use trellis_chain_finality::{
    CheckpointCommittee, CheckpointMessage, CheckpointSignature, CheckpointTally, Validator, ValidatorSet,
};
use trellis_crypto::{CheckpointKey, VoteKey};
use trellis_primitives::{Address, B256, Bytes, CheckpointKeys, NodeId};

use super::super::CheckpointDuty;
use super::super::wire::CheckpointVote;

pub(crate) const GENESIS: B256 = B256::repeat_byte(0x47);

pub(crate) fn key(n: u8) -> CheckpointKey {
    CheckpointKey::from_seed(&[n; 32]).unwrap()
}

pub(crate) fn account(n: u8) -> Address {
    Address::repeat_byte(n)
}

pub(crate) fn peer(n: u8) -> NodeId {
    NodeId([n; 32])
}

/// Four members of equal power.
pub(crate) fn committee() -> Arc<CheckpointCommittee> {
    let one = |n: u8| Validator::new(VoteKey::from_seed(&[n; 32]).public(), 1, account(n));
    let set = ValidatorSet::new((1..=4).map(one).collect()).unwrap();
    let of = |member: &Validator| {
        let key = key(member.account.0[0]);
        CheckpointKeys { bls: key.bls_public().to_vec().into(), mldsa44: key.mldsa44_public().into() }
    };
    let keys: Vec<_> = set.validators().iter().map(of).collect();
    Arc::new(CheckpointCommittee::new(&set, &keys))
}

pub(crate) fn duty(height: u64) -> CheckpointDuty {
    let committee = committee();
    let block_hash = B256::with_last_byte(u8::try_from(height).unwrap());
    let message = CheckpointMessage { genesis_hash: GENESIS, height, block_hash, next_committee: committee.hash() };
    CheckpointDuty { message, committee }
}

pub(crate) fn vote(n: u8, duty: &CheckpointDuty) -> CheckpointVote {
    let signature = CheckpointSignature::sign(&key(n), &duty.message, account(n)).unwrap();
    CheckpointVote { height: duty.message.height, block_hash: duty.message.block_hash, signature }
}

/// Both certificates of three of the four.
pub(crate) fn certified(duty: &CheckpointDuty) -> (Bytes, Bytes) {
    let mut tally = CheckpointTally::new(duty.message, Arc::clone(&duty.committee));
    for n in 1..=3 {
        tally.add(&vote(n, duty).signature).unwrap();
    }
    let (short, long) = tally.assemble().unwrap();
    (alloy_rlp::encode(short).into(), alloy_rlp::encode(long).into())
}
