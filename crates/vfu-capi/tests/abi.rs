//! The headers against the table of what programs rely on: sizes, offsets, bit fields, constants, types of functions.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use common::{Language, crate_dir, include_dir, run, scratch, skip};

/// A line of the table.
struct Fact {
    kind: String,
    /// The value; for functions the name.
    value: String,
    /// What has it; for functions the type.
    subject: String,
}

fn table() -> Vec<Fact> {
    let text = fs::read_to_string(crate_dir().join("tests/abi/table.txt")).expect("the table");
    let facts = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    facts
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut word =
                || words.next().unwrap_or_else(|| panic!("three words: {line}")).to_owned();
            Fact { kind: word(), value: word(), subject: word() }
        })
        .collect()
}

/// A program that prints the table as the headers have it; functions are checked while it compiles.
fn program(facts: &[Fact], language: Language) -> String {
    let mut text =
        String::from("#include <libvfio-user.h>\n#include <stdio.h>\n#include <string.h>\n");
    if language == Language::Cxx17 {
        text.push_str("#include <type_traits>\n");
    }
    text.push_str("#define FIELD(T, f) sizeof(((T *)0)->f)\nint main(void)\n{\n    size_t i, j; unsigned long long v;\n");
    for Fact { kind, value, subject } in facts {
        let (of, path) = subject.split_once(" . ").unwrap_or((subject, ""));
        let line = match kind.as_str() {
            "size" => format!("printf(\"size %zu {of}\\n\", sizeof({of}));"),
            "field" => format!(
                "printf(\"field %zu+%zu {subject}\\n\", offsetof({of}, {path}), FIELD({of}, {path}));"
            ),
            "flex" => format!("printf(\"flex %zu {subject}\\n\", offsetof({of}, {path}));"),
            "const" => format!("printf(\"const %lld {subject}\\n\", (long long)({subject}));"),
            "bits" => format!(
                "{{ {of} x; unsigned char b[sizeof(x)]; memset(&x, 0, sizeof(x)); x.{path}--; memcpy(b, &x, sizeof(x)); \
                 i = 0; while (!b[i]) i++; v = 0; for (j = sizeof(x); j-- > i;) v = v << 8 | b[j]; \
                 printf(\"bits %zu:%llx {subject}\\n\", i, v); }}"
            ),
            "sig" | "callback" => {
                let has = if kind == "sig" {
                    format!("__typeof__(&{value})")
                } else {
                    format!("{value} *")
                };
                match language {
                    Language::C11 => format!(
                        "_Static_assert(__builtin_types_compatible_p({has}, {subject}), \"{value}\"); puts(\"{kind} {value} {subject}\");"
                    ),
                    Language::Cxx17 => format!(
                        "static_assert(std::is_same<{has}, {subject}>::value, \"{value}\"); puts(\"{kind} {value} {subject}\");"
                    ),
                }
            }
            other => panic!("no kind of line: {other}"),
        };
        let _ = writeln!(text, "    {line}");
    }
    text.push_str("    return 0;\n}\n");
    text
}

fn compare(language: Language) {
    let Some(mut compiler) = language.compiler() else {
        return skip(&format!("the table in {language:?}"), "a compiler");
    };
    let (facts, dir) = (table(), scratch(&format!("abi-{language:?}")));
    assert!(facts.len() > 500, "{} facts", facts.len());
    let (source, binary) = (dir.join("facts.c"), dir.join("facts"));
    fs::write(&source, program(&facts, language)).expect("written");
    if language == Language::Cxx17 {
        // vfu_log has a format attribute, which is no part of its type
        compiler.arg("-Wno-ignored-attributes");
    }
    run(compiler.arg("-o").arg(&binary).arg(&source));
    let output = run(&mut Command::new(binary));
    let output = String::from_utf8(output.stdout).expect("text");
    let mut lines = output.lines();
    for Fact { kind, value, subject } in &facts {
        assert_eq!(
            lines.next(),
            Some(format!("{kind} {value} {subject}").as_str()),
            "in {language:?}"
        );
    }
}

#[test]
fn headers_have_the_layout_of_the_table_in_c11() {
    compare(Language::C11);
}

#[test]
fn headers_have_the_layout_of_the_table_in_cxx17() {
    compare(Language::Cxx17);
}

/// The text of all headers, without comments.
fn all_headers() -> String {
    let mut text = String::new();
    for folder in ["", "pci_caps"] {
        for file in common::files(&include_dir().join(folder), "h") {
            text.push_str(&fs::read_to_string(file).expect("a header"));
        }
    }
    let mut code = String::new();
    for (number, piece) in text.split("/*").enumerate() {
        code.push_str(if number == 0 {
            piece
        } else {
            piece.split_once("*/").map_or("", |(_, rest)| rest)
        });
    }
    code
}

/// What is not in the table is not promised, so nothing may be in the headers alone.
#[test]
fn every_name_of_the_headers_is_in_the_table() {
    let facts = table();
    let listed: BTreeSet<&str> =
        facts.iter().flat_map(|fact| [fact.value.as_str(), fact.subject.as_str()]).collect();
    let helpers = ["VFU_LAYOUT_CHECK", "VFU_PX_PLAIN16", "VFU_PX_PLAIN32"];
    let mut absent = Vec::new();
    for line in all_headers().lines() {
        let words: Vec<&str> = line
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .collect();
        let name = match words.as_slice() {
            ["define", name, _, ..] => Some((*name).to_owned()),
            ["struct" | "union", name] if line.trim_end().ends_with('{') => {
                Some(format!("{} {name}", words[0]))
            }
            // an enumerator stands alone on its line, with or without a value
            [name] | [name, _]
                if !line.starts_with('#')
                    && name
                        .chars()
                        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') =>
            {
                Some((*name).to_owned())
            }
            _ => None,
        };
        if let Some(name) = name {
            let nested = name == "union sub_region" || name == "struct name";
            if !listed.contains(name.as_str())
                && !helpers.contains(&name.as_str())
                && !nested
                && name.len() > 3
            {
                absent.push(name);
            }
        }
    }
    assert!(absent.is_empty(), "not in tests/abi/table.txt: {absent:?}");
}
