//! The capabilities of VERSION: JSON from anybody.

use vfu_proto::wire::{Capabilities, MAX_JSON_LEN, Version};

use crate::script::Script;

pub(crate) const ABOUT: &str = "the JSON of VERSION";

/// Pieces of the text, so that whole ones come up often.
const PIECES: &[&str] = &[
    "{\"capabilities\":{",
    "}}",
    "\"max_msg_fds\":",
    "\"max_data_xfer_size\":",
    "\"max_dma_maps\":",
    "\"pgsizes\":",
    "\"migration\":{",
    "\"pgsize\":",
    "\"max_bitmap_size\":",
    "\"twin_socket\":{",
    "\"supported\":",
    "\"fd_index\":",
    "\"write_multiple\":",
    "\"sparse_mmap_fds\":",
    "true",
    "false",
    "null",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\u0000",
    "-1",
    "1e2",
    "18446744073709551616",
    "[[[[[[[[[[[[[[[[[[[[",
    "\0",
];

pub(crate) fn run(bytes: &[u8]) {
    crate::steps::add(1);
    let mut script = Script::new(bytes);
    let mut text = Vec::new();
    if script.one_in(2) {
        text.extend_from_slice(script.rest());
    } else {
        while !script.is_empty() {
            match script.below(PIECES.len() + 4) {
                0 => text.extend_from_slice(script.number().to_string().as_bytes()),
                1 => text.push(script.u8()),
                2 => text.extend_from_slice(script.bytes(8)),
                3 => text.extend(std::iter::repeat_n(b' ', script.u16() as usize)),
                n => text.extend_from_slice(PIECES[n - 4].as_bytes()),
            }
        }
        text.push(0);
    }
    let parsed = Capabilities::parse(&text);
    assert!(text.len() <= MAX_JSON_LEN || parsed.is_err());
    let Ok(caps) = parsed else { return };
    again(&caps);
    let ours = Capabilities {
        max_msg_fds: Some(16),
        max_data_xfer_size: Some(1 << 20),
        max_dma_maps: Some(7),
        pgsizes: Some(4096),
        twin_socket: Some(Default::default()),
        write_multiple: Some(true),
        sparse_mmap_fds: Some(true),
        ..Capabilities::default()
    };
    let agreed = ours.restricted_to(&caps);
    again(&agreed);
    assert!(agreed.max_msg_fds.is_none() || caps.max_msg_fds.is_some());
    assert!(agreed.write_multiple != Some(true) || caps.write_multiple == Some(true));
    assert!(agreed.twin_socket.is_none() || caps.twin_socket.is_some_and(|twin| twin.supported));
    assert_eq!(agreed, agreed.restricted_to(&caps), "what was agreed on is agreed on");
}

/// What we send is taken as what it was.
fn again(caps: &Capabilities) {
    let mut out = Vec::new();
    caps.emit(&mut out);
    assert_eq!(Capabilities::parse(&out).as_ref(), Ok(caps));
    let version = Version::new(0, 1, *caps);
    out.clear();
    version.emit(&mut out);
    assert_eq!(Version::parse(&out), Ok(version));
}
