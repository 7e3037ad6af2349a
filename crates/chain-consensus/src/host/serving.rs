//! Decided blocks for a validator that fell behind. Whoever asks may name any range; the answer is cut in heights and bytes.

use alloy_rlp::Encodable;
use arc_malachitebft_sync::RawDecidedValue;

use crate::application::{Application, DecidedBlock};
use crate::certificate::decided_to_engine;
use crate::context::Trellis;
use crate::network::RESPONSE_BYTES_MAX;

/// Decided blocks in one answer at most; a larger gap is for the chain's own sync.
const SERVED_HEIGHTS_MAX: u64 = 64;
/// Bytes that the envelope of one block takes at most, and that of the whole answer.
const ENVELOPE_BYTES: usize = 32;

/// The blocks `first..=last` as far as they are here and fit into one answer. Those after them are asked for again.
pub(super) async fn decided_blocks(app: &dyn Application, first: u64, last: u64) -> Vec<RawDecidedValue<Trellis>> {
    let last = last.min(first.saturating_add(SERVED_HEIGHTS_MAX - 1));
    let mut values = Vec::new();
    let mut bytes = ENVELOPE_BYTES;
    for height in first..=last {
        match app.decided(height).await {
            Ok(Some(block)) => {
                bytes = bytes.saturating_add(answer_bytes(&block));
                if bytes > RESPONSE_BYTES_MAX {
                    break;
                }
                values.push(decided_to_engine(&block.certificate, block.block_rlp.0));
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(height, %error, "decided block not served");
                break;
            }
        }
    }
    values
}

/// What a block takes in the answer.
fn answer_bytes(block: &DecidedBlock) -> usize {
    block.certificate.length().saturating_add(block.block_rlp.len()).saturating_add(ENVELOPE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::{AppError, ProposedBlock, Tip, Verdict};
    use crate::codec::EngineCodec;
    use crate::context::BlockHeight;
    use arc_malachitebft_codec::HasEncodedLen;
    use arc_malachitebft_sync::{Response, ValueResponse};
    use async_trait::async_trait;
    use std::sync::atomic::{AtomicU64, Ordering};
    use trellis_chain_finality::{Equivocation, ValidatorSet};
    use trellis_primitives::{B256, Bytes, CommitCertificate, CommitSignature, UnixMs};

    /// A chain of blocks of one size, that counts how many of them were read.
    struct Archive {
        tip: u64,
        block_bytes: usize,
        signatures: usize,
        broken_at: u64,
        read: AtomicU64,
    }

    fn archive(tip: u64, block_bytes: usize) -> Archive {
        Archive { tip, block_bytes, signatures: 4, broken_at: u64::MAX, read: AtomicU64::new(0) }
    }

    fn not_asked<T>() -> Result<T, AppError> {
        Err(AppError::Internal { operation: "another question", detail: "only decided blocks are served".into() })
    }

    #[async_trait]
    impl Application for Archive {
        async fn tip(&self) -> Result<Tip, AppError> {
            not_asked()
        }
        async fn validators(&self, _: u64) -> Result<ValidatorSet, AppError> {
            not_asked()
        }
        async fn propose(
            &self,
            _: u64,
            _: u32,
            _: Option<CommitCertificate>,
            _: UnixMs,
        ) -> Result<ProposedBlock, AppError> {
            not_asked()
        }
        async fn verify(&self, _: u64, _: Bytes) -> Result<Verdict, AppError> {
            not_asked()
        }
        async fn commit(&self, _: DecidedBlock) -> Result<(), AppError> {
            not_asked()
        }
        async fn finalized(&self, _: CommitCertificate, _: Vec<Equivocation>) -> Result<(), AppError> {
            not_asked()
        }
        async fn decided(&self, height: u64) -> Result<Option<DecidedBlock>, AppError> {
            self.read.fetch_add(1, Ordering::Relaxed);
            if height >= self.broken_at {
                return Err(AppError::Storage { operation: "reading a block", detail: "test".into() });
            }
            let signature = CommitSignature { validator: Default::default(), signature: vec![1; 64].into() };
            let signatures = vec![signature; self.signatures];
            let certificate = CommitCertificate { height, round: 0, block_hash: B256::ZERO, signatures };
            let block_rlp = vec![7; self.block_bytes].into();
            Ok((1..=self.tip).contains(&height).then_some(DecidedBlock { certificate, block_rlp }))
        }
    }

    async fn heights(archive: &Archive, first: u64, last: u64) -> Vec<u64> {
        let values = decided_blocks(archive, first, last).await;
        values.iter().map(|value| value.certificate.height.0).collect()
    }

    #[tokio::test]
    async fn a_request_for_any_range_is_answered_with_64_heights_at_most_and_none_that_is_not_here() {
        let chain = archive(1_000, 100);
        assert_eq!(heights(&chain, 1, u64::MAX).await, (1..=64).collect::<Vec<_>>());
        assert_eq!(heights(&chain, 0, u64::MAX).await, [0; 0], "the genesis was not decided");
        assert_eq!(chain.read.load(Ordering::Relaxed), 65, "nothing is read that is not served");
        assert_eq!(heights(&chain, 10, 12).await, [10, 11, 12]);
        assert_eq!(heights(&chain, 990, 2_000).await, (990..=1_000).collect::<Vec<_>>());
        assert_eq!(heights(&chain, 1_001, u64::MAX).await, [0; 0]);
        assert_eq!(heights(&chain, u64::MAX, u64::MAX).await, [0; 0]);
        assert_eq!(heights(&chain, 12, 10).await, [0; 0]);
        let broken = Archive { broken_at: 5, ..archive(1_000, 100) };
        assert_eq!(heights(&broken, 2, 9).await, [2, 3, 4], "what was read before the disk failed is served");
    }

    #[tokio::test]
    async fn an_answer_fits_into_what_the_asker_reads_whatever_the_blocks_weigh() {
        // Two of the largest blocks and their certificates; many that are mostly certificate; one that alone is too large.
        let blocks = [(8_388_608, 4_096, 2), (10, 4_096, 57), (1_000_000, 4, 20), (RESPONSE_BYTES_MAX, 1, 0)];
        for (block_bytes, signatures, expected) in blocks {
            let chain = Archive { signatures, ..archive(64, block_bytes) };
            let values = decided_blocks(&chain, 1, 64).await;
            let response = Response::ValueResponse(ValueResponse::new(BlockHeight(1), values.clone()));
            let bytes = EngineCodec.encoded_len(&response).unwrap();
            assert!(bytes <= RESPONSE_BYTES_MAX, "{bytes} bytes");
            assert_eq!(values.len(), expected, "blocks of {block_bytes} bytes: {bytes} in all");
            assert_eq!(
                chain.read.load(Ordering::Relaxed),
                expected as u64 + 1,
                "one more was read to see that it is too much"
            );
        }
    }
}
