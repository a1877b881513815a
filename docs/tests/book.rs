//! The book as a whole: its table of contents, its links, and what it quotes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn docs() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = docs().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All chapters, and the table of contents.
fn files() -> BTreeSet<String> {
    let entries = fs::read_dir(docs().join("src")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The lines that are no code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(n, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence).then_some((n + 1, line))
    })
}

/// Where a line's links lead.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The anchors that headings get, in mdBook and on a forge alike.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    headings
        .map(|(_, line)| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_chapter_is_in_the_table_of_contents_and_tested() {
    let summary = read("src/SUMMARY.md");
    let listed: Vec<&str> = summary.lines().flat_map(links).collect();
    let set: BTreeSet<String> = listed.iter().map(|file| file.to_string()).collect();
    assert_eq!(set.len(), listed.len(), "a chapter is listed twice");
    let mut files = files();
    assert!(files.remove("SUMMARY.md"));
    assert_eq!(set, files);
    let library = read("lib.rs");
    for file in &files {
        assert!(library.contains(&format!("\"{file}\"")), "{file} is not tested: add it to lib.rs");
    }
}

#[test]
fn every_link_leads_somewhere() {
    for file in files() {
        let text = read(Path::new("src").join(&file));
        for (n, line) in prose(&text) {
            for link in links(line) {
                check(&file, n, link, &text);
            }
        }
    }
}

fn check(file: &str, line: usize, link: &str, text: &str) {
    let ours = ["blob", "tree"].map(|kind| format!("https://github.com/vfu-rs/vfu/{kind}/main/"));
    if let Some(path) = ours.iter().find_map(|start| link.strip_prefix(start.as_str())) {
        let path = docs().join("..").join(path);
        assert!(path.exists(), "{file}:{line}: {link}: no {}", path.display());
        return;
    }
    if link.contains("://") {
        return;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        text.to_owned()
    } else {
        let path: PathBuf = docs().join("src").join(path);
        assert!(path.exists(), "{file}:{line}: {link}: no such file");
        fs::read_to_string(path).unwrap()
    };
    let found = anchor.is_empty() || anchors(&target).contains(anchor);
    assert!(found, "{file}:{line}: {link}: no such heading");
}

/// A block behind `<!-- FILE -->` shows a part of that file: what is between its `use` lines and its
/// `fn main` is there, word by word.
#[test]
fn what_is_quoted_is_what_the_device_is() {
    let mut quotes = 0;
    for file in files() {
        let text = read(Path::new("src").join(&file));
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let Some(source) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->"))
            else {
                continue;
            };
            let code = read(source);
            let fence = lines.next();
            assert!(fence.is_some_and(|l| l.starts_with("```rust")), "{file}: {source}: no block");
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let shown = block
                .iter()
                .skip_while(|l| l.is_empty() || l.starts_with("use ") || l.starts_with("# "))
                .take_while(|line| !line.starts_with("fn main"));
            let shown = shown.copied().collect::<Vec<_>>().join("\n");
            let shown = shown.trim_end();
            assert!(!shown.is_empty() && code.contains(shown), "{file}: not in {source}:\n{shown}");
            quotes += 1;
        }
    }
    assert!(quotes > 2, "the book quotes the device");
}
