//! What a provider tells about its model.

/// Version of this crate's computation. It rises whenever the numbers that come out may change; it is part of the weight digest.
pub const ENGINE_VERSION: &str = "trellis-llama/1";

/// Version of candle whose kernels compute the linear layers.
pub const CANDLE_VERSION: &str = "0.11.1";

/// A loaded model in words and digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The name under which it is offered.
    pub name: String,
    /// `general.architecture`, always `llama` here.
    pub architecture: String,
    /// `general.license` of the file, if stated.
    pub licence: Option<String>,
    /// The model's identity: SHA-256 over the domain, the SHA-256 of the source file, the requantisation recipe and the engine version.
    pub weight_digest: [u8; 32],
    /// SHA-256 of the source file alone.
    pub source_digest: [u8; 32],
    /// Digest of tokenizer tables and chat template (see [`TokenizerOnly::digest`](crate::TokenizerOnly::digest)).
    pub tokenizer_digest: [u8; 32],
    /// The requantisation recipe, for example `q8_0-all/1`.
    pub recipe: String,
    /// Longest prompt and output together, in tokens.
    pub context_tokens_max: u32,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Bytes of keys and values for one token of context.
    pub kv_bytes_per_token: u64,
    /// Crate, candle and engine versions and the target: two sides compute the same bits only if this and `isa_tier` are equal.
    pub engine_build: String,
    /// The instruction set that the kernels use on this machine, for example `avx512-vnni`.
    pub isa_tier: String,
}

pub(crate) fn engine_build() -> String {
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    format!(
        "{} {} candle {CANDLE_VERSION} {ENGINE_VERSION} {arch}-{os}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION")
    )
}

/// The tier that candle picks at run time, with its two overriding variables.
#[cfg(target_arch = "x86_64")]
pub(crate) fn isa_tier() -> String {
    let forced = |name: &str| std::env::var(name).as_deref() == Ok("1");
    let (avx2_only, vnni_only) = (forced("MISTRALRS_FORCE_AVX2"), forced("MISTRALRS_FORCE_AVXVNNI"));
    let avx2 = std::arch::is_x86_feature_detected!("avx2");
    let free = !avx2_only && !vnni_only;
    let tier = if free
        && std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vnni")
    {
        "avx512-vnni"
    } else if !avx2_only && avx2 && (vnni_only || std::arch::is_x86_feature_detected!("avxvnni")) {
        "avx-vnni"
    } else if avx2 && std::arch::is_x86_feature_detected!("fma") {
        "avx2"
    } else {
        "x86-64-baseline"
    };
    tier.to_owned()
}

/// The tier that candle picks at run time.
#[cfg(target_arch = "aarch64")]
pub(crate) fn isa_tier() -> String {
    let tier = if std::arch::is_aarch64_feature_detected!("i8mm") {
        "neon-i8mm"
    } else if std::arch::is_aarch64_feature_detected!("dotprod") {
        "neon-dotprod"
    } else {
        "neon"
    };
    tier.to_owned()
}

/// No vector code is known for this machine.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn isa_tier() -> String {
    format!("{}-scalar", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stated_candle_version_is_the_one_that_is_built() {
        let lock = include_str!("../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"candle-core\"\nversion = \"{CANDLE_VERSION}\"")));
    }
}
