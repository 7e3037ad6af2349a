//! Options and bounds.

/// Name of the environment variable with which candle is told its number of threads. It is read once per process.
pub const THREADS_ENV: &str = "CANDLE_NUM_THREADS";

/// Largest model file that is read, in bytes (64 GiB).
pub const MODEL_BYTES_MAX: u64 = 64 << 30;

/// Prompt rows computed in one step, over all sequences. A longer prompt is taken in chunks, so that it never stalls the others for long.
pub const PREFILL_TOKENS_PER_STEP: usize = 64;

/// Largest prompt text, in bytes, before it is even tokenised (4 MiB).
pub const PROMPT_BYTES_MAX: usize = 4 << 20;

/// Most messages in one chat prompt.
pub const CHAT_MESSAGES_MAX: usize = 1_024;

/// Most stop strings in one request.
pub const STOP_STRINGS_MAX: usize = 16;

/// Longest stop string, in bytes.
pub const STOP_STRING_BYTES_MAX: usize = 256;

/// Highest sampling temperature.
pub const TEMPERATURE_MAX: f32 = 5.0;

/// How a model is brought into memory.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The name under which it is offered; without it, the file's `general.name` in lower case with `-` for spaces.
    pub name: Option<String>,
    /// Longest context (prompt + output) in tokens; the smaller of this and the file's own. Without it, the file's own.
    pub context_tokens_max: Option<u32>,
    /// Which matrices are requantised to Q8_0.
    pub requantise: Requantise,
}

/// Which matrices are requantised to Q8_0 when a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Requantise {
    /// All of them. The default: Q8_0 is the kind for which batch and chunk never change a bit.
    #[default]
    All,
    /// Only the kinds without vector code (Q4_1, Q5_0, Q5_1) and the unquantised ones. Saves memory for K-quants and Q4_0, but a result
    /// may then depend on how many rows were computed together.
    SlowKinds,
}

impl Requantise {
    /// The recipe's name as it goes into the weight digest.
    #[must_use]
    pub const fn recipe(self) -> &'static str {
        match self {
            Self::All => "q8_0-all/1",
            Self::SlowKinds => "q8_0-slow-kinds/1",
        }
    }
}

/// Bounds of one engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Most requests waiting; one more is refused with `QueueFull`.
    pub queue_max: usize,
    /// Most sequences decoded together.
    pub sequences_max: usize,
    /// Memory for keys and values of all running sequences together, in bytes. A sequence reserves prompt + `max_tokens` when it joins.
    pub kv_bytes_max: u64,
    /// How many events a sequence may be ahead of its reader. At the bound it pauses (it keeps its memory) until the reader takes one or
    /// drops the generation: this is how a provider stops computing what nobody has paid for. At least 4.
    pub events_ahead_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { queue_max: 64, sequences_max: 8, kv_bytes_max: 1 << 30, events_ahead_max: 16 }
    }
}

/// Threads that candle uses in this process: `CANDLE_NUM_THREADS`, else `RAYON_NUM_THREADS`, else the number of cores.
#[must_use]
pub fn inference_threads() -> usize {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<usize>().ok()).filter(|n| *n > 0);
    from_env(THREADS_ENV).or_else(|| from_env("RAYON_NUM_THREADS")).unwrap_or_else(cores)
}

/// The number of threads a provider should set in [`THREADS_ENV`] before it starts: cores minus one, at least one, because candle's workers
/// spin and fight with everything else for the last core.
#[must_use]
pub fn inference_threads_recommended() -> usize {
    cores().saturating_sub(1).max(1)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
