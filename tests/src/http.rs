//! HTTP/1.1 as plain as it gets, so that what is tested is the server and no client library.

use serde_json::Value;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long the server may be silent; crashes are waited out.
const SILENCE_SECONDS_MAX: u64 = 60;

/// An answer whose body is still to be read.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    reader: BufReader<TcpStream>,
    chunked: bool,
    left: Option<usize>,
}

/// Sends a request; the URL is `http://address:port/path`.
///
/// # Errors
/// Whatever the connection says.
pub fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Response> {
    let rest = url.strip_prefix("http://").ok_or_else(|| Error::other("not an http URL"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(SILENCE_SECONDS_MAX)))?;
    stream.set_nodelay(true)?;
    let mut head =
        format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers.iter().chain(&[("Content-Type", "application/json")]) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    // A server may refuse a body that is too large before it has read it; its answer counts then.
    let _ = stream.write_all(body);
    let mut reader = BufReader::new(stream);
    let status = line(&mut reader)?.split(' ').nth(1).and_then(|word| word.parse().ok());
    let mut response =
        Response { status: status.ok_or_else(|| Error::other("no status line"))?, reader, chunked: false, left: None };
    loop {
        let header = line(&mut response.reader)?.to_ascii_lowercase();
        match header.split_once(": ") {
            Some(("content-length", count)) => response.left = count.parse().ok(),
            Some(("transfer-encoding", "chunked")) => response.chunked = true,
            None if header.is_empty() => return Ok(response),
            _ => {}
        }
    }
}

impl Response {
    /// The next piece of the body; `None` at its proper end.
    ///
    /// # Errors
    /// A connection that breaks before the end.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        if self.chunked {
            let size = usize::from_str_radix(line(&mut self.reader)?.trim(), 16).map_err(Error::other)?;
            let mut piece = vec![0; size + 2];
            self.reader.read_exact(&mut piece)?;
            piece.truncate(size);
            return Ok((size > 0).then_some(piece));
        }
        let mut piece = Vec::new();
        match self.left.replace(0) {
            Some(0) => return Ok(None),
            Some(count) => {
                piece.resize(count, 0);
                self.reader.read_exact(&mut piece)?;
            }
            None => {
                self.reader.read_to_end(&mut piece)?;
            }
        }
        Ok(Some(piece))
    }

    /// The whole body.
    ///
    /// # Errors
    /// A connection that breaks before the end.
    pub fn body(mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece()? {
            all.extend(piece);
        }
        Ok(all)
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// A broken connection, or a body that is no JSON.
    pub fn json(self) -> Result<Value> {
        serde_json::from_slice(&self.body()?).map_err(Error::other)
    }
}

/// Status and body of a request that must be answered with JSON.
pub fn exchange(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Value) {
    let response = send(method, url, headers, body).unwrap_or_else(|error| panic!("{method} {url}: {error}"));
    let status = response.status;
    (status, response.json().unwrap_or_else(|error| panic!("{method} {url} ({status}): {error}")))
}

fn line(reader: &mut BufReader<TcpStream>) -> Result<String> {
    let mut text = String::new();
    if reader.read_line(&mut text)? == 0 {
        return Err(Error::new(ErrorKind::UnexpectedEof, "the connection was closed"));
    }
    Ok(text.trim_end().to_owned())
}
