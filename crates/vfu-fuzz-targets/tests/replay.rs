//! The corpus of the fuzzer, and some blind input, in a plain test.
//!
//! `VFU_FUZZ_BLIND=n` takes n blind inputs for each target in place of the few.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use vfu_fuzz_targets::{MAX_LEN, TARGETS, Target, blind, steps, target};

/// The inputs of a target's corpus, in the order of their names.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target.name);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

/// The most inputs of a target: the 400 that `cargo xtask fuzz --minimize` leaves, and some that have
/// names.
const MOST: usize = 450;

#[test]
fn the_corpus_is_small() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for target in TARGETS {
        let corpus = corpus(target);
        assert!(corpus.len() <= MOST, "{}: {} inputs", target.name, corpus.len());
        for (path, bytes) in &corpus {
            assert!(bytes.len() <= MAX_LEN, "{path}: {} bytes", bytes.len());
        }
    }
}

/// Says which input it was, if it panics.
struct Blame<'a>(&'a Target, &'a str, &'a [u8]);

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Blame(target, name, bytes) = self;
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("target {}, input {name}: {hex}", target.name);
        }
    }
}

/// Some count descriptors, so nobody else may open any meanwhile.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn check(name: &str, blind_inputs: u64) {
    let target = target(name).unwrap_or_else(|| panic!("there is no target {name}"));
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty");
    for (file, bytes) in &corpus {
        let _blame = Blame(target, file, bytes);
        (target.run)(bytes);
    }
    let wanted = std::env::var("VFU_FUZZ_BLIND").ok();
    let wanted = wanted.map_or(blind_inputs, |n| n.parse().expect("VFU_FUZZ_BLIND is a number"));
    let known: Vec<_> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    for seed in 0..wanted {
        let input = blind::input(&mut blind::Rng::new(seed), &known, MAX_LEN);
        let name = format!("of seed {seed}");
        let _blame = Blame(target, &name, &input);
        (target.run)(&input);
    }
    println!("{name}: {} inputs of the corpus, {} steps by now", known.len(), steps::taken());
}

macro_rules! replay {
    ($($name:ident: $blind:literal,)*) => {
        $(#[test] fn $name() { check(stringify!($name), $blind); })*

        #[test]
        fn none_is_left_out() {
            let here = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), here);
        }
    };
}

replay! {
    caps: 2000,
    client: 300,
    engine: 2000,
    framing: 500,
    pci: 500,
    saved_state: 500,
    server: 300,
    wire: 5000,
}
