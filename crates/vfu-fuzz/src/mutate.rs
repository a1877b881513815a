//! What is made wrong in a message.

use fastrand::Rng;
use vfu_proto::wire::HEADER_SIZE;

use crate::descriptors::Descriptor;
use crate::generate::Area;
use crate::script::{Data, Message, Pieces};
use crate::survey::JSON;
use crate::values::{changed, interesting, one_in};

/// Makes one or two things wrong, as the area has it.
pub(crate) fn mutate(rng: &mut Rng, area: Area, message: &mut Message) {
    for _ in 0..=rng.u8(0..2) {
        match area {
            Area::Framing => frame(rng, message),
            Area::Fds => descriptors(rng, message),
            Area::Dma if one_in(rng, 4) => descriptors(rng, message),
            Area::Irqs if one_in(rng, 3) => descriptors(rng, message),
            _ if one_in(rng, 10) => frame(rng, message),
            _ => payload(rng, message),
        }
    }
}

fn frame(rng: &mut Rng, message: &mut Message) {
    let len = message.bytes().len() as u32;
    match rng.u8(0..16) {
        0 => message.size = Some(rng.u32(0..16)),
        1 => message.size = rng.choice([u32::MAX, 1 << 31, (1 << 20) + 4097, 2 << 20]),
        2 => message.size = Some(len.saturating_add(rng.u32(1..200))),
        3 => message.size = Some(rng.u32(16..=len.max(16))),
        4 => message.flags = message.flags & !0xf | rng.u32(2..16),
        5 => message.flags = message.flags & !0xf | 1 | rng.u32(0..2) << 5,
        6 => message.flags ^= 1 << rng.u32(4..32),
        7 => message.flags |= 0x10,
        8 => message.error = interesting(rng) as u32,
        9 => message.command = rng.choice([0, 1, 11, 12, 14, 19, 255, u16::MAX]).unwrap_or(0),
        10 => message.id = rng.u16(..),
        11 => message.pieces = Pieces::Single,
        12 | 13 => message.pieces = Pieces::Two(rng.u32(1..len.max(2))),
        14 => message.twin = true,
        _ if one_in(rng, 4) => message.half = Some(rng.u32(0..len.max(1))),
        _ => message.cut = Some(0),
    }
    let fields = crate::layout::fields(message.command).len();
    if message.fields.len() != fields {
        message.fields = vec![0; fields];
    }
}

fn descriptors(rng: &mut Rng, message: &mut Message) {
    match rng.u8(0..8) {
        0 => message.fds.clear(),
        1 => message.fds_at = rng.u32(0..HEADER_SIZE as u32 + 24),
        2 => {
            let count = rng.choice([2, 3, 8, 16, 17, 64, 253]).unwrap_or(2);
            message.fds = vec![descriptor(rng); count];
        }
        3 => message.fds.extend((0..rng.usize(1..4)).map(|_| descriptor(rng))),
        _ => message.fds = vec![descriptor(rng); message.fds.len().max(1)],
    }
}

fn descriptor(rng: &mut Rng) -> Descriptor {
    match rng.u8(0..4) {
        0 => Descriptor::Memfd(interesting(rng) & 0xff_ffff),
        1 => Descriptor::ReadOnly(0x3000),
        _ => rng.choice(Descriptor::NAMED).map_or(Descriptor::Eventfd, |(kind, _)| kind),
    }
}

fn payload(rng: &mut Rng, message: &mut Message) {
    match rng.u8(0..8) {
        0 => {
            let len = message.payload().len() as u32;
            message.cut = Some(rng.u32(0..len.max(1)));
        }
        1 => message.data.0.push((vec![rng.u8(..)], rng.u32(1..64))),
        2 if !message.data.is_empty() => {
            let mut bytes = message.data.to_vec();
            if let Some(byte) = rng.choice(bytes.iter_mut()) {
                *byte = rng.u8(..);
            }
            message.data = Data::bytes(bytes);
        }
        _ => change_field(rng, message),
    }
}

