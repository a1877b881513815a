//! The headers compile alone and together, without a warning, in every language they are for.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Language, crate_dir, include_dir, run, scratch, skip};

/// All headers, as programs include them.
fn headers() -> Vec<String> {
    let mut names = Vec::new();
    for folder in ["", "pci_caps/"] {
        for file in common::files(&include_dir().join(folder), "h") {
            names.push(format!(
                "{folder}{}",
                file.file_name().unwrap_or_default().to_string_lossy()
            ));
        }
    }
    names
}

fn compile(language: Language, name: &str, text: &str) -> bool {
    let Some(mut compiler) = language.compiler() else {
        return false;
    };
    let dir = scratch(&format!("headers-{language:?}-{}", name.replace('/', "-")));
    let source: PathBuf = dir.join("source");
    fs::write(&source, text).expect("a file in the scratch folder");
    run(compiler.arg("-fsyntax-only").arg(&source));
    true
}

fn in_language(language: Language) {
    let names = headers();
    assert!(names.len() >= 10, "{names:?}");
    let mut together = String::new();
    for name in &names {
        if !compile(language, name, &format!("#include <{name}>\n#include <{name}>\n")) {
            return skip(&format!("headers in {language:?}"), "a compiler");
        }
        together.push_str(&format!("#include \"{name}\"\n"));
    }
    compile(language, "together", &together);
    let backwards: String =
        names.iter().rev().map(|name| format!("#include \"{name}\"\n")).collect();
    compile(language, "backwards", &backwards);
}

#[test]
fn headers_are_c11() {
    in_language(Language::C11);
}

#[test]
fn headers_are_cxx17() {
    in_language(Language::Cxx17);
}

/// The names of a C library are plain symbols: without extern "C" a C++ program would not link.
#[test]
fn a_cxx_program_links() {
    let Some(mut compiler) = Language::Cxx17.compiler() else {
        return skip("linking a C++ program", "a C++ compiler");
    };
    let (dir, library) = (scratch("cxx-links"), common::library_dir());
    let source = dir.join("program.cc");
    fs::write(
        &source,
        "#include <libvfio-user.h>\nint main() { return dma_sg_size() == 40 ? 0 : 1; }\n",
    )
    .expect("written");
    let program = dir.join("program");
    run(compiler
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .arg("-L")
        .arg(&library)
        .arg("-lvfio-user")
        .arg(rpath(&library)));
    run(&mut std::process::Command::new(&program));
}

fn rpath(dir: &std::path::Path) -> String {
    format!("-Wl,-rpath,{}", dir.display())
}

/// Lines stay within the width that the project has for code.
#[test]
fn headers_fit_the_page() {
    for name in headers() {
        let text = fs::read_to_string(crate_dir().join("include").join(&name)).expect("a header");
        for (number, line) in text.lines().enumerate() {
            assert!(line.len() <= 124, "{name}:{}: {} columns", number + 1, line.len());
        }
        assert!(text.lines().count() <= 400, "{name} is long");
    }
}
