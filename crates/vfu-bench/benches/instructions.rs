//! How many instructions single operations take, by valgrind; a failure if it is more than
//! `instructions.txt` allows. Times are never tests, counts are.
//!
//!     cargo bench -p vfu-bench --bench instructions [-- NAME...]

use std::process::ExitCode;

use vfu_bench::{instructions, roles};

/// A line each: the most instructions of an operation. Some 10 % above what it took when that was set.
const BOUNDS: &str = include_str!("instructions.txt");

fn main() -> ExitCode {
    if let Some(code) = roles::enter() {
        return ExitCode::from(code as u8);
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("cargo bench counts instructions; as a test there is nothing to do");
        return ExitCode::SUCCESS;
    }
    if let Err(why) = countable() {
        println!("skip: instructions are not counted: {why}");
        let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
        return ExitCode::from(u8::from(strict));
    }
    let chosen = |name: &str| {
        let mut names = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|arg| name.contains(arg.as_str()))
    };
    let (mut passed, mut failed) = (0, 0);
    for name in instructions::names().into_iter().filter(|name| chosen(name)) {
        match judge(name) {
            Ok(text) => {
                passed += 1;
                println!("  ok      {name:18}{text}");
            }
            Err(e) => {
                failed += 1;
                println!("  FAILED  {name:18}{e:#}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// Why nothing can be counted here, if so.
fn countable() -> anyhow::Result<()> {
    anyhow::ensure!(cfg!(target_arch = "x86_64"), "the bounds are those of x86-64");
    anyhow::ensure!(!cfg!(debug_assertions), "this is a debug build");
    instructions::available()
}

fn judge(name: &str) -> anyhow::Result<String> {
    let most = bound(name)?;
    let took = instructions::count(name)?;
    anyhow::ensure!(took <= most, "{took} instructions, at most {most} are allowed");
    let slack = if took * 5 < most * 4 { "; the bound can be lowered" } else { "" };
    Ok(format!("{took:>6} instructions, at most {most}{slack}"))
}

fn bound(name: &str) -> anyhow::Result<u64> {
    let lines = BOUNDS.lines().filter(|line| !line.starts_with('#'));
    let mut bounds = lines.filter_map(|line| line.split_once(char::is_whitespace));
    let bound = bounds.find(|(first, _)| *first == name).map(|(_, most)| most.trim());
    let bound = bound.and_then(|most| most.parse().ok());
    bound.ok_or_else(|| anyhow::anyhow!("it has no line in benches/instructions.txt"))
}
