use super::*;
use crate::context::{BlockHeight, Vote, VoteSignature, VoterAddress};
use arc_malachitebft_core_types::{NilOrVal, Round, SignedMessage, VoteType};
use arc_malachitebft_engine::wal::encode_entry;
use arc_malachitebft_wal::Log;
use proptest::prelude::*;
use tempfile::TempDir;
use trellis_primitives::{Address, B256};

fn entry(height: u64, round: u32) -> Vec<u8> {
    let vote = Vote {
        kind: VoteType::Prevote,
        height: BlockHeight(height),
        round: Round::new(round),
        value: NilOrVal::Val(B256::repeat_byte(3)),
        voter: VoterAddress(Address::repeat_byte(4)),
        extension: None,
    };
    let signed = SignedMessage::new(vote, VoteSignature(vec![7; 64].into()));
    let mut bytes = Vec::new();
    encode_entry(Input::<Trellis>::Vote(signed), &EngineCodec, &mut bytes).unwrap();
    bytes
}

fn log(height: u64, entries: u32) -> Entries {
    Entries { height, entries: (0..entries).map(|round| entry(height, round)).collect() }
}

struct Folder {
    _dir: TempDir,
    copies: Copies,
}

impl Folder {
    fn with(files: [Option<&[u8]>; 2]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::in_folder(dir.path());
        for (path, bytes) in copies.0.iter().zip(files) {
            if let Some(bytes) = bytes {
                fs::write(path, bytes).unwrap();
            }
        }
        Self { _dir: dir, copies }
    }

    fn mended(&self, tip: u64) -> Result<[Vec<u8>; 2], StartError> {
        mend_files(&self.copies, tip)?;
        Ok(self.copies.0.each_ref().map(|path| fs::read(path).unwrap()))
    }
}

#[test]
fn what_is_written_here_is_what_the_engines_library_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut library = Log::open(&path).unwrap();
    library.reset(7).unwrap();
    for entry in log(7, 3).entries {
        library.append(entry).unwrap();
    }
    assert_eq!(fs::read(&path).unwrap(), encode(&log(7, 3)));
    assert_eq!(parse(&encode(&log(7, 3))), Found::Log(log(7, 3)));
}

// row: CHN-16
#[test]
fn whatever_happens_to_the_end_of_one_copy_no_entry_is_lost() {
    let whole = encode(&log(7, 3));
    let mut damaged: Vec<Vec<u8>> = (0..=whole.len()).map(|cut| whole[..cut].to_vec()).collect();
    for byte in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[byte] ^= 0x10;
        damaged.push(flipped);
    }
    damaged.push([whole.as_slice(), [0; 64].as_slice()].concat());
    damaged.push([whole.as_slice(), [0xa5; 64].as_slice()].concat());
    for bytes in &damaged {
        for found in [[parse(&whole), parse(bytes)], [parse(bytes), parse(&whole)]] {
            assert_eq!(choose(found, 7), Ok(Some(log(7, 3))), "{bytes:?}");
        }
    }
    for bytes in damaged.iter().step_by(97) {
        for files in
            [[Some(whole.as_slice()), Some(bytes.as_slice())], [Some(bytes.as_slice()), Some(whole.as_slice())]]
        {
            assert_eq!(Folder::with(files).mended(6).unwrap(), [whole.clone(), whole.clone()], "{bytes:?}");
        }
    }
    for files in [[Some(whole.as_slice()), None], [None, Some(whole.as_slice())]] {
        assert_eq!(Folder::with(files).mended(6).unwrap(), [whole.clone(), whole.clone()], "a copy is missing");
    }
}

#[test]
fn a_tail_that_neither_copy_has_whole_was_never_synced_and_is_cut_off() {
    let whole = encode(&log(7, 2));
    let torn = |bytes: &[u8]| [whole.as_slice(), bytes].concat();
    let next = &encode(&log(7, 3))[whole.len()..];
    for (first, second) in [(torn(&[0; 40]), torn(&next[..20])), (torn(&next[..5]), whole.clone())] {
        let folder = Folder::with([Some(&first), Some(&second)]);
        assert_eq!(folder.mended(6).unwrap(), [whole.clone(), whole.clone()]);
    }
}

#[test]
fn of_two_heights_the_later_is_taken_unless_it_cannot_be_yet() {
    let (before, after) = (encode(&log(7, 3)), encode(&log(8, 0)));
    // Stopped between the two resets of a new height.
    let folder = Folder::with([Some(&after), Some(&before)]);
    assert_eq!(folder.mended(7).unwrap(), [after.clone(), after.clone()]);
    // One copy's height is damaged: it is far above the chain, and the other's is not.
    let absurd = encode(&Entries { height: 1 << 40, entries: Vec::new() });
    let folder = Folder::with([Some(&absurd), Some(&before)]);
    assert_eq!(folder.mended(6).unwrap(), [before.clone(), before.clone()]);
    // Both are above the chain: the chain was set back.
    let folder = Folder::with([Some(&before), Some(&before)]);
    assert!(matches!(folder.mended(5), Err(StartError::ChainBehindLog { log_height: 7, tip_height: 5 })));
}

#[test]
fn without_a_log_the_engine_begins_one_and_with_two_unreadable_ones_it_does_not_start() {
    let folder = Folder::with([None, None]);
    mend_files(&folder.copies, 0).unwrap();
    assert!(folder.copies.0.iter().all(|path| !path.exists()));
    for files in [[Some(b"\0\0\0".as_slice()), Some(b"\0\0\0\x02 and more".as_slice())], [Some(b"x".as_slice()), None]]
    {
        assert!(matches!(Folder::with(files).mended(6), Err(StartError::LogDamaged { .. })));
    }
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let _ = parse(&[[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7].as_slice(), bytes.as_slice()].concat());
    }
}
