//! Messages out of a stream in any pieces, and whose the descriptors are.

use proptest::prelude::*;
use vfu_proto::session::{FrameError, Framer, Limits, MAX_FDS, Role, Session, Sink, Ticket};
use vfu_proto::wire::{Command, HEADER_SIZE, Header, Kind};

/// Miri takes for a byte as long as others for some hundred.
const CASES: u32 = if cfg!(miri) { 2 } else { 128 };
const LARGE: usize = if cfg!(miri) { 10_000 } else { 100_000 };

fn message(id: u16, payload: usize) -> Vec<u8> {
    let mut bytes = Header::command(id, Command::RegionWrite, payload).emit().to_vec();
    bytes.extend((0..payload).map(|i| (i as u8).wrapping_add(id as u8)));
    bytes
}

/// Feeds `bytes` as one `recvmsg` would bring them at most; the rest stays for the next.
fn feed(framer: &mut Framer<u32>, mut bytes: &[u8], fds: &[u32]) -> Vec<(u16, usize, Vec<u32>)> {
    let mut out = Vec::new();
    loop {
        let space = framer.space();
        assert!(!space.is_empty());
        let n = space.len().min(bytes.len());
        space[..n].copy_from_slice(&bytes[..n]);
        bytes = &bytes[n..];
        let last = bytes.is_empty();
        framer.received(n, if last { fds.to_vec() } else { Vec::new() });
        while let Some(message) = framer.pop().unwrap() {
            let id = message.header().id;
            for (i, byte) in message.payload().iter().enumerate() {
                assert_eq!(*byte, (i as u8).wrapping_add(id as u8));
            }
            out.push((id, message.payload().len(), message.fds().to_vec()));
            framer.recycle(message);
        }
        if last {
            return out;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// Cuts at any place give the same messages.
    #[test]
    fn any_fragmentation_gives_the_same_messages(
        sizes in prop::collection::vec(prop_oneof![0usize..100, 3000usize..5000, LARGE / 5 * 3..LARGE * 2], 1..12),
        cuts in prop::collection::vec(1usize..9000, 1..64),
    ) {
        let mut stream = Vec::new();
        for (id, size) in sizes.iter().enumerate() {
            stream.extend(message(id as u16, *size));
        }
        let mut framer = Framer::<u32>::new(1 << 20);
        let (mut at, mut got) = (0, Vec::new());
        let mut cuts = cuts.iter().cycle();
        while at < stream.len() {
            let end = stream.len().min(at + cuts.next().unwrap());
            got.extend(feed(&mut framer, &stream[at..end], &[]));
            at = end;
        }
        let want: Vec<_> = sizes.iter().enumerate().map(|(i, s)| (i as u16, *s, vec![])).collect();
        prop_assert_eq!(got, want);
        prop_assert!(!framer.is_mid_message());
    }

    /// Whatever comes: messages, more bytes wanted, or an error; and room is never missing.
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..LARGE / 5)) {
        let mut framer = Framer::<u32>::new(8192);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let space = framer.space();
            let n = space.len().min(rest.len());
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            framer.received(n, []);
            loop {
                match framer.pop() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(first) => {
                        prop_assert_eq!(framer.pop().unwrap_err(), first, "an error is final");
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[test]
fn byte_by_byte() {
    let stream: Vec<u8> = [message(1, 0), message(2, 24), message(3, LARGE / 20)].concat();
    let mut framer = Framer::new(1 << 20);
    let got: Vec<_> = stream.iter().flat_map(|b| feed(&mut framer, &[*b], &[])).collect();
    assert_eq!(got, [(1, 0, vec![]), (2, 24, vec![]), (3, LARGE / 20, vec![])]);
}

#[test]
fn descriptors_belong_to_the_message_that_ends_the_receive() {
    let mut framer = Framer::new(1 << 20);
    // A message without, and one with descriptors behind it, in one receive.
    let both = [message(1, 8), message(2, 8)].concat();
    assert_eq!(feed(&mut framer, &both, &[7, 8]), [(1, 8, vec![]), (2, 8, vec![7, 8])]);
    // With the first bytes, and the rest later.
    assert_eq!(feed(&mut framer, &message(3, 40)[..20], &[9]), []);
    assert_eq!(feed(&mut framer, &message(3, 40)[20..], &[]), [(3, 40, vec![9])]);
    // With the last bytes, and in two batches.
    assert_eq!(feed(&mut framer, &message(4, 40)[..20], &[10]), []);
    assert_eq!(feed(&mut framer, &message(4, 40)[20..], &[11]), [(4, 40, vec![10, 11])]);
    // With a large message.
    assert_eq!(feed(&mut framer, &message(5, 50_000)[..5000], &[12]), []);
    assert_eq!(feed(&mut framer, &message(5, 50_000)[5000..], &[]), [(5, 50_000, vec![12])]);
    // With the end of one message and the beginning of the next: the next one's.
    let rest = [&message(6, 40)[20..], &message(7, 40)[..30]].concat();
    assert_eq!(feed(&mut framer, &message(6, 40)[..20], &[]), []);
    assert_eq!(feed(&mut framer, &rest, &[13]), [(6, 40, vec![])]);
    assert_eq!(feed(&mut framer, &message(7, 40)[30..], &[]), [(7, 40, vec![13])]);
}

#[test]
fn descriptors_are_bounded() {
    let mut framer = Framer::new(1 << 20);
    let message = message(1, LARGE / 100);
    let (last, before) = message.split_last().unwrap();
    for byte in before {
        feed(&mut framer, &[*byte], &[1; 10]);
    }
    let got = feed(&mut framer, &[*last], &[]);
    assert_eq!(got[0].2.len(), MAX_FDS);
}

#[test]
fn broken_headers_end_the_stream() {
    for (size, flags) in [(0, 0), (15, 0), (1 << 20, 0), (u32::MAX, 0), (16, 2), (16, 15)] {
        let header = Header { id: 1, command: 9, size, flags, error: 0 };
        let mut framer = Framer::<u32>::new(4096);
        framer.space()[..HEADER_SIZE].copy_from_slice(&header.emit());
        framer.received(HEADER_SIZE, []);
        let error = framer.pop().unwrap_err();
        assert_eq!(error.header(), &header);
        match error {
            FrameError::TooSmall(_) => assert!(size < 16),
            FrameError::TooLarge { limit, .. } => assert!(limit == 4096 && size > 4096),
            FrameError::BadType(_) => assert!(flags > 1),
            FrameError::NoMemory(_) => panic!("{error}"),
        }
        assert_eq!(error.wants_reply(), flags == 0);
    }
}

/// A peer that claims a large message and sends nothing gets no memory for it.
#[test]
fn room_grows_with_what_came() {
    let header = Header::command(1, Command::RegionWrite, (1 << 30) - 16).emit();
    let mut framer = Framer::<u32>::new(1 << 30);
    framer.space()[..HEADER_SIZE].copy_from_slice(&header);
    framer.received(HEADER_SIZE, []);
    assert!(framer.pop().unwrap().is_none());
    assert!(framer.space().len() <= 64 << 10);
}

/// What comes alone stays where it was received; its buffer comes back, or another one takes its place.
#[test]
fn a_message_that_comes_alone_is_not_copied() {
    let mut framer = Framer::<u32>::new(1 << 20);
    // The first message of all has to be there before it can be used again.
    assert_eq!(feed(&mut framer, &message(0, 4), &[]).len(), 1);
    let receive = |framer: &mut Framer<u32>, id, payload| {
        let bytes = message(id, payload);
        let place = framer.space();
        place[..bytes.len()].copy_from_slice(&bytes);
        let at = place[HEADER_SIZE..].as_ptr();
        framer.received(bytes.len(), []);
        let message = framer.pop().unwrap().unwrap();
        assert_eq!((message.header().id, message.payload()), (id, &bytes[HEADER_SIZE..]));
        assert!(framer.pop().unwrap().is_none() && !framer.is_mid_message());
        (message.payload().as_ptr() == at, message)
    };
    for id in 1..10 {
        let (in_place, first) = receive(&mut framer, id, 4096);
        assert!(in_place);
        // While that is out others come and go.
        let (_, second) = receive(&mut framer, 100 + id, 40);
        let (_, third) = receive(&mut framer, 200 + id, 400);
        for (message, len) in [(&first, 4096), (&second, 40), (&third, 400)] {
            let start = message.header().id as u8;
            let expected: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_add(start)).collect();
            assert_eq!(message.payload(), expected);
        }
        let order = if id % 2 == 0 { [first, second, third] } else { [third, second, first] };
        order.into_iter().for_each(|message| framer.recycle(message));
    }
}

/// A refused message is left out by the length that it claims, however it comes, and its descriptors
/// with it; what follows is in step.
#[test]
fn refused_messages_are_skipped() {
    for step in [1, 7, 16, 17, 64, 4096, 100_000] {
        let mut framer = Framer::<u32>::new(256);
        let mut stream = message(1, 40);
        stream.extend(message(2, 5000));
        stream.extend(message(3, 8));
        let mut header = Header::command(4, Command::RegionWrite, 0);
        header.size = 3;
        stream.extend(header.emit());
        stream.extend(message(5, 9));
        let (mut got, mut refused) = (Vec::new(), Vec::new());
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let space = framer.space();
            let n = space.len().min(rest.len()).min(step);
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            // A descriptor comes with each receive.
            framer.received(n, [9]);
            loop {
                match framer.pop() {
                    Ok(Some(message)) => got.push((message.header().id, message.fds().len())),
                    Ok(None) => break,
                    Err(e) => {
                        refused.push(e.header().id);
                        framer.skip_refused();
                    }
                }
            }
        }
        assert_eq!(got.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 5], "steps of {step}");
        assert_eq!(refused, [2, 4], "steps of {step}");
        assert!(!framer.is_mid_message());
        if step == 1 {
            let own = [(1, 56), (3, 24), (5, 25)];
            assert_eq!(got, own, "each has the descriptors of its own bytes");
        }
    }
}

/// Who receives no more than what is missing reads nothing ahead.
#[test]
fn what_is_missing_is_the_rest_of_one_message() {
    let mut framer = Framer::<u32>::new(1 << 20);
    let mut stream = message(1, 10);
    stream.extend(message(2, LARGE));
    stream.extend(message(3, 0));
    let (mut rest, mut ids) = (&stream[..], Vec::new());
    while !rest.is_empty() {
        assert!(framer.missing() > 0);
        let n = framer.missing().min(framer.space().len());
        framer.space()[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        framer.received(n, []);
        if let Some(message) = framer.pop().unwrap() {
            ids.push(message.header().id);
            assert!(!framer.is_mid_message(), "nothing of the next one is here");
        }
    }
    assert_eq!(ids, [1, 2, 3]);
}

/// A reply of `len` bytes of data behind `head` bytes of the message.
fn reply(id: u16, head: usize, len: usize) -> Vec<u8> {
    let payload = head - HEADER_SIZE + len;
    let mut bytes = Header::command(id, Command::DmaRead, payload).reply(payload).emit().to_vec();
    bytes.extend((0..payload).map(|i| (i % 251) as u8));
    bytes
}

const HEAD: usize = 32;

fn ticket() -> Ticket {
    let mut session = Session::<u32>::new(Role::Server, Limits::default());
    session.start(Command::DmaRead, None, None).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// However much of the data goes to the sink, it is where the message says.
    #[test]
    fn data_is_in_the_sink_or_in_the_message(
        len in prop_oneof![5000usize..9000, LARGE / 5 * 3..LARGE * 2],
        steps in prop::collection::vec((1usize..70_000, any::<bool>(), any::<bool>()), 1..32),
    ) {
        let ticket = ticket();
        let whole = reply(ticket.id(), HEAD, len);
        let mut framer = Framer::<u32>::new(1 << 20);
        let mut data = vec![0; len];
        for round in 0..3 {
            data.fill(0);
            let stream = [&whole[..], &message(7, round)].concat();
            let mut rest = &stream[..];
            let (mut steps, mut got) = (steps.iter().cycle(), Vec::new());
            while !rest.is_empty() {
                let (most, direct, settles) = *steps.next().unwrap();
                let mut sink = Sink::new(ticket, HEAD, &mut data);
                let mut settled = false;
                while !settled {
                    let place = if direct { framer.space_in(&mut sink) } else { None };
                    let by_message = place.is_none();
                    let space = place.unwrap_or_else(|| framer.space());
                    let n = space.len().min(rest.len()).min(most);
                    space[..n].copy_from_slice(&rest[..n]);
                    rest = &rest[n..];
                    framer.received(n, [round as u32]);
                    settled = settles || by_message || framer.missing() == 0 || rest.is_empty();
                }
                framer.settle(&mut sink).unwrap();
                while let Some(message) = framer.pop().unwrap() {
                    if message.header().kind() == Some(Kind::Reply) {
                        let there = message.payload().len();
                        prop_assert_eq!(message.len(), whole.len());
                        prop_assert_eq!(there + message.away(), whole.len() - HEADER_SIZE);
                        prop_assert_eq!(message.payload(), &whole[HEADER_SIZE..][..there]);
                        let away = data.len() - message.away();
                        prop_assert_eq!(&data[away..], &whole[HEAD + away..]);
                        prop_assert!(!message.fds().is_empty());
                    } else {
                        prop_assert_eq!((message.payload().len(), message.away()), (round, 0));
                    }
                    got.push(message.header().id);
                    framer.recycle(message);
                }
            }
            prop_assert_eq!(got, [ticket.id(), 7]);
        }
    }
}

/// What a sink is not for never gets there: a command, another reply, other sizes, an error.
#[test]
fn only_the_reply_itself_goes_to_a_sink() {
    let ticket = ticket();
    let len = LARGE;
    let command = message(ticket.id(), HEAD - HEADER_SIZE + len);
    let mut error = reply(ticket.id(), HEAD, len);
    error[8] |= 0x20;
    for stream in [
        command,
        error,
        reply(ticket.id() + 1, HEAD, len),
        reply(ticket.id(), HEAD, len - 1),
        reply(ticket.id(), HEAD, len + 1),
    ] {
        let mut framer = Framer::<u32>::new(1 << 20);
        let mut data = vec![0; len];
        let mut sink = Sink::new(ticket, HEAD, &mut data);
        let mut rest = &stream[..];
        while !rest.is_empty() {
            assert!(framer.space_in(&mut sink).is_none());
            let space = framer.space();
            let n = space.len().min(rest.len()).min(5000);
            space[..n].copy_from_slice(&rest[..n]);
            rest = &rest[n..];
            framer.received(n, []);
            if let Some(message) = framer.pop().unwrap() {
                assert_eq!((message.len(), message.away()), (stream.len(), 0));
            }
        }
        assert!(!framer.is_mid_message());
    }
}

/// Large messages, one after the other, are copied as little as the first one.
#[test]
fn the_room_for_small_messages_does_not_grow_with_large_ones() {
    let mut framer = Framer::<u32>::new(1 << 20);
    let small = framer.space().len();
    for _ in 0..10 {
        feed(&mut framer, &message(1, LARGE), &[]);
        assert_eq!(framer.space().len(), small);
    }
    feed(&mut framer, &message(1, 100).repeat(1000), &[]);
    assert!(framer.space().len() > small);
}
