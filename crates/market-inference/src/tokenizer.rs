//! Byte-level BPE tokenizers out of GGUF metadata, with the chat template: all that is needed to count and check tokens without weights.

use std::io::{Cursor, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::config::{CHAT_MESSAGES_MAX, PROMPT_BYTES_MAX, STOP_STRING_BYTES_MAX};
use crate::error::{LoadError, RecountError, SubmitError};
use crate::gguf::{Gguf, Value, missing};
use crate::template::{ChatMessage, ChatTemplate};

/// Most tokens in a vocabulary.
pub(crate) const VOCABULARY_MAX: u32 = 1 << 20;
const KIND_CONTROL: i64 = 3;
const KIND_USER_DEFINED: i64 = 4;

/// The word splitting of Llama 3 and of Qwen 2; they differ in how many digits stay together.
const WORDS_LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const WORDS_QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokenizer and chat template of a model, without its weights. Cheap to clone.
///
/// What is exact and what is a bound, for whoever checks a provider's counts:
/// * **Prompt**: [`count_prompt`](Self::count_prompt) is exact: the engine makes its prompt the same way.
/// * **Output with the provider's token ids**: [`verify_output`](Self::verify_output) is exact: it checks that the ids spell the text.
/// * **Output by text alone**: [`count_output`](Self::count_output) tokenises the text afresh. A model may spell the same text with other,
///   usually more, tokens, and tokens withheld by a stop string are not in the text. So it is an estimate; the only bound is that every
///   output token spells at least one byte ([`output_tokens_max`](Self::output_tokens_max)).
#[derive(Debug, Clone)]
pub struct TokenizerOnly {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tokenizer: Tokenizer,
    /// What each id spells; empty for control tokens.
    spelling: Vec<Box<[u8]>>,
    token_bytes_max: usize,
    bos: Option<u32>,
    ends: Vec<u32>,
    normalises: bool,
    template: ChatTemplate,
    digest: [u8; 32],
}

impl TokenizerOnly {
    /// Reads the tokenizer part of a GGUF file; the tensors are not read.
    ///
    /// # Errors
    /// As [`LoadError`] says; the file is treated as hostile.
    pub fn from_gguf(path: &Path) -> Result<Self, LoadError> {
        let file = std::fs::File::open(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
        Self::from_reader(file)
    }

    /// The same from bytes: a whole model or one with no tensors at all.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        Self::from_reader(Cursor::new(bytes))
    }

    fn from_reader<R: Read + Seek>(reader: R) -> Result<Self, LoadError> {
        Self::from_header(&Gguf::read(reader)?)
    }

    pub(crate) fn from_header(gguf: &Gguf) -> Result<Self, LoadError> {
        let tables = Tables::read(gguf)?;
        let spelling: Vec<Box<[u8]>> = tables
            .tokens
            .iter()
            .zip(&tables.kinds)
            .map(|(t, kind)| if *kind == KIND_CONTROL { Box::default() } else { spell(t) })
            .collect();
        let token_bytes_max = spelling
            .iter()
            .map(|s| s.len())
            .max()
            .unwrap_or(0)
            .max(tables.tokens.iter().map(String::len).max().unwrap_or(0));
        let name_of = |id: Option<u32>| id.and_then(|i| tables.tokens.get(i as usize)).map_or("", String::as_str);
        let has_chatml = tables.tokens.iter().any(|t| t == "<|im_start|>");
        let template = ChatTemplate::new(
            gguf.text("tokenizer.chat_template")?,
            name_of(tables.bos),
            name_of(tables.ends.first().copied()),
            has_chatml,
        )?;
        let digest = tables.digest(&template.source);
        let normalises = tables.pre.starts_with("qwen");
        let inner = Inner {
            tokenizer: tables.build()?,
            spelling,
            token_bytes_max: token_bytes_max.max(1),
            bos: tables.bos.filter(|_| tables.add_bos),
            ends: tables.ends,
            normalises,
            template,
            digest,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// SHA-256 over everything that decides how text becomes tokens and back: tables, special ids and the chat template. It is the same for a
    /// model file and for a file with its tokenizer part alone.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.inner.digest
    }

    /// Number of tokens in the vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.inner.spelling.len()
    }

    /// Tokens of a plain text, without a begin mark. Zero if the tokenizer fails, which byte-level BPE does not.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.ids(text).map_or(0, |ids| ids.len())
    }

    /// Exact number of prompt tokens of a conversation, begin mark and template included.
    ///
    /// # Errors
    /// `Template` if the template refuses the conversation, `PromptTooLong` or `BadParameter` above the bounds of a request.
    pub fn count_prompt(&self, messages: &[ChatMessage]) -> Result<usize, SubmitError> {
        Ok(self.chat_ids(messages, u64::MAX)?.len())
    }

    /// Exact number of prompt tokens of a plain text prompt, begin mark included.
    ///
    /// # Errors
    /// As [`count_prompt`](Self::count_prompt).
    pub fn count_text_prompt(&self, text: &str) -> Result<usize, SubmitError> {
        Ok(self.text_ids(text, u64::MAX)?.len())
    }

    /// Tokens of an output text, tokenised afresh: an estimate (see the type's documentation).
    #[must_use]
    pub fn count_output(&self, text: &str) -> usize {
        self.count(text)
    }

    /// The most output tokens that a text of so many bytes can be, with what one stop string may withhold.
    #[must_use]
    pub fn output_tokens_max(&self, text: &str) -> usize {
        text.len() + STOP_STRING_BYTES_MAX
    }

    /// Checks a provider's claim exactly: do these ids spell this text? The ids may go on by what a stop string or a cancellation withheld.
    ///
    /// # Errors
    /// `BadId` for an id outside the vocabulary or one that spells nothing, `OtherText` if the spelling differs, `TooMuchWithheld` if it is
    /// too long.
    pub fn verify_output(&self, ids: &[u32], text: &str) -> Result<(), RecountError> {
        let mut bytes = Vec::with_capacity(text.len());
        for (position, id) in ids.iter().enumerate() {
            match self.spelling(*id) {
                [] => return Err(RecountError::BadId { position, id: *id }),
                spelled => bytes.extend_from_slice(spelled),
            }
        }
        let spelled = String::from_utf8_lossy(&bytes);
        if !spelled.starts_with(text) {
            let at = spelled.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
            return Err(RecountError::OtherText { at });
        }
        let extra = spelled.len() - text.len();
        let max = STOP_STRING_BYTES_MAX + self.inner.token_bytes_max;
        if extra > max { Err(RecountError::TooMuchWithheld { extra, max }) } else { Ok(()) }
    }

    /// The text of some output ids; what is not UTF-8 becomes U+FFFD. Control tokens and unknown ids spell nothing.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.spelling(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn spelling(&self, id: u32) -> &[u8] {
        self.inner.spelling.get(id as usize).map_or(&[], |s| s)
    }

    /// Whether this token ends an output.
    pub(crate) fn is_end(&self, id: u32) -> bool {
        self.inner.ends.contains(&id)
    }

    /// Ids of a text without a begin mark.
    ///
    /// # Errors
    /// `Tokenizer` if the library fails.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, SubmitError> {
        let encoding = self
            .inner
            .tokenizer
            .encode_fast(text, false)
            .map_err(|e| SubmitError::Tokenizer { detail: e.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Prompt ids of a conversation, refused early if there must be more than `max`.
    pub(crate) fn chat_ids(&self, messages: &[ChatMessage], max: u64) -> Result<Vec<u32>, SubmitError> {
        if messages.len() > CHAT_MESSAGES_MAX {
            let expected = format!("at most {CHAT_MESSAGES_MAX} messages");
            return Err(SubmitError::BadParameter {
                parameter: "messages",
                actual: messages.len().to_string(),
                expected,
            });
        }
        let bytes = messages.iter().map(|m| m.content.len()).fold(0usize, usize::saturating_add);
        self.refuse_early(bytes, max)?;
        let text = self.inner.template.render(messages).map_err(|detail| SubmitError::Template { detail })?;
        self.text_ids(&text, max)
    }

    /// Prompt ids of a text, with the begin mark if the model wants one and the text has none.
    pub(crate) fn text_ids(&self, text: &str, max: u64) -> Result<Vec<u32>, SubmitError> {
        self.refuse_early(text.len(), max)?;
        let mut ids = self.ids(text)?;
        if let Some(bos) = self.inner.bos.filter(|bos| ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        if ids.is_empty() {
            return Err(SubmitError::PromptEmpty);
        }
        if ids.len() as u64 > max {
            return Err(SubmitError::PromptTooLong { tokens: ids.len() as u64, max });
        }
        Ok(ids)
    }

    /// No token spells more than the longest one, so a huge text is refused without tokenising it.
    fn refuse_early(&self, bytes: usize, max: u64) -> Result<(), SubmitError> {
        let tokens_min = if self.inner.normalises { 0 } else { (bytes / self.inner.token_bytes_max) as u64 };
        if bytes > PROMPT_BYTES_MAX || tokens_min > max {
            return Err(SubmitError::PromptTooLong { tokens: tokens_min, max });
        }
        Ok(())
    }
}

/// The tokenizer tables of a file, checked.
struct Tables {
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
    kinds: Vec<i64>,
    pre: String,
    bos: Option<u32>,
    ends: Vec<u32>,
    add_bos: bool,
    ignore_merges: bool,
}

impl Tables {
    fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let model = gguf.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
        let pre = gguf.text("tokenizer.ggml.pre")?.unwrap_or("default").to_owned();
        if model != "gpt2" || splitter(&pre).is_none() {
            let found = format!("\"{}\" with pre-tokenizer \"{}\"", shorten(model), shorten(&pre));
            return Err(LoadError::UnsupportedTokenizer { found });
        }
        let tokens = gguf.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?.to_vec();
        let count = tokens.len();
        if count == 0 || count > VOCABULARY_MAX as usize {
            return Err(LoadError::TooLarge {
                what: "the vocabulary",
                value: count as u64,
                max: u64::from(VOCABULARY_MAX),
            });
        }
        if tokens.iter().any(String::is_empty) {
            return Err(LoadError::Tokenizer { detail: "a token is empty".to_owned() });
        }
        let merges = gguf.texts("tokenizer.ggml.merges")?.ok_or_else(|| missing("tokenizer.ggml.merges"))?;
        let pair = |m: &String| {
            let halves = m.split_once(' ').filter(|(a, b)| !a.is_empty() && !b.is_empty());
            halves
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .ok_or_else(|| LoadError::Tokenizer { detail: format!("merge \"{}\" is no pair", shorten(m)) })
        };
        let merges = merges.iter().map(pair).collect::<Result<_, _>>()?;
        let kinds = match gguf.metadata.get("tokenizer.ggml.token_type") {
            None => vec![1; count],
            Some(Value::Ints(kinds)) if kinds.len() == count => kinds.clone(),
            Some(_) => {
                return Err(LoadError::Tokenizer { detail: "token_type has another length than tokens".to_owned() });
            }
        };
        let id = |key: &str| gguf.int(key, 0, (count - 1) as u32);
        let mut ends: Vec<u32> =
            [id("tokenizer.ggml.eos_token_id")?, id("tokenizer.ggml.eot_token_id")?].into_iter().flatten().collect();
        for name in ["<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>"] {
            let position = tokens.iter().position(|t| t == name).filter(|i| kinds.get(*i) == Some(&KIND_CONTROL));
            ends.extend(position.map(|i| i as u32));
        }
        let mut seen = std::collections::BTreeSet::new();
        ends.retain(|id| seen.insert(*id));
        Ok(Self {
            tokens,
            merges,
            kinds,
            pre,
            bos: id("tokenizer.ggml.bos_token_id")?,
            ends,
            add_bos: gguf.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(false),
            ignore_merges: gguf.boolean("tokenizer.ggml.ignore_merges")?.unwrap_or(false),
        })
    }

    fn digest(&self, template: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"trellis/tokenizer/1");
        let mut text = |t: &str| {
            hash.update((t.len() as u64).to_le_bytes());
            hash.update(t.as_bytes());
        };
        text(&self.pre);
        text(template);
        text(&format!("{:?} {:?} {} {}", self.bos, self.ends, self.add_bos, self.ignore_merges));
        text(&format!("{} {}", self.tokens.len(), self.merges.len()));
        for token in &self.tokens {
            text(token);
        }
        for (left, right) in &self.merges {
            text(left);
            text(right);
        }
        for kind in &self.kinds {
            hash.update(kind.to_le_bytes());
        }
        hash.finalize().into()
    }

    fn build(&self) -> Result<Tokenizer, LoadError> {
        let detail = |e: &dyn std::fmt::Display| LoadError::Tokenizer { detail: e.to_string() };
        let vocabulary: Vocab = self.tokens.iter().enumerate().map(|(i, t)| (t.clone(), i as u32)).collect();
        if vocabulary.len() != self.tokens.len() {
            return Err(LoadError::Tokenizer { detail: "a token is there twice".to_owned() });
        }
        for (left, right) in &self.merges {
            let known = vocabulary.contains_key(left)
                && vocabulary.contains_key(right)
                && vocabulary.contains_key(&format!("{left}{right}"));
            if !known {
                return Err(LoadError::Tokenizer {
                    detail: format!("merge \"{} {}\" is outside the vocabulary", shorten(left), shorten(right)),
                });
            }
        }
        let bpe =
            BPE::builder().vocab_and_merges(vocabulary, self.merges.clone()).ignore_merges(self.ignore_merges).build();
        let mut tokenizer = Tokenizer::new(bpe.map_err(|e| detail(&e))?);
        if self.pre.starts_with("qwen") {
            tokenizer.with_normalizer(Some(NFC)).map_err(|e| detail(&e))?;
        }
        tokenizer.with_pre_tokenizer(splitter(&self.pre));
        let marked = |wanted: i64| {
            self.tokens.iter().zip(&self.kinds).filter(move |(_, k)| **k == wanted).map(|(t, _)| t.clone())
        };
        tokenizer
            .add_special_tokens(marked(KIND_CONTROL).map(|t| AddedToken::from(t, true)))
            .map_err(|e| detail(&e))?;
        tokenizer
            .add_tokens(marked(KIND_USER_DEFINED).map(|t| AddedToken::from(t, false).normalized(false)))
            .map_err(|e| detail(&e))?;
        Ok(tokenizer)
    }
}

