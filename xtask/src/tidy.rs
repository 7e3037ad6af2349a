//! What the house asks of every file, checked by a machine (docs/design/style.md).

use crate::lexer::blank;
use crate::{files, is_rust, shown};
use eyre::{Result, bail};
use std::fs;
use std::path::Path;

/// Lines of a function at most.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file at most, tests not counted.
const FILE_LINES_MAX: usize = 600;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 5] = ["common", "utils", "helpers", "misc", "shared"];

/// Checks the whole tree and prints every finding.
pub fn run(root: &Path) -> Result<()> {
    let mut findings = Vec::new();
    for path in files(root, &is_rust)? {
        check_file(root, &path, &mut findings)?;
    }
    check_crates(root, &mut findings)?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    println!("tidy: every file in order");
    Ok(())
}

fn check_file(root: &Path, path: &Path, findings: &mut Vec<String>) -> Result<()> {
    let source = fs::read_to_string(path)?;
    let name = shown(root, path);
    let blanked = blank(&source);
    let is_test = is_test_file(&name);
    let lines = without_tests(&blanked);
    if !is_test && lines > FILE_LINES_MAX {
        findings.push(format!("{name}: {lines} lines without tests, at most {FILE_LINES_MAX}"));
    }
    for (line, function, length) in functions(&blanked) {
        if length > FUNCTION_LINES_MAX {
            findings.push(format!("{name}:{line}: fn {function} has {length} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) || stem == "mod" {
        findings.push(format!("{name}: a module is named for what it does, not {stem:?}"));
    }
    let marker = ["TO", "DO"].concat();
    for (number, line) in source.lines().enumerate() {
        if line.contains(&marker) && !line.contains("TODO(") && !name.starts_with("xtask/") {
            findings.push(format!("{name}:{}: a TODO names its row: TODO(NET-12)", number + 1));
        }
    }
    Ok(())
}

fn is_test_file(name: &str) -> bool {
    name.contains("/tests/") || name.starts_with("tests/") || name.ends_with("/tests.rs") || name.contains("/benches/")
}

/// Lines outside `#[cfg(test)]` modules.
fn without_tests(blanked: &str) -> usize {
    let lines: Vec<&str> = blanked.lines().collect();
    let mut count = 0;
    let mut at = 0;
    while at < lines.len() {
        if lines[at].trim() == "#[cfg(test)]" {
            at = block_end(&lines, at + 1) + 1;
        } else {
            count += 1;
            at += 1;
        }
    }
    count
}

/// The line on which the item that begins at `start` ends.
fn block_end(lines: &[&str], start: usize) -> usize {
    let mut depth = 0i64;
    for (at, line) in lines.iter().enumerate().skip(start) {
        for byte in line.bytes() {
            match byte {
                b'{' => depth += 1,
                b'}' => {
                    depth -= 1;
                    if depth == 0 {
                        return at;
                    }
                }
                b';' if depth == 0 => return at,
                _ => {}
            }
        }
    }
    lines.len().saturating_sub(1)
}

/// Line, name and length of each function.
fn functions(blanked: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = blanked.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some(name) = function_name(line) {
            let end = block_end(&lines, at);
            found.push((at + 1, name, end - at + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let at = line.find("fn ")?;
    let before = line[..at].trim();
    let plain = before.split_whitespace().all(|word| {
        matches!(word, "pub" | "async" | "const" | "extern" | "default")
            || word.starts_with("pub(")
            || word.ends_with(')')
    });
    let name: String = line[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (plain && !name.is_empty()).then_some(name)
}

/// Each crate says the same one sentence in Cargo.toml, README.md and lib.rs.
fn check_crates(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join("crates"))? {
        let folder = entry?.path();
        let name = shown(root, &folder);
        let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml"))?.parse()?;
        let package = manifest.get("package").and_then(toml::Value::as_table);
        let sentence = package.and_then(|p| p.get("description")).and_then(toml::Value::as_str).unwrap_or_default();
        let readme = fs::read_to_string(folder.join("README.md")).unwrap_or_default();
        let source = ["src/lib.rs", "src/main.rs"].iter().find_map(|file| fs::read_to_string(folder.join(file)).ok());
        let first = source.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
        if sentence.is_empty() || first != format!("//! {sentence}") || !readme.contains(sentence) {
            findings.push(format!("{name}: Cargo.toml, README.md and lib.rs do not begin with the same sentence"));
        }
        if manifest.get("lints").is_none() {
            findings.push(format!("{name}: Cargo.toml does not take the workspace's lints"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_measured_from_its_first_line_to_its_brace() {
        let found = functions("pub async fn long(\n  a: u8,\n) {\n  x();\n}\nfn short() {}\n");
        assert_eq!(found, vec![(1, "long".into(), 5), (6, "short".into(), 1)]);
    }

    #[test]
    fn lines_of_test_modules_are_not_counted() {
        assert_eq!(without_tests("fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\n"), 1);
    }
}
