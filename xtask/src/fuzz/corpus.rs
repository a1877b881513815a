//! The inputs that are kept in the repository: few, small, and enough to reach what was reached.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::build::Programs;
use super::folder;
use crate::toolchain;

/// The most inputs of a target, but for those with a name: `cargo test` replays them each time, and
/// checks that they are few.
const MOST: usize = 400;

/// Makes the corpus of a target the smallest that reaches what was reached.
pub(super) fn minimize(programs: &Programs, target: &str) -> Result<String> {
    let corpus = folder().join("corpus").join(target);
    let small = toolchain::target_folder().join("fuzz/minimized").join(target);
    if small.exists() {
        fs::remove_dir_all(&small)?;
    }
    fs::create_dir_all(&corpus)?;
    programs.merge(target, &corpus, &small)?;
    replace(&corpus, &small, MOST)
}

/// A file and what is in it.
type Input = (OsString, Vec<u8>);

/// Replaces what has no name of its own by what is in `small`, at most so many.
fn replace(corpus: &Path, small: &Path, most: usize) -> Result<String> {
    let (old, mut new) = (inputs(corpus)?, inputs(small)?);
    ensure!(!new.is_empty(), "nothing is left of {}, so it stays as it is", corpus.display());
    let named = |input: &Input| !is_hash(&input.0);
    new.retain(|(_, bytes)| !old.iter().any(|input| named(input) && input.1 == *bytes));
    // What is known changes nothing in the history of the repository; small ones are quick.
    new.sort_by_key(|(name, bytes)| {
        let is_known = old.iter().any(|(known, _)| known == name);
        (!is_known, bytes.len(), name.clone())
    });
    let left_out = new.len().saturating_sub(most);
    new.truncate(most);
    for (name, bytes) in &new {
        fs::write(corpus.join(name), bytes)?;
    }
    for input in &old {
        if !named(input) && !new.iter().any(|(name, _)| *name == input.0) {
            fs::remove_file(corpus.join(&input.0))?;
        }
    }
    let kept = inputs(corpus)?;
    let bytes: usize = kept.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut text = format!("{} inputs, {bytes} bytes, in {}", kept.len(), corpus.display());
    if left_out > 0 {
        text += &format!("; {left_out} more reach something, too, but {most} are enough");
    }
    Ok(text)
}

fn inputs(folder: &Path) -> Result<Vec<Input>> {
    let read = || -> std::io::Result<Vec<Input>> {
        let mut inputs = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            inputs.push((entry.file_name(), fs::read(entry.path())?));
        }
        Ok(inputs)
    };
    read().with_context(|| folder.display().to_string())
}

/// Whether libFuzzer has made this name. Other files are what once broke something: they stay.
fn is_hash(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(digit: &str) -> String {
        digit.repeat(40)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = inputs(folder)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name.into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn few_are_kept_and_those_with_a_name() {
        let (corpus, small) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, bytes) in [(&*hash("a"), "gone"), (&hash("b"), "a long one"), ("a_bug", "bug")] {
            fs::write(corpus.path().join(name), bytes).unwrap();
        }
        for (digit, bytes) in [("b", "a long one"), ("c", "123"), ("d", "12"), ("e", "bug")] {
            fs::write(small.path().join(hash(digit)), bytes).unwrap();
        }
        let text = replace(corpus.path(), small.path(), 2).unwrap();
        assert!(text.starts_with("3 inputs, 15 bytes, in "), "{text}");
        assert!(text.contains("; 1 more reach something"), "{text}");
        assert_eq!(names(corpus.path()), ["a_bug".into(), hash("b"), hash("d")]);
    }

    #[test]
    fn a_merge_that_gave_nothing_takes_nothing() {
        let (corpus, small) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(corpus.path().join(hash("a")), "kept").unwrap();
        assert!(replace(corpus.path(), small.path(), 2).is_err());
        assert_eq!(names(corpus.path()), [hash("a")]);
    }
}
