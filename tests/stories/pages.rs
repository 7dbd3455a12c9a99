//! The pages keep their word: what they name is there.

use std::fs;
use std::path::Path;

use crate::Story;

/// The Rust sources below a folder, as one text.
fn sources(folder: &Path, text: &mut String) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path)?);
        }
    }
    Ok(())
}

/// The names of tests in the last column of the page's tables.
fn named(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let last = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next());
    let names = last.flat_map(|column| column.split('`').skip(1).step_by(2));
    names
        .filter(|name| {
            name.len() > 20 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        })
        .collect()
}

#[tokio::test]
async fn each_test_that_the_threat_model_names_is_there() -> Story {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/security/threat-model.md"))?;
    let mut text = String::new();
    for folder in ["apps", "crates", "tests/stories", "tests/src"] {
        sources(&root.join(folder), &mut text)?;
    }
    let names = named(&page);
    assert!(names.len() >= 40, "{}", names.len());
    let missing: Vec<_> = names.iter().filter(|name| !text.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    Ok(())
}
