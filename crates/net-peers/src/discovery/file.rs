//! The address book on disk: one file, written whole and renamed into place.
//!
//! Layout: magic `TRLB`, a 16-bit version, SHA3-256 of the rest, then a prost [`BookFile`].

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use prost::Message;
use thiserror::Error;
use trellis_primitives::{NodeId, UnixMs};

use super::address::{AddressClass, AddressGroup, PeerAddress};
use super::book::{Book, Saved};
use super::hidden::Hidden;

/// What the file begins with.
pub const BOOK_FILE_MAGIC: [u8; 4] = *b"TRLB";
/// The version of the layout.
pub const BOOK_FILE_VERSION: u16 = 1;
/// Bytes of the file at most: both tables full.
pub const BOOK_FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Outbound peers of the last run that are dialled first.
pub const ANCHORS_MAX: usize = 8;
/// Bytes before the body.
const HEAD_BYTES: usize = 4 + 2 + 32;

/// Why a book could not be read.
#[derive(Debug, Error)]
pub enum BookFileError {
    /// The file system refused.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is not a book, or not whole.
    #[error("the address book is damaged: {detail}")]
    Damaged {
        /// What is wrong.
        detail: String,
    },
    /// The book of another network.
    #[error("the address book is of network {actual:#010x}, expected {expected:#010x}")]
    OtherNetwork {
        /// This node's network.
        expected: u32,
        /// The file's.
        actual: u32,
    },
}

/// One address.
#[derive(Clone, PartialEq, Message)]
struct SavedAddress {
    #[prost(bytes = "vec", tag = "1")]
    ip: Vec<u8>,
    #[prost(uint32, tag = "2")]
    port: u32,
    #[prost(bytes = "vec", tag = "3")]
    peer: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    node: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    source: Vec<u8>,
    #[prost(uint64, tag = "6")]
    heard_ms: u64,
    #[prost(uint64, tag = "7")]
    reached_ms: u64,
    #[prost(uint32, tag = "8")]
    failures: u32,
    #[prost(bool, tag = "9")]
    tried: bool,
}

/// One node with names inside anonymity networks.
#[derive(Clone, PartialEq, Message)]
struct SavedHidden {
    #[prost(bytes = "vec", tag = "1")]
    node: Vec<u8>,
    #[prost(string, repeated, tag = "2")]
    addresses: Vec<String>,
    #[prost(uint64, tag = "3")]
    heard_ms: u64,
    #[prost(uint64, tag = "4")]
    reached_ms: u64,
}

/// The body.
#[derive(Clone, PartialEq, Message)]
struct BookFile {
    #[prost(fixed32, tag = "1")]
    network_magic: u32,
    #[prost(bytes = "vec", tag = "2")]
    secret: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    addresses: Vec<SavedAddress>,
    #[prost(message, repeated, tag = "4")]
    anchors: Vec<SavedAddress>,
    #[prost(message, repeated, tag = "5")]
    hidden: Vec<SavedHidden>,
}

impl SavedHidden {
    fn of((node, known): (NodeId, &Hidden)) -> Self {
        Self {
            node: node.0.to_vec(),
            addresses: known.addresses.iter().map(ToString::to_string).collect(),
            heard_ms: known.heard.0,
            reached_ms: known.reached.map_or(0, |reached| reached.0),
        }
    }

    fn read(&self) -> Option<(NodeId, Hidden)> {
        let node = NodeId(self.node.as_slice().try_into().ok()?);
        let addresses = self.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let reached = Some(UnixMs(self.reached_ms)).filter(|reached| reached.0 > 0);
        Some((node, Hidden { addresses, heard: UnixMs(self.heard_ms), reached }))
    }
}

impl SavedAddress {
    fn of(saved: &Saved) -> Self {
        let ip = match saved.address.socket.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        Self {
            ip,
            port: saved.address.socket.port().into(),
            peer: saved.address.peer.map(PeerId::to_bytes).unwrap_or_default(),
            node: saved.node.map(|node| node.0.to_vec()).unwrap_or_default(),
            source: saved.source.0.to_vec(),
            heard_ms: saved.heard.0,
            reached_ms: saved.reached.map_or(0, |reached| reached.0),
            failures: saved.failures,
            tried: saved.tried,
        }
    }

