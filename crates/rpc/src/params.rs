//! Positional parameters, read as strictly as geth reads them and refused in words that name the argument.

use crate::config::FILTER_VALUES_MAX;
use crate::error::{ArgumentError, RpcError, StorageKeyError};
use alloy_primitives::{Address, B256, Bytes, U256, hex};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The arguments of one request.
#[derive(Debug)]
pub(crate) struct Args(Vec<Value>);

type Reading<T> = Result<T, ArgumentError>;

impl Args {
    /// Reads the `params` member; absent means none.
    pub(crate) fn parse(params: Option<&str>) -> Result<Self, RpcError> {
        match params.map(serde_json::from_str::<Value>) {
            None | Some(Ok(Value::Null)) => Ok(Self(Vec::new())),
            Some(Ok(Value::Array(values))) => Ok(Self(values)),
            Some(_) => Err(RpcError::NotAList),
        }
    }

    /// Refuses more arguments than these.
    pub(crate) fn at_most(&self, max: usize) -> Result<(), RpcError> {
        if self.0.len() > max { Err(RpcError::TooManyArguments(max)) } else { Ok(()) }
    }

    /// An argument that must be there.
    pub(crate) fn required<T>(&self, index: usize, read: impl Fn(&Value) -> Reading<T>) -> Result<T, RpcError> {
        self.optional(index, read)?.ok_or(RpcError::MissingArgument(index))
    }

    /// An argument that may be absent or null.
    pub(crate) fn optional<T>(&self, index: usize, read: impl Fn(&Value) -> Reading<T>) -> Result<Option<T>, RpcError> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).map_err(|reason| RpcError::InvalidArgument { index, reason }),
        }
    }

    /// A slot's key, whose errors have texts of their own.
    pub(crate) fn storage_key(&self, index: usize) -> Result<U256, RpcError> {
        let text = self.required(index, text)?;
        storage_key(&text).map_err(RpcError::StorageKey)
    }
}

pub(crate) fn text(value: &Value) -> Reading<String> {
    value.as_str().map(str::to_owned).ok_or(ArgumentError::Want("string"))
}

pub(crate) fn boolean(value: &Value) -> Reading<bool> {
    value.as_bool().ok_or(ArgumentError::Want("boolean"))
}

fn digits(value: &Value) -> Reading<&str> {
    let text = value.as_str().ok_or(ArgumentError::Want("hex string"))?;
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).ok_or(ArgumentError::NoPrefix)
}

fn fixed<const N: usize>(value: &Value, what: &'static str) -> Reading<[u8; N]> {
    let digits = digits(value)?;
    let want = N.saturating_mul(2);
    if digits.len() != want {
        return Err(ArgumentError::Length { digits: digits.len(), want, what });
    }
    let mut out = [0; N];
    hex::decode_to_slice(digits, &mut out).map_err(|_| ArgumentError::NotHex)?;
    Ok(out)
}

pub(crate) fn address(value: &Value) -> Reading<Address> {
    fixed::<20>(value, "common.Address").map(Address::from)
}

pub(crate) fn hash(value: &Value) -> Reading<B256> {
    fixed::<32>(value, "common.Hash").map(B256::from)
}

pub(crate) fn bytes(value: &Value) -> Reading<Bytes> {
    let digits = digits(value)?;
    if digits.len() & 1 == 1 {
        return Err(ArgumentError::OddLength);
    }
    hex::decode(digits).map(Bytes::from).map_err(|_| ArgumentError::NotHex)
}

pub(crate) fn quantity(value: &Value) -> Reading<U256> {
    let digits = digits(value)?;
    if digits.is_empty() {
        return Err(ArgumentError::NoDigits);
    }
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(ArgumentError::NotHex);
    }
    U256::from_str_radix(digits, 16).map_err(|_| ArgumentError::TooBig(256))
}

pub(crate) fn quantity_u64(value: &Value) -> Reading<u64> {
    if let Some(number) = value.as_u64() {
        return Ok(number);
    }
    u64::try_from(quantity(value)?).map_err(|_| ArgumentError::TooBig(64))
}

/// An object of one of Ethereum's request types.
pub(crate) fn object<T: DeserializeOwned>(value: &Value) -> Reading<T> {
    if !value.is_object() {
        return Err(ArgumentError::Want("object"));
    }
    serde_json::from_value(value.clone()).map_err(|error| ArgumentError::Object(error.to_string()))
}

/// Bytes of hex, up to a word, as the slot they name.
pub(crate) fn storage_key(text: &str) -> Result<U256, StorageKeyError> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.len() > 64 {
        return Err(StorageKeyError::TooLong(text.to_owned()));
    }
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(StorageKeyError::NotHex(text.to_owned()));
    }
    U256::from_str_radix(digits, 16).map_err(|_| StorageKeyError::NotHex(text.to_owned()))
}

/// Percentiles: rising numbers from 0 to 100.
pub(crate) fn percentiles(value: &Value) -> Reading<Vec<f64>> {
    let list = value.as_array().ok_or(ArgumentError::Want("list of numbers"))?;
    let mut last = 0.0_f64;
    list.iter()
        .map(|value| {
            let number = value.as_f64().ok_or(ArgumentError::Want("list of numbers"))?;
            if !(last..=100.0).contains(&number) {
                return Err(ArgumentError::Percentile(number.to_string()));
            }
            last = number;
            Ok(number)
        })
        .collect()
}

