//! What an access costs, counted: system calls with ptrace, allocations at the allocator.
//!
//! A program of its own, without libtest, because it starts itself: what is traced is a child of
//! one thread that begins in [`roles::child`].

mod allocations;
mod roles;
mod syscalls;
mod trace;

use std::panic::catch_unwind;
use std::process::ExitCode;

use trace::Skip;

/// What a test came to; a failure is a panic.
type Outcome = Result<(), Skip>;

/// Its name and itself.
type Test = (&'static str, fn() -> Outcome);

fn main() -> ExitCode {
    if let Some(role) = std::env::var_os(roles::VARIABLE) {
        return roles::child(&role.to_string_lossy());
    }
    let filters: Vec<_> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f));
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    let tests = syscalls::TESTS.iter().chain(allocations::TESTS);
    for (name, test) in tests.filter(|(name, _)| chosen(name)) {
        match catch_unwind(test) {
            Ok(Ok(())) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Ok(Err(skip)) if !strict => {
                ignored += 1;
                println!("test {name} ... ignored\nskip: {name}: {skip}");
            }
            Ok(Err(skip)) => {
                failed += 1;
                println!("test {name} ... FAILED\n{skip}; with CI=true a skip is a failure");
            }
            Err(_panic) => {
                failed += 1;
                println!("test {name} ... FAILED");
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored;");
    ExitCode::from(u8::from(failed > 0))
}
