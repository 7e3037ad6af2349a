//! Handing a zone to a name server: dynamic update (RFC 2136) over TCP, authenticated by TSIG (RFC 8945).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::BASE64;
use hickory_resolver::proto::op::{Message, OpCode, Query, ResponseCode, UpdateMessage};
use hickory_resolver::proto::rr::rdata::tsig::TsigAlgorithm;
use hickory_resolver::proto::rr::rdata::{SRV, TXT};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType, TSigner};
use hickory_resolver::proto::{ProtoError, serialize::binary::BinEncodable};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trellis_primitives::UnixMs;

use super::zone::{Data, ZONE_TTL_S, Zone, text_parts};

/// One update with its answer has this long.
pub const UPDATE_TIMEOUT_MS: u64 = 10_000;
/// Bytes of records in one update; a message has at most 65,535.
const UPDATE_BYTES_MAX: usize = 40 * 1024;
/// Bytes that a record costs beside its text, generously.
const RECORD_BYTES: usize = 128;
/// Clocks may differ by this much, seconds.
const FUDGE_S: u16 = 300;
/// Bytes of an answer.
const ANSWER_BYTES_MAX: u16 = 4_096;

/// Why a zone was not handed over.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// The text is no key file.
    #[error("not a TSIG key as `tsig-keygen` prints it: {0}")]
    Key(&'static str),
    /// A name that is none.
    #[error("not a domain name: {0:?}")]
    Name(String),
    /// The message could not be made, or the answer not be read or verified.
    #[error("DNS: {0}")]
    Dns(#[from] ProtoError),
    /// The connection failed.
    #[error("the name server: {0}")]
    Io(#[from] std::io::Error),
    /// The server took too long.
    #[error("no answer from the name server within {UPDATE_TIMEOUT_MS} ms")]
    Timeout,
    /// The server refused.
    #[error("the name server refused the update: {0}")]
    Refused(ResponseCode),
}

/// A name server's key for updates.
#[derive(Clone)]
pub struct UpdateKey(TSigner);

impl std::fmt::Debug for UpdateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("UpdateKey").field(self.0.signer_name()).finish()
    }
}

impl UpdateKey {
    /// Reads `key "NAME" { algorithm hmac-sha256; secret "BASE64"; };`.
    ///
    /// # Errors
    /// [`UpdateError::Key`].
    pub fn parse(text: &str) -> Result<Self, UpdateError> {
        let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || matches!(c, '{' | '}' | ';' | '"')).collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let after = |word: &'static str| {
            let at = words.iter().position(|other| *other == word).ok_or(UpdateError::Key(word))?;
            words.get(at + 1).copied().ok_or(UpdateError::Key(word))
        };
        let (name, algorithm, secret) = (after("key")?, after("algorithm")?, after("secret")?);
        let algorithm = match algorithm {
            "hmac-sha256" => TsigAlgorithm::HmacSha256,
            "hmac-sha384" => TsigAlgorithm::HmacSha384,
            "hmac-sha512" => TsigAlgorithm::HmacSha512,
            _ => return Err(UpdateError::Key("hmac-sha256, hmac-sha384 or hmac-sha512")),
        };
        let secret = BASE64.decode(secret.as_bytes()).map_err(|_| UpdateError::Key("secret"))?;
        let name = Name::from_ascii(name).map_err(|_| UpdateError::Key("key"))?;
        let signer = TSigner::new(secret, algorithm, name, FUDGE_S).map_err(|_| UpdateError::Key("algorithm"))?;
        Ok(Self(signer))
    }
}

/// Where a zone is published.
#[derive(Clone, Debug)]
pub struct Publisher {
    zone: Name,
    server: SocketAddr,
    key: UpdateKey,
}

/// Names and types that were published.
pub type Published = BTreeSet<(String, String)>;

impl Publisher {
    /// A zone at its primary server.
    ///
    /// # Errors
    /// [`UpdateError::Name`].
    pub fn new(zone: &str, server: SocketAddr, key: UpdateKey) -> Result<Self, UpdateError> {
        let mut name = Name::from_ascii(zone).map_err(|_| UpdateError::Name(zone.to_owned()))?;
        name.set_fqdn(true);
        Ok(Self { zone: name, server, key })
    }

