//! What the engine wants done, done in the simulated world.

use std::rc::Rc;

use arc_malachitebft_core_consensus::{ConsensusMsg, Effect, Input, LivenessMsg, ProposedValue, Resumable, Resume};
use arc_malachitebft_core_types::{Round, Validity, ValueOrigin};
use arc_malachitebft_signing::{Signer, Verifier, VerifierExt};

use super::log::encode_entry;
use super::{Event, World, now_or_never};
use crate::certificate::evidence_from_engine;
use crate::context::{BlockId, Trellis};

impl World {
    pub(super) fn effect(&mut self, node: usize, effect: Effect<Trellis>) -> Result<Resume<Trellis>, String> {
        Ok(match effect {
            Effect::CancelAllTimeouts(r) => {
                self.nodes[node].timers.clear();
                r.resume_with(())
            }
            Effect::CancelTimeout(timeout, r) => {
                self.nodes[node].timers.remove(&timeout.to_string());
                r.resume_with(())
            }
            Effect::ScheduleTimeout(timeout, r) => {
                self.schedule(node, timeout);
                r.resume_with(())
            }
            Effect::StartRound(_, _, _, _, r) => {
                self.sync_log(node);
                r.resume_with(())
            }
            Effect::GetValue(height, round, _, r) => {
                self.build(node, height, round);
                r.resume_with(())
            }
            Effect::RestreamProposal(height, round, valid_round, _, value, r) => {
                self.stream(node, height, (round, valid_round), value);
                r.resume_with(())
            }
            Effect::WalAppend(height, entry, r) => {
                let this = &mut self.nodes[node];
                // The log is of one height: what a decided height still says is not replayed in the next, whose rounds are others.
                if !this.replaying && height.0 == this.height {
                    this.log.push(encode_entry(&entry));
                }
                r.resume_with(())
            }
            Effect::PublishConsensusMsg(message, r) => {
                self.sync_log(node);
                self.publish(node, message);
                r.resume_with(())
            }
            Effect::PublishLivenessMsg(message, r) => {
                let input = match message {
                    LivenessMsg::Vote(vote) => Input::Vote(vote),
                    LivenessMsg::PolkaCertificate(polka) => Input::PolkaCertificate(polka),
                    LivenessMsg::SkipRoundCertificate(certificate) => Input::RoundCertificate(certificate),
                };
                self.repeat(node, input);
                r.resume_with(())
            }
            Effect::RepublishVote(vote, r) => {
                self.repeat(node, Input::Vote(vote));
                r.resume_with(())
            }
            Effect::RepublishRoundCertificate(certificate, r) => {
                self.repeat(node, Input::RoundCertificate(certificate));
                r.resume_with(())
            }
            other => self.decision_or_signature(node, other)?,
        })
    }

    fn decision_or_signature(&mut self, node: usize, effect: Effect<Trellis>) -> Result<Resume<Trellis>, String> {
        Ok(match effect {
            Effect::Decide(certificate, _, r) => {
                self.sync_log(node);
                self.decide(node, certificate);
                r.resume_with(())
            }
            Effect::Finalize(certificate, _, evidence, r) => {
                self.accuse(node, &evidence_from_engine(&evidence));
                self.finalize(node, certificate.height.0);
                r.resume_with(())
            }
            Effect::CertVerifiedSyncValue(response, proposer, r) => {
                let value = ProposedValue {
                    height: response.certificate.height,
                    round: response.certificate.round,
                    valid_round: Round::Nil,
                    proposer,
                    value: BlockId(response.certificate.value_id),
                    validity: Validity::Valid,
                };
                let (to, life) = (node, self.nodes[node].life);
                let input = Rc::new(Input::ProposedValue(value, ValueOrigin::Sync));
                self.at(1, Event::Deliver { to, life, input });
                r.resume_with(())
            }
            Effect::CertRejectedSyncValue(peer, _, error, r) => {
                if self.is_honest_peer(&peer) {
                    self.fail(format!("node {node} refused an honest certificate: {error}"));
                }
                r.resume_with(())
            }
            other => self.signature(node, other)?,
        })
    }

    fn signature(&self, node: usize, effect: Effect<Trellis>) -> Result<Resume<Trellis>, String> {
        let (signer, verifier) = (&self.nodes[node].signer, &self.verifier);
        Ok(match effect {
            Effect::SignVote(vote, r) => {
                r.resume_with(now_or_never(signer.sign_vote(vote)).map_err(|e| e.to_string())?)
            }
            Effect::SignProposal(proposal, r) => {
                r.resume_with(now_or_never(signer.sign_proposal(proposal)).map_err(|e| e.to_string())?)
            }
            Effect::VerifySignature(message, key, r) => {
                let result = match &message.message {
                    ConsensusMsg::Vote(vote) => {
                        now_or_never(verifier.verify_signed_vote(vote, &message.signature, &key))
                    }
                    ConsensusMsg::Proposal(proposal) => {
                        now_or_never(verifier.verify_signed_proposal(proposal, &message.signature, &key))
                    }
                };
                r.resume_with(result.is_ok_and(|result| result.is_valid()))
            }
            Effect::VerifyCommitCertificate(c, set, t, r) => {
                r.resume_with(now_or_never(verifier.verify_commit_certificate(&Trellis, &c, &set, t)))
            }
            Effect::VerifyExtendedCommitCertificate(c, set, t, policy, r) => {
                let verdict = verifier.verify_extended_commit_certificate(&Trellis, &c, &set, t, policy);
                r.resume_with(now_or_never(verdict))
            }
            Effect::VerifyPolkaCertificate(c, set, t, r) => {
                r.resume_with(now_or_never(verifier.verify_polka_certificate(&Trellis, &c, &set, t)))
            }
            Effect::VerifyRoundCertificate(c, set, t, r) => {
                r.resume_with(now_or_never(verifier.verify_round_certificate(&Trellis, &c, &set, t)))
            }
            other => return Err(format!("unexpected effect {other:?}")),
        })
    }
}
