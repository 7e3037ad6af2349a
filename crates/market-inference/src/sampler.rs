//! Picks the next token from its logits; repeatable for one seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Tokens less likely than the best by more than this factor in the exponent are never drawn; it spares sorting the whole vocabulary.
const EXPONENT_BELOW_BEST_MAX: f32 = 20.0;

#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f32,
    top_p: f32,
    rng: ChaCha8Rng,
}

impl Sampler {
    pub(crate) fn new(temperature: f32, top_p: f32, seed: u64) -> Self {
        Self { temperature, top_p, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The next token; none if no logit is a number. Greedy at temperature zero, ties go to the lower id.
    pub(crate) fn next(&mut self, logits: &[f32]) -> Option<u32> {
        let (best, top) = argmax(logits)?;
        if self.temperature <= 0.0 {
            return Some(best);
        }
        let weight = |logit: f32| (logit - top) / self.temperature;
        let mut candidates: Vec<(u32, f32)> = (0u32..)
            .zip(logits)
            .map(|(id, logit)| (id, weight(*logit)))
            .filter(|(_, w)| *w >= -EXPONENT_BELOW_BEST_MAX)
            .map(|(id, w)| (id, w.exp()))
            .collect();
        candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
        let mut kept = 0.0f64;
        let wanted = total * f64::from(self.top_p);
        let count = candidates.iter().position(|c| {
            kept += f64::from(c.1);
            kept >= wanted
        });
        candidates.truncate(count.map_or(candidates.len(), |n| n + 1));
        let kept: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
        let mut point = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * kept;
        for (id, mass) in &candidates {
            point -= f64::from(*mass);
            if point < 0.0 {
                return Some(*id);
            }
        }
        candidates.last().map(|c| c.0).or(Some(best))
    }
}

fn argmax(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best: Option<(u32, f32)> = None;
    for (id, logit) in (0u32..).zip(logits) {
        if logit.is_finite() && best.is_none_or(|(_, top)| *logit > top) {
            best = Some((id, *logit));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_best_and_the_lower_id_of_equals() {
        assert_eq!(Sampler::new(0.0, 1.0, 1).next(&[0.0, 3.0, 3.0, f32::NAN, f32::INFINITY]), Some(1));
        assert_eq!(Sampler::new(0.0, 1.0, 1).next(&[f32::NAN; 3]), None);
    }

    #[test]
    fn one_seed_draws_one_sequence_and_another_seed_another() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 1.7).sin()).collect();
        let draw = |seed| {
            let mut s = Sampler::new(1.0, 1.0, seed);
            (0..32).map(|_| s.next(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn draws_follow_the_probabilities_and_top_p_cuts_the_tail() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let count = |top_p: f32| {
            let mut sampler = Sampler::new(1.0, top_p, 3);
            let mut counts = [0u32; 3];
            for _ in 0..10_000 {
                counts[sampler.next(&logits).unwrap() as usize] += 1;
            }
            counts
        };
        let [a, b, c] = count(1.0);
        assert!(
            (4_800..5_200).contains(&a) && (2_800..3_200).contains(&b) && (1_800..2_200).contains(&c),
            "{a} {b} {c}"
        );
        assert_eq!(count(0.79)[2], 0);
        assert_eq!(count(0.1), [10_000, 0, 0]);
    }
}
