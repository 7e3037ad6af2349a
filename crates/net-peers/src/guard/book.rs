//! What is remembered over a restart: bans, reputation, addresses (NET-52, NET-54). One file, replaced whole.
//!
//! The file is JSON that begins with its magic and version; `trellis peer export` prints the same form. A damaged file is
//! set aside under another name and the node starts without it: losing a memory must not keep a node from starting.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use trellis_crypto::file::{replace, set_aside};
use trellis_primitives::{NodeId, UnixMs};

use super::conduct::AddressSource;
use super::score::Reputation;
use super::state::{
    ADDED_MAX, ADDRESS_BYTES_MAX, ADDRESSES_MAX, AGENT_BYTES_MAX, Added, GuardState, RECORDS_MAX, Record,
};

/// What the file begins with.
pub const BOOK_MAGIC: &str = "trellis-peers";
/// The version of the form.
pub const BOOK_VERSION: u32 = 1;
/// Bytes of the file at most.
pub const BOOK_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why a book could not be read.
#[derive(Debug, Error)]
pub enum BookError {
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is larger than any book.
    #[error("{actual} bytes, at most {max} are read")]
    TooLarge {
        /// Its bytes.
        actual: u64,
        /// The bound.
        max: u64,
    },
    /// It is not a book.
    #[error("not a list of peers: {0}")]
    Form(#[from] serde_json::Error),
    /// It is a book of another kind.
    #[error("expected {BOOK_MAGIC} version {BOOK_VERSION}, found {magic:?} version {version}")]
    Version {
        /// What it begins with.
        magic: String,
        /// Its version.
        version: u32,
    },
}

/// Everything that is remembered, in the form of the file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    magic: String,
    version: u32,
    /// When it was made.
    saved: UnixMs,
    #[serde(default)]
    added: Vec<Added>,
    #[serde(default)]
    peers: Vec<Remembered>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Remembered {
    id: NodeId,
    #[serde(flatten)]
    record: Record,
}

/// What an import changed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Imported {
    /// Identities that were not known.
    pub peers: usize,
    /// Bans that hold now and did not.
    pub bans: usize,
    /// Addresses of the file that are remembered now.
    pub addresses: usize,
}

impl Book {
    /// Reads a book from its text.
    ///
    /// # Errors
    /// [`BookError`] but for `Io`.
    pub fn parse(text: &[u8]) -> Result<Self, BookError> {
        let book: Self = serde_json::from_slice(text)?;
        if book.magic != BOOK_MAGIC || book.version != BOOK_VERSION {
            let magic: String = book.magic.chars().take(32).collect();
            return Err(BookError::Version { magic, version: book.version });
        }
        Ok(book)
    }

    /// The book as text.
    ///
    /// # Errors
    /// None that a book of this program can have; the serializer's own otherwise.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// Reads a book from a file; `None` if there is none.
    ///
    /// # Errors
    /// [`BookError`].
    pub fn read(path: &Path) -> Result<Option<Self>, BookError> {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let actual = file.metadata()?.len();
        if actual > BOOK_BYTES_MAX {
            return Err(BookError::TooLarge { actual, max: BOOK_BYTES_MAX });
        }
        let mut text = Vec::new();
        file.take(BOOK_BYTES_MAX).read_to_end(&mut text)?;
        Self::parse(&text).map(Some)
    }

    /// Reads the book of a node that starts. A damaged one is set aside with a warning.
    #[must_use]
    pub fn read_or_set_aside(path: &Path) -> Option<Self> {
        match Self::read(path) {
            Ok(book) => book,
            Err(error) => {
                let aside = set_aside(path).map(|aside| aside.display().to_string()).ok();
                tracing::warn!(file = %path.display(), %error, aside,
                    "the peers that were remembered cannot be read; the file is set aside");
                None
            }
        }
    }

    /// Replaces the file, so that at any moment the old or the new one is there whole.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = self.to_text().map_err(io::Error::other)?;
        replace(path, text.as_bytes())
    }
}