    /// Makes the server's zone hold these records and none of those published before that are not among them. What is new
    /// comes first and what is gone goes last, so that a tree is whole at every moment.
    ///
    /// # Errors
    /// [`UpdateError`]; what was sent before the failure stays.
    pub async fn publish(
        &self,
        zone: &Zone,
        last: Option<&Zone>,
        before: &Published,
        now: UnixMs,
    ) -> Result<Published, UpdateError> {
        let mut changes = Vec::new();
        let mut root = Vec::new();
        for (name, kind, set) in zone.sets() {
            if last.and_then(|last| last.get(name, kind)) == Some(set) {
                continue;
            }
            let change = self.replace(name, kind, set)?;
            let label = crate::discovery::dns::tree::ROOT_LABEL;
            if name == label { root.push(change) } else { changes.push(change) }
        }
        let names = zone.names();
        changes.append(&mut root);
        for (name, kind) in before.difference(&names) {
            changes.push((RECORD_BYTES, vec![self.removal(name, kind)?]));
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (size, records) in changes {
            if bytes + size > UPDATE_BYTES_MAX && !batch.is_empty() {
                self.send(std::mem::take(&mut batch), now).await?;
                bytes = 0;
            }
            bytes += size;
            batch.extend(records);
        }
        if !batch.is_empty() {
            self.send(batch, now).await?;
        }
        Ok(names)
    }

    fn name(&self, below: &str) -> Result<Name, UpdateError> {
        if below.is_empty() {
            return Ok(self.zone.clone());
        }
        let name = Name::from_ascii(below).and_then(|name| name.append_domain(&self.zone));
        name.map_err(|_| UpdateError::Name(below.to_owned()))
    }

    /// The removal of a whole set (RFC 2136, 2.5.2).
    fn removal(&self, name: &str, kind: &str) -> Result<Record, UpdateError> {
        let record_type = match kind {
            "A" => RecordType::A,
            "AAAA" => RecordType::AAAA,
            "SRV" => RecordType::SRV,
            "TXT" => RecordType::TXT,
            other => return Err(UpdateError::Name(other.to_owned())),
        };
        let mut record = Record::update0(self.name(name)?, 0, record_type);
        record.dns_class = DNSClass::ANY;
        Ok(record)
    }

    /// A set's records after its removal, and about how many bytes they are.
    fn replace(&self, name: &str, kind: &str, set: &BTreeSet<Data>) -> Result<(usize, Vec<Record>), UpdateError> {
        let mut records = vec![self.removal(name, kind)?];
        let mut bytes = RECORD_BYTES;
        for data in set {
            bytes += RECORD_BYTES;
            let rdata = match data {
                Data::Host(std::net::IpAddr::V4(ip)) => RData::A((*ip).into()),
                Data::Host(std::net::IpAddr::V6(ip)) => RData::AAAA((*ip).into()),
                Data::Service(port, host) => RData::SRV(SRV::new(0, 0, *port, self.name(host)?)),
                Data::Text(text) => {
                    bytes += text.len() + text.len() / 128;
                    RData::TXT(TXT::new(text_parts(text)))
                }
            };
            records.push(Record::from_rdata(self.name(name)?, ZONE_TTL_S, rdata));
        }
        Ok((bytes, records))
    }

    async fn send(&self, records: Vec<Record>, now: UnixMs) -> Result<(), UpdateError> {
        let mut zone = Query::new();
        zone.set_name(self.zone.clone()).set_query_class(DNSClass::IN).set_query_type(RecordType::SOA);
        let mut message = Message::query();
        message.metadata.op_code = OpCode::Update;
        message.metadata.recursion_desired = false;
        message.add_zone(zone);
        for record in records {
            message.add_update(record);
        }
        let verifier = message.finalize(&self.key.0, now.0 / 1_000)?;
        let bytes = message.to_bytes()?;
        let limit = Duration::from_millis(UPDATE_TIMEOUT_MS);
        let answer = tokio::time::timeout(limit, self.exchange(&bytes)).await.map_err(|_| UpdateError::Timeout)??;
        let code = match verifier {
            // A refusal for the key's sake comes unsigned; it is believed, because it changes nothing.
            Some(mut verifier) => match verifier.verify(&answer) {
                Ok(answer) => answer.response_code,
                Err(error) => match Message::from_vec(&answer).map_err(ProtoError::from)?.response_code {
                    ResponseCode::NoError => return Err(error.into()),
                    refused => refused,
                },
            },
            None => Message::from_vec(&answer).map_err(ProtoError::from)?.response_code,
        };
        if code == ResponseCode::NoError { Ok(()) } else { Err(UpdateError::Refused(code)) }
    }

    async fn exchange(&self, message: &[u8]) -> Result<Vec<u8>, UpdateError> {
        let length = u16::try_from(message.len()).map_err(|_| ProtoError::from("the update is too long"))?;
        let mut stream = TcpStream::connect(self.server).await?;
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(message).await?;
        let length = stream.read_u16().await?;
        if length > ANSWER_BYTES_MAX {
            return Err(ProtoError::from("the answer is too long").into());
        }
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: NET-33
    #[test]
    fn a_key_file_is_read_as_the_tool_prints_it() {
        let file = "key \"seeder\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0IHNlY3JldA==\";\n};\n";
        let key = UpdateKey::parse(file).unwrap();
        assert_eq!(key.0.key(), b"secret secret");
        assert_eq!(format!("{key:?}"), "UpdateKey(Name(\"seeder.\"))");
        for bad in ["", "key", "key \"a\" { algorithm hmac-md5; secret \"aaaa\"; };", &file.replace("==", "!")] {
            assert!(UpdateKey::parse(bad).is_err(), "{bad}");
        }
    }
}