    fn read(&self) -> Option<Saved> {
        let ip: IpAddr = match self.ip.len() {
            4 => <[u8; 4]>::try_from(self.ip.as_slice()).ok()?.into(),
            _ => <[u8; 16]>::try_from(self.ip.as_slice()).ok()?.into(),
        };
        AddressClass::of(ip)?;
        let port = u16::try_from(self.port).ok().filter(|port| *port != 0)?;
        let peer = if self.peer.is_empty() { None } else { Some(PeerId::from_bytes(&self.peer).ok()?) };
        let node = if self.node.is_empty() { None } else { Some(NodeId(self.node.as_slice().try_into().ok()?)) };
        Some(Saved {
            address: PeerAddress { socket: SocketAddr::new(ip, port), peer },
            node,
            source: AddressGroup(self.source.as_slice().try_into().ok()?),
            heard: UnixMs(self.heard_ms),
            reached: Some(UnixMs(self.reached_ms)).filter(|reached| reached.0 > 0),
            failures: self.failures,
            tried: self.tried,
        })
    }
}

/// A book that was read, with the outbound peers of the run that wrote it.
#[derive(Debug)]
pub struct Opened {
    /// The book.
    pub book: Book,
    /// Outbound peers of the last run.
    pub anchors: Vec<PeerAddress>,
}

