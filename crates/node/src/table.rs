//! Tables for people: columns as wide as their widest cell, nothing cut.

use serde_json::Value;

/// Prints rows under their heads to stdout, or says that there are none.
pub fn print(heads: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() {
        eprintln!("(none)");
        return;
    }
    print!("{}", render(heads, rows));
}

/// Prints a value as JSON, indented.
pub fn print_json(value: &Value) {
    println!("{value:#}");
}

fn render(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head_row: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head_row).chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A field of a JSON object as text for a table cell.
pub fn cell(object: &Value, key: &str) -> String {
    match object.get(key) {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let text = render(&["ID", "STATE"], &[vec!["abcdef".into(), "up".into()], vec!["x".into(), "down".into()]]);
        assert_eq!(text, "ID      STATE\nabcdef  up\nx       down\n");
    }
}
