//! Reads GGUF (versions 2 and 3) as hostile input: every length is checked against its bound and against what the file still holds before
//! anything is allocated, and nothing is read twice.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor, ggml_file::qtensor_from_ggml};

use crate::error::LoadError;

const MAGIC: [u8; 4] = *b"GGUF";
/// Metadata and tensor list together, in bytes. The largest vocabularies in use need about 12 MiB.
pub(crate) const HEADER_BYTES_MAX: u64 = 32 << 20;
const METADATA_KEYS_MAX: u64 = 4_096;
const TENSORS_MAX: u64 = 65_536;
const KEY_BYTES_MAX: u64 = 1_024;
const STRING_BYTES_MAX: u64 = 1 << 20;
const ARRAY_ELEMENTS_MAX: u64 = 1 << 20;
const DIMS_MAX: u32 = 4;
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_MAX: u64 = 65_536;

/// A metadata value, with the integer and float widths of the file folded together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

impl Value {
    /// A short description for error messages; never the whole array.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Int(v) => v.to_string(),
            Self::Float(v) => v.to_string(),
            Self::Bool(v) => v.to_string(),
            Self::Text(v) => format!("\"{}\"", v.chars().take(60).collect::<String>()),
            Self::Ints(v) => format!("an array of {} integers", v.len()),
            Self::Floats(v) => format!("an array of {} floats", v.len()),
            Self::Bools(v) => format!("an array of {} booleans", v.len()),
            Self::Texts(v) => format!("an array of {} strings", v.len()),
        }
    }
}

/// Where a tensor lies. `dims` is outermost first: `[rows, columns]`.
#[derive(Debug, Clone)]
pub(crate) struct TensorInfo {
    pub(crate) dims: Vec<usize>,
    pub(crate) kind: GgmlDType,
    offset: u64,
    bytes: u64,
}

/// The checked header of a GGUF file.
#[derive(Debug)]
pub(crate) struct Gguf {
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
    data_start: u64,
    file_bytes: u64,
}

struct Reader<R> {
    inner: BufReader<R>,
    position: u64,
    end: u64,
    file_bytes: u64,
}

impl<R: Read> Reader<R> {
    fn bytes(&mut self, what: &'static str, count: u64) -> Result<Vec<u8>, LoadError> {
        self.reserve(what, count)?;
        let mut out = vec![0u8; count as usize];
        self.fill(what, &mut out)?;
        Ok(out)
    }

    fn reserve(&self, what: &'static str, count: u64) -> Result<(), LoadError> {
        if count > self.file_bytes.saturating_sub(self.position) {
            return Err(LoadError::Truncated {
                what,
                needed: count,
                available: self.file_bytes.saturating_sub(self.position),
            });
        }
        if count > self.end.saturating_sub(self.position) {
            return Err(LoadError::TooLarge {
                what: "the header",
                value: self.position.saturating_add(count),
                max: HEADER_BYTES_MAX,
            });
        }
        Ok(())
    }

    fn fill(&mut self, what: &'static str, out: &mut [u8]) -> Result<(), LoadError> {
        let needed = out.len() as u64;
        self.reserve(what, needed)?;
        self.inner.read_exact(out).map_err(|_| LoadError::Truncated { what, needed, available: 0 })?;
        self.position = self.position.saturating_add(needed);
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], LoadError> {
        let mut out = [0u8; N];
        self.fill(what, &mut out)?;
        Ok(out)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, LoadError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, LoadError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn bounded(&mut self, what: &'static str, max: u64) -> Result<u64, LoadError> {
        let value = self.u64(what)?;
        if value > max { Err(LoadError::TooLarge { what, value, max }) } else { Ok(value) }
    }

    fn text(&mut self, what: &'static str, max: u64) -> Result<String, LoadError> {
        let count = self.bounded(what, max)?;
        String::from_utf8(self.bytes(what, count)?)
            .map_err(|_| LoadError::Malformed { what: format!("{what} is not UTF-8") })
    }

    fn integer(&mut self, kind: u32) -> Result<Option<i128>, LoadError> {
        const WHAT: &str = "an integer value";
        Ok(Some(match kind {
            0 => i128::from(u8::from_le_bytes(self.array(WHAT)?)),
            1 => i128::from(i8::from_le_bytes(self.array(WHAT)?)),
            2 => i128::from(u16::from_le_bytes(self.array(WHAT)?)),
            3 => i128::from(i16::from_le_bytes(self.array(WHAT)?)),
            4 => i128::from(u32::from_le_bytes(self.array(WHAT)?)),
            5 => i128::from(i32::from_le_bytes(self.array(WHAT)?)),
            10 => i128::from(u64::from_le_bytes(self.array(WHAT)?)),
            11 => i128::from(i64::from_le_bytes(self.array(WHAT)?)),
            _ => return Ok(None),
        }))
    }

    fn float(&mut self, kind: u32) -> Result<Option<f64>, LoadError> {
        Ok(match kind {
            6 => Some(f64::from(f32::from_le_bytes(self.array("a float value")?))),
            12 => Some(f64::from_le_bytes(self.array("a float value")?)),
            _ => None,
        })
    }

    fn boolean(&mut self) -> Result<bool, LoadError> {
        match self.array::<1>("a boolean value")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(LoadError::Malformed { what: format!("a boolean is {other}") }),
        }
    }

