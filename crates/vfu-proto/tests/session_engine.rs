//! The engine: whose reply it is, in which order commands run, and how a session ends.

use std::time::Duration;

use vfu_proto::session::{
    Abort, Arrival, Channel, Closed, Framer, Limits, Message, Role, Session, Start, Ticket, Time,
};
use vfu_proto::wire::{Command, Errno, Header};

type Engine = Session<u32>;

fn made(header: Header, payload: &[u8]) -> Message<u32> {
    let mut framer = Framer::new(1 << 20);
    let bytes = [&header.emit()[..], payload].concat();
    framer.space()[..bytes.len()].copy_from_slice(&bytes);
    framer.received(bytes.len(), []);
    framer.pop().unwrap().unwrap()
}

fn command(id: u16, command: Command) -> Message<u32> {
    made(Header::command(id, command, 4), &[1, 2, 3, 4])
}

fn reply(to: Ticket, command: Command) -> Message<u32> {
    made(Header::command(to.id(), command, 0).reply(4), &[9; 4])
}

fn server() -> Engine {
    Session::new(Role::Server, Limits::default())
}

fn read(session: &mut Engine) -> Ticket {
    session.start(Command::DmaRead, None, Some((0x1000, 0x1000))).unwrap()
}

fn at(millis: u64) -> Time {
    Time::at(Duration::from_millis(millis))
}

/// The bug that the project began with: a command comes while a reply is waited for.
#[test]
fn commands_and_replies_in_any_order() {
    let mut session = server();
    let (first, second) = (read(&mut session), read(&mut session));
    assert_ne!(first.id(), second.id());
    for id in 1..=3 {
        let arrival = session.arrive(Channel::Main, command(id, Command::RegionRead)).unwrap();
        assert!(matches!(arrival, Arrival::Queued));
    }
    // The command's id is the request's: types tell them apart.
    session.arrive(Channel::Main, command(first.id(), Command::RegionRead)).unwrap();
    assert!(session.outcome(first).is_none());
    let arrival = session.arrive(Channel::Main, reply(second, Command::DmaRead)).unwrap();
    assert!(matches!(arrival, Arrival::Completed(ticket) if ticket == second));
    session.arrive(Channel::Main, reply(first, Command::DmaRead)).unwrap();
    assert_eq!(session.outcome(first).unwrap().unwrap().payload(), [9; 4]);
    assert!(session.outcome(first).is_none(), "an outcome is given once");
    assert!(session.outcome(second).unwrap().is_ok());
    let ids: Vec<_> =
        std::iter::from_fn(|| session.next_command()).map(|m| m.header().id).collect();
    assert_eq!(ids, [1, 2, 3, first.id()]);
}

#[test]
fn a_late_reply_is_drained() {
    let mut session = server();
    let ticket = session.start(Command::DmaRead, Some(at(50)), None).unwrap();
    assert_eq!(session.next_deadline(), Some(at(50)));
    assert_eq!(session.expire(at(49)), 0);
    assert_eq!(session.expire(at(50)), 1);
    assert_eq!(session.next_deadline(), None);
    assert!(matches!(session.outcome(ticket), Some(Err(Abort::TimedOut))));
    let arrival = session.arrive(Channel::Main, reply(ticket, Command::DmaRead)).unwrap();
    assert!(matches!(arrival, Arrival::Dropped(_)));
    let counters = session.counters();
    assert_eq!((counters.timeouts, counters.late_replies, counters.stray_replies), (1, 1, 0));
    session.arrive(Channel::Main, reply(ticket, Command::DmaRead)).unwrap();
    assert_eq!(session.counters().stray_replies, 1, "it is owed once");
}

/// The reply comes after the deadline and before the asker looks.
#[test]
fn a_timeout_stands() {
    let mut session = server();
    let ticket = session.start(Command::DmaRead, Some(at(50)), None).unwrap();
    session.expire(at(60));
    session.arrive(Channel::Main, reply(ticket, Command::DmaRead)).unwrap();
    assert!(matches!(session.outcome(ticket), Some(Err(Abort::TimedOut))));
    assert_eq!(session.counters().late_replies, 1);
}

