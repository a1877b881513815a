//! A search for what makes a device reach memory: its registers are nobody's to know beforehand.
//!
//! Where a device is given memory without a descriptor, it has to ask for each byte. Which accesses
//! of registers lead to that is found by trying, and remembered: so the cases that follow get there.

use fastrand::Rng;
use vfu_proto::wire::Command;

use crate::commands::Commands;
use crate::generate::rng_of;
use crate::script::{Connection, Message, Script, Step};
use crate::survey::{JSON, Survey, version};

/// The region of configuration space.
const CONFIG: u64 = 7;

/// Search number `case` of a seed. The same arguments give the same case.
pub(crate) fn search(seed: u64, case: u64, survey: &Survey) -> Script {
    let mut rng = rng_of(seed, case);
    with(&Commands::new(&mut rng, survey).search())
}

/// What a search did to registers.
pub(crate) fn accesses(search: &Script) -> Vec<Message> {
    let steps = search.connections.iter().flat_map(|connection| &connection.steps);
    let sent = steps.filter_map(|step| match step {
        Step::Send(message) => Some((**message).clone()),
        Step::Wait | Step::Listen => None,
    });
    let is_register = |message: &Message| {
        let is_access = [Command::RegionRead, Command::RegionWrite].map(Command::as_u16);
        is_access.contains(&message.command) && message.fields.get(1) != Some(&CONFIG)
    };
    sent.filter(is_register).collect()
}

/// Whether two ways to reach memory are one: the same registers, and the same command at the end.
pub(crate) fn alike(one: &[Message], other: &[Message]) -> bool {
    let registers = |accesses: &[Message]| -> Vec<_> {
        accesses.iter().map(|access| (access.command, access.fields.clone())).collect()
    };
    let command = |accesses: &[Message]| accesses.last().map(|access| access.data.clone());
    registers(one) == registers(other) && command(one) == command(other)
}

/// A search that makes these accesses only, and listens to what comes of it.
pub(crate) fn with(accesses: &[Message]) -> Script {
    let (mut rng, survey) = (Rng::with_seed(0), Survey::default());
    let mut commands = Commands::new(&mut rng, &survey);
    let send = |message| Step::Send(Box::new(message));
    let mut steps = vec![
        send(version(JSON)),
        // What registers hold from before must not matter.
        send(Message::new(Command::DeviceReset, 1, &[])),
        Step::Wait,
        send(commands.bus_master()),
        send(commands.window()),
        Step::Wait,
    ];
    // One by one: some servers that reach memory meanwhile lose what has come behind.
    steps.extend(accesses.iter().flat_map(|access| [send(access.clone()), Step::Wait]));
    steps.push(Step::Listen);
    Script { connections: vec![Connection { steps, ..Connection::default() }] }
}