/// How text is cut into words before merging, by the name in the file; none for a name that is not known, since a wrong cut would quietly
/// give the model other tokens than it was trained on.
fn splitter(pre: &str) -> Option<PreTokenizerWrapper> {
    let whole = ByteLevel::new(false, false, true);
    let bytes_only = ByteLevel::new(false, false, false);
    let by_words = |words: &str| {
        let split = Split::new(SplitPattern::Regex(words.to_owned()), SplitDelimiterBehavior::Isolated, false).ok()?;
        Some(Sequence::new(vec![split.into(), bytes_only.into()]).into())
    };
    match pre {
        "default" | "gpt-2" | "gpt2" => Some(whole.into()),
        "smollm" => Some(Sequence::new(vec![Digits::new(true).into(), whole.into()]).into()),
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" => by_words(WORDS_LLAMA3),
        "qwen2" => by_words(WORDS_QWEN2),
        _ => None,
    }
}

/// The bytes a vocabulary entry spells. Byte-level vocabularies write each byte as one printable character: itself where printable, else a
/// character from U+0100 on, in order.
fn spell(token: &str) -> Box<[u8]> {
    let mut out = Vec::with_capacity(token.len());
    for character in token.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.into()
}

fn byte_of(character: char) -> Option<u8> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(character);
    if code < 0x100 {
        return printable(code).then_some(code as u8);
    }
    (0..0x100u32).filter(|b| !printable(*b)).nth((code - 0x100) as usize).map(|b| b as u8)
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