#[test]
#[cfg_attr(miri, ignore = "slow: it goes through all ids")]
fn a_zombie_keeps_its_id() {
    let limits = Limits { outstanding: 1 << 20, ..Limits::default() };
    let mut session = Engine::new(Role::Server, limits);
    let zombie = read(&mut session);
    session.cancel_all();
    assert!(matches!(session.outcome(zombie), Some(Err(Abort::Canceled))));
    for _ in 0..70_000 {
        let ticket = read(&mut session);
        assert_ne!(ticket.id(), zombie.id());
        session.arrive(Channel::Main, reply(ticket, Command::DmaRead)).unwrap();
        session.outcome(ticket).unwrap().unwrap();
    }
    session.arrive(Channel::Main, reply(zombie, Command::DmaRead)).unwrap();
    let again: Vec<_> = (0..70_000)
        .map(|_| {
            let ticket = read(&mut session);
            session.arrive(Channel::Main, reply(ticket, Command::DmaRead)).unwrap();
            session.outcome(ticket).unwrap().unwrap();
            ticket.id()
        })
        .collect();
    assert!(again.contains(&zombie.id()));
}

#[test]
fn an_unmap_cancels_what_it_overlaps() {
    let mut session = server();
    let mut start =
        |address, len| session.start(Command::DmaRead, None, Some((address, len))).unwrap();
    let before = start(0x0, 0x1000);
    let tail = start(0x0fff, 2);
    let inside = start(0x1800, 0x100);
    let after = start(0x2000, 0x1000);
    let top = start(u64::MAX, 1);
    assert_eq!(session.cancel_range(0x1880, 0), 0, "no address at all");
    assert_eq!(session.cancel_range(0x1000, 0x1000), 2);
    for (ticket, canceled) in
        [(before, false), (tail, true), (inside, true), (after, false), (top, false)]
    {
        let outcome = session.outcome(ticket);
        assert_eq!(matches!(outcome, Some(Err(Abort::Canceled))), canceled);
    }
    assert_eq!(session.cancel_range(u64::MAX, 1), 1);
    assert_eq!(session.counters().canceled, 3);
}

#[test]
fn a_reply_to_another_command_is_no_reply() {
    let mut session = server();
    let ticket = read(&mut session);
    session.arrive(Channel::Main, reply(ticket, Command::DmaWrite)).unwrap();
    assert!(matches!(session.outcome(ticket), Some(Err(Abort::WrongCommand))));
    read(&mut session);
}

