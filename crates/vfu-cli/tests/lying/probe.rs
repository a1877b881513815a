//! `vfu probe`.

use std::os::fd::AsFd;

use vfu::wire::{Command as Wire, Errno};
use vfu_testkit::{
    HONEST_JSON, KitError, LyingServer, RawMessage, RawPeer, SharedRam, message, truth,
};

use crate::{HASTY, PATIENT, WRONG, half, run, verdict, words};

/// Probes a server, in each form that the command has; in one of them if that takes time.
#[track_caller]
fn probe(what: &str, timeout: &str, server: impl Fn() -> LyingServer) -> Option<String> {
    let mut forms = ["--json", "--lspci", "--hex", "--wait=1"];
    forms.rotate_left(what.len() % 4);
    let mut said = None;
    for form in forms.into_iter().take(if timeout == HASTY { 1 } else { 4 }) {
        let server = server();
        said = verdict(what, &run(&["probe", timeout, form], &[server.path()]));
    }
    said
}

#[track_caller]
fn fails(what: &str, timeout: &str, server: impl Fn() -> LyingServer) -> String {
    probe(what, timeout, server).unwrap_or_else(|| panic!("{what}: it is content"))
}

/// The commands that a probe sends.
const ASKED: [Wire; 5] = [
    Wire::DeviceGetInfo,
    Wire::DeviceGetRegionInfo,
    Wire::DeviceGetIrqInfo,
    Wire::RegionRead,
    Wire::DeviceFeature,
];

