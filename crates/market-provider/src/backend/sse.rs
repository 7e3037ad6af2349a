//! Server-sent events, as much of them as OpenAI-compatible servers send: `data:` lines, a blank line between events.

/// A line at most, in bytes.
pub(super) const LINE_BYTES_MAX: usize = 256 * 1024;

/// A line was longer than [`LINE_BYTES_MAX`], or not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadLine;

/// Cuts bytes into the `data` of events.
#[derive(Debug, Default)]
pub(super) struct SseReader {
    buffer: Vec<u8>,
}

impl SseReader {
    /// Takes bytes as they come and gives the data of every complete line.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, BadLine> {
        self.buffer.extend_from_slice(bytes);
        let mut found = Vec::new();
        let mut start = 0;
        while let Some(length) = self.buffer.iter().skip(start).position(|byte| *byte == b'\n') {
            let end = start.saturating_add(length);
            let line = self.buffer.get(start..end).unwrap_or_default();
            let text = std::str::from_utf8(line).map_err(|_| BadLine)?;
            if let Some(data) = text.trim_end_matches('\r').strip_prefix("data:") {
                found.push(data.trim_start().to_owned());
            }
            start = end.saturating_add(1);
        }
        self.buffer.drain(..start.min(self.buffer.len()));
        if self.buffer.len() > LINE_BYTES_MAX {
            return Err(BadLine);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_are_the_same_however_the_bytes_are_cut(texts in proptest::collection::vec("[ -~]{0,40}", 0..8), cut in 1usize..20) {
            let wire: String = texts.iter().map(|text| format!("data: {text}\r\n\n: comment\nevent: x\n")).collect();
            let mut reader = SseReader::default();
            let mut found = Vec::new();
            for piece in wire.as_bytes().chunks(cut) {
                found.extend(reader.feed(piece).unwrap());
            }
            let expected: Vec<String> = texts.iter().map(|text| text.trim_start().trim_end_matches('\r').to_owned()).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut reader = SseReader::default();
        assert_eq!(reader.feed(&vec![b'x'; LINE_BYTES_MAX + 1]), Err(BadLine));
        assert_eq!(SseReader::default().feed(b"data: \xff\xfe\n"), Err(BadLine));
    }
}
