//! Configuration space as bytes: for `lspci -F`, and for people.

use std::fmt::Write;

use super::report::Config;

const LINE: usize = 16;

/// The text that `lspci -x` prints and `lspci -F` reads: a line that begins with the address of the
/// device, then lines of 16 bytes. There is no bus, so the address is 00:00.0.
pub(super) fn lspci(config: &Config) -> String {
    let mut text = format!(
        "00:00.0 {}: {:04x}:{:04x} (rev {:02x})\n",
        config.class.name, config.vendor, config.device, config.revision
    );
    text.push_str(&hex(&config.bytes));
    text.push('\n'); // an empty line ends the device
    text
}

/// Lines of 16 bytes behind their offset.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3 + bytes.len() / LINE * 5);
    for (line, bytes) in bytes.chunks(LINE).enumerate() {
        // Into a String: nothing can fail.
        let _ = write!(text, "{:02x}:", line * LINE);
        for byte in bytes {
            let _ = write!(text, " {byte:02x}");
        }
        text.push('\n');
    }
    text
}
