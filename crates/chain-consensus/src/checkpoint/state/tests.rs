//! The collector alone: who counts, who does not, and what is said and kept when.

use super::fixtures::{GENESIS, account, committee, duty, key, peer, vote};
use super::*;
use trellis_chain_finality::{CheckpointCertificate, PostQuantumCertificate};
use trellis_primitives::B256;

const RULES: CheckpointRules = CheckpointRules { interval_blocks: 64, epoch_blocks: None };
fn said(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Say(_))).count()
}

fn kept(actions: &[Action]) -> Vec<(CheckpointCertificate, PostQuantumCertificate)> {
    let one = |action: &Action| match action {
        Action::Keep { certificate, post_quantum, .. } => Some((
            CheckpointCertificate::decode_exact(certificate).unwrap(),
            PostQuantumCertificate::decode_exact(post_quantum).unwrap(),
        )),
        Action::Say(_) => None,
    };
    actions.iter().filter_map(one).collect()
}

// row: CHN-15
#[test]
fn a_member_signs_what_is_final_and_three_of_four_make_certificates_that_a_late_one_joins() {
    let (duty, committee) = (duty(64), committee());
    let mut collector = Collector::new(RULES, Some(key(1)), 63);
    assert_eq!(collector.hear(peer(2), vote(2, &duty)).0, Heard::Early);
    collector.advance(64, &[]);
    let actions = collector.begin(duty.clone());
    assert_eq!((said(&actions), kept(&actions).len()), (1, 0), "two of four");
    assert_eq!(collector.hear(peer(2), vote(2, &duty)).0, Heard::Known);
    let (heard, actions) = collector.hear(peer(3), vote(3, &duty));
    assert_eq!(heard, Heard::Counted);
    let (short, long) = kept(&actions).pop().unwrap();
    short.verify(&committee, GENESIS).unwrap();
    long.verify(&committee, GENESIS).unwrap();
    let (_, actions) = collector.hear(peer(4), vote(4, &duty));
    assert_eq!(kept(&actions)[0].1.signatures.len(), 4);
}

// row: CHN-15
#[test]
fn a_silent_third_keeps_no_checkpoint_from_anybody_and_a_silent_half_does() {
    for (speakers, expected) in [(3u8, 1usize), (2, 0)] {
        let duty = duty(64);
        let mut collector = Collector::new(RULES, Some(key(1)), 64);
        let mut all = collector.begin(duty.clone());
        for n in 2..=speakers {
            all.extend(collector.hear(peer(n), vote(n, &duty)).1);
        }
        assert_eq!(kept(&all).len(), expected, "{speakers} of 4 speak");
    }
}

// row: CHN-15
#[test]
fn an_own_signature_is_said_until_the_certificate_stands_in_a_block_or_the_checkpoint_is_past() {
    let mut collector = Collector::new(RULES, Some(key(1)), 64);
    collector.begin(duty(64));
    assert_eq!((65..=72).map(|height| said(&collector.advance(height, &[]))).sum::<usize>(), 8);
    assert_eq!((73..=96).map(|height| said(&collector.advance(height, &[]))).sum::<usize>(), 3);
    assert_eq!(collector.unsettled(), [64]);
    assert_eq!(said(&collector.advance(104, &[64])), 0);
    assert_eq!(collector.unsettled(), [0; 0]);
    collector.begin(duty(128));
    assert_eq!(said(&collector.advance(128 + OPEN_BLOCKS, &[])), 0);
    assert_eq!(collector.unsettled(), [0; 0], "nothing is open for ever");
}

// row: CHN-15
#[test]
fn of_a_peer_that_lies_only_so_much_is_looked_at_and_it_harms_nobody_else() {
    let (duty, other) = (duty(64), duty(128));
    let mut collector = Collector::new(RULES, Some(key(1)), 64);
    collector.begin(duty.clone());
    let mut lie = vote(2, &duty);
    lie.signature.bls = vote(2, &other).signature.bls;
    for _ in 0..FAULTS_MAX {
        assert_eq!(collector.hear(peer(9), lie.clone()).0, Heard::Wrong);
    }
    assert_eq!(collector.hear(peer(9), lie).0, Heard::Ignored);
    let mut fork = vote(2, &duty);
    fork.block_hash = B256::ZERO;
    assert_eq!(collector.hear(peer(2), fork).0, Heard::OtherBlock);
    let stranger = CheckpointSignature::sign(&key(8), &duty.message, account(8)).unwrap();
    assert_eq!(collector.hear(peer(8), CheckpointVote { signature: stranger, ..vote(2, &duty) }).0, Heard::Wrong);
    assert_eq!(collector.hear(peer(2), vote(2, &duty)).0, Heard::Counted);
    assert_eq!(collector.hear(peer(3), vote(3, &duty)).0, Heard::Counted);
}

#[test]
fn what_nobody_asks_for_is_not_held() {
    let mut collector = Collector::new(RULES, None, 64);
    for (height, expected) in [(64, Heard::Unasked), (65, Heard::Unasked), (128, Heard::Early), (192, Heard::Unasked)] {
        let mut vote = vote(2, &duty(64));
        vote.height = height;
        assert_eq!(collector.hear(peer(2), vote).0, expected, "{height}");
    }
    assert_eq!(collector.early.len(), 1);
    assert!(collector.begin(duty(64)).is_empty(), "without a key nothing is signed");
}
