//! Formats text for the terminal.

/// How many characters of a server's text are shown.
const SHOWN_CHARS: usize = 200;

/// Makes a server's text safe for the terminal.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        ' '..='~' => c,
        '\n' | '\t' | '\r' => ' ',
        _ => '?',
    };
    let mut printed: String = text.chars().take(SHOWN_CHARS).map(shown).collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        printed.push_str("...");
    }
    printed
}

/// Formats a table. The first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d"), "a?[2Jb c?d");
        let long = "x".repeat(SHOWN_CHARS + 1);
        assert_eq!(printable(&long).len(), SHOWN_CHARS + 3);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a", "bc", "d"], vec!["long", "", ""]]
            .map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(table(&rows), "a     bc  d\nlong\n");
    }
}