    fn value(&mut self) -> Result<Value, LoadError> {
        let kind = self.u32("a value type")?;
        match kind {
            7 => return Ok(Value::Bool(self.boolean()?)),
            8 => return Ok(Value::Text(self.text("a string value", STRING_BYTES_MAX)?)),
            9 => return self.value_array(),
            _ => {}
        }
        if let Some(v) = self.integer(kind)? {
            return Ok(Value::Int(v));
        }
        self.float(kind)?
            .map(Value::Float)
            .ok_or_else(|| LoadError::Malformed { what: format!("value type {kind} is unknown") })
    }

    fn value_array(&mut self) -> Result<Value, LoadError> {
        let kind = self.u32("an array type")?;
        let count = self.bounded("an array length", ARRAY_ELEMENTS_MAX)?;
        let width: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(LoadError::Malformed { what: "an array holds arrays".to_owned() }),
            _ => return Err(LoadError::Malformed { what: format!("array type {kind} is unknown") }),
        };
        self.reserve("an array", count.saturating_mul(width))?;
        let range = 0..count;
        let wrong = || LoadError::Malformed { what: format!("array type {kind} is unknown") };
        Ok(match kind {
            7 => Value::Bools(range.map(|_| self.boolean()).collect::<Result<_, _>>()?),
            8 => Value::Texts(range.map(|_| self.text("an array string", STRING_BYTES_MAX)).collect::<Result<_, _>>()?),
            6 | 12 => Value::Floats(range.map(|_| self.float(kind)?.ok_or_else(wrong)).collect::<Result<_, _>>()?),
            _ => {
                let narrow = |v: i128| {
                    i64::try_from(v)
                        .map_err(|_| LoadError::Malformed { what: "an array integer is above i64".to_owned() })
                };
                Value::Ints(
                    range.map(|_| self.integer(kind)?.ok_or_else(wrong).and_then(narrow)).collect::<Result<_, _>>()?,
                )
            }
        })
    }

    fn tensor(&mut self) -> Result<(String, TensorInfo), LoadError> {
        let name = self.text("a tensor name", KEY_BYTES_MAX)?;
        let rank = self.u32("a tensor rank")?;
        if rank == 0 || rank > DIMS_MAX {
            return Err(LoadError::TooLarge {
                what: "a tensor rank",
                value: u64::from(rank),
                max: u64::from(DIMS_MAX),
            });
        }
        let mut dims = (0..rank).map(|_| self.u64("a tensor dimension")).collect::<Result<Vec<u64>, _>>()?;
        dims.reverse();
        let found = self.u32("a tensor kind")?;
        let kind = kind_of(found).ok_or_else(|| LoadError::UnsupportedTensorKind { tensor: name.clone(), found })?;
        let offset = self.u64("a tensor offset")?;
        let wrong = |what: &str| LoadError::Malformed { what: format!("tensor {name} has {what}") };
        let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n > 0 && *n <= 1 << 40);
        let elements = elements.ok_or_else(|| wrong("an impossible number of elements"))?;
        let block = kind.block_size() as u64;
        if !dims.last().is_some_and(|columns| columns.is_multiple_of(block)) {
            return Err(wrong(&format!("rows that are no multiple of its block of {block}")));
        }
        let bytes =
            (elements / block).checked_mul(kind.type_size() as u64).ok_or_else(|| wrong("an impossible size"))?;
        let dims = dims
            .into_iter()
            .map(usize::try_from)
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("an impossible dimension"))?;
        Ok((name, TensorInfo { dims, kind, offset, bytes }))
    }
}

