//! A backend that does exactly what a test says, and tells whether it was cancelled.

use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use trellis_market_provider::{Backend, BackendDone, BackendError, BackendEvent, BackendInfo, BackendStream};
use trellis_market_receipt::{FinishReason, InstructionSet, JobRequest};
use trellis_primitives::{B256, keccak256};

/// How an answer ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Stop,
    Hang,
    Fail,
}

/// What to answer.
#[derive(Clone)]
pub struct Script {
    pub prompt_tokens: u64,
    pub pieces: usize,
    pub tokens_per_piece: u64,
    pub delay_ms: u64,
    pub end: End,
    pub started: Arc<AtomicUsize>,
    pub dropped: Arc<AtomicUsize>,
}

impl Script {
    pub fn new(prompt_tokens: u64, pieces: usize) -> Self {
        Self {
            prompt_tokens,
            pieces,
            tokens_per_piece: 1,
            delay_ms: 0,
            end: End::Stop,
            started: Arc::default(),
            dropped: Arc::default(),
        }
    }

    pub fn text(pieces: usize) -> String {
        (0..pieces).map(piece).collect()
    }
}

/// Long enough that its bytes allow for several tokens.
fn piece(number: usize) -> String {
    format!("piece number {number} ")
}

#[async_trait]
impl Backend for Script {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            model_digest: keccak256("script"),
            tokenizer_digest: B256::ZERO,
            context_tokens: 100_000,
            engine: "script".into(),
            instruction_set: InstructionSet::UNKNOWN,
            capacity: 8,
        }
    }

    async fn count_prompt(&self, _: &JobRequest) -> Result<u64, BackendError> {
        Ok(self.prompt_tokens)
    }

    async fn start(&self, _: &JobRequest) -> Result<Box<dyn BackendStream>, BackendError> {
        self.started.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Running { script: self.clone(), next: 0 }))
    }
}

struct Running {
    script: Script,
    next: usize,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.script.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl BackendStream for Running {
    async fn next(&mut self) -> Result<BackendEvent, BackendError> {
        if self.script.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.script.delay_ms)).await;
        }
        let number = self.next;
        if number < self.script.pieces {
            self.next += 1;
            return Ok(BackendEvent::Text { text: piece(number), tokens: self.script.tokens_per_piece });
        }
        match self.script.end {
            End::Stop => Ok(BackendEvent::Done(BackendDone {
                finish: FinishReason::Stop,
                usage: None,
                token_ids: Vec::new(),
                fingerprint_root: B256::ZERO,
                error: String::new(),
            })),
            End::Hang => std::future::pending().await,
            End::Fail => Err(BackendError::Failed { reason: "the script says so".into() }),
        }
    }
}