impl GuardState {
    /// Everything that is to be remembered.
    #[must_use]
    pub fn to_book(&self, now: UnixMs) -> Book {
        let mut peers: Vec<Remembered> =
            self.records.iter().map(|(id, record)| Remembered { id: *id, record: record.clone() }).collect();
        peers.sort_by_key(|peer| peer.id);
        let magic = BOOK_MAGIC.to_owned();
        Book { magic, version: BOOK_VERSION, saved: now, added: self.added.clone(), peers }
    }

    /// Takes over what is not known better here: unknown identities whole; of known ones the addresses, and the bans that
    /// end later than the one that holds.
    pub fn take_book(&mut self, book: Book, now: UnixMs, imported: bool) -> Imported {
        let mut changed = Imported::default();
        for added in book.added {
            self.add(added);
        }
        for Remembered { id, record } in book.peers.into_iter().take(RECORDS_MAX) {
            let mut theirs = bounded(record);
            if imported {
                theirs.addresses.iter_mut().for_each(|known| known.source = AddressSource::Imported);
            }
            let held = self.ban_of(id, now);
            let known = self.records.contains_key(&id);
            let ours = self.record(id, now);
            changed.peers += usize::from(!known);
            changed.addresses += theirs.addresses.len();
            for address in &theirs.addresses {
                ours.note_address(&address.address, address.source, address.seen);
            }
            let ban = theirs.ban.filter(|ban| ban.holds(now));
            if let Some(ban) = ban
                && held.is_none_or(|held| held.until.is_some_and(|end| ban.until.is_none_or(|theirs| theirs > end)))
            {
                changed.bans += usize::from(held.is_none());
                ours.ban = Some(ban);
            }
            if !known {
                let addresses = std::mem::take(&mut ours.addresses);
                let ban = ours.ban;
                *ours = Record { addresses, ban, ..theirs };
            }
        }
        changed
    }

    /// Remembers an address that a person added; the oldest goes when there are too many.
    pub fn add(&mut self, added: Added) {
        if added.address.len() > ADDRESS_BYTES_MAX {
            return;
        }
        self.added.retain(|known| known.address != added.address);
        if self.added.len() >= ADDED_MAX {
            self.added.remove(0);
        }
        self.added.push(added);
    }
}

