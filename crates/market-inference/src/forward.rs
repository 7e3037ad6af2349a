//! The forward pass of the llama family: RMS norm, rotary positions on neighbouring pairs (the order GGUF files use), grouped-query
//! attention, SwiGLU. Rows of all sequences go through the linear layers together; everything else is done row by row.

use candle_core::quantized::QTensor;
use candle_core::{Device, Error, Result, Tensor};

use crate::attention::KvCache;
use crate::weights::{Hyper, Layer, Weights};

/// The model as it computes.
pub(crate) struct Llama {
    pub(crate) hyper: Hyper,
    weights: Weights,
    /// Tokens that can be output: the tokenizer's; padded rows of the matrix are left out.
    vocabulary: usize,
}

/// The rows of one sequence in a step.
pub(crate) struct Rows<'a> {
    /// Tokens to feed, in order, after what the cache holds.
    pub(crate) tokens: &'a [u32],
    pub(crate) cache: &'a mut KvCache,
    /// Whether the logits after the last token are wanted.
    pub(crate) wants_output: bool,
}

/// What follows the last token of a sequence's rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowOutput {
    /// The hidden state after the final norm.
    pub(crate) hidden: Vec<f32>,
    pub(crate) logits: Vec<f32>,
}

/// Where a flat row belongs.
struct Place {
    sequence: usize,
    position: usize,
}

impl Llama {
    pub(crate) fn new(hyper: Hyper, weights: Weights, vocabulary: usize) -> Self {
        Self { hyper, weights, vocabulary }
    }

    pub(crate) fn parameters(&self) -> u64 {
        self.weights.parameters
    }

    pub(crate) fn new_cache(&self, capacity: usize) -> KvCache {
        KvCache::new(self.hyper.layers, self.hyper.kv_heads, self.hyper.head_dim, capacity)
    }

