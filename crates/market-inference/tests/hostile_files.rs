//! Damaged and hostile model files are refused with a clear error, and never make the loader panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use proptest::prelude::*;
use trellis_market_inference::{BUILTIN_MODEL_GGUF as TINY, LoadError, LoadOptions, Model, TokenizerOnly};

fn load(bytes: &[u8]) -> Result<Model, LoadError> {
    Model::from_bytes(bytes, &LoadOptions::default())
}

fn refusal(bytes: &[u8]) -> LoadError {
    load(bytes).expect_err("a bad file was accepted")
}

/// The model with one string in its header replaced by another of the same length.
fn replaced(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = TINY.windows(from.len()).position(|w| w == from.as_bytes()).expect("the string is there");
    let mut bytes = TINY.to_vec();
    bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
    bytes
}

/// A minimal GGUF header with these counts and this rest.
fn header(version: u32, tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&tensors.to_le_bytes());
    out.extend_from_slice(&keys.to_le_bytes());
    out.extend_from_slice(rest);
    out
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let mut out = (name.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(value);
    out
}

#[test]
fn a_file_of_another_format_is_named_as_such() {
    let error = refusal(b"PK\x03\x04 a zip file");
    assert!(matches!(error, LoadError::NotGguf { found: [b'P', b'K', 3, 4] }));
    assert!(error.to_string().contains("converted to GGUF"), "{error}");
    assert!(matches!(refusal(b""), LoadError::Truncated { .. }));
    assert!(matches!(refusal(&header(1, 0, 0, b"")), LoadError::UnsupportedVersion { found: 1 }));
    let folder = Model::load(std::path::Path::new("."), &LoadOptions::default());
    assert!(matches!(folder, Err(LoadError::Io { .. })));
    let absent = Model::load(std::path::Path::new("no-such-model.gguf"), &LoadOptions::default());
    assert!(matches!(&absent, Err(e @ LoadError::Io { .. }) if e.to_string().contains("no-such-model.gguf")));
}

#[test]
fn a_truncated_file_is_refused_wherever_it_was_cut() {
    for cut in [3, 8, 24, 100, 5_000, 20_000, 100_000, TINY.len() / 2, TINY.len() - 1] {
        let error = refusal(&TINY[..cut]);
        assert!(matches!(error, LoadError::Truncated { .. }), "cut at {cut}: {error}");
        assert!(error.to_string().contains("download or copy it again"));
    }
}

#[test]
fn another_architecture_is_refused_with_what_to_do_instead() {
    let error = refusal(&replaced("llama", "gemma"));
    assert!(matches!(&error, LoadError::UnsupportedArchitecture { found } if found == "gemma"));
    assert!(error.to_string().contains("OpenAI-compatible upstream"), "{error}");
}

#[test]
fn a_missing_tensor_and_an_unused_one_are_named() {
    // Renaming a tensor makes one missing; the other is then superfluous.
    let error = refusal(&replaced("blk.1.attn_k.weight", "blk.1.attn_x.weight"));
    assert!(matches!(&error, LoadError::MissingTensor { tensor } if tensor == "blk.1.attn_k.weight"), "{error}");
    let error = refusal(&replaced("blk.2.ffn_norm.weight", "blk.0.ffn_norm.weight"));
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
}

#[test]
fn missing_and_wrong_metadata_are_named() {
    let error = refusal(&replaced("llama.block_count", "llama.black_count"));
    assert!(matches!(&error, LoadError::MissingMetadata { key } if key == "llama.block_count"), "{error}");
    let error = refusal(&replaced("tokenizer.ggml.merges", "tokenizer.ggml.mergex"));
    assert!(matches!(&error, LoadError::MissingMetadata { key } if key == "tokenizer.ggml.merges"), "{error}");
    let error = refusal(&header(3, 0, 1, &key("general.architecture", 4, &7u32.to_le_bytes())));
    assert!(matches!(&error, LoadError::BadMetadata { found, .. } if found == "7"), "{error}");
}

#[test]
fn another_tokenizer_is_refused_rather_than_guessed() {
    assert!(matches!(refusal(&replaced("gpt-2", "gpt-9")), LoadError::UnsupportedTokenizer { .. }));
}

#[test]
fn impossible_counts_are_refused_before_anything_is_allocated() {
    assert!(matches!(refusal(&header(3, u64::MAX, 0, b"")), LoadError::TooLarge { .. }));
    assert!(matches!(refusal(&header(3, 0, u64::MAX, b"")), LoadError::TooLarge { .. }));
    let mut long_string = 8u32.to_le_bytes().to_vec();
    long_string.extend_from_slice(&(1u64 << 62).to_le_bytes());
    assert!(matches!(refusal(&header(3, 0, 1, &key("a", 8, &(1u64 << 62).to_le_bytes()))), LoadError::TooLarge { .. }));
    let mut array = 4u32.to_le_bytes().to_vec();
    array.extend_from_slice(&(1u64 << 20).to_le_bytes());
    assert!(matches!(refusal(&header(3, 0, 1, &key("a", 9, &array))), LoadError::Truncated { .. }));
    let nested = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
    assert!(matches!(refusal(&header(3, 0, 1, &key("a", 9, &nested))), LoadError::Malformed { .. }));
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    let one = key("a", 4, &1u32.to_le_bytes());
    let error = refusal(&header(3, 0, 2, &[one.clone(), one].concat()));
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
}

/// End of metadata and tensor list: the tensors' bytes begin after it.
fn header_end() -> usize {
    let last = b"blk.2.ffn_down.weight";
    TINY.windows(last.len()).rposition(|w| w == last).expect("the tensor is there") + last.len() + 32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_damaged_header_never_panics(changes in proptest::collection::vec((0usize..header_end(), any::<u8>()), 1..8)) {
        let mut bytes = TINY.to_vec();
        for (at, value) in changes {
            bytes[at] = value;
        }
        // It loads (the change hit a name or a word of the vocabulary) or is refused; both without a panic.
        let _ = TokenizerOnly::from_bytes(&bytes);
        let _ = load(&bytes);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused(cut in 0usize..TINY.len()) {
        prop_assert!(load(&TINY[..cut]).is_err());
    }

    #[test]
    fn random_bytes_after_the_magic_are_refused(rest in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(load(&[b"GGUF\x03\x00\x00\x00".as_slice(), &rest].concat()).is_err());
    }

    #[test]
    fn text_comes_back_from_its_tokens(text in "\\PC{0,60}") {
        let tokenizer = tokenizer();
        let ids = tokenizer.ids(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids), text.clone());
        prop_assert_eq!(tokenizer.verify_output(&ids, &text), Ok(()));
        prop_assert_eq!(tokenizer.count(&text), ids.len());
        prop_assert!(ids.len() <= tokenizer.output_tokens_max(&text));
    }
}

fn tokenizer() -> &'static TokenizerOnly {
    static TOKENIZER: std::sync::OnceLock<TokenizerOnly> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(|| TokenizerOnly::from_bytes(TINY).unwrap())
}
