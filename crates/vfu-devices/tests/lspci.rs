//! Every model has golden files of its configuration space; see `lspci/README.md`.

use std::fmt::Write as _;
use std::path::Path;

use vfu_devices::Model;

/// The lines of bytes as `vfu probe --lspci` prints them.
fn hex(model: Model) -> String {
    let mut text = String::new();
    for (line, bytes) in model.pci().build().unwrap().to_vec().chunks(16).enumerate() {
        write!(text, "{:02x}:", line * 16).unwrap();
        for byte in bytes {
            write!(text, " {byte:02x}").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn configuration_spaces_are_those_of_the_golden_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lspci");
    for model in Model::ALL {
        let hint = "see crates/vfu-devices/tests/lspci/README.md";
        let golden = std::fs::read_to_string(folder.join(format!("{model}.hex")))
            .unwrap_or_else(|e| panic!("{model}.hex: {e}; {hint}"));
        let (title, bytes) = golden.split_once('\n').expect("a line about the device");
        assert!(title.starts_with("00:00.0 "), "{title}");
        let now = hex(model);
        let lines = bytes.trim_end().lines().zip(now.lines());
        for (golden, now) in lines {
            assert_eq!(now, golden, "{model}; {hint}");
        }
        assert_eq!(now.trim_end().len(), bytes.trim_end().len(), "{model}; {hint}");
        assert!(folder.join(format!("{model}.lspci")).exists(), "{model}.lspci is missing; {hint}");
    }
}
