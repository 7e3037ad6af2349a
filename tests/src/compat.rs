//! Ethereum's RPC compatibility suite (ethereum/execution-apis, `tests/`): its files, and when an answer counts as right.
//!
//! A file is a conversation: `>>` a request, `<<` the answer expected. As in the suite's own runner the texts of errors are
//! free, and of a file marked `speconly` only the form counts. Here the form is read strictly: the same members of the same
//! kinds, and the same error codes.

pub mod served;

use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// One file of the suite.
#[derive(Clone, Debug)]
pub struct Case {
    /// Folder and file, as `eth_call/call-contract.io`.
    pub name: String,
    /// Whether only the form counts.
    pub spec_only: bool,
    /// Requests with the answers expected.
    pub exchanges: Vec<(Value, Value)>,
}

impl Case {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// A line that is not JSON, an answer without a request.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let json = |line: &str| serde_json::from_str::<Value>(line).map_err(|error| format!("{name}: {error}"));
        let (mut asked, mut exchanges, mut spec_only) = (None, Vec::new(), false);
        for line in text.lines() {
            if let Some(request) = line.strip_prefix(">>") {
                asked = Some(json(request)?);
            } else if let Some(answer) = line.strip_prefix("<<") {
                let request = asked.take().ok_or_else(|| format!("{name}: an answer without a request"))?;
                exchanges.push((request, json(answer)?));
            } else if line.starts_with("//") {
                spec_only |= line.contains("speconly:");
            }
        }
        Ok(Self { name: name.to_owned(), spec_only, exchanges })
    }

    /// The folder, which is the method's name.
    pub fn method(&self) -> &str {
        self.name.split('/').next().unwrap_or(&self.name)
    }

    /// Asks everything in order; the first answer that is not right ends it and says how it differs.
    ///
    /// # Errors
    /// What differs.
    pub fn play(&self, ask: &mut dyn FnMut(&Value) -> Result<Value, String>) -> Result<(), String> {
        for (request, expected) in &self.exchanges {
            judge(expected, &ask(request)?, self.spec_only)?;
        }
        Ok(())
    }
}

/// All files below a folder of the suite, sorted by name.
///
/// # Errors
/// A file that cannot be read.
pub fn read_folder(folder: &Path) -> io::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let method = entry?.path();
        if !method.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&method)? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "io") {
                let name = file.strip_prefix(folder).unwrap_or(&file).display().to_string();
                let text = std::fs::read_to_string(&file)?;
                cases.push(Case::parse(&name, &text).map_err(io::Error::other)?);
            }
        }
    }
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(cases)
}

