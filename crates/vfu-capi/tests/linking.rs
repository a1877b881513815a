//! Programs link with the shared library, with the archive, and load it by name as other languages do.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::{Language, library_dir, run, scratch};

/// Makes a device, logs a line, and says what it saw.
const PROGRAM: &str = r#"
#include <libvfio-user.h>
#include <stdio.h>

static void log_line(vfu_ctx_t *ctx, int level, const char *text)
{
    (void)ctx;
    printf("log %d: %s\n", level, text);
}

int main(int argc, char **argv)
{
    vfu_ctx_t *ctx = vfu_create_ctx(VFU_TRANS_SOCK, argc > 1 ? argv[1] : "", 0, NULL, VFU_DEV_TYPE_PCI);

    if (ctx == NULL || vfu_setup_log(ctx, log_line, LOG_INFO) != 0)
        return 1;
    if (vfu_pci_init(ctx, VFU_PCI_TYPE_EXPRESS, PCI_HEADER_TYPE_NORMAL, 0) != 0 || vfu_realize_ctx(ctx) != 0)
        return 1;
    vfu_log(ctx, LOG_INFO, "%s is %d", "six by seven", 42);
    vfu_destroy_ctx(ctx);
    return 0;
}
"#;

fn compile(name: &str, more: &[String]) -> PathBuf {
    let dir = scratch(&format!("linking-{name}"));
    let (source, program) = (dir.join("program.c"), dir.join("program"));
    fs::write(&source, PROGRAM).expect("a file in the scratch folder");
    let mut compiler = Language::C11.compiler().expect("a C compiler links Rust programs, too");
    run(compiler.arg("-o").arg(&program).arg(&source).args(["-x", "none"]).args(more));
    program
}

fn works(program: &PathBuf) {
    let output = run(&mut Command::new(program));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("log 6: six by seven is 42\n"), "{text}");
}

#[test]
fn with_the_shared_library() {
    let dir = library_dir().display().to_string();
    let flags = [format!("-L{dir}"), "-lvfio-user".to_owned(), format!("-Wl,-rpath,{dir}")];
    works(&compile("shared", &flags));
}

/// As `pkg-config --static --libs` tells it.
#[test]
fn with_the_archive() {
    if common::is_foreign() {
        return;
    }
    let archive = common::library().with_extension("a");
    let needs = ["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"].map(str::to_owned);
    let flags: Vec<String> = [archive.display().to_string()].into_iter().chain(needs).collect();
    works(&compile("archive", &flags));
}