#[test]
fn s01_version() {
    let json = |text: &str| [&[0; 4], text.as_bytes(), &[0]].concat();
    let deep = format!("{{\"capabilities\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let answers: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("half a version", vec![0; 3]),
        ("another major version", [&[1, 0, 0, 0], &b"{}\0"[..]].concat()),
        ("a later minor version", [&[0, 0, 99, 0], &b"{}\0"[..]].concat()),
        ("no NUL", [&[0; 4], &b"{}"[..]].concat()),
        ("no JSON", json("hello")),
        ("an array", json("[]")),
        ("lists in lists", json(&deep)),
        ("1 MiB of it", json(&"{\"a\":".repeat(200_000))),
        ("no data", json(r#"{"capabilities":{"max_data_xfer_size":0}}"#)),
        ("no UTF-8", [&[0; 4], &b"{\"\xff\":0}\0"[..]].concat()),
    ];
    for (what, payload) in answers {
        let server = || {
            let payload = payload.clone();
            LyingServer::new(move |peer| {
                let request = peer.recv()?;
                peer.send(&request.reply(&payload))?;
                peer.recv()
            })
        };
        fails(what, PATIENT, server);
    }
    fails("it refuses", PATIENT, || {
        LyingServer::new(|peer| {
            let request = peer.recv()?;
            peer.send(&request.refusal(Errno::EINVAL))?;
            peer.recv()
        })
    });
    fails("it never answers", HASTY, || LyingServer::new(|peer| peer.recv().and(peer.recv())));
}

#[test]
fn s02_sockets() {
    let twin =
        |rest: &str| format!(r#"{{"capabilities":{{"twin_socket":{{"supported":true{rest}}}}}}}"#);
    let cases = [
        ("no descriptor", twin(r#","fd_index":0"#), 0),
        ("no index", twin(""), 1),
        ("another index", twin(r#","fd_index":7"#), 1),
        ("an index below 0", twin(r#","fd_index":-1"#), 1),
        ("a file", twin(r#","fd_index":0"#), 1),
        ("too many", twin(r#","fd_index":0"#), 2),
        ("unasked", HONEST_JSON.to_owned(), 1),
    ];
    for (what, json, fds) in cases {
        fails(what, PATIENT, || {
            let json = json.clone();
            LyingServer::new(move |peer| {
                let file = SharedRam::new(0, 4096)?;
                peer.answer_handshake(&json, &vec![file.as_fd(); fds])?;
                peer.recv()
            })
        });
    }
}

#[test]
fn s03_commands_of_the_server() {
    let read = words(&[0, 0, 4, 0]); // DMA_READ; nothing is mapped
    let flood = move |peer: &RawPeer| {
        let each = |id: u16| message(id, [11, 12, 1, 99][usize::from(id % 4)], 0, &read);
        peer.send(&(0..1000).flat_map(each).collect::<Vec<_>>())
    };
    let first = flood.clone();
    probe("before VERSION", PATIENT, || {
        let flood = first.clone();
        LyingServer::new(move |peer| {
            flood(&peer)?;
            peer.answer_handshake(HONEST_JSON, &[])?;
            peer.recv()
        })
    });
    for command in ASKED {
        let said = probe("meanwhile", PATIENT, || {
            let flood = flood.clone();
            let mut flooded = false;
            LyingServer::lying_about(command, move |peer, request| {
                if !std::mem::replace(&mut flooded, true) {
                    flood(peer)?;
                }
                peer.send(&request.reply(&truth(request)))
            })
        });
        assert_eq!(said, None, "{command:?}: its commands are refused, and that is all");
    }
}

#[test]
fn s04_replies_that_make_no_sense() {
    for (what, wrong) in WRONG {
        for command in ASKED {
            probe(&format!("{command:?}: {what}"), HASTY, || {
                LyingServer::lying_about(command, move |peer, request| peer.send(&wrong(request)))
            });
        }
    }
}

#[test]
fn s05_no_replies() {
    for command in ASKED {
        let what = format!("{command:?}");
        let server = || LyingServer::lying_about(command, |_, _| Ok(()));
        let said = fails(&what, HASTY, server);
        assert!(said.contains("in time"), "{said}");
        fails(&what, HASTY, || LyingServer::lying_about(command, half));
        fails(&what, PATIENT, || LyingServer::lying_about(command, |_, _| Err(KitError::Closed)));
        fails(&what, PATIENT, || {
            LyingServer::lying_about(command, move |peer, request| {
                half(peer, request).and(Err(KitError::Closed))
            })
        });
    }
}

#[test]
fn s06_device_info() {
    for numbers in [[2, 0, 0], [2, u32::MAX, u32::MAX], [0, 9, 5], [u32::MAX, 8, 1], [3, 101, 0]] {
        let info = [&words(&[16])[..], &words(&numbers)].concat();
        probe("a device", PATIENT, || LyingServer::saying(Wire::DeviceGetInfo, info.clone()));
    }
    for argsz in [0, 15, u32::MAX] {
        let info = words(&[argsz, 2, 9, 5]);
        probe("argsz", PATIENT, || LyingServer::saying(Wire::DeviceGetInfo, info.clone()));
    }
}

/// Flags, where capabilities begin, size (two halves), and what follows.
type Described = (&'static str, u32, u32, u64, &'static [u32]);

#[test]
fn s07_region_info() {
    let cases: [Described; 9] = [
        ("2^64 - 1 bytes", 3, 0, u64::MAX, &[]),
        ("no bytes", 3, 0, 0, &[]),
        ("capabilities in the header", 0xb, 4, 4096, &[]),
        ("capabilities behind the end", 0xb, 4000, 4096, &[]),
        ("a capability that is its own next", 0xb, 32, 4096, &[1, 32, 0, 0]),
        ("capabilities in a circle", 0xb, 32, 4096, &[1, 40, 1, 32]),
        ("2^32 - 1 areas", 0xf, 32, 4096, &[0x1_0001, 0, u32::MAX, 0]),
        ("an area of nothing", 0xf, 32, 4096, &[0x1_0001, 0, 1, 0, 0, 0, 0, 0]),
        ("an area behind the end", 0xf, 32, 4096, &[0x1_0001, 0, 1, 0, 0, 0, u32::MAX, u32::MAX]),
    ];
    for (what, flags, at, size, rest) in cases {
        for more in [0, 1 << 20, u32::MAX / 2] {
            probe(what, PATIENT, || {
                LyingServer::lying_about(Wire::DeviceGetRegionInfo, move |peer, request| {
                    let index = request.payload[8..12].to_vec();
                    let argsz = 32 + 4 * rest.len() as u32 + more;
                    let size = [size as u32, (size >> 32) as u32];
                    let head = [words(&[argsz, flags]), index, words(&[at]), words(&size)];
                    let info = [head.concat(), words(&[0, 0]), words(rest)].concat();
                    peer.send(&request.reply(&info))
                })
            });
        }
    }
    let mut asked = 0;
    let growing = move |peer: &RawPeer, request: &RawMessage| {
        asked += 1;
        let mut info = truth(request);
        info[..4].copy_from_slice(&(4096u32 + asked * 64).to_le_bytes());
        peer.send(&request.reply(&info))
    };
    probe("it grows", PATIENT, || LyingServer::lying_about(Wire::DeviceGetRegionInfo, growing));
}

#[test]
fn s08_interrupts() {
    for (flags, count) in [(0, u32::MAX), (u32::MAX, 0), (1, 1 << 31)] {
        probe("interrupts", PATIENT, || {
            LyingServer::lying_about(Wire::DeviceGetIrqInfo, move |peer, request| {
                let index = u32::from_le_bytes(request.payload[8..12].try_into().unwrap());
                peer.send(&request.reply(&words(&[16, flags, index, count])))
            })
        });
    }
}

/// Configuration space of random bytes, with the bits that lead to the rest of it.
#[test]
fn s10_configuration_space() {
    let spaces = [vec![0; 4096], vec![0xff; 4096], vec![0x40; 4096]];
    for seed in 0..spaces.len() as u64 + 24 {
        let space = spaces.get(seed as usize).cloned().unwrap_or_else(|| config_space(seed));
        let said = probe(&format!("space {seed}"), PATIENT, || serving_config(space.clone()));
        assert_eq!(said, None, "whatever it is, it is shown");
    }
    for change in [-4, -1, 1, 4096] {
        fails("a read of another length", PATIENT, || {
            LyingServer::lying_about(Wire::RegionRead, move |peer, request| {
                let mut reply = truth(request);
                reply.resize(reply.len().saturating_add_signed(change), 0);
                let count = reply.len() as u32 - 16;
                reply[12..16].copy_from_slice(&count.to_le_bytes());
                peer.send(&request.reply(&reply))
            })
        });
    }
}

fn config_space(seed: u64) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let random = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    let mut space: Vec<u8> = random.take(4096).collect();
    space[0x06] |= 0x10; // there are capabilities,
    space[0x34] = space[0x34].max(0x40); // in a list that begins behind the header,
    space[0x0e] &= 0x81; // of a device or a bridge
    space
}

fn serving_config(space: Vec<u8>) -> LyingServer {
    LyingServer::session(move |peer, request| {
        let mut reply = truth(request);
        if request.header.command == Wire::RegionRead.as_u16() {
            let offset = usize::from(u16::from_le_bytes([reply[0], reply[1]]));
            let data = reply.len() - 16;
            reply[16..].copy_from_slice(&space[offset..offset + data]);
        }
        peer.send(&request.reply(&reply))
    })
}
