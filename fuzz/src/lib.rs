//! Inputs for the fuzz targets in `tests/`: valid encodings, bent.
//!
//! Random bytes seldom get past the first field of a decoder. So a target names a few valid encodings, and the engine
//! chooses which one to take and how to bend it: bytes changed, inserted, removed, repeated, cut, or bytes of its own.

use bolero::TypeGenerator;

/// Edits of one input at most.
const EDITS_MAX: usize = 12;
/// Bytes of an input at most.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// One change of an encoding. Places wrap around its length.
#[derive(Debug, Clone, TypeGenerator)]
pub enum Edit {
    /// Another byte.
    Set(u16, u8),
    /// One bit the other way.
    Flip(u16, u8),
    /// Bytes that were not there.
    Insert(u16, Vec<u8>),
    /// So many bytes less.
    Remove(u16, u8),
    /// A part of it once more, where it ends.
    Repeat(u16, u8),
    /// The largest number where a length may stand.
    Inflate(u16),
    /// Nothing after here.
    Cut(u16),
}

/// An input that an engine makes.
#[derive(Debug, Clone, TypeGenerator)]
pub enum Input {
    /// A valid encoding, bent.
    Bent(u8, Vec<Edit>),
    /// Bytes of the engine's own.
    Raw(Vec<u8>),
}

impl Input {
    /// The bytes, with these valid encodings to choose from.
    #[must_use]
    pub fn bytes(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        match self {
            Self::Raw(bytes) => bytes.clone(),
            Self::Bent(seed, edits) => {
                let seed = usize::from(*seed).checked_rem(seeds.len()).and_then(|at| seeds.get(at));
                let mut bytes = seed.cloned().unwrap_or_default();
                edits.iter().take(EDITS_MAX).for_each(|edit| edit.apply(&mut bytes));
                bytes.truncate(INPUT_BYTES_MAX);
                bytes
            }
        }
    }
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: &u16| usize::from(*at).checked_rem(bytes.len()).unwrap_or_default();
        match self {
            Self::Set(at, value) => {
                let at = place(at);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = *value);
            }
            Self::Flip(at, bit) => {
                let at = place(at);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (bit % 8));
            }
            Self::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = place(at);
                let end = (at + usize::from(*count)).min(bytes.len());
                bytes.drain(at..end);
            }
            Self::Repeat(at, count) => {
                let at = place(at);
                let end = (at + usize::from(*count)).min(bytes.len());
                let part: Vec<u8> = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.extend(part);
            }
            Self::Inflate(at) => {
                let at = place(at);
                bytes.iter_mut().skip(at).take(4).for_each(|byte| *byte = 0xff);
            }
            Self::Cut(at) => {
                let at = place(at);
                bytes.truncate(at);
            }
        }
    }
}

/// Runs a target on what the engine makes of these valid encodings.
#[macro_export]
macro_rules! fuzz {
    ($seeds:expr, $target:expr) => {{
        let seeds: Vec<Vec<u8>> = $seeds;
        bolero::check!().with_type::<$crate::Input>().for_each(|input| $target(&input.bytes(&seeds)));
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_of_nothing_and_beyond_the_end_do_no_harm() {
        let edits = vec![
            Edit::Set(9, 1),
            Edit::Flip(9, 200),
            Edit::Remove(9, 255),
            Edit::Repeat(9, 255),
            Edit::Inflate(9),
            Edit::Cut(9),
            Edit::Insert(9, vec![1, 2, 3]),
        ];
        assert_eq!(Input::Bent(3, edits.clone()).bytes(&[]), [1, 2, 3]);
        assert!(!Input::Bent(3, edits).bytes(&[vec![7; 4]]).is_empty());
    }

    #[test]
    fn without_edits_a_seed_is_itself() {
        assert_eq!(Input::Bent(4, Vec::new()).bytes(&[vec![1], vec![2], vec![3]]), [2]);
        assert_eq!(Input::Raw(vec![9]).bytes(&[vec![1]]), [9]);
    }
}
