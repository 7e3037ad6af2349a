//! Attention of one row over one sequence's own keys and values. All sums run in one fixed order that depends on nothing but the row, so a
//! result never depends on the batch.

/// Independent partial sums in a dot product; lets the compiler use vectors without changing the order between builds.
const LANES: usize = 16;

/// Keys and values of one sequence, reserved in full when it joins.
#[derive(Debug)]
pub(crate) struct KvCache {
    layers: Vec<LayerCache>,
    capacity: usize,
    len: usize,
    head_dim: usize,
}

#[derive(Debug)]
struct LayerCache {
    /// `[kv head][position][head_dim]`
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    pub(crate) fn new(layers: usize, kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        let numbers = kv_heads * capacity * head_dim;
        let layer = |_| LayerCache { keys: vec![0.0; numbers], values: vec![0.0; numbers] };
        Self { layers: (0..layers).map(layer).collect(), capacity, len: 0, head_dim }
    }

    /// Positions filled.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Positions left.
    pub(crate) fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Marks positions as filled, after every layer has stored them.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len = (self.len + rows).min(self.capacity);
    }

    /// Stores one row of all key/value heads at a position.
    pub(crate) fn store(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let (capacity, width) = (self.capacity, self.head_dim);
        let Some(cache) = self.layers.get_mut(layer) else { return };
        for (head, (key, value)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate() {
            let start = (head * capacity + position) * width;
            cache.keys[start..start + width].copy_from_slice(key);
            cache.values[start..start + width].copy_from_slice(value);
        }
    }

    /// Attention of one row at `position` (which is stored already): `query` and `out` hold all query heads. Query heads share key/value
    /// heads in equal groups.
    pub(crate) fn attend(&self, layer: usize, position: usize, query: &[f32], scores: &mut Vec<f32>, out: &mut [f32]) {
        let width = self.head_dim;
        let Some(cache) = self.layers.get(layer) else { return };
        let kv_heads = cache.keys.len() / (self.capacity * width);
        let group = query.len() / width / kv_heads.max(1);
        let scale = 1.0 / (width as f32).sqrt();
        for (head, (q, o)) in query.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            let start = head / group * self.capacity * width;
            let span = start..start + (position + 1) * width;
            attend_head(q, &cache.keys[span.clone()], &cache.values[span], scale, scores, o);
        }
    }
}

fn attend_head(query: &[f32], keys: &[f32], values: &[f32], scale: f32, scores: &mut Vec<f32>, out: &mut [f32]) {
    let width = query.len();
    scores.clear();
    scores.extend(keys.chunks_exact(width).map(|key| dot(query, key) * scale));
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0f32;
    for score in scores.iter_mut() {
        *score = (*score - top).exp();
        total += *score;
    }
    out.fill(0.0);
    for (weight, value) in scores.iter().zip(values.chunks_exact(width)) {
        let weight = *weight / total;
        for (o, v) in out.iter_mut().zip(value) {
            *o += weight * v;
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_whole, b_whole) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_whole.remainder().iter().zip(b_whole.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_whole.zip(b_whole) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_over_two_positions_is_the_weighted_mean_of_the_values() {
        // One layer, one key/value head, two query heads, head width 2.
        let mut cache = KvCache::new(1, 1, 2, 4);
        cache.store(0, 0, &[1.0, 0.0], &[10.0, 0.0]);
        cache.store(0, 1, &[0.0, 1.0], &[0.0, 20.0]);
        cache.advance(2);
        let mut out = [0.0; 4];
        cache.attend(0, 1, &[0.0, 0.0, 2.0, 0.0], &mut Vec::new(), &mut out);
        assert_eq!(out[..2], [5.0, 10.0]);
        let first = (2.0f32 / 2.0f32.sqrt()).exp();
        let weight = first / (first + 1.0);
        assert!((out[2] - 10.0 * weight).abs() < 1e-5 && (out[3] - 20.0 * (1.0 - weight)).abs() < 1e-5, "{out:?}");
        assert_eq!((cache.len(), cache.room()), (2, 2));
    }

    #[test]
    fn a_dot_product_has_no_gap_at_any_length() {
        for n in 0..70usize {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let ones = vec![1.0; n];
            assert_eq!(dot(&a, &ones), a.iter().sum::<f32>(), "{n}");
        }
    }
}