#[test]
fn limits_are_reached_and_answered() {
    let limits = Limits {
        outstanding: 2,
        zombies: 2,
        queued_commands: 3,
        stray_replies: 2,
        misplaced_commands: 1,
        ..Limits::default()
    };
    let mut session = Engine::new(Role::Server, limits.clone());
    let (a, _) = (read(&mut session), read(&mut session));
    assert_eq!(session.start(Command::DmaRead, None, None), Err(Start::Full));
    session.arrive(Channel::Main, reply(a, Command::DmaRead)).unwrap();
    read(&mut session);

    for id in 0..3 {
        assert!(!session.is_paused(Channel::Main));
        session.arrive(Channel::Main, command(id, Command::RegionRead)).unwrap();
    }
    assert!(session.is_paused(Channel::Main) && !session.is_paused(Channel::Twin));
    session.next_command().unwrap();
    assert!(!session.is_paused(Channel::Main));

    let stray = |session: &mut Engine| {
        session.arrive(Channel::Main, made(Header::command(999, Command::DmaRead, 0).reply(0), &[]))
    };
    stray(&mut session).unwrap();
    stray(&mut session).unwrap();
    assert!(matches!(stray(&mut session), Err(Closed::Limit(_))));

    let mut session = Engine::new(Role::Server, limits.clone());
    for _ in 0..3 {
        let ticket = read(&mut session);
        session.forget(ticket);
    }
    assert!(matches!(session.closed(), Some(Closed::Limit(_))), "too many zombies");
    assert_eq!(session.start(Command::DmaRead, None, None), Err(Start::Closed));

    let mut session = Engine::new(Role::Server, limits);
    session.add_twin();
    let misplaced =
        |session: &mut Engine| session.arrive(Channel::Twin, command(5, Command::RegionRead));
    match misplaced(&mut session).unwrap() {
        Arrival::Refused(header, _) => {
            assert_eq!((header.id, header.errno()), (5, Errno::EINVAL));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(misplaced(&mut session), Err(Closed::Limit(_))));
}

#[test]
fn the_twin_is_for_the_server() {
    let mut server = server();
    server.add_twin();
    let ticket = read(&mut server);
    assert_eq!(ticket.channel(), Channel::Twin);
    // A reply on the wrong socket is nobody's.
    server.arrive(Channel::Main, reply(ticket, Command::DmaRead)).unwrap();
    assert!(server.outcome(ticket).is_none());
    assert_eq!(server.counters().stray_replies, 1);
    server.arrive(Channel::Twin, reply(ticket, Command::DmaRead)).unwrap();
    assert!(server.outcome(ticket).unwrap().is_ok());

    let mut client = Engine::new(Role::Client, Limits::default());
    client.add_twin();
    let ticket = client.start(Command::RegionRead, None, None).unwrap();
    assert_eq!(ticket.channel(), Channel::Main);
    match client.arrive(Channel::Main, command(3, Command::DmaRead)).unwrap() {
        Arrival::Refused(header, _) => assert_eq!(header.errno(), Errno::EPROTO),
        other => panic!("{other:?}"),
    }
    let posted = made(Header::command(4, Command::DmaRead, 0).with_no_reply(), &[]);
    assert!(matches!(client.arrive(Channel::Main, posted).unwrap(), Arrival::Dropped(_)));
    let arrival = client.arrive(Channel::Twin, command(3, Command::DmaRead)).unwrap();
    assert!(matches!(arrival, Arrival::Queued));
}

/// A DMA_WRITE that came before a reply has happened before the reply is seen.
#[test]
fn a_client_applies_what_came_before_a_reply() {
    let mut client = Engine::new(Role::Client, Limits::default());
    let ticket = client.start(Command::RegionRead, None, None).unwrap();
    client.arrive(Channel::Main, command(1, Command::DmaWrite)).unwrap();
    client.arrive(Channel::Main, reply(ticket, Command::RegionRead)).unwrap();
    client.arrive(Channel::Main, command(2, Command::DmaWrite)).unwrap();
    assert!(client.outcome(ticket).is_none());
    assert_eq!(client.begin_command().unwrap().header().id, 1);
    assert!(client.begin_command().is_none(), "one at a time");
    assert!(client.outcome(ticket).is_none(), "still being applied");
    client.end_command();
    assert!(client.outcome(ticket).unwrap().is_ok(), "the later one need not be waited for");
    assert_eq!(client.begin_command().unwrap().header().id, 2);
}

/// Commands are executed in turn, and nobody gets in between.
#[test]
fn a_command_can_be_followed_by_the_next_at_once() {
    let mut client = Engine::new(Role::Client, Limits::default());
    let ticket = client.start(Command::RegionRead, None, None).unwrap();
    client.arrive(Channel::Main, command(1, Command::DmaWrite)).unwrap();
    client.arrive(Channel::Main, reply(ticket, Command::RegionRead)).unwrap();
    client.arrive(Channel::Main, command(2, Command::DmaWrite)).unwrap();
    assert_eq!(client.begin_command().unwrap().header().id, 1);
    assert_eq!(client.end_and_begin_command().unwrap().header().id, 2);
    assert!(client.outcome(ticket).unwrap().is_ok(), "the first has been applied");
    assert!(client.begin_command().is_none(), "one at a time");
    assert!(client.end_and_begin_command().is_none());
    assert!(client.is_executing(), "the last one has not ended");
    client.end_command();
    assert!(!client.is_executing());
}

#[test]
fn the_end_comes_once_and_for_all() {
    let mut session = server();
    let (waits, done) = (read(&mut session), read(&mut session));
    session.arrive(Channel::Main, reply(done, Command::DmaRead)).unwrap();
    session.arrive(Channel::Main, command(1, Command::RegionWrite)).unwrap();
    assert_eq!(session.close(Closed::Disconnected), Closed::Disconnected);
    assert_eq!(session.close(Closed::Stopped), Closed::Disconnected, "the first reason stands");
    assert!(matches!(session.outcome(waits), Some(Err(Abort::Closed))));
    assert!(session.outcome(done).unwrap().is_ok(), "what came before the end is kept");
    assert_eq!(session.next_command().unwrap().header().id, 1, "a posted write is not lost");
    assert!(session.arrive(Channel::Main, command(2, Command::RegionRead)).is_err());

    let mut session = server();
    session.arrive(Channel::Main, command(1, Command::RegionWrite)).unwrap();
    session.close(Closed::Stopped);
    assert!(session.next_command().is_none());
}