/// The number formats that candle can hold and that this engine reads.
fn kind_of(number: u32) -> Option<GgmlDType> {
    Some(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

impl Gguf {
    /// Reads the header. The source's position does not matter.
    pub(crate) fn read<R: Read + Seek>(mut source: R) -> Result<Self, LoadError> {
        let io = |source| LoadError::Io { path: "(seek)".into(), source };
        let file_bytes = source.seek(SeekFrom::End(0)).map_err(io)?;
        source.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut r =
            Reader { inner: BufReader::with_capacity(1 << 16, source), position: 0, end: HEADER_BYTES_MAX, file_bytes };
        let found: [u8; 4] = r.array("the magic")?;
        if found != MAGIC {
            return Err(LoadError::NotGguf { found });
        }
        let version = r.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(LoadError::UnsupportedVersion { found: version });
        }
        let tensor_count = r.bounded("the number of tensors", TENSORS_MAX)?;
        let key_count = r.bounded("the number of metadata keys", METADATA_KEYS_MAX)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..key_count {
            let key = r.text("a metadata key", KEY_BYTES_MAX)?;
            let value = r.value()?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(LoadError::Malformed { what: format!("the metadata key {key} is there twice") });
            }
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let (name, info) = r.tensor()?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(LoadError::Malformed { what: format!("the tensor {name} is there twice") });
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT_DEFAULT,
            Some(Value::Int(a)) if *a > 0 && *a <= i128::from(ALIGNMENT_MAX) && (*a as u64).is_power_of_two() => {
                *a as u64
            }
            Some(other) => return Err(bad("general.alignment", other, "a power of two up to 65536")),
        };
        let data_start = r.position.next_multiple_of(alignment);
        Ok(Self { metadata, tensors, data_start, file_bytes })
    }

    /// Reads one tensor's bytes into candle.
    pub(crate) fn tensor<R: Read + Seek>(&self, source: &mut R, name: &str) -> Result<QTensor, LoadError> {
        let info = self.tensors.get(name).ok_or_else(|| LoadError::MissingTensor { tensor: name.to_owned() })?;
        let start = self.data_start.saturating_add(info.offset);
        let available = self.file_bytes.saturating_sub(start);
        if info.bytes > available {
            return Err(LoadError::Truncated { what: "a tensor", needed: info.bytes, available });
        }
        let io = |source| LoadError::Io { path: name.into(), source };
        let mut raw = vec![0u8; info.bytes as usize];
        source.seek(SeekFrom::Start(start)).map_err(io)?;
        source.read_exact(&mut raw).map_err(io)?;
        qtensor_from_ggml(info.kind, &raw, info.dims.clone(), &Device::Cpu)
            .map_err(|source| LoadError::Tensor { tensor: name.to_owned(), source })
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(v)) => Ok(Some(v)),
            Some(other) => Err(bad(key, other, "a string")),
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Option<&[String]>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Texts(v)) => Ok(Some(v)),
            Some(other) => Err(bad(key, other, "an array of strings")),
        }
    }

    /// An unsigned integer within a range.
    pub(crate) fn int(&self, key: &str, min: u32, max: u32) -> Result<Option<u32>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(v)) if *v >= i128::from(min) && *v <= i128::from(max) => Ok(Some(*v as u32)),
            Some(other) => Err(bad(key, other, &format!("an integer from {min} to {max}"))),
        }
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(v)) if v.is_finite() => Ok(Some(*v)),
            Some(other) => Err(bad(key, other, "a finite float")),
        }
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, LoadError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(bad(key, other, "a boolean")),
        }
    }
}

fn bad(key: &str, found: &Value, expected: &str) -> LoadError {
    LoadError::BadMetadata { key: key.to_owned(), found: found.describe(), expected: expected.to_owned() }
}

/// Makes the error for an absent key.
pub(crate) fn missing(key: &str) -> LoadError {
    LoadError::MissingMetadata { key: key.to_owned() }
}
