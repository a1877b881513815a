//! Tests that would take the whole run with them if they failed: each is a process of its own.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

const CHILD: &str = "VFU_TEST_CHILD";

/// Runs the body of the test that calls this in another process, which shall live.
pub(crate) fn lives<F: FnOnce()>(body: F) {
    lives_by(Command::new(std::env::current_exe().unwrap()), body);
}

/// As [`lives`], by a command that starts this program.
pub(crate) fn lives_by<F: FnOnce()>(command: Command, body: F) {
    if let Some(output) = run(command, body) {
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// Runs the body of the test that calls this in another process, which shall die of SIGBUS.
pub(crate) fn dies<F: FnOnce()>(body: F) {
    if let Some(output) = run(Command::new(std::env::current_exe().unwrap()), body) {
        let signal = rustix::process::Signal::BUS.as_raw();
        assert_eq!(output.status.signal(), Some(signal), "{}", said(&output));
    }
}

/// Runs the test once more, in a process that knows what it is for.
fn run<F: FnOnce()>(mut command: Command, body: F) -> Option<Output> {
    if std::env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    // `crate::module::test::{{closure}}`
    let path = std::any::type_name::<F>().strip_suffix("::{{closure}}");
    let test = path.and_then(|path| Some(path.split_once("::")?.1)).unwrap();
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let output = command.env(CHILD, "1").output().unwrap();
    let began = String::from_utf8_lossy(&output.stdout).contains("running 1 test");
    assert!(began, "{test}: {}", said(&output));
    Some(output)
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}