fn change_field(rng: &mut Rng, message: &mut Message) {
    let layout = crate::layout::fields(message.command);
    if let Some((value, field)) = rng.choice(message.fields.iter_mut().zip(layout)) {
        *value = changed(rng, *value) & u64::MAX >> (64 - 8 * field.size);
    }
}

/// Makes something wrong in VERSION.
pub(crate) fn mutate_version(rng: &mut Rng, message: &mut Message) {
    match rng.u8(0..10) {
        0 => message.cut = Some(rng.u32(0..8)),
        1 => change_field(rng, message),
        2 => frame(rng, message),
        3 => descriptors(rng, message),
        _ => message.data = json(rng),
    }
}

/// Text that may be JSON.
fn json(rng: &mut Rng) -> Data {
    let nul = (vec![0], 1);
    let deep = |open: &str, close: &str, depth: u32| {
        vec![(open.as_bytes().to_vec(), depth), (close.as_bytes().to_vec(), depth)]
    };
    let mut pieces = match rng.u8(0..12) {
        0 => deep("[", "]", rng.choice([31, 32, 33, 1000, 100_000]).unwrap_or(32)),
        1 => deep("{\"a\":", "}", rng.choice([31, 33, 1000]).unwrap_or(33)),
        2 => vec![
            (b"{\"capabilities\":{\"x\":\"".to_vec(), 1),
            (vec![b'y'], 900_000),
            (b"\"}}".to_vec(), 1),
        ],
        3 => vec![
            (b"{\"capabilities\":{".to_vec(), 1),
            (b"\"k\":1,".to_vec(), 5000),
            (b"\"k\":1}}".to_vec(), 1),
        ],
        4 => {
            let texts = [
                "",
                "null",
                "[]",
                "1",
                "{}",
                "{\"capabilities\":null}",
                "{\"capabilities\":[]}",
                "{\"capabilities\":{}} x",
                "\u{feff}{}",
                "{\"capabilities\":{\"max_msg_fds\":NaN}}",
            ];
            vec![(rng.choice(texts).unwrap_or("").as_bytes().to_vec(), 1)]
        }
        5 => {
            let mut bytes = JSON.as_bytes().to_vec();
            for _ in 0..rng.usize(1..4) {
                if let Some(byte) = rng.choice(bytes.iter_mut()) {
                    *byte = rng.u8(..);
                }
            }
            vec![(bytes, 1)]
        }
        _ => vec![(capability(rng).into_bytes(), 1)],
    };
    match rng.u8(0..8) {
        0 => {}
        1 => pieces.extend([nul, (b"trailing".to_vec(), 1)]),
        _ => pieces.push(nul),
    }
    Data(pieces.into_iter().filter(|(piece, _)| !piece.is_empty()).collect())
}

/// One capability with a value that it should not have.
fn capability(rng: &mut Rng) -> String {
    let keys = ["max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes", "write_multiple"];
    let values = [
        "-1",
        "0",
        "1",
        "1.5",
        "1e2",
        "2147483648",
        "4294967296",
        "9007199254740993",
        "9223372036854775808",
        "18446744073709551616",
        "\"8\"",
        "true",
        "null",
        "[]",
        "{}",
    ];
    let value = rng.choice(values).unwrap_or("0");
    let inner = match rng.u8(0..8) {
        0 => format!("\"twin_socket\":{value}"),
        1 => format!("\"twin_socket\":{{\"supported\":{value},\"fd_index\":{value}}}"),
        2 => format!("\"twin_socket\":{{\"supported\":true}},\"max_msg_fds\":{value}"),
        3 => format!("\"migration\":{{\"pgsize\":{value}}}"),
        4 => format!("\"migration\":{value}"),
        _ => format!("\"{}\":{value}", rng.choice(keys).unwrap_or("pgsizes")),
    };
    format!("{{\"capabilities\":{{{inner}}}}}")
}
