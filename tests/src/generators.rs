//! The long run of generators, `tests/fuzz`, runs the modules `generated` of the libraries; so every generator has to
//! stand in one, and take its number of cases from whoever runs it.

use std::path::{Path, PathBuf};

use crate::peers::{PeerError, repository};

/// The sources below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), PeerError> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The lines of a formatted source that begin generators in no module `generated`.
fn elsewhere<'a>(path: &Path, source: &'a str) -> Vec<&'a str> {
    let lines: Vec<&str> = source.lines().collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let in_library = path.components().any(|part| part.as_os_str() == "src");
    let is_generated = |at: usize| {
        let within = depth(lines[at]);
        let around = lines[..at].iter().rev().find(|line| !line.is_empty() && depth(line) < within);
        match around {
            Some(line) => line.trim_start() == "mod generated {",
            None => path.file_stem().is_some_and(|stem| stem == "generated"),
        }
    };
    let begins = |at: &usize| lines[*at].trim_start().starts_with("proptest! {");
    let wrong = (0..lines.len()).filter(begins).filter(|at| !in_library || !is_generated(*at));
    wrong.map(|at| lines[at]).collect()
}

#[test]
fn every_generator_stands_where_the_long_run_looks_for_it() -> Result<(), PeerError> {
    let mut paths = Vec::new();
    for part in ["apps", "crates", "tests"] {
        sources(&repository().join(part), &mut paths)?;
    }
    let (mut with_generators, mut wrong) = (0, Vec::new());
    for path in paths {
        let source = std::fs::read_to_string(&path)?;
        with_generators += usize::from(source.contains("\nproptest! {") || source.contains(" proptest! {"));
        let fixes_cases = source.contains(concat!("ProptestConfig::", "with_cases"));
        if fixes_cases || !elsewhere(&path, &source).is_empty() {
            wrong.push(path);
        }
    }
    assert!(with_generators > 10, "{with_generators} sources with generators");
    assert!(wrong.is_empty(), "in no module `generated`, or with a number of cases of their own: {wrong:#?}");
    Ok(())
}

#[test]
fn a_generator_that_stands_elsewhere_is_told_from_one_that_does_not() {
    let here = "mod tests {\n    mod generated {\n        use x;\n\n        proptest! {\n        }\n    }\n";
    let there = "mod tests {\n    mod generated {\n    }\n\n    proptest! {\n    }\n}\n";
    for (path, source, wrong) in [
        ("crates/a/src/b.rs", here, 0),
        ("crates/a/src/b.rs", there, 1),
        ("crates/a/src/b.rs", "proptest! {\n}\n", 1),
        ("crates/a/src/generated.rs", "proptest! {\n}\n", 0),
        ("tests/stories/generated.rs", "proptest! {\n}\n", 1),
    ] {
        assert_eq!(elsewhere(Path::new(path), source).len(), wrong, "{path}: {source}");
    }
}
