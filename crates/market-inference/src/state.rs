//! One sequence as a state machine: the model's outputs go in, events come out. No thread, channel or clock.

use sha2::{Digest, Sha256};

use crate::fingerprint::FingerprintBuilder;
use crate::forward::RowOutput;
use crate::sampler::Sampler;
use crate::service::{FinishReason, Sampling, TokenEvent};
use crate::text::OutputText;
use crate::tokenizer::TokenizerOnly;

/// Most events that one output can cause: its text and the end.
pub(crate) const EVENTS_PER_OUTPUT_MAX: usize = 2;

/// A sequence that is queued or running.
#[derive(Debug)]
pub(crate) struct Sequence {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    tokens_max: usize,
    /// Tokens of prompt and output that the cache holds.
    fed: usize,
    /// Output tokens that no event has told of yet.
    untold: u32,
    sampler: Sampler,
    text: OutputText,
    prints: FingerprintBuilder,
    digest: Sha256,
}

/// What one output caused.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<TokenEvent>,
    /// Set when the sequence ended; its last event is then `Done`.
    pub(crate) finish: Option<FinishReason>,
}

impl Sequence {
    /// `tokens_max` has been cut to the context already.
    pub(crate) fn new(prompt: Vec<u32>, tokens_max: usize, sampling: &Sampling, dim: usize) -> Self {
        Self {
            prompt,
            ids: Vec::new(),
            tokens_max,
            fed: 0,
            untold: 0,
            sampler: Sampler::new(sampling.temperature, sampling.top_p, sampling.seed),
            text: OutputText::new(sampling.stop.clone()),
            prints: FingerprintBuilder::new(dim),
            digest: Sha256::new(),
        }
    }

    pub(crate) fn tokens_in(&self) -> u32 {
        self.prompt.len() as u32
    }

    /// Positions that prompt and output may take.
    pub(crate) fn capacity(&self) -> usize {
        self.prompt.len() + self.tokens_max
    }

    pub(crate) fn is_prefilling(&self) -> bool {
        self.fed < self.prompt.len()
    }

    /// The next tokens to feed, at most `rows_max`.
    pub(crate) fn pending(&self, rows_max: usize) -> &[u32] {
        let rest = match self.fed.checked_sub(self.prompt.len()) {
            None => self.prompt.get(self.fed..),
            Some(output_fed) => self.ids.get(output_fed..),
        };
        let rest = rest.unwrap_or(&[]);
        rest.get(..rows_max).unwrap_or(rest)
    }

    /// Whether feeding so many more rows reaches the end of what is known, so that logits are wanted.
    pub(crate) fn wants_output(&self, rows: usize) -> bool {
        self.fed + rows >= self.prompt.len() + self.ids.len()
    }

    /// So many rows have been fed.
    pub(crate) fn on_fed(&mut self, rows: usize) {
        self.fed += rows;
    }

    /// The model's output after the last token.
    pub(crate) fn on_output(&mut self, output: &RowOutput, tokenizer: &TokenizerOnly) -> Outcome {
        let Some(id) = self.sampler.next(&output.logits) else {
            return self.on_end(FinishReason::Error);
        };
        let spelling = tokenizer.spelling(id);
        // A control token that is no end mark (a role mark, say) ends the answer too: it has no text and would begin another turn.
        if tokenizer.is_end(id) || spelling.is_empty() {
            return self.on_end(FinishReason::Stop);
        }
        self.ids.push(id);
        self.untold += 1;
        self.prints.push(&output.hidden);
        let (text, stopped) = self.text.push(spelling);
        if stopped {
            return self.close(text, FinishReason::Stop);
        }
        if self.ids.len() >= self.tokens_max {
            let text = text + &self.text.finish();
            return self.close(text, FinishReason::Length);
        }
        if text.is_empty() {
            return Outcome::default();
        }
        Outcome { events: vec![self.tell(text)], finish: None }
    }

    /// Ends the sequence for a reason that is not its last token's text.
    pub(crate) fn on_end(&mut self, reason: FinishReason) -> Outcome {
        let text = if reason == FinishReason::Stop { self.text.finish() } else { String::new() };
        self.close(text, reason)
    }

    fn close(&mut self, text: String, finish: FinishReason) -> Outcome {
        let mut events = Vec::with_capacity(EVENTS_PER_OUTPUT_MAX);
        if !text.is_empty() || self.untold > 0 {
            events.push(self.tell(text));
        }
        events.push(TokenEvent::Done {
            finish,
            tokens_out: self.ids.len() as u32,
            token_ids: std::mem::take(&mut self.ids),
            output_digest: std::mem::take(&mut self.digest).finalize().into(),
            fingerprints: self.prints.finish(),
        });
        Outcome { events, finish: Some(finish) }
    }

    fn tell(&mut self, text: String) -> TokenEvent {
        self.digest.update(text.as_bytes());
        TokenEvent::Text { text, tokens: std::mem::take(&mut self.untold) }
    }
}
