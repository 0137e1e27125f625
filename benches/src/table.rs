//! Tables for terminals and for Markdown.

use std::fmt::Write;

/// A table with a title.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// The title.
    pub title: String,
    /// The names of the columns. Columns whose name begins with `<` are aligned left, the others
    /// right.
    pub header: Vec<&'static str>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
    /// Sentences below the table.
    pub notes: Vec<String>,
}

impl Section {
    /// Formats the table for a terminal.
    #[must_use]
    pub fn to_text(&self) -> String {
        let names: Vec<String> = self
            .header
            .iter()
            .map(|name| column(name).0.into())
            .collect();
        let titled = names.iter().any(|name| !name.is_empty());
        let lines: Vec<&Vec<String>> = titled
            .then_some(&names)
            .into_iter()
            .chain(&self.rows)
            .collect();
        let width = |index: usize| {
            let cells = lines.iter().filter_map(|line| line.get(index));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut text = format!("\n{}\n", self.title);
        for line in &lines {
            let mut row = String::new();
            for (index, cell) in line.iter().enumerate() {
                let width = width(index);
                let left = self.header.get(index).is_none_or(|name| column(name).1);
                let _ = if left {
                    write!(row, "  {cell:<width$}")
                } else {
                    write!(row, "  {cell:>width$}")
                };
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }

    /// Formats the table in Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let columns: Vec<(&str, bool)> = self.header.iter().map(|name| column(name)).collect();
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let names: Vec<String> = columns.iter().map(|(name, _)| markdown(name)).collect();
        let rules = columns
            .iter()
            .map(|(_, left)| if *left { "---" } else { "---:" });
        let rules: Vec<String> = rules.map(str::to_owned).collect();
        let mut text = format!("\n## {}\n\n", markdown(&self.title));
        text += &row(&names);
        text += &row(&rules);
        for cells in &self.rows {
            let cells: Vec<String> = cells.iter().map(|cell| markdown(cell)).collect();
            text += &row(&cells);
        }
        for note in &self.notes {
            let _ = write!(text, "\n{}\n", markdown(note));
        }
        text
    }
}

/// Escapes text for a cell in Markdown.
fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '*' | '_' | '`' | '<' | '[' | ']' => escaped.extend(['\\', c]),
            '\n' | '\r' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns the name of a column, and whether it is aligned left.
#[must_use]
pub fn column(header: &'static str) -> (&'static str, bool) {
    match header.strip_prefix('<') {
        Some(name) => (name, true),
        None => (header, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let section = Section {
            title: "Title".into(),
            header: vec!["<name", "number", "<"],
            rows: vec![
                vec!["a".into(), "1".into(), "x".into()],
                vec!["µµ".into(), "1234567".into(), String::new()],
            ],
            notes: vec!["A note.".into()],
        };
        let expected = "\nTitle\n  name   number\n  a           1  x\n  µµ    1234567\n  A note.\n";
        assert_eq!(section.to_text(), expected);
    }

    #[test]
    fn markdown_is_aligned_and_escaped() {
        let section = Section {
            title: "A *title*".into(),
            header: vec!["<name", "number"],
            rows: vec![vec!["a|b".into(), "1".into()]],
            notes: vec!["A note.".into()],
        };
        let expected =
            "\n## A \\*title\\*\n\n| name | number |\n| --- | ---: |\n| a\\|b | 1 |\n\nA note.\n";
        assert_eq!(section.to_markdown(), expected);
    }
}