/// Whether an answer is right.
///
/// # Errors
/// What differs.
pub fn judge(expected: &Value, ours: &Value, spec_only: bool) -> Result<(), String> {
    let mut found = Vec::new();
    match (expected.get("error"), ours.get("error")) {
        (Some(expected), Some(ours)) => {
            if expected["code"] != ours["code"] {
                found.push(format!("error {} instead of {}: {}", ours["code"], expected["code"], ours["message"]));
            }
            if !spec_only && expected.get("data") != ours.get("data") {
                found.push("another error.data".to_owned());
            }
        }
        (Some(expected), None) => found.push(format!("a result instead of the error {expected}")),
        (None, Some(ours)) => found.push(format!("the error {ours} instead of a result")),
        (None, None) => {
            let (expected, ours) = (expected.get("result"), ours.get("result"));
            let (expected, ours) = (expected.unwrap_or(&Value::Null), ours.unwrap_or(&Value::Null));
            differences("result", expected, ours, spec_only, &mut found);
        }
    }
    if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(text) if text.starts_with("0x") => "hex",
        Value::String(_) => "text",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

fn differences(path: &str, expected: &Value, ours: &Value, form_only: bool, found: &mut Vec<String>) {
    match (expected, ours) {
        (Value::Object(expected), Value::Object(ours)) => {
            for (name, value) in expected {
                match ours.get(name) {
                    None => found.push(format!("{path}.{name} is missing")),
                    Some(our) => differences(&format!("{path}.{name}"), value, our, form_only, found),
                }
            }
            let new = ours.keys().filter(|name| !expected.contains_key(*name));
            found.extend(new.map(|name| format!("{path}.{name} is new")));
        }
        (Value::Array(expected), Value::Array(ours)) if form_only => {
            if let (Some(expected), Some(our)) = (expected.first(), ours.first()) {
                differences(&format!("{path}[0]"), expected, our, form_only, found);
            }
        }
        (Value::Array(expected), Value::Array(ours)) => {
            if expected.len() != ours.len() {
                found.push(format!("{path} has {} items instead of {}", ours.len(), expected.len()));
            }
            for (index, (expected, our)) in expected.iter().zip(ours).enumerate() {
                differences(&format!("{path}[{index}]"), expected, our, form_only, found);
            }
        }
        _ if form_only && kind(expected) == kind(ours) => {}
        (Value::Number(expected), Value::Number(ours)) if expected.as_f64() == ours.as_f64() => {}
        _ if expected == ours => {}
        _ => found.push(format!("{path} is {} instead of {}", short(ours), short(expected))),
    }
}

fn short(value: &Value) -> String {
    const CHARS_MAX: usize = 80;
    let text = value.to_string();
    if text.len() <= CHARS_MAX { text } else { text.chars().take(CHARS_MAX).chain(['…']).collect() }
}

/// How a run went: for each method how many of its files are right, and why each other is not.
#[derive(Debug, Default)]
pub struct Score {
    /// By method: right, and all.
    pub methods: BTreeMap<String, (usize, usize)>,
    /// The files that are not right, with what differs.
    pub failures: BTreeMap<String, String>,
}

impl Score {
    /// Plays every file.
    pub fn of(cases: &[Case], ask: &mut dyn FnMut(&Value) -> Result<Value, String>) -> Self {
        let mut score = Self::default();
        for case in cases {
            let (right, all) = score.methods.entry(case.method().to_owned()).or_default();
            *all += 1;
            match case.play(ask) {
                Ok(()) => *right += 1,
                Err(reason) => drop(score.failures.insert(case.name.clone(), reason)),
            }
        }
        score
    }

    /// Files that are right, and all.
    pub fn total(&self) -> (usize, usize) {
        self.methods.values().fold((0, 0), |(right, all), (one, of)| (right + one, all + of))
    }

    /// A table for people.
    pub fn table(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        for (method, (right, all)) in &self.methods {
            let _ = writeln!(out, "{method:<44}{right:>4} of {all:>3}");
        }
        for (name, reason) in &self.failures {
            let _ = writeln!(out, "not right: {name}: {reason}");
        }
        let (right, all) = self.total();
        let percent = (right * 1_000).checked_div(all).unwrap_or(0);
        let _ = writeln!(out, "{right} of {all} files are right ({}.{} %)", percent / 10, percent % 10);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_is_right_only_with_the_same_members_values_and_error_codes() {
        let expected = json!({"result": {"a": "0x1", "b": [1, 2]}});
        let right = |ours: Value, form_only| judge(&expected, &ours, form_only).is_ok();
        assert!(right(json!({"result": {"a": "0x1", "b": [1.0, 2]}}), false));
        for wrong in [
            json!({"result": {"a": "0x2", "b": [1, 2]}}),
            json!({"result": {"a": "0x1", "b": [1]}}),
            json!({"result": {"a": "0x1", "b": [1, 2], "c": null}}),
            json!({"result": {"a": "0x1"}}),
            json!({"error": {"code": 1, "message": "a"}}),
        ] {
            assert!(!right(wrong.clone(), false), "{wrong}");
        }
        assert!(right(json!({"result": {"a": "0x2", "b": [7]}}), true));
        assert!(!right(json!({"result": {"a": 2, "b": [7]}}), true));
        let refused = json!({"error": {"code": 3, "message": "one text", "data": "0x01"}});
        assert!(judge(&refused, &json!({"error": {"code": 3, "message": "another", "data": "0x01"}}), false).is_ok());
        assert!(judge(&refused, &json!({"error": {"code": 3, "message": "one text", "data": "0x02"}}), false).is_err());
        assert!(judge(&refused, &json!({"error": {"code": 4, "message": "one text", "data": "0x01"}}), true).is_err());
    }

    #[test]
    fn a_file_is_read_with_its_marks() {
        let text = "// about\n// speconly: form\n>> {\"id\":1}\n<< {\"id\":1,\"result\":true}\n";
        let case = Case::parse("eth_x/y.io", text).expect("case");
        assert!(case.spec_only && case.exchanges.len() == 1 && case.method() == "eth_x");
        assert!(case.play(&mut |_| Ok(json!({"result": false}))).is_ok());
        assert!(Case::parse("eth_x/y.io", "<< {}").is_err());
    }
}
