//! STUN binding requests and answers (RFC 8489) with what RFC 5780 adds. A server's answer is hostile input.

use std::net::SocketAddr;

use stun_types::attribute::{AttributeType, MappedSocketAddr, RawAttribute, XorSocketAddr};
use stun_types::message::{BINDING, Message, MessageClass, MessageType, MessageWriteVec};
use stun_types::prelude::*;

use crate::error::MessageError;

const MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0001);
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const XOR_MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0020);
const RESPONSE_PORT: AttributeType = AttributeType::new(0x0027);
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);

/// The flags of CHANGE-REQUEST (RFC 5780 §7.2).
const CHANGE_IP: u32 = 0x4;
const CHANGE_PORT: u32 = 0x2;
/// A transaction id has 96 bits.
const TRANSACTION_MASK: u128 = (1 << 96) - 1;

/// A binding request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Ties the answer to the request; of its 128 bits the lower 96 are sent.
    pub transaction: u128,
    /// Whether the server shall answer from its other address.
    pub change_ip: bool,
    /// Whether the server shall answer from its other port.
    pub change_port: bool,
    /// Where the server shall answer to, instead of the port that the request came from.
    pub response_port: Option<u16>,
}

impl Request {
    /// A request to be answered plainly.
    #[must_use]
    pub const fn plain(transaction: u128) -> Self {
        Self { transaction: transaction & TRANSACTION_MASK, change_ip: false, change_port: false, response_port: None }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
        let mut message = Message::builder(kind, self.transaction.into(), MessageWriteVec::new());
        if self.change_ip || self.change_port {
            let flags = if self.change_ip { CHANGE_IP } else { 0 } | if self.change_port { CHANGE_PORT } else { 0 };
            add(&mut message, CHANGE_REQUEST, &flags.to_be_bytes());
        }
        if let Some(port) = self.response_port {
            let [high, low] = port.to_be_bytes();
            add(&mut message, RESPONSE_PORT, &[high, low, 0, 0]);
        }
        message.finish()
    }
}

fn add(message: &mut MessageWriteVec, kind: AttributeType, value: &[u8]) {
    // It fails for a second attribute of the same kind only.
    let _ = message.add_attribute(&RawAttribute::new(kind, value));
}

/// What a server answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Of the request that it answers.
    pub transaction: u128,
    /// Where the server saw the request come from.
    pub mapped: SocketAddr,
    /// The server's other address and port, where it supports RFC 5780.
    pub other: Option<SocketAddr>,
}

impl Answer {
    /// Reads a success answer to a binding request.
    ///
    /// # Errors
    /// Bytes that are none, another message, or an answer without an address.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let message =
            Message::from_bytes(bytes).map_err(|error| MessageError::Malformed { detail: error.to_string() })?;
        if !message.has_class(MessageClass::Success) || !message.has_method(BINDING) {
            return Err(MessageError::NotAnAnswer { actual: message.get_type().to_string() });
        }
        let transaction = message.transaction_id();
        let xored = message.raw_attribute(XOR_MAPPED_ADDRESS).and_then(|raw| XorSocketAddr::from_raw(&raw).ok());
        let mapped = xored.map(|address| address.addr(transaction)).or_else(|| address(&message, MAPPED_ADDRESS));
        Ok(Self {
            transaction: transaction.into(),
            mapped: mapped.ok_or(MessageError::NoAddress)?,
            other: address(&message, OTHER_ADDRESS),
        })
    }

    /// Its bytes, for servers in tests.
    #[cfg(test)]
    pub(crate) fn encode(&self) -> Vec<u8> {
        let kind = MessageType::from_class_method(MessageClass::Success, BINDING);
        let mut message = Message::builder(kind, self.transaction.into(), MessageWriteVec::new());
        let xored = XorSocketAddr::new(self.mapped, self.transaction.into());
        message.add_attribute(&xored.to_raw(XOR_MAPPED_ADDRESS)).unwrap();
        if let Some(other) = self.other {
            message.add_attribute(&MappedSocketAddr::new(other).to_raw(OTHER_ADDRESS)).unwrap();
        }
        message.finish()
    }
}

fn address(message: &Message<'_>, kind: AttributeType) -> Option<SocketAddr> {
    let raw = message.raw_attribute(kind)?;
    MappedSocketAddr::from_raw(&raw).ok().map(|address| address.addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_has_the_bytes_of_the_rfc() {
        let mut request = Request::plain(0x0102_0304_0506_0708_090a_0b0c);
        let head = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        assert_eq!(request.encode(), head);
        request.change_ip = true;
        request.change_port = true;
        request.response_port = Some(0x1234);
        let bytes = request.encode();
        assert_eq!(bytes[2..4], [0, 16]);
        assert_eq!(bytes[20..], [0, 3, 0, 4, 0, 0, 0, 6, 0, 0x27, 0, 4, 0x12, 0x34, 0, 0]);
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        for mapped in ["11.1.0.2:40000", "[2600:11:1::2]:40000"] {
            let answer = Answer {
                transaction: 7,
                mapped: mapped.parse().unwrap(),
                other: Some("11.200.0.3:3479".parse().unwrap()),
            };
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn an_answer_without_an_address_and_a_request_are_refused() {
        let kind = MessageType::from_class_method(MessageClass::Success, BINDING);
        let empty = Message::builder(kind, 1.into(), MessageWriteVec::new()).finish();
        assert_eq!(Answer::decode(&empty), Err(MessageError::NoAddress));
        let request = Request::plain(1).encode();
        assert!(matches!(Answer::decode(&request), Err(MessageError::NotAnAnswer { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_from_a_server_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..256), at in 0usize..60, value in any::<u8>()) {
            let _ = Answer::decode(&bytes);
            let mut changed = Answer { transaction: 7, mapped: "11.1.0.2:9".parse().unwrap(), other: Some("11.2.0.2:9".parse().unwrap()) }.encode();
            if let Some(byte) = changed.get_mut(at) { *byte = value; }
            let _ = Answer::decode(&changed);
        }
    }
}
