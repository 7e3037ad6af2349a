//! From a checked GGUF header to the tensors of the forward pass.

use std::collections::BTreeSet;
use std::io::{Read, Seek};

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor};

use crate::config::Requantise;
use crate::error::LoadError;
use crate::gguf::{Gguf, missing};

/// Numbers in one Q8_0 block: every matrix row must be a multiple of it.
const Q8_0_BLOCK: usize = 32;
const LAYERS_MAX: u32 = 1_024;
const WIDTH_MAX: u32 = 1 << 18;
const HEADS_MAX: u32 = 4_096;
const CONTEXT_MAX: u32 = 1 << 24;

/// The shape of a llama-family model.
#[derive(Debug, Clone)]
pub(crate) struct Hyper {
    pub(crate) dim: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) rope_dim: usize,
    pub(crate) feed_forward: usize,
    pub(crate) context: u32,
    pub(crate) norm_epsilon: f32,
    rope_base: f64,
    rope_scale: f64,
}

impl Hyper {
    pub(crate) fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let architecture = gguf.text("general.architecture")?.ok_or_else(|| missing("general.architecture"))?;
        if architecture != "llama" {
            return Err(LoadError::UnsupportedArchitecture { found: architecture.chars().take(40).collect() });
        }
        if gguf.int("llama.expert_count", 0, u32::MAX)?.unwrap_or(0) > 0 {
            return Err(LoadError::UnsupportedFeature { feature: "a mixture of experts".to_owned() });
        }
        let need = |key: &str, max: u32| -> Result<usize, LoadError> {
            let key = format!("llama.{key}");
            Ok(gguf.int(&key, 1, max)?.ok_or_else(|| missing(&key))? as usize)
        };
        let dim = need("embedding_length", WIDTH_MAX)?;
        let heads = need("attention.head_count", HEADS_MAX)?;
        let kv_heads = gguf.int("llama.attention.head_count_kv", 1, HEADS_MAX)?.map_or(heads, |n| n as usize);
        let head_dim = gguf.int("llama.attention.key_length", 2, WIDTH_MAX)?.map_or(dim / heads, |n| n as usize);
        let value_dim = gguf.int("llama.attention.value_length", 2, WIDTH_MAX)?.map_or(head_dim, |n| n as usize);
        let rope_dim = gguf.int("llama.rope.dimension_count", 2, WIDTH_MAX)?.map_or(head_dim, |n| n as usize);
        let fits = heads.is_multiple_of(kv_heads) && head_dim.is_multiple_of(2) && rope_dim.is_multiple_of(2);
        if !fits || head_dim == 0 || rope_dim > head_dim || value_dim != head_dim {
            let found = format!(
                "heads {heads}, key/value heads {kv_heads}, head width {head_dim}/{value_dim}, rope width {rope_dim}"
            );
            let expected = "heads a multiple of key/value heads, one even head width, rope width within it".to_owned();
            return Err(LoadError::BadMetadata { key: "llama.attention.*".to_owned(), found, expected });
        }
        let epsilon = "llama.attention.layer_norm_rms_epsilon";
        let (rope_base, rope_scale) = rope_parameters(gguf)?;
        Ok(Self {
            dim,
            layers: need("block_count", LAYERS_MAX)?,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            feed_forward: need("feed_forward_length", WIDTH_MAX)?,
            context: need("context_length", CONTEXT_MAX)? as u32,
            norm_epsilon: gguf.float(epsilon)?.ok_or_else(|| missing(epsilon))? as f32,
            rope_base,
            rope_scale,
        })
    }

    /// Bytes of keys and values per token of context: f32, keys and values, all layers.
    pub(crate) fn kv_bytes_per_token(&self) -> u64 {
        (self.layers * self.kv_heads * self.head_dim * 2 * size_of::<f32>()) as u64
    }

    /// The angle per position of each rotated pair, divided by the file's factors if it has some (long-context Llama 3).
    pub(crate) fn rope_angles(&self, factors: Option<&[f32]>) -> Vec<f64> {
        let angle = |pair: usize| {
            let factor = factors.and_then(|f| f.get(pair)).map_or(1.0, |f| f64::from(*f));
            self.rope_base.powf(-((2 * pair) as f64) / self.rope_dim as f64) / (factor * self.rope_scale)
        };
        (0..self.rope_dim / 2).map(angle).collect()
    }
}

fn rope_parameters(gguf: &Gguf) -> Result<(f64, f64), LoadError> {
    let base = gguf.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
    let scale = match gguf.text("llama.rope.scaling.type")?.unwrap_or("none") {
        "none" => gguf.float("llama.rope.scale_linear")?.unwrap_or(1.0),
        "linear" => gguf.float("llama.rope.scaling.factor")?.unwrap_or(1.0),
        other => {
            let feature = format!("position scaling \"{}\"", other.chars().take(20).collect::<String>());
            return Err(LoadError::UnsupportedFeature { feature });
        }
    };
    if base > 1.0 && scale > 0.0 {
        return Ok((base, scale));
    }
    let expected = "a base above 1 and a positive scale".to_owned();
    Err(LoadError::BadMetadata {
        key: "llama.rope.*".to_owned(),
        found: format!("base {base}, scale {scale}"),
        expected,
    })
}

/// One layer.
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: QTensor,
    pub(crate) key: QTensor,
    pub(crate) value: QTensor,
    pub(crate) output: QTensor,
    pub(crate) feed_norm: Vec<f32>,
    pub(crate) gate: QTensor,
    pub(crate) up: QTensor,
    pub(crate) down: QTensor,
}

