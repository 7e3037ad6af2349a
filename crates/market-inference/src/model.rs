//! A loaded model: weights, tokenizer, manifest.

use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::BUILTIN_MODEL_GGUF;
use crate::config::{LoadOptions, MODEL_BYTES_MAX, Requantise};
use crate::error::LoadError;
use crate::forward::Llama;
use crate::gguf::Gguf;
use crate::manifest::{ENGINE_VERSION, Manifest, engine_build, isa_tier};
use crate::tokenizer::TokenizerOnly;
use crate::weights::{Hyper, Weights};

const HASH_CHUNK_BYTES: usize = 1 << 20;
const NAME_CHARS_MAX: usize = 64;

/// A model in memory, ready for [`Engine::start`](crate::Engine::start).
pub struct Model {
    pub(crate) llama: Llama,
    pub(crate) tokenizer: TokenizerOnly,
    manifest: Manifest,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl Model {
    /// Loads a GGUF file. Blocks for as long as reading, hashing and requantising take (about a second for 100 MB): call it off the runtime.
    ///
    /// # Errors
    /// As [`LoadError`] says; the file is treated as hostile.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.is_dir() {
            return Err(io(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
        }
        let fallback = path.file_stem().map_or_else(|| "model".to_owned(), |s| s.to_string_lossy().into_owned());
        Self::from_source(file, options, &fallback)
    }

    /// Loads a GGUF file that is in memory.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_bytes(bytes: &[u8], options: &LoadOptions) -> Result<Self, LoadError> {
        Self::from_source(Cursor::new(bytes), options, "model")
    }

    /// Loads the small default model that is compiled in.
    ///
    /// # Errors
    /// As [`load`](Self::load); a release has been tested to load it.
    pub fn builtin(options: &LoadOptions) -> Result<Self, LoadError> {
        Self::from_bytes(BUILTIN_MODEL_GGUF, options)
    }

    fn from_source<R: Read + Seek>(
        mut source: R,
        options: &LoadOptions,
        fallback_name: &str,
    ) -> Result<Self, LoadError> {
        let gguf = Gguf::read(&mut source)?;
        let hyper = Hyper::read(&gguf)?;
        let tokenizer = TokenizerOnly::from_header(&gguf)?;
        let source_digest = digest_of(&mut source)?;
        let weights = Weights::load(&gguf, &mut source, &hyper, tokenizer.vocabulary(), options.requantise)?;
        let llama = Llama::new(hyper, weights, tokenizer.vocabulary());
        let stated = gguf.text("general.name")?.unwrap_or(fallback_name);
        let context = options.context_tokens_max.unwrap_or(u32::MAX).min(llama.hyper.context).max(1);
        let manifest = Manifest {
            name: options.name.clone().unwrap_or_else(|| plain_name(stated)),
            architecture: "llama".to_owned(),
            licence: gguf.text("general.license")?.map(|l| l.chars().take(NAME_CHARS_MAX).collect()),
            weight_digest: weight_digest(&source_digest, options.requantise),
            source_digest,
            tokenizer_digest: tokenizer.digest(),
            recipe: options.requantise.recipe().to_owned(),
            context_tokens_max: context,
            vocabulary: tokenizer.vocabulary() as u32,
            parameters: llama.parameters(),
            kv_bytes_per_token: llama.hyper.kv_bytes_per_token(),
            engine_build: engine_build(),
            isa_tier: isa_tier(),
        };
        tracing::info!(name = %manifest.name, parameters = manifest.parameters, isa = %manifest.isa_tier, "model loaded");
        Ok(Self { llama, tokenizer, manifest })
    }

    /// What the model is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &TokenizerOnly {
        &self.tokenizer
    }

    /// Memory for keys and values per token of context, in bytes.
    #[must_use]
    pub fn memory_bytes_per_token(&self) -> u64 {
        self.manifest.kv_bytes_per_token
    }
}

fn digest_of<R: Read + Seek>(source: &mut R) -> Result<[u8; 32], LoadError> {
    let io = |source| LoadError::Io { path: "(hash)".into(), source };
    source.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut reader = BufReader::with_capacity(HASH_CHUNK_BYTES, source).take(MODEL_BYTES_MAX + 1);
    let mut hash = Sha256::new();
    let mut chunk = vec![0u8; HASH_CHUNK_BYTES];
    let mut total = 0u64;
    loop {
        let count = reader.read(&mut chunk).map_err(io)?;
        if count == 0 {
            return Ok(hash.finalize().into());
        }
        total += count as u64;
        if total > MODEL_BYTES_MAX {
            return Err(LoadError::TooLarge { what: "the model file", value: total, max: MODEL_BYTES_MAX });
        }
        hash.update(&chunk[..count]);
    }
}

fn weight_digest(source: &[u8; 32], requantise: Requantise) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"trellis/model/1");
    hash.update(source);
    for part in [requantise.recipe(), ENGINE_VERSION] {
        hash.update((part.len() as u32).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// Lower case, with `-` for everything that is not a letter, digit, dot or underscore.
fn plain_name(stated: &str) -> String {
    let mut out = String::new();
    for c in stated.chars().take(NAME_CHARS_MAX) {
        if c.is_ascii_alphanumeric() || c == '.' || c == '_' {
            out.push(c.to_ascii_lowercase());
        } else if !out.ends_with('-') && !out.is_empty() {
            out.push('-');
        }
    }
    let name = out.trim_end_matches('-');
    if name.is_empty() { "model".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_plain() {
        assert_eq!(plain_name("Trellis Tiny"), "trellis-tiny");
        assert_eq!(plain_name("SmolLM2 135M (Instruct)"), "smollm2-135m-instruct");
        assert_eq!(plain_name("  "), "model");
    }
}
