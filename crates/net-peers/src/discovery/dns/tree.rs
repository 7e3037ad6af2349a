//! Signed trees of node records in TXT records (NET-31), in the spirit of EIP-1459 and in a form of our own.
//!
//! ```text
//! _tree.NAME    TXT "trellis-tree=1 zone=NAME net=HEX root=HASH keys=HASH seq=N until=MS ed=SIG ml=SIG"
//! HASH.NAME     TXT "trellis-keys=BASE64"            the publisher's Ed25519 and ML-DSA-65 keys
//! HASH.NAME     TXT "trellis-branch=HASH,HASH,…"     at most BRANCH_MAX
//! HASH.NAME     TXT "trellis-node=BASE64"            the RLP of a signed node record
//! ```
//! The publisher's NodeId, which is the hash of both keys, is all that a reader has to know; it is written
//! `trellis://NODEID@NAME`. Both keys sign everything before ` ed=`. An entry's label is the hash of its text, so whoever
//! serves the zone can leave entries out and cannot forge one; and what the leaves hold is signed by the nodes themselves.
//!
//! Pure: bytes in, texts out, and back.

use data_encoding::BASE64URL_NOPAD;
use thiserror::Error;
use trellis_crypto::{HybridKey, HybridPublic, SignatureError, domain_hash, sha3_256};
use trellis_primitives::{NODE_RECORD_BYTES_MAX, NodeId, UnixMs};

/// Where the root is, below the zone's name.
pub const ROOT_LABEL: &str = "_tree";
/// The domain of the root's signatures.
pub const TREE_DOMAIN: &str = "trellis/tree/1";
/// Hashes in one branch.
pub const BRANCH_MAX: usize = 32;
/// Records in one tree.
pub const TREE_RECORDS_MAX: usize = 256;
/// Branches above a leaf.
pub const TREE_DEPTH_MAX: usize = 4;
/// Bytes of one entry's text.
pub const ENTRY_BYTES_MAX: usize = 32 * 1024;
/// A root may say that it is good for at most this long, milliseconds.
pub const TREE_LIFETIME_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;
/// Hexadecimal digits of an entry's label: 160 bits.
const LABEL_DIGITS: usize = 40;
/// Bytes of an ML-DSA-65 public key.
const MLDSA65_KEY_BYTES: usize = 1_952;

const ROOT: &str = "trellis-tree=1 ";
const KEYS: &str = "trellis-keys=";
const BRANCH: &str = "trellis-branch=";
const NODE: &str = "trellis-node=";

/// Why a tree is not believed.
#[derive(Debug, Error)]
pub enum TreeError {
    /// A text is not in the form that its place needs.
    #[error("the {part} of the tree is malformed: {detail}")]
    Malformed {
        /// Which part.
        part: &'static str,
        /// What is wrong.
        detail: &'static str,
    },
    /// An entry's text is not the one that its label names.
    #[error("an entry of the tree is not the one its label names: expected {expected}, found {actual}")]
    Altered {
        /// The label.
        expected: String,
        /// The hash of the text.
        actual: String,
    },
    /// The keys are not those of the publisher that was named.
    #[error("the tree is of {actual}, expected {expected}")]
    OtherPublisher {
        /// Who was named.
        expected: NodeId,
        /// Whose keys were shown.
        actual: NodeId,
    },
    /// A signature of the root is bad.
    #[error("the tree's {key} signature is bad: {source}")]
    Signature {
        /// Which key.
        key: &'static str,
        /// Why.
        source: SignatureError,
    },
    /// The root is of another zone, network or time.
    #[error("the tree is of another {what}: expected {expected}, found {actual}")]
    Elsewhere {
        /// Zone, network or time.
        what: &'static str,
        /// This one.
        expected: String,
        /// The root's.
        actual: String,
    },
    /// The publisher has shown a newer tree before.
    #[error("the tree is older than the one seen before: number {actual}, at least {expected}")]
    RolledBack {
        /// The newest number seen.
        expected: u64,
        /// The root's.
        actual: u64,
    },
    /// A record is larger than any may be.
    #[error("a record of {actual} bytes, at most {max} allowed")]
    TooLarge {
        /// How large.
        actual: usize,
        /// The bound.
        max: usize,
    },
}