/// All weights.
pub(crate) struct Weights {
    pub(crate) embedding: QTensor,
    /// None if the output is tied to the embedding.
    pub(crate) output: Option<QTensor>,
    pub(crate) norm: Vec<f32>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) rope_angles: Vec<f64>,
    pub(crate) vocabulary_rows: usize,
    /// Numbers in all tensors.
    pub(crate) parameters: u64,
}

struct Loader<'a, R> {
    gguf: &'a Gguf,
    source: &'a mut R,
    requantise: Requantise,
    unused: BTreeSet<&'a str>,
    parameters: u64,
}

impl<R: Read + Seek> Loader<'_, R> {
    /// A tensor of exactly this shape.
    fn raw(&mut self, name: &str, expected: &[usize]) -> Result<QTensor, LoadError> {
        let info = self.gguf.tensors.get(name).ok_or_else(|| LoadError::MissingTensor { tensor: name.to_owned() })?;
        if info.dims != expected {
            return Err(LoadError::TensorShape {
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                actual: info.dims.clone(),
            });
        }
        self.unused.remove(name);
        self.parameters = self.parameters.saturating_add(info.dims.iter().product::<usize>() as u64);
        self.gguf.tensor(self.source, name)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let wrap = |source| LoadError::Tensor { tensor: name.to_owned(), source };
        self.raw(name, &[len])?.dequantize(&Device::Cpu).and_then(|t| t.to_vec1::<f32>()).map_err(wrap)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<QTensor, LoadError> {
        if !columns.is_multiple_of(Q8_0_BLOCK) {
            let feature =
                format!("matrix rows of {columns} numbers (tensor {name}; only multiples of {Q8_0_BLOCK} work)");
            return Err(LoadError::UnsupportedFeature { feature });
        }
        let tensor = self.raw(name, &[rows, columns])?;
        let keep = match (self.requantise, tensor.dtype()) {
            (_, GgmlDType::Q8_0) => true,
            (Requantise::All, _) => false,
            (Requantise::SlowKinds, kind) => {
                matches!(
                    kind,
                    GgmlDType::Q4_0
                        | GgmlDType::Q2K
                        | GgmlDType::Q3K
                        | GgmlDType::Q4K
                        | GgmlDType::Q5K
                        | GgmlDType::Q6K
                )
            }
        };
        if keep {
            return Ok(tensor);
        }
        let wrap = |source| LoadError::Tensor { tensor: name.to_owned(), source };
        tensor.dequantize(&Device::Cpu).and_then(|t| QTensor::quantize(&t, GgmlDType::Q8_0)).map_err(wrap)
    }

    fn layer(&mut self, number: usize, h: &Hyper) -> Result<Layer, LoadError> {
        let name = |part: &str| format!("blk.{number}.{part}.weight");
        let (all, kv) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm"), h.dim)?,
            query: self.matrix(&name("attn_q"), all, h.dim)?,
            key: self.matrix(&name("attn_k"), kv, h.dim)?,
            value: self.matrix(&name("attn_v"), kv, h.dim)?,
            output: self.matrix(&name("attn_output"), h.dim, all)?,
            feed_norm: self.vector(&name("ffn_norm"), h.dim)?,
            gate: self.matrix(&name("ffn_gate"), h.feed_forward, h.dim)?,
            up: self.matrix(&name("ffn_up"), h.feed_forward, h.dim)?,
            down: self.matrix(&name("ffn_down"), h.dim, h.feed_forward)?,
        })
    }
}

impl Weights {
    pub(crate) fn load<R: Read + Seek>(
        gguf: &Gguf,
        source: &mut R,
        hyper: &Hyper,
        vocabulary: usize,
        requantise: Requantise,
    ) -> Result<Self, LoadError> {
        const EMBEDDING: &str = "token_embd.weight";
        let rows = gguf.tensors.get(EMBEDDING).and_then(|t| t.dims.first()).copied().unwrap_or(vocabulary);
        if rows < vocabulary {
            let expected = vec![vocabulary, hyper.dim];
            return Err(LoadError::TensorShape {
                tensor: EMBEDDING.to_owned(),
                expected,
                actual: vec![rows, hyper.dim],
            });
        }
        let unused = gguf.tensors.keys().map(String::as_str).collect();
        let mut loader = Loader { gguf, source, requantise, unused, parameters: 0 };
        let embedding = loader.matrix(EMBEDDING, rows, hyper.dim)?;
        let tied = !gguf.tensors.contains_key("output.weight");
        let output = if tied { None } else { Some(loader.matrix("output.weight", rows, hyper.dim)?) };
        let norm = loader.vector("output_norm.weight", hyper.dim)?;
        let factors = match gguf.tensors.contains_key("rope_freqs.weight") {
            true => Some(loader.vector("rope_freqs.weight", hyper.rope_dim / 2)?),
            false => None,
        };
        let layers = (0..hyper.layers).map(|number| loader.layer(number, hyper)).collect::<Result<_, _>>()?;
        if let Some(name) = loader.unused.first() {
            return Err(LoadError::UnexpectedTensor { tensor: (*name).to_owned() });
        }
        let rope_angles = hyper.rope_angles(factors.as_deref());
        Ok(Self { embedding, output, norm, layers, rope_angles, vocabulary_rows: rows, parameters: loader.parameters })
    }
}
