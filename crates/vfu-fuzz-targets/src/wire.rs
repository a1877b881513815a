//! Payloads of commands and replies: what is taken is sent again, and is then taken as the same.

use vfu_proto::wire::*;

use crate::script::Script;

pub(crate) const ABOUT: &str = "the payload of any command and any reply";

pub(crate) fn run(bytes: &[u8]) {
    crate::steps::add(1);
    let mut script = Script::new(bytes);
    let command = script.pick(Command::ALL);
    // As words that mean something, or as they are.
    let payload = if script.one_in(2) {
        script.rest().to_vec()
    } else {
        let mut payload = Vec::new();
        while !script.is_empty() {
            let number = script.number().to_le_bytes();
            payload.extend_from_slice(&number[..script.pick(&[4, 8, 2, 1])]);
        }
        payload
    };
    header(&payload);
    request(command, &payload);
    reply(command, &payload);
}

fn header(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk::<HEADER_SIZE>() else { return };
    let header = Header::parse(bytes);
    assert_eq!(&header.emit(), bytes);
    assert!((1..=4095).contains(&header.errno().raw()));
    assert!(!(header.is_error() && header.wants_no_reply()));
    assert_eq!(header.payload_len(), (header.size as usize).saturating_sub(HEADER_SIZE));
}

fn request(command: Command, payload: &[u8]) {
    let Ok(request) = Request::parse(command, payload) else { return };
    assert_eq!(request.command(), command);
    let mut out = Vec::new();
    request.emit(&mut out);
    assert_eq!(Request::parse(command, &out), Ok(request));
    match request {
        Request::RegionWriteMulti(writes) => {
            assert!(writes.iter().all(|write| (1..=8).contains(&write.data().len())));
        }
        Request::DmaMap(map) => {
            assert!(map.address.checked_add(map.size.saturating_sub(1)).is_some(), "it wraps");
            let _ = (map.access_mode(true), map.access_mode(false));
        }
        Request::DmaUnmap(unmap) => {
            let end = unmap.address().checked_add(unmap.size().saturating_sub(1));
            assert!(end.is_some(), "it wraps");
        }
        Request::DeviceSetIrqs(set) => {
            assert!(set.start.checked_add(set.count).is_some(), "it wraps");
            let _ = (set.check_fds(0), set.check_fds(1), set.disables());
        }
        _ => {}
    }
}

fn reply(command: Command, payload: &[u8]) {
    let Ok(reply) = Reply::parse(command, payload) else { return };
    let mut out = Vec::new();
    reply.emit(&mut out);
    assert_eq!(Reply::parse(command, &out), Ok(reply));
}