/// A tree ready to be published: the root's text, and every entry by its label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    /// The TXT of [`ROOT_LABEL`] below the zone's name.
    pub root: String,
    /// Label and TXT of every entry.
    pub entries: Vec<(String, String)>,
}

/// What a root says, its signatures checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// Label of the first branch.
    pub root: String,
    /// Grows with every tree of a publisher.
    pub sequence: u64,
}

/// What an entry holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Labels of the entries below.
    Branch(Vec<String>),
    /// The RLP of a signed node record.
    Node(Vec<u8>),
}

/// What a tree belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreePlace<'a> {
    /// The zone's name, without a dot at its end.
    pub zone: &'a str,
    /// The network's number.
    pub network_magic: u32,
    /// The chain's id, which the signatures cover.
    pub chain_id: u64,
}

/// The label of an entry.
#[must_use]
pub fn label(text: &str) -> String {
    let hash = sha3_256(&[b"trellis/tree/entry/1", text.as_bytes()]);
    hash.iter().take(LABEL_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a tree of these records (RLP of signed node records), at most [`TREE_RECORDS_MAX`] of them.
///
/// # Errors
/// [`TreeError::TooLarge`] for a record out of bounds, [`TreeError::Signature`] where the library fails.
pub fn make(
    records: &[Vec<u8>],
    keys: &HybridKey,
    place: TreePlace<'_>,
    sequence: u64,
    until: UnixMs,
) -> Result<Tree, TreeError> {
    let mut entries = Vec::new();
    let mut add = |text: String| {
        let label = label(&text);
        entries.push((label.clone(), text));
        label
    };
    let mut level = Vec::new();
    for record in records.iter().take(TREE_RECORDS_MAX) {
        if record.len() > NODE_RECORD_BYTES_MAX {
            return Err(TreeError::TooLarge { actual: record.len(), max: NODE_RECORD_BYTES_MAX });
        }
        level.push(add(format!("{NODE}{}", BASE64URL_NOPAD.encode(record))));
    }
    loop {
        level = level.chunks(BRANCH_MAX).map(|some| add(format!("{BRANCH}{}", some.join(",")))).collect();
        if level.len() <= 1 {
            break;
        }
    }
    let root = level.pop().unwrap_or_else(|| add(BRANCH.to_owned()));
    let public = keys.public();
    let both = [public.ed25519.as_slice(), &public.mldsa65].concat();
    let keys_label = add(format!("{KEYS}{}", BASE64URL_NOPAD.encode(&both)));
    let TreePlace { zone, network_magic, chain_id } = place;
    let body = format!(
        "{ROOT}zone={zone} net={network_magic:08x} root={root} keys={keys_label} seq={sequence} until={}",
        until.0
    );
    let digest = domain_hash(TREE_DOMAIN, chain_id, body.as_bytes());
    let ed = BASE64URL_NOPAD.encode(&keys.ed25519_sign(digest.as_slice()));
    let ml =
        keys.mldsa65_sign(digest.as_slice()).map_err(|source| TreeError::Signature { key: "ML-DSA-65", source })?;
    Ok(Tree { root: format!("{body} ed={ed} ml={}", BASE64URL_NOPAD.encode(&ml)), entries })
}

/// Whether a TXT looks like a tree's root.
#[must_use]
pub fn is_root(text: &str) -> bool {
    text.starts_with(ROOT)
}

fn field<'a>(text: &'a str, name: &'static str) -> Result<&'a str, TreeError> {
    let found = text.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.ok_or(TreeError::Malformed { part: "root", detail: name })
}

fn label_field(text: &str, name: &'static str) -> Result<String, TreeError> {
    let found = field(text, name)?;
    if is_label(found) { Ok(found.to_owned()) } else { Err(TreeError::Malformed { part: "root", detail: name }) }
}

fn is_label(text: &str) -> bool {
    text.len() == LABEL_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Where the keys of a root's publisher are.
///
/// # Errors
/// [`TreeError::Malformed`].
pub fn keys_label(root: &str) -> Result<String, TreeError> {
    label_field(root, "keys")
}

/// Checks a root against the publisher that was named, and what it says against here and now.
///
/// # Errors
/// [`TreeError`] names what is wrong.
pub fn verify_root(
    text: &str,
    keys_text: &str,
    publisher: NodeId,
    place: TreePlace<'_>,
    now: UnixMs,
) -> Result<Root, TreeError> {
    let malformed = |detail| TreeError::Malformed { part: "root", detail };
    if text.len() > ENTRY_BYTES_MAX || !is_root(text) {
        return Err(malformed("not a root"));
    }
    let expected = keys_label(text)?;
    check_label(&expected, keys_text)?;
    let keys = read_keys(keys_text)?;
    if keys.node_id() != publisher {
        return Err(TreeError::OtherPublisher { expected: publisher, actual: keys.node_id() });
    }
    let (body, signatures) = text.split_once(" ed=").ok_or_else(|| malformed("ed"))?;
    let (ed, ml) = signatures.split_once(" ml=").ok_or_else(|| malformed("ml"))?;
    let decode = |text: &str, detail| BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| malformed(detail));
    let digest = domain_hash(TREE_DOMAIN, place.chain_id, body.as_bytes());
    keys.verify_ed25519(digest.as_slice(), &decode(ed, "ed")?)
        .map_err(|source| TreeError::Signature { key: "Ed25519", source })?;
    keys.verify_mldsa65(digest.as_slice(), &decode(ml, "ml")?)
        .map_err(|source| TreeError::Signature { key: "ML-DSA-65", source })?;
    check_place(body, place, now)?;
    let sequence = field(body, "seq")?.parse().map_err(|_| malformed("seq"))?;
    Ok(Root { root: label_field(body, "root")?, sequence })
}

fn check_place(body: &str, place: TreePlace<'_>, now: UnixMs) -> Result<(), TreeError> {
    let same = |what, expected: String, actual: &str| {
        let same = actual.eq_ignore_ascii_case(&expected);
        same.then_some(()).ok_or_else(|| TreeError::Elsewhere { what, expected, actual: actual.to_owned() })
    };
    same("zone", place.zone.to_owned(), field(body, "zone")?)?;
    same("network", format!("{:08x}", place.network_magic), field(body, "net")?)?;
    let detail = "until";
    let until = field(body, detail)?.parse().map_err(|_| TreeError::Malformed { part: "root", detail })?;
    if until <= now.0 || until > now.plus_ms(TREE_LIFETIME_MS_MAX).0 {
        let (expected, actual) = (now.to_rfc3339(), UnixMs(until).to_rfc3339());
        return Err(TreeError::Elsewhere { what: "time", expected, actual });
    }
    Ok(())
}

fn read_keys(text: &str) -> Result<HybridPublic, TreeError> {
    let malformed = |detail| TreeError::Malformed { part: "keys", detail };
    let encoded = text.strip_prefix(KEYS).ok_or_else(|| malformed("prefix"))?;
    let both = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| malformed("base64"))?;
    let (ed25519, mldsa65) = both.split_first_chunk::<32>().ok_or_else(|| malformed("length"))?;
    if mldsa65.len() != MLDSA65_KEY_BYTES {
        return Err(malformed("length"));
    }
    Ok(HybridPublic { ed25519: *ed25519, mldsa65: mldsa65.to_vec() })
}

fn check_label(expected: &str, text: &str) -> Result<(), TreeError> {
    let actual = label(text);
    if actual == expected { Ok(()) } else { Err(TreeError::Altered { expected: expected.to_owned(), actual }) }
}

/// Reads the entry that a label names.
///
/// # Errors
/// [`TreeError::Altered`] where the text is another, [`TreeError::Malformed`] where it is none.
pub fn read_entry(expected: &str, text: &str) -> Result<Entry, TreeError> {
    let malformed = |detail| TreeError::Malformed { part: "entry", detail };
    if text.len() > ENTRY_BYTES_MAX {
        return Err(malformed("too long"));
    }
    check_label(expected, text)?;
    if let Some(labels) = text.strip_prefix(BRANCH) {
        let labels: Vec<&str> = labels.split(',').filter(|label| !label.is_empty()).collect();
        if labels.len() > BRANCH_MAX || !labels.iter().all(|label| is_label(label)) {
            return Err(malformed("branch"));
        }
        return Ok(Entry::Branch(labels.into_iter().map(str::to_owned).collect()));
    }
    let encoded = text.strip_prefix(NODE).ok_or_else(|| malformed("prefix"))?;
    let record = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| malformed("base64"))?;
    Ok(Entry::Node(record))
}

#[cfg(test)]
mod tests;