    /// Computes one step. An output is there for each sequence that wants one.
    pub(crate) fn forward(&self, batch: &mut [Rows<'_>]) -> Result<Vec<Option<RowOutput>>> {
        let mut places = Vec::new();
        let mut tokens = Vec::new();
        for (sequence, rows) in batch.iter().enumerate() {
            if rows.tokens.len() > rows.cache.room()
                || rows.tokens.iter().any(|t| *t as usize >= self.weights.vocabulary_rows)
            {
                return Err(Error::Msg(format!("sequence {sequence} does not fit its cache or has an unknown token")));
            }
            places.extend((0..rows.tokens.len()).map(|i| Place { sequence, position: rows.cache.len() + i }));
            tokens.extend_from_slice(rows.tokens);
        }
        if tokens.is_empty() {
            return Ok(batch.iter().map(|_| None).collect());
        }
        let count = tokens.len();
        let ids = Tensor::from_vec(tokens, count, &Device::Cpu)?;
        let mut x = self.weights.embedding.embedding(&ids)?.flatten_all()?.to_vec1::<f32>()?;
        let turns = self.turns(&places);
        for (number, layer) in self.weights.layers.iter().enumerate() {
            self.attention_block(number, layer, &places, &turns, batch, &mut x)?;
            self.feed_forward_block(layer, &mut x)?;
        }
        for rows in batch.iter_mut() {
            rows.cache.advance(rows.tokens.len());
        }
        self.outputs(batch, &x)
    }

    /// Cosine and sine of every pair for every row.
    fn turns(&self, places: &[Place]) -> Vec<(f32, f32)> {
        let turn = |position: usize, angle: &f64| {
            let (sin, cos) = (position as f64 * angle).sin_cos();
            (cos as f32, sin as f32)
        };
        places.iter().flat_map(|p| self.weights.rope_angles.iter().map(move |a| turn(p.position, a))).collect()
    }

    fn attention_block(
        &self,
        number: usize,
        layer: &Layer,
        places: &[Place],
        turns: &[(f32, f32)],
        batch: &mut [Rows<'_>],
        x: &mut [f32],
    ) -> Result<()> {
        let h = &self.hyper;
        let normed = self.norm(x, &layer.attention_norm);
        let input = Tensor::from_vec(normed, (places.len(), h.dim), &Device::Cpu)?;
        let mut query = linear(&layer.query, &input)?;
        let mut key = linear(&layer.key, &input)?;
        let value = linear(&layer.value, &input)?;
        let (all, kv, pairs) = (h.heads * h.head_dim, h.kv_heads * h.head_dim, h.rope_dim / 2);
        let mut out = vec![0.0f32; places.len() * all];
        let mut scores = Vec::new();
        let rows = query.chunks_exact_mut(all).zip(key.chunks_exact_mut(kv)).zip(value.chunks_exact(kv));
        for (((place, ((q, k), v)), turn), o) in
            places.iter().zip(rows).zip(turns.chunks_exact(pairs)).zip(out.chunks_exact_mut(all))
        {
            rotate(q, h.head_dim, turn);
            rotate(k, h.head_dim, turn);
            let Some(sequence) = batch.get_mut(place.sequence) else { continue };
            sequence.cache.store(number, place.position, k, v);
            sequence.cache.attend(number, place.position, q, &mut scores, o);
        }
        let mixed = linear(&layer.output, &Tensor::from_vec(out, (places.len(), all), &Device::Cpu)?)?;
        add(x, &mixed);
        Ok(())
    }

    fn feed_forward_block(&self, layer: &Layer, x: &mut [f32]) -> Result<()> {
        let rows = x.len() / self.hyper.dim;
        let input = Tensor::from_vec(self.norm(x, &layer.feed_norm), (rows, self.hyper.dim), &Device::Cpu)?;
        let mut gate = linear(&layer.gate, &input)?;
        let up = linear(&layer.up, &input)?;
        for (g, u) in gate.iter_mut().zip(&up) {
            *g = *g / (1.0 + (-*g).exp()) * u;
        }
        let down = linear(&layer.down, &Tensor::from_vec(gate, (rows, self.hyper.feed_forward), &Device::Cpu)?)?;
        add(x, &down);
        Ok(())
    }

    /// RMS norm of every row.
    fn norm(&self, x: &[f32], gain: &[f32]) -> Vec<f32> {
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(self.hyper.dim) {
            let mean = row.iter().map(|v| v * v).sum::<f32>() / self.hyper.dim as f32;
            let scale = 1.0 / (mean + self.hyper.norm_epsilon).sqrt();
            out.extend(row.iter().zip(gain).map(|(v, g)| v * scale * g));
        }
        out
    }

    fn outputs(&self, batch: &[Rows<'_>], x: &[f32]) -> Result<Vec<Option<RowOutput>>> {
        let dim = self.hyper.dim;
        let mut last = Vec::new();
        let mut end = 0;
        for rows in batch {
            end += rows.tokens.len();
            if rows.wants_output && !rows.tokens.is_empty() {
                last.extend_from_slice(&x[(end - 1) * dim..end * dim]);
            }
        }
        if last.is_empty() {
            return Ok(batch.iter().map(|_| None).collect());
        }
        let hidden = self.norm(&last, &self.weights.norm);
        let output = self.weights.output.as_ref().unwrap_or(&self.weights.embedding);
        let logits = linear(output, &Tensor::from_slice(&hidden, (hidden.len() / dim, dim), &Device::Cpu)?)?;
        let width = self.weights.vocabulary_rows;
        let mut ready = hidden.chunks_exact(dim).zip(logits.chunks_exact(width));
        let one = |rows: &Rows<'_>| {
            let (hidden, logits) = if rows.wants_output && !rows.tokens.is_empty() { ready.next() } else { None }?;
            Some(RowOutput { hidden: hidden.to_vec(), logits: logits[..self.vocabulary.min(width)].to_vec() })
        };
        Ok(batch.iter().map(one).collect())
    }
}

/// `input × weightᵀ`, flat. The quantised kernel is called directly, so that no environment variable of candle can change the numbers.
fn linear(weight: &QTensor, input: &Tensor) -> Result<Vec<f32>> {
    input.apply_op1_no_bwd(weight)?.flatten_all()?.to_vec1::<f32>()
}

fn add(x: &mut [f32], y: &[f32]) {
    for (a, b) in x.iter_mut().zip(y) {
        *a += b;
    }
}

/// Turns the pairs `(2i, 2i + 1)` of every head in a row.
fn rotate(row: &mut [f32], head_dim: usize, turn: &[(f32, f32)]) {
    for head in row.chunks_exact_mut(head_dim) {
        for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(turn) {
            if let [a, b] = pair {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoadOptions;
    use crate::model::Model;

    fn feed(model: &Model, cache: &mut KvCache, tokens: &[u32]) -> RowOutput {
        let rows = Rows { tokens, cache, wants_output: true };
        model.llama.forward(&mut [rows]).unwrap().remove(0).unwrap()
    }

    #[test]
    fn a_prompt_gives_the_same_bits_at_once_in_chunks_and_token_by_token() {
        let model = Model::builtin(&LoadOptions::default()).unwrap();
        let tokens: Vec<u32> = (0..100u32).map(|i| 4 + i * 37 % 1_000).collect();
        let whole = feed(&model, &mut model.llama.new_cache(100), &tokens);
        for chunk in [1, 7, 64] {
            let mut cache = model.llama.new_cache(100);
            let last = tokens.chunks(chunk).map(|part| feed(&model, &mut cache, part)).last().unwrap();
            assert_eq!(last, whole, "chunks of {chunk}");
        }
    }

    #[test]
    fn rows_of_other_sequences_change_no_bit() {
        let model = Model::builtin(&LoadOptions::default()).unwrap();
        let one: Vec<u32> = (0..20u32).map(|i| 10 + i * 3).collect();
        let other: Vec<u32> = (0..33u32).map(|i| 500 + i * 5).collect();
        let (alone_one, alone_other) =
            (feed(&model, &mut model.llama.new_cache(40), &one), feed(&model, &mut model.llama.new_cache(40), &other));
        let (mut a, mut b, mut c) = (model.llama.new_cache(40), model.llama.new_cache(40), model.llama.new_cache(40));
        let outputs = model
            .llama
            .forward(&mut [
                Rows { tokens: &other, cache: &mut a, wants_output: true },
                Rows { tokens: &one[..5], cache: &mut b, wants_output: false },
                Rows { tokens: &one, cache: &mut c, wants_output: true },
            ])
            .unwrap();
        assert_eq!(outputs, [Some(alone_other), None, Some(alone_one)]);
        assert_eq!((a.len(), b.len(), c.len()), (33, 5, 20));
    }

    #[test]
    fn what_does_not_fit_the_cache_or_the_vocabulary_is_an_error() {
        let model = Model::builtin(&LoadOptions::default()).unwrap();
        let mut cache = model.llama.new_cache(2);
        for tokens in [&[1u32, 2, 3][..], &[5_000]] {
            assert!(model.llama.forward(&mut [Rows { tokens, cache: &mut cache, wants_output: true }]).is_err());
        }
        assert_eq!(cache.len(), 0);
    }
}