/// A record from a file within the bounds of every record.
fn bounded(mut record: Record) -> Record {
    if !record.reputation.is_sound() {
        record.reputation = Reputation::new(record.seen);
    }
    record.addresses.retain(|known| known.address.len() <= ADDRESS_BYTES_MAX);
    record.addresses.truncate(ADDRESSES_MAX);
    record.agent.truncate(record.agent.floor_char_boundary(AGENT_BYTES_MAX));
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{Arrival, Conduct, Pattern, Priority};
    use proptest::prelude::*;

    const NOW: UnixMs = UnixMs(1_000_000);

    fn filled() -> GuardState {
        let mut state = GuardState::default();
        let arrival = Arrival { address: "/ip4/203.0.113.9/udp/1/quic-v1", agent: "trellis/1", ..Arrival::default() };
        state.arrived(NodeId([1; 32]), &arrival, NOW);
        state.report(NodeId([1; 32]), Conduct::Invalid { pattern: Pattern::Malformed }, NOW);
        state.report(NodeId([2; 32]), Conduct::Forged, NOW);
        state.ban(NodeId([3; 32]), None, NOW);
        state.add(Added { address: "/ip4/192.0.2.1/udp/2/quic-v1".to_owned(), priority: Priority::High });
        state
    }

    // row: NET-52, NET-54
    #[test]
    fn bans_reputation_and_addresses_survive_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.json");
        let before = filled();
        before.to_book(NOW).write(&path).unwrap();
        let mut after = GuardState::default();
        after.take_book(Book::read(&path).unwrap().unwrap(), NOW, false);
        let later = NOW.plus_ms(3_600_000);
        for id in [1, 2, 3].map(|n| NodeId([n; 32])) {
            let (was, is) = (before.standing(id, later).unwrap(), after.standing(id, later).unwrap());
            assert!((was.score - is.score).abs() < 1e-9, "{was:?} {is:?}");
            assert_eq!((was.ban, was.bans, was.addresses), (is.ban, is.bans, is.addresses));
            assert_eq!(was.inputs, is.inputs);
        }
        assert_eq!(after.added, before.added);
    }

    // row: NET-54
    #[test]
    fn a_damaged_file_is_set_aside_and_never_stops_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.json");
        assert!(Book::read_or_set_aside(&path).is_none());
        let whole = filled().to_book(NOW).to_text().unwrap();
        for text in ["", "{}", "\u{0}", &whole[..whole.len() / 2], &whole.replace("trellis-peers", "other")] {
            fs::write(&path, text).unwrap();
            assert!(Book::read_or_set_aside(&path).is_none());
            assert!(!path.exists(), "{text}");
            assert_eq!(fs::read_to_string(folder.path().join("peers.json.damaged")).unwrap(), text);
        }
    }

    #[test]
    fn the_form_of_the_file_is_pinned() {
        let mut state = GuardState::default();
        state.ban(NodeId([3; 32]), Some(UnixMs(2_000_000)), NOW);
        let value = serde_json::to_value(state.to_book(NOW)).unwrap();
        assert_eq!((value["magic"].as_str(), value["version"].as_u64()), (Some("trellis-peers"), Some(1)));
        assert_eq!(
            value["peers"][0]["ban"],
            serde_json::json!({"since": 1_000_000, "until": 2_000_000, "cause": "operator"})
        );
        let pinned = br#"{"magic":"trellis-peers","version":1,"saved":5,"peers":[{"id":"0303030303030303030303030303030303030303030303030303030303030303","ban":{"since":1,"until":null,"cause":"forgery"}}]}"#;
        let mut read = GuardState::default();
        read.take_book(Book::parse(pinned).unwrap(), NOW, false);
        assert!(read.ban_of(NodeId([3; 32]), NOW).is_some());
    }

    // row: NET-72
    #[test]
    fn an_import_adds_bans_and_addresses_and_never_lifts_or_shortens_what_holds_here() {
        let mut ours = GuardState::default();
        ours.ban(NodeId([3; 32]), Some(NOW.plus_ms(5)), NOW);
        ours.ban(NodeId([4; 32]), None, NOW);
        ours.report(NodeId([1; 32]), Conduct::Valid { messages: 10 }, NOW);
        let mut theirs = filled();
        theirs.ban(NodeId([4; 32]), Some(NOW.plus_ms(5)), NOW);
        let changed = ours.take_book(theirs.to_book(NOW), NOW, true);
        assert_eq!((changed.peers, changed.bans, changed.addresses), (1, 1, 1));
        assert_eq!(ours.ban_of(NodeId([3; 32]), NOW).unwrap().until, None, "the longer one holds");
        assert_eq!(ours.ban_of(NodeId([4; 32]), NOW).unwrap().until, None, "ours is longer");
        let known = ours.standing(NodeId([1; 32]), NOW).unwrap();
        assert_eq!((known.inputs.valid, known.inputs.invalid), (10, 0), "a reputation of our own stays");
        assert_eq!(known.addresses[0].source, AddressSource::Imported);
    }

    proptest! {
        // row: NET-56
        #[test]
        fn any_file_is_read_within_bounds_or_refused(cut in 0usize..2_000, at in 0usize..2_000, byte in any::<u8>()) {
            let mut text = filled().to_book(NOW).to_text().unwrap().into_bytes();
            text.truncate(text.len().saturating_sub(cut % 3));
            let index = at % text.len();
            text[index] = byte;
            if let Ok(book) = Book::parse(&text) {
                let mut state = GuardState::default();
                state.take_book(book, NOW, false);
                prop_assert!(state.records.values().all(|record| record.reputation.is_sound()));
                prop_assert!(state.records.values().all(|record| record.addresses.len() <= ADDRESSES_MAX));
            }
        }
    }
}