/// The bytes of a book's file.
#[must_use]
pub fn encode(book: &Book, anchors: &[PeerAddress], network_magic: u32) -> Vec<u8> {
    let anchor = |address: &PeerAddress| {
        let group = AddressGroup::of(address.socket);
        let saved = Saved {
            address: *address,
            node: None,
            source: group,
            heard: UnixMs(0),
            reached: None,
            failures: 0,
            tried: true,
        };
        SavedAddress::of(&saved)
    };
    let file = BookFile {
        network_magic,
        secret: book.secret().to_vec(),
        addresses: book.saved().iter().map(SavedAddress::of).collect(),
        anchors: anchors.iter().take(ANCHORS_MAX).map(anchor).collect(),
        hidden: book.hidden.all().map(SavedHidden::of).collect(),
    };
    let body = file.encode_to_vec();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(&BOOK_FILE_MAGIC);
    bytes.extend_from_slice(&BOOK_FILE_VERSION.to_be_bytes());
    bytes.extend_from_slice(&trellis_crypto::sha3_256(&[&body]));
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads a book from its bytes.
///
/// # Errors
/// [`BookFileError::Damaged`] or [`BookFileError::OtherNetwork`].
pub fn decode(bytes: &[u8], network_magic: u32, now: UnixMs) -> Result<Opened, BookFileError> {
    let damaged = |detail: &str| BookFileError::Damaged { detail: detail.to_owned() };
    let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(|| damaged("too short"))?;
    let (magic, rest) = head.split_at_checked(4).ok_or_else(|| damaged("too short"))?;
    let (version, checksum) = rest.split_at_checked(2).ok_or_else(|| damaged("too short"))?;
    if magic != BOOK_FILE_MAGIC {
        return Err(damaged("not an address book"));
    }
    if version != BOOK_FILE_VERSION.to_be_bytes() {
        let detail = format!("version {version:?}, expected {BOOK_FILE_VERSION}");
        return Err(BookFileError::Damaged { detail });
    }
    if checksum != trellis_crypto::sha3_256(&[body]) {
        return Err(damaged("checksum"));
    }
    let file = BookFile::decode(body).map_err(|error| damaged(&error.to_string()))?;
    if file.network_magic != network_magic {
        return Err(BookFileError::OtherNetwork { expected: network_magic, actual: file.network_magic });
    }
    let secret = file.secret.as_slice().try_into().map_err(|_| damaged("secret"))?;
    let mut book = Book::new(secret);
    file.addresses.iter().filter_map(SavedAddress::read).for_each(|saved| book.restore(&saved, now));
    let hidden = file.hidden.iter().filter_map(SavedHidden::read);
    hidden.for_each(|(node, saved)| book.hidden.restore(node, saved, now));
    let anchors = file.anchors.iter().filter_map(SavedAddress::read).map(|saved| saved.address);
    Ok(Opened { book, anchors: anchors.take(ANCHORS_MAX).collect() })
}

/// Reads a book's file; `None` where there is none yet.
///
/// # Errors
/// [`BookFileError`].
pub fn read(path: &Path, network_magic: u32, now: UnixMs) -> Result<Option<Opened>, BookFileError> {
    let failed = |source| BookFileError::Read { path: path.to_path_buf(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(BOOK_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > BOOK_FILE_BYTES_MAX {
        return Err(BookFileError::Damaged { detail: format!("more than {BOOK_FILE_BYTES_MAX} bytes") });
    }
    decode(&bytes, network_magic, now).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::book::Told;
    use proptest::prelude::*;
    use trellis_crypto::file::{replace, set_aside};

    const NOW: UnixMs = UnixMs(1_800_000_000_000);

    fn filled(count: u8) -> (Book, Vec<PeerAddress>) {
        let mut book = Book::new([9; 32]);
        let address = |n: u8| PeerAddress {
            socket: SocketAddr::new([20 + n, n, 1, 1].into(), 9_700),
            peer: n.is_multiple_of(2).then(PeerId::random),
        };
        let all: Vec<PeerAddress> = (0..count).map(address).collect();
        for (n, address) in all.iter().enumerate() {
            let source = AddressGroup::of(address.socket);
            if n % 3 == 0 {
                book.reached(*address, NodeId([n as u8; 32]), source, NOW);
            } else {
                book.tell(Told { address: *address, node: None, source }, NOW);
            }
        }
        for n in 1..3u8 {
            let onion =
                format!("/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:{n}").parse().unwrap();
            book.hidden.tell(NodeId([n; 32]), &[onion], NOW);
        }
        (book, all.into_iter().step_by(3).take(2).collect())
    }

    // row: NET-30, NET-37
    #[test]
    fn a_book_comes_back_from_its_file() {
        let folder = std::env::temp_dir().join(format!("trellis-book-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("peers.book");
        let (book, anchors) = filled(30);
        assert!(read(&path, 5, NOW).unwrap().is_none());
        replace(&path, &encode(&book, &anchors, 5)).unwrap();
        let opened = read(&path, 5, NOW).unwrap().unwrap();
        assert_eq!(opened.book.saved(), book.saved());
        assert_eq!((opened.book.counts(), opened.anchors), (book.counts(), anchors));
        assert_eq!((&opened.book.hidden, opened.book.counts().hidden), (&book.hidden, 2));
        assert!(matches!(read(&path, 6, NOW), Err(BookFileError::OtherNetwork { expected: 6, actual: 5 })));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(read(&path, 5, NOW), Err(BookFileError::Damaged { .. })));
        let aside = set_aside(&path).unwrap();
        assert!(aside.exists() && read(&path, 5, NOW).unwrap().is_none());
        fs::remove_dir_all(folder).unwrap();
    }

    proptest! {
        // row: NET-56
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), flip in 0usize..4_000) {
            let _ = decode(&bytes, 5, NOW);
            let (book, anchors) = filled(9);
            let mut good = encode(&book, &anchors, 5);
            let at = flip % good.len();
            good[at] ^= 0x40;
            prop_assert!(decode(&good, 5, NOW).is_err());
            // A body that nobody damaged but somebody made.
            let mut made = BOOK_FILE_MAGIC.to_vec();
            made.extend(BOOK_FILE_VERSION.to_be_bytes());
            made.extend(trellis_crypto::sha3_256(&[&bytes]));
            made.extend(&bytes);
            let _ = decode(&made, 5, NOW);
        }
    }
}
