//! Blocks that were proposed but not decided yet, on disk: a vote for a block must never outlive the block.
//!
//! One file per block, written whole, synced, then renamed into place:
//! `"TRLSPROP" ‖ version u8 ‖ height u64 ‖ round u32 ‖ pol round + 1 u64 ‖ proposer 20 ‖ own u8 ‖ block hash 32 ‖ length u32 ‖ crc32 of what follows u32 ‖ RLP`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use trellis_primitives::{Address, B256, BLOCK_BYTES_MAX, Bytes};

const MAGIC: &[u8; 8] = b"TRLSPROP";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 8 + 1 + 8 + 4 + 8 + 20 + 1 + 32 + 4 + 4;

/// Files looked at when the store opens; more than this is not our folder.
const FILES_MAX: usize = 4_096;

/// A proposed block and where it was proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undecided {
    pub(crate) height: u64,
    pub(crate) round: u32,
    pub(crate) pol_round: Option<u32>,
    pub(crate) proposer: Address,
    /// Whether this node built it, so that the same block is proposed again after a restart.
    pub(crate) own: bool,
    pub(crate) block_hash: B256,
    pub(crate) block_rlp: Bytes,
}

/// The folder of undecided blocks.
#[derive(Clone, Debug)]
pub(crate) struct UndecidedStore {
    dir: PathBuf,
}

impl UndecidedStore {
    /// Opens (or makes) the folder.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Makes the block durable.
    pub(crate) fn put(&self, block: &Undecided) -> io::Result<()> {
        let path = self.path(block.height, block.round, &block.block_hash);
        let partial = path.with_extension("partial");
        let mut file = File::create(&partial)?;
        file.write_all(&encode_head(block))?;
        file.write_all(&block.block_rlp)?;
        file.sync_data()?;
        fs::rename(&partial, &path)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Every whole block of `height` that is here. Files that are cut or damaged are removed: they were never voted on.
    pub(crate) fn load(&self, height: u64) -> io::Result<Vec<Undecided>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)?.take(FILES_MAX) {
            let path = entry?.path();
            if height_of(&path) != Some(height) {
                continue;
            }
            match decode(&fs::read(&path)?) {
                Some(block) if block.height == height => found.push(block),
                _ => {
                    tracing::warn!(path = %path.display(), "damaged undecided block removed");
                    fs::remove_file(&path)?;
                }
            }
        }
        found.sort_by_key(|block| block.round);
        Ok(found)
    }

    /// Forgets blocks of `height` and below, and leftovers of interrupted writes.
    pub(crate) fn prune(&self, height: u64) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)?.take(FILES_MAX) {
            let path = entry?.path();
            if height_of(&path).is_none_or(|h| h <= height) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, height: u64, round: u32, hash: &B256) -> PathBuf {
        self.dir.join(format!("{height:020}-{round:010}-{hash:x}.block"))
    }
}

fn height_of(path: &Path) -> Option<u64> {
    if path.extension()? != "block" {
        return None;
    }
    path.file_name()?.to_str()?.get(..20)?.parse().ok()
}

fn encode_head(block: &Undecided) -> Vec<u8> {
    let pol = block.pol_round.map_or(0, |round| u64::from(round).saturating_add(1));
    let mut out = Vec::with_capacity(HEAD_BYTES);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&block.height.to_be_bytes());
    out.extend_from_slice(&block.round.to_be_bytes());
    out.extend_from_slice(&pol.to_be_bytes());
    out.extend_from_slice(block.proposer.as_slice());
    out.push(u8::from(block.own));
    out.extend_from_slice(block.block_hash.as_slice());
    out.extend_from_slice(&u32::try_from(block.block_rlp.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&block.block_rlp).to_be_bytes());
    out
}

/// Reads fixed-size fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}

fn decode(bytes: &[u8]) -> Option<Undecided> {
    let mut fields = Fields(bytes);
    if &fields.take::<8>()? != MAGIC || fields.take::<1>()? != [VERSION] {
        return None;
    }
    let height = u64::from_be_bytes(fields.take()?);
    let round = u32::from_be_bytes(fields.take()?);
    let pol = u64::from_be_bytes(fields.take()?);
    let proposer = Address::from(fields.take::<20>()?);
    let [own] = fields.take::<1>()?;
    let block_hash = B256::from(fields.take::<32>()?);
    let length = usize::try_from(u32::from_be_bytes(fields.take()?)).ok()?;
    let crc = u32::from_be_bytes(fields.take()?);
    let body = fields.0;
    if body.len() != length || length > BLOCK_BYTES_MAX || crc32fast::hash(body) != crc {
        return None;
    }
    Some(Undecided {
        height,
        round,
        pol_round: pol.checked_sub(1).and_then(|round| u32::try_from(round).ok()),
        proposer,
        own: own == 1,
        block_hash,
        block_rlp: Bytes::copy_from_slice(body),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(height: u64, round: u32, body: &[u8]) -> Undecided {
        Undecided {
            height,
            round,
            pol_round: Some(3),
            proposer: Address::repeat_byte(4),
            own: true,
            block_hash: B256::repeat_byte(u8::try_from(round % 250).unwrap()),
            block_rlp: Bytes::copy_from_slice(body),
        }
    }

    // row: CHN-16
    #[test]
    fn a_block_is_there_again_after_a_restart_until_its_height_is_decided() {
        let dir = tempfile::tempdir().unwrap();
        let store = UndecidedStore::open(dir.path().join("undecided")).unwrap();
        let (a, b, c) = (block(7, 0, b"first"), block(7, 1, b"second"), block(8, 0, b"next"));
        for block in [&b, &a, &c] {
            store.put(block).unwrap();
        }
        let again = UndecidedStore::open(dir.path().join("undecided")).unwrap();
        assert_eq!(again.load(7).unwrap(), vec![a, b]);
        again.prune(7).unwrap();
        assert!(again.load(7).unwrap().is_empty());
        assert_eq!(again.load(8).unwrap(), vec![c]);
    }

    #[test]
    fn a_cut_or_damaged_file_is_not_a_block() {
        let dir = tempfile::tempdir().unwrap();
        let store = UndecidedStore::open(dir.path().to_owned()).unwrap();
        let whole = block(7, 0, b"a block of some length");
        store.put(&whole).unwrap();
        let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let bytes = fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(store.load(7).unwrap().is_empty());
        assert!(!path.exists());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
