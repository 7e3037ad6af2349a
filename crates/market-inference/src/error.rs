//! What can go wrong, one enum per operation.

use std::path::PathBuf;

/// A model or tokenizer could not be loaded. The texts say what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read the model file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The first bytes are not those of a GGUF file.
    #[error(
        "not a GGUF file: it begins with {found:02x?}, expected \"GGUF\" (safetensors and PyTorch files must be converted to GGUF first)"
    )]
    NotGguf {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A GGUF version that this engine does not read.
    #[error("GGUF version {found} is not supported, expected 2 or 3 (convert the file again with a current tool)")]
    UnsupportedVersion {
        /// The version in the file.
        found: u32,
    },
    /// The file ends too early.
    #[error(
        "the model file is truncated at {what}: {needed} bytes needed, {available} there (download or copy it again)"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// A length or count in the file is above its bound.
    #[error("{what} is {value}, more than the bound of {max} (the file is damaged or hostile)")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The value found.
        value: u64,
        /// The bound.
        max: u64,
    },
    /// The file does not follow the format.
    #[error("malformed GGUF: {what} (the file is damaged or hostile)")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// Not a model of the llama family.
    #[error(
        "architecture \"{found}\" is not supported: the embedded engine runs the llama family only (Llama, SmolLM, Mistral, TinyLlama); serve others with an OpenAI-compatible upstream"
    )]
    UnsupportedArchitecture {
        /// `general.architecture` of the file.
        found: String,
    },
    /// A feature of the llama family that this engine lacks.
    #[error(
        "this model needs {feature}, which the embedded engine does not have; serve it with an OpenAI-compatible upstream"
    )]
    UnsupportedFeature {
        /// The feature.
        feature: String,
    },
    /// A kind of tokenizer that this engine lacks.
    #[error(
        "tokenizer {found} is not supported: the embedded engine reads byte-level BPE (\"gpt2\") tokenizers only; serve this model with an OpenAI-compatible upstream"
    )]
    UnsupportedTokenizer {
        /// Model and pre-tokenizer named by the file.
        found: String,
    },
    /// A tensor in a number format that this engine lacks.
    #[error(
        "tensor {tensor} has number format {found}, which is not supported (use a file quantised as Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, F16, BF16 or F32)"
    )]
    UnsupportedTensorKind {
        /// The tensor.
        tensor: String,
        /// The number in the file.
        found: u32,
    },
    /// A required metadata key is absent.
    #[error("the model file lacks the metadata key {key} (it is incomplete: convert it again)")]
    MissingMetadata {
        /// The key.
        key: String,
    },
    /// A metadata key has a wrong type or an impossible value.
    #[error("metadata key {key} is {found}, expected {expected}")]
    BadMetadata {
        /// The key.
        key: String,
        /// What the file has, shortened.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A required tensor is absent.
    #[error(
        "the model file lacks the tensor {tensor} (it is incomplete, perhaps one part of a split model: merge the parts first)"
    )]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor that this engine would ignore, so its output would be wrong.
    #[error(
        "the model file has the tensor {tensor}, which the llama forward pass does not use, so the output would be wrong"
    )]
    UnexpectedTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor has another shape than the metadata says.
    #[error("tensor {tensor} has shape {actual:?}, expected {expected:?}")]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// Rows and columns that the metadata asks for.
        expected: Vec<usize>,
        /// Rows and columns in the file.
        actual: Vec<usize>,
    },
    /// The chat template does not compile or does not render a plain conversation.
    #[error("the chat template of the model file cannot be used: {detail}")]
    Template {
        /// What the template engine said.
        detail: String,
    },
    /// The tokenizer tables contradict each other.
    #[error("the tokenizer of the model file cannot be used: {detail}")]
    Tokenizer {
        /// What is wrong.
        detail: String,
    },
    /// The tensor library refused.
    #[error("the tensor library refused {tensor}: {source}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What it said.
        source: candle_core::Error,
    },
}

/// An engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A bound in the configuration is impossible.
    #[error("engine setting {setting} is {actual}, must be at least {min}")]
    BadConfig {
        /// The setting.
        setting: &'static str,
        /// Its value.
        actual: u64,
        /// The least value that works.
        min: u64,
    },
    /// The system gave no thread.
    #[error("cannot start the inference thread: {0}")]
    Thread(std::io::Error),
    /// The first step with this model failed.
    #[error("the model fails on its first token: {0}")]
    WarmUp(candle_core::Error),
}

/// A request was refused; nothing was computed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full: the provider is busy, try later or elsewhere.
    #[error("the queue is full: {depth} requests wait, at most {max}")]
    QueueFull {
        /// Requests waiting.
        depth: usize,
        /// The bound.
        max: usize,
    },
    /// The prompt leaves no room for output in the model's context.
    #[error("the prompt has {tokens} tokens or more, this model takes at most {max}")]
    PromptTooLong {
        /// Tokens counted; a lower bound where the prompt was too large even to count.
        tokens: u64,
        /// Most prompt tokens: the context less one.
        max: u64,
    },
    /// The prompt has no token.
    #[error("the prompt is empty")]
    PromptEmpty,
    /// Prompt and output together need more memory than the engine has for all sequences.
    #[error("the request needs {needed} bytes for keys and values, the engine has {max} in all; ask for fewer tokens")]
    TooMuchMemory {
        /// Bytes needed.
        needed: u64,
        /// The bound.
        max: u64,
    },
    /// A sampling parameter is out of range.
    #[error("{parameter} is {actual}, must be {expected}")]
    BadParameter {
        /// The parameter's name as in the OpenAI API.
        parameter: &'static str,
        /// The value given.
        actual: String,
        /// The range.
        expected: String,
    },
    /// The model's chat template refused the conversation (for example two user messages in a row).
    #[error("the model's chat template refused this conversation: {detail}")]
    Template {
        /// What the template said.
        detail: String,
    },
    /// The tokenizer failed.
    #[error("the tokenizer failed: {detail}")]
    Tokenizer {
        /// What it said.
        detail: String,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

/// A provider's claim about its output tokens does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecountError {
    /// An id that the vocabulary does not have, or that never is output.
    #[error("token {position} has id {id}, which is no output token of this vocabulary")]
    BadId {
        /// Position in the output.
        position: usize,
        /// The id.
        id: u32,
    },
    /// The ids spell another text.
    #[error("the token ids spell another text: they differ from byte {at} on")]
    OtherText {
        /// First byte that differs.
        at: usize,
    },
    /// The ids go on after the text by more than one token and the longest stop string explain.
    #[error("the token ids go on for {extra} bytes after the text, at most {max} can be withheld")]
    TooMuchWithheld {
        /// Bytes beyond the text.
        extra: usize,
        /// The bound.
        max: usize,
    },
}