/// A list of text.
pub(crate) fn texts(value: &Value) -> Reading<Vec<String>> {
    value.as_array().ok_or(ArgumentError::Want("list of strings"))?.iter().map(text).collect()
}

/// Which logs: addresses and topics, each position one value, several, or any.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct LogMatch {
    /// Any of these; empty for all.
    pub(crate) addresses: Vec<Address>,
    /// By position, any of these; empty for all.
    pub(crate) topics: Vec<Vec<B256>>,
}

impl LogMatch {
    /// The `address` and `topics` members of a filter object.
    pub(crate) fn read(object: &serde_json::Map<String, Value>) -> Reading<Self> {
        let addresses = one_or_many(object.get("address"), address)?;
        let topics = match object.get("topics") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(positions)) if positions.len() <= 4 => {
                positions.iter().map(|position| one_or_many(Some(position), hash)).collect::<Reading<_>>()?
            }
            Some(Value::Array(_)) => return Err(ArgumentError::Want("at most 4 topics")),
            Some(_) => return Err(ArgumentError::Want("list of topics")),
        };
        Ok(Self { addresses, topics })
    }
}

fn one_or_many<T>(value: Option<&Value>, read: impl Fn(&Value) -> Reading<T>) -> Reading<Vec<T>> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) if values.len() > FILTER_VALUES_MAX => {
            Err(ArgumentError::Want("fewer values in one position of the filter"))
        }
        Some(Value::Array(values)) => values.iter().map(read).collect(),
        Some(value) => Ok(vec![read(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn refused<T: std::fmt::Debug>(reading: Reading<T>) -> String {
        reading.unwrap_err().to_string()
    }

    #[test]
    fn arguments_are_read_by_place_and_missing_ones_are_named() {
        let args = Args::parse(Some(r#"["0x10", null, true]"#)).unwrap();
        assert_eq!(args.required(0, quantity_u64).unwrap(), 16);
        assert_eq!(args.optional(1, quantity_u64).unwrap(), None);
        assert_eq!(args.required(1, quantity_u64).unwrap_err().to_string(), "missing value for required argument 1");
        assert_eq!(args.required(3, boolean).unwrap_err().to_string(), "missing value for required argument 3");
        assert_eq!(args.at_most(2).unwrap_err().to_string(), "too many arguments, want at most 2");
        assert_eq!(args.required(2, address).unwrap_err().to_string(), "invalid argument 2: json: want hex string");
        assert!(matches!(Args::parse(Some(r#"{"a":1}"#)), Err(RpcError::NotAList)));
        assert!(Args::parse(None).unwrap().0.is_empty());
    }

    #[test]
    fn hex_is_read_strictly() {
        assert_eq!(refused(quantity(&json!("10"))), "hex string without 0x prefix");
        assert_eq!(refused(quantity(&json!("0x"))), "hex string \"0x\"");
        assert_eq!(refused(quantity(&json!("0x_1"))), "invalid hex string");
        assert_eq!(refused(quantity_u64(&json!("0x10000000000000000"))), "hex number > 64 bits");
        assert_eq!(refused(quantity(&json!(format!("0x1{}", "0".repeat(64))))), "hex number > 256 bits");
        assert_eq!(refused(bytes(&json!("0x123"))), "hex string of odd length");
        assert_eq!(refused(bytes(&json!("0xzz"))), "invalid hex string");
        assert_eq!(refused(address(&json!("0x12"))), "hex string has length 2, want 40 for common.Address");
        assert_eq!(refused(hash(&json!("1".repeat(64)))), "hex string without 0x prefix");
        assert_eq!(quantity_u64(&json!(7)).unwrap(), 7);
    }

    #[test]
    fn a_storage_key_is_up_to_a_word_of_hex() {
        assert_eq!(storage_key("0x1").unwrap(), U256::from(1));
        assert_eq!(storage_key("0xasdf").unwrap_err().to_string(), "invalid hex in storage key: \"0xasdf\"");
        let long = format!("0x{}", "0".repeat(65));
        assert!(
            storage_key(&long).unwrap_err().to_string().starts_with("storage key too long (want at most 32 bytes)")
        );
    }

    #[test]
    fn percentiles_rise_from_0_to_100() {
        assert_eq!(percentiles(&json!([0, 50.5, 100])).unwrap(), [0.0, 50.5, 100.0]);
        for bad in [json!([50, 10]), json!([101]), json!([-1]), json!(["a"]), json!(5)] {
            assert!(percentiles(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_filter_takes_one_value_several_or_any() {
        let read = |value: Value| LogMatch::read(value.as_object().unwrap());
        let one = read(
            json!({"address": format!("0x{}", "11".repeat(20)), "topics": [null, [], format!("0x{}", "22".repeat(32))]}),
        );
        let one = one.unwrap();
        assert_eq!(one.addresses, [Address::repeat_byte(0x11)]);
        assert_eq!(one.topics, [vec![], vec![], vec![B256::repeat_byte(0x22)]]);
        assert!(read(json!({"topics": [null, null, null, null, null]})).is_err());
        assert!(read(json!({"address": vec![format!("0x{}", "11".repeat(20)); FILTER_VALUES_MAX + 1]})).is_err());
    }

    proptest! {
        #[test]
        fn no_text_of_a_client_makes_a_reader_panic(text in ".{0,80}") {
            let value = Value::String(text.clone());
            let _ = (quantity(&value), quantity_u64(&value), bytes(&value), address(&value), hash(&value));
            let _ = (storage_key(&text), Args::parse(Some(&text)));
        }
    }
}
