//! A chain of Ethereum's from a file of blocks, each executed and committed like any other (CHN-41).
//!
//! The file is what Ethereum's clients export: the RLP of block after block, block zero or not. Blocks that the store has
//! already are passed over, so that an import that was interrupted goes on where it was.

use alloy_primitives::B256;
use alloy_rlp::Decodable;
use std::io::{self, Read};
use trellis_chain_execution::{BlockError, EthereumBlock, Executor};
use trellis_chain_storage::{CommitError, ReadError, Store};
use trellis_primitives::BLOCK_BYTES_MAX;

/// Lists shorter than this have their length in their first byte (RLP).
const SHORT_LIST_BYTES_MAX: usize = 55;
/// The first byte of a list without items.
const LIST_FIRST: u8 = 0xc0;
/// The first byte of a list whose length stands behind it, less the number of bytes of that length.
const LONG_LIST_FIRST: u8 = 0xf7;

/// Why an import stopped. What was imported before is kept.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("the file of blocks cannot be read: {0}")]
    File(#[from] io::Error),
    /// What stands in the file is no block.
    #[error("item {item} of the file is no block: {reason}")]
    NotABlock {
        /// Its place in the file, from 0.
        item: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A block that does not follow its parent, or is not what its header says.
    #[error("block {height} is refused: {reason}")]
    Block {
        /// Its number.
        height: u64,
        /// The rule that it breaks.
        reason: BlockError,
    },
    /// The file has another block where the store has one.
    #[error("block {height} is {found} in the file and {expected} in the folder")]
    Fork {
        /// Its number.
        height: u64,
        /// The hash in the store.
        expected: B256,
        /// The hash in the file.
        found: B256,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// What an import did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Blocks executed and committed.
    pub blocks: u64,
    /// Blocks that were there already.
    pub known: u64,
}

/// Executes and commits the blocks of a file, up to and with `last` where it is named; `done` hears every height.
///
/// # Errors
/// [`ImportError`] with the first block that is not what it must be.
pub fn import_ethereum(
    store: &Store,
    executor: &Executor,
    file: &mut dyn Read,
    last: Option<B256>,
    done: &mut dyn FnMut(u64),
) -> Result<Imported, ImportError> {
    let mut imported = Imported { blocks: 0, known: 0 };
    let mut item = 0_u64;
    while let Some(bytes) = next_item(file)? {
        let not_a_block = |reason: String| ImportError::NotABlock { item, reason };
        let mut rest = bytes.as_slice();
        let block = EthereumBlock::decode(&mut rest).map_err(|error| not_a_block(error.to_string()))?;
        if !rest.is_empty() {
            return Err(not_a_block(format!("{} bytes are left over", rest.len())));
        }
        let (height, hash) = (block.header.number, block.header.hash_slow());
        match store.hash_at(height)? {
            Some(known) if known == hash => imported.known = imported.known.saturating_add(1),
            Some(expected) => return Err(ImportError::Fork { height, expected, found: hash }),
            None => {
                let head = store.head();
                let executed = executor.execute_ethereum_block(&head, block);
                store.commit(executed.map_err(|reason| ImportError::Block { height, reason })?, None)?;
                imported.blocks = imported.blocks.saturating_add(1);
            }
        }
        done(height);
        if last == Some(hash) {
            break;
        }
        item = item.saturating_add(1);
    }
    Ok(imported)
}

/// The bytes of the next list of the file; none at its end.
fn next_item(file: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut first = [0_u8; 1];
    if file.read(&mut first)? == 0 {
        return Ok(None);
    }
    let [first] = first;
    let short = usize::from(first.checked_sub(LIST_FIRST).ok_or_else(|| damaged("no RLP list where a block begins"))?);
    let mut item = vec![first];
    let length = if short <= SHORT_LIST_BYTES_MAX {
        short
    } else {
        let mut length = vec![0_u8; usize::from(first.saturating_sub(LONG_LIST_FIRST))];
        file.read_exact(&mut length)?;
        item.extend_from_slice(&length);
        let wide = length.iter().fold(0_u64, |sum, byte| sum.checked_shl(8).unwrap_or(u64::MAX) | u64::from(*byte));
        usize::try_from(wide).unwrap_or(usize::MAX)
    };
    if length > BLOCK_BYTES_MAX {
        return Err(damaged("a block over 16 MiB"));
    }
    let begun = item.len();
    item.resize(begun.saturating_add(length), 0);
    file.read_exact(item.get_mut(begun..).unwrap_or_default())?;
    Ok(Some(item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_read_one_after_another_and_a_torn_one_is_an_error() {
        let (short, long) = (vec![0xc2, 1, 2], [vec![0xf8, 60], vec![7; 60]].concat());
        let file = [short.clone(), long.clone()].concat();
        let mut rest = file.as_slice();
        assert_eq!(next_item(&mut rest).unwrap(), Some(short));
        assert_eq!(next_item(&mut rest).unwrap(), Some(long));
        assert_eq!(next_item(&mut rest).unwrap(), None);
        assert!(next_item(&mut [0xf8_u8, 60, 7].as_slice()).is_err());
        assert!(next_item(&mut [0x80_u8].as_slice()).is_err());
        assert!(next_item(&mut [0xff_u8, 255, 255, 255, 255, 255, 255, 255, 255].as_slice()).is_err());
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Ok(Some(_)) = next_item(&mut rest) {}
        }
    }
}
