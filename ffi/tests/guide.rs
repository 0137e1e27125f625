//! What GUIDE.md says is what the header says, and its code is that of an example, which CI runs.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

const GUIDE: &str = include_str!("../GUIDE.md");
const HEADER: &str = include_str!("../include/poet.h");
const EXAMPLE: &str = include_str!("../examples/c/server.c");

/// Names of statuses in a text.
fn statuses(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_uppercase() && c != '_')
        .filter(|word| HEADER.contains(&format!(" POET_STATUS_{word} = ")))
        .collect()
}

/// Each function of the header, with the statuses that its documentation lists.
fn documented() -> Vec<(&'static str, BTreeSet<&'static str>)> {
    let mut found = Vec::new();
    for part in HEADER.split("/**").skip(1) {
        let (comment, rest) = part.split_once("*/").unwrap();
        let function = rest.trim_start().strip_prefix("poet_status poet_");
        if let Some(function) = function {
            let (_, returns) = comment.split_once("Returns ").unwrap();
            found.push((function.split_once('(').unwrap().0, statuses(returns)));
        }
    }
    found
}

#[test]
fn the_guide_has_every_function_with_its_statuses() {
    let documented = documented();
    assert!(documented.len() > 25, "{documented:?}");
    let listed: Vec<_> = GUIDE
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once("`: "))
        .map(|(function, list)| (function, statuses(list)))
        .collect();
    for ((function, mut expected), listed) in documented.into_iter().zip(&listed) {
        assert!(expected.remove("OK"), "{function}");
        assert_eq!(*listed, (function, expected));
    }
    assert_eq!(listed.len(), HEADER.matches("\npoet_status poet_").count());
}

#[test]
fn the_guide_says_what_to_do_with_every_status_of_every_function() {
    // The status stands in the first of its lines.
    let mut rows = Vec::new();
    let mut status = "";
    for line in GUIDE.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let ["", first, from, _, ""] = cells[..] {
            if !first.is_empty() {
                status = first.trim_matches('`');
            }
            rows.push((status, from));
        }
    }
    for (function, expected) in documented() {
        for status in expected {
            let named = format!("`{function}`");
            let mut from = rows.iter().filter(|row| row.0 == status).map(|row| row.1);
            assert!(
                from.any(|from| {
                    from == "all"
                        || from.contains(&named)
                        || from.starts_with("functions ")
                        || from == "all but `last_error`"
                }),
                "{status} from {function}"
            );
        }
    }
}

#[test]
fn the_code_of_the_guide_is_that_of_the_example() {
    let trimmed = |text: &str| -> String {
        let lines = text.lines().map(|line| line.trim().to_owned() + "\n");
        lines.collect()
    };
    let example = trimmed(EXAMPLE);
    let blocks: Vec<_> = GUIDE
        .split("```c\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
        .collect();
    assert!(blocks.len() >= 6, "{}", blocks.len());
    for block in blocks {
        assert!(example.contains(&trimmed(block)), "{block}");
    }
}
