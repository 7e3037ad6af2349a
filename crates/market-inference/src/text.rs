//! Turns the bytes of output tokens into text that may be sent: whole characters only, and nothing that may yet become a stop string.

/// Text under construction.
#[derive(Debug, Default)]
pub(crate) struct OutputText {
    stops: Vec<String>,
    /// Bytes of a character whose end has not come yet, at most three.
    partial: Vec<u8>,
    /// Whole characters that are withheld because a stop string may begin in them.
    held: String,
}

impl OutputText {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, partial: Vec::new(), held: String::new() }
    }

    /// Takes the bytes of one token. Gives what may be sent now, and whether a stop string was met (then nothing more may be pushed, and the
    /// stop string itself is not part of the text).
    pub(crate) fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.partial.extend_from_slice(bytes);
        self.take_whole_characters(false);
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The output ended: everything still withheld; a character that never got its end becomes U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        self.take_whole_characters(true);
        std::mem::take(&mut self.held)
    }

    fn take_whole_characters(&mut self, ended: bool) {
        let mut rest = self.partial.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    match error.error_len() {
                        Some(wrong) => rest = rest.get(wrong..).unwrap_or(&[]),
                        None if ended => rest = &[],
                        None => break,
                    }
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    if rest.is_empty() {
                        break;
                    }
                }
            }
        }
        self.partial = rest.to_vec();
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = stop.len().saturating_sub(1).min(text.len());
    (1..=longest).rev().find(|n| text.as_bytes().ends_with(&stop.as_bytes()[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut text = OutputText::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut out = Vec::new();
        for piece in pieces {
            let (sent, stopped) = text.push(piece);
            out.push(sent);
            if stopped {
                return (out, true);
            }
        }
        out.push(text.finish());
        (out, false)
    }

    #[test]
    fn a_character_is_sent_when_its_last_byte_has_come() {
        let euro = "€".as_bytes();
        assert_eq!(run(&[], &[&euro[..1], &euro[1..2], &euro[2..], b"!"]).0, ["", "", "€", "!", ""]);
    }

    #[test]
    fn a_character_that_never_ends_becomes_a_replacement() {
        assert_eq!(run(&[], &[b"a", &[0xe2, 0x82]]).0, ["a", "", "\u{fffd}"]);
        assert_eq!(run(&[], &[&[0xff, b'a'], &[0xe2], b"b"]).0, ["\u{fffd}a", "", "\u{fffd}b", ""]);
    }

    #[test]
    fn a_stop_string_over_several_tokens_is_never_sent() {
        assert_eq!(
            run(&["END"], &[b"one E", b"N", b"D two"]),
            (vec!["one ".into(), String::new(), String::new()], true)
        );
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_sent_in_the_end() {
        assert_eq!(run(&["END"], &[b"E", b"NO", b" E"]).0, ["", "ENO", " ", "E"]);
        assert_eq!(run(&["aab"], &[b"aa", b"a", b"b"]), (vec![String::new(), "a".into(), String::new()], true));
    }

    #[test]
    fn the_earliest_stop_string_wins() {
        assert_eq!(run(&["b", "a"], &[b"xxab"]), (vec!["xx".into()], true));
    }

    proptest::proptest! {
        #[test]
        fn however_bytes_are_cut_the_text_is_the_lossy_whole(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40), cut in 1usize..5) {
            let mut text = OutputText::new(vec!["never there".to_owned()]);
            let mut out = String::new();
            for piece in bytes.chunks(cut) {
                out.push_str(&text.push(piece).0);
            }
            out.push_str(&text.finish());
            proptest::prop_assert_eq!(out, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
