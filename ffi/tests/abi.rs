//! The exported and declared items are those of `abi.txt`: nothing disappears or changes unnoticed.
//! ABI.md says how to resolve a failure.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

const HEADER: &str = include_str!("../include/poet.h");
const COMMITTED: &str = include_str!("abi.txt");

/// The declarations of the header, one per line, and one for each constant of an enum.
fn declarations() -> Vec<String> {
    let mut code = String::new();
    let mut rest = HEADER;
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    code.push_str(rest);

    let mut found = Vec::new();
    let mut declaration = String::new();
    for line in code.lines() {
        if line.starts_with('#') || line.starts_with("extern \"C\"") || line.starts_with("}  //") {
            if line.starts_with("#define POET_") && line.split(' ').count() > 2 {
                found.push(line.trim().to_owned());
            }
            continue;
        }
        for word in line.split_whitespace() {
            if !declaration.is_empty() {
                declaration.push(' ');
            }
            declaration.push_str(word);
        }
        let open = declaration.matches('{').count() > declaration.matches('}').count();
        if declaration.ends_with(';') && !open {
            let declaration = std::mem::take(&mut declaration);
            match declaration.split_once('{') {
                Some((name, constants)) if name.starts_with("enum ") => {
                    let constants = constants.trim_end_matches("};").split(',');
                    let constants = constants.map(str::trim).filter(|text| !text.is_empty());
                    found.extend(constants.map(|constant| format!("{name}{{ {constant} }}")));
                }
                _ => found.push(declaration),
            }
        }
    }
    assert_eq!(declaration, "", "the header ends in a declaration");
    found
}

/// The name of the function that a line of the list declares.
fn function(line: &str) -> Option<&str> {
    let (before, _) = line.split_once('(')?;
    let name = before.rsplit([' ', '*']).next()?;
    (name.starts_with("poet_") && !line.starts_with('#')).then_some(name)
}

/// Whether a declaration is unchanged. A struct may have new fields at its end.
fn is_the_same(committed: &str, now: &str) -> bool {
    let fields = committed.rsplit_once('}').map_or("", |(fields, _)| fields);
    let is_struct = committed.starts_with("typedef struct") && !fields.is_empty();
    committed == now || is_struct && now.starts_with(fields)
}

#[test]
fn the_header_declares_what_is_committed() {
    let declared = declarations();
    let committed: Vec<_> = COMMITTED.lines().collect();
    let gone: Vec<_> = committed
        .iter()
        .filter(|line| !declared.iter().any(|now| is_the_same(line, now)))
        .collect();
    assert!(
        gone.is_empty(),
        "gone or changed, which breaks the ABI: {gone:#?}"
    );
    let new: Vec<_> = declared
        .iter()
        .filter(|line| !committed.contains(&line.as_str()))
        .collect();
    assert!(
        new.is_empty(),
        "new: add it to abi.txt and raise the minor version of the ABI: {new:#?}"
    );
}

#[test]
fn the_list_has_functions_structs_and_constants() {
    let functions = COMMITTED.lines().filter_map(function).count();
    assert!(functions > 25, "{functions}");
    assert!(COMMITTED.contains("typedef struct poet_worker_options {"));
    assert!(COMMITTED.contains("{ POET_STATUS_NOT_OPEN = 6 }"));
    assert!(COMMITTED.contains("#define POET_T 150"));
}

#[cfg(target_os = "linux")]
#[test]
fn the_shared_library_exports_the_functions_and_nothing_else() {
    use std::process::Command;

    // Next to this program.
    let mut library = std::env::current_exe().unwrap();
    library.set_file_name("libpoet.so");
    let nm = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(&library)
        .output()
        .expect("nm, of the binutils that the linker comes with");
    assert!(
        nm.status.success(),
        "{}",
        String::from_utf8_lossy(&nm.stderr)
    );
    let symbols = String::from_utf8(nm.stdout).unwrap();
    let exported: BTreeSet<_> = symbols
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let committed: BTreeSet<_> = COMMITTED.lines().filter_map(function).collect();
    assert_eq!(exported, committed);
}
