//! Makes a script smaller while it still does what it did.

use crate::script::{Connection, Data, DmaAnswer, Message, Pieces, Script, Step};

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing more can be left out.
    Done,
    /// Time was up, or it was stopped.
    Unfinished,
}

/// Tries a smaller script. `None`: there is no time to try any more.
pub(crate) type Try<'a> = dyn FnMut(&Script) -> Option<bool> + 'a;

/// Leaves out connections, then steps, then simplifies what is left, until nothing more goes.
pub(crate) fn minimise(script: &mut Script, still: &mut Try<'_>) -> Outcome {
    let outcome = (|| {
        loop {
            let before = script.clone();
            let all = script.connections.clone();
            script.connections = fewer(all, &mut |connections| {
                still(&Script { connections: connections.to_vec() })
            })?;
            for at in 0..script.connections.len() {
                let Some(steps) = script.connections.get(at).map(|c| c.steps.clone()) else {
                    break;
                };
                let context = script.clone();
                let kept = fewer(steps, &mut |steps| {
                    let mut smaller = context.clone();
                    if let Some(connection) = smaller.connections.get_mut(at) {
                        connection.steps = steps.to_vec();
                    }
                    still(&smaller)
                })?;
                if let Some(connection) = script.connections.get_mut(at) {
                    connection.steps = kept;
                }
                simplify(script, at, still)?;
            }
            if *script == before {
                return Some(());
            }
        }
    })();
    if outcome.is_some() { Outcome::Done } else { Outcome::Unfinished }
}

/// The classic: leaves out pieces, large ones first, as long as what is left still does it.
pub(crate) fn fewer<T: Clone>(
    mut items: Vec<T>,
    still: &mut dyn FnMut(&[T]) -> Option<bool>,
) -> Option<Vec<T>> {
    let mut size = items.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < items.len() {
            let end = (at + size).min(items.len());
            let without: Vec<T> =
                items.iter().take(at).chain(items.iter().skip(end)).cloned().collect();
            if still(&without)? {
                items = without;
            } else {
                at = end;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    Some(items)
}

fn simplify(script: &mut Script, at: usize, still: &mut Try<'_>) -> Option<()> {
    let Some(connection) = script.connections.get(at).cloned() else { return Some(()) };
    for simpler in simpler_connections(&connection) {
        try_with(script, at, simpler, still)?;
    }
    for step in 0..connection.steps.len() {
        let mut changed = true;
        while changed {
            changed = false;
            let Some(connection) = script.connections.get(at).cloned() else { break };
            let Some(Step::Send(message)) = connection.steps.get(step) else { break };
            for simpler in simpler_messages(message) {
                let mut smaller = connection.clone();
                if let Some(place) = smaller.steps.get_mut(step) {
                    *place = Step::Send(Box::new(simpler));
                }
                if try_with(script, at, smaller, still)? {
                    changed = true;
                    break;
                }
            }
        }
    }
    Some(())
}

fn try_with(
    script: &mut Script,
    at: usize,
    connection: Connection,
    still: &mut Try<'_>,
) -> Option<bool> {
    let mut smaller = script.clone();
    if let Some(place) = smaller.connections.get_mut(at) {
        *place = connection;
    }
    let does = still(&smaller)?;
    if does {
        *script = smaller;
    }
    Some(does)
}

fn simpler_connections(connection: &Connection) -> Vec<Connection> {
    let mut simpler = Vec::new();
    if connection.late {
        simpler.push(Connection { late: false, ..connection.clone() });
    }
    if connection.dma_after > 0 {
        simpler.push(Connection { dma_after: 0, ..connection.clone() });
    }
    if connection.dma != DmaAnswer::default() {
        simpler.push(Connection { dma: DmaAnswer::default(), ..connection.clone() });
    }
    simpler
}

/// Messages that are simpler in one way, each of them smaller by some measure: so this ends.
fn simpler_messages(message: &Message) -> Vec<Message> {
    let mut simpler = Vec::new();
    let mut with = |change: &dyn Fn(&mut Message)| {
        let mut changed = message.clone();
        change(&mut changed);
        if changed != *message {
            simpler.push(changed);
        }
    };
    with(&|m| m.fds.clear());
    with(&|m| m.fds.truncate(m.fds.len().div_ceil(2)));
    with(&|m| m.fds_at = 0);
    with(&|m| m.pieces = Pieces::Whole);
    with(&|m| m.twin = false);
    with(&|m| m.flags = 0);
    with(&|m| m.flags &= 0x1f);
    with(&|m| m.error = 0);
    with(&|m| m.size = None);
    with(&|m| m.cut = None);
    with(&|m| m.half = None);
    with(&|m| m.data = Data::default());
    for at in 0..message.data.0.len() {
        with(&|m| drop(m.data.0.remove(at)));
        let piece = |change: &Change| with_piece(message, at, change);
        let halves = [
            piece(&|(_, count)| *count = count.div_ceil(2)),
            piece(&|(bytes, _)| bytes.truncate(bytes.len().div_ceil(2))),
            piece(&|(bytes, _)| {
                // Text says more than zeros.
                if !bytes.iter().all(|byte| byte.is_ascii_graphic()) {
                    bytes.fill(0);
                }
            }),
        ];
        halves.into_iter().flatten().for_each(|half| with(&|m| *m = half.clone()));
    }
    for (at, value) in message.fields.iter().enumerate() {
        for smaller in [0, 1, value / 2] {
            if smaller < *value {
                with(&|m| m.fields.iter_mut().skip(at).take(1).for_each(|field| *field = smaller));
            }
        }
    }
    with(&|m| m.id = 0);
    simpler
}

/// Changes one piece of data.
type Change = dyn Fn(&mut (Vec<u8>, u32));

fn with_piece(message: &Message, at: usize, change: &Change) -> Option<Message> {
    let mut changed = message.clone();
    change(changed.data.0.get_mut(at)?);
    Some(changed)
}

#[cfg(test)]
mod tests {
    use vfu_proto::wire::Command;

    use super::*;

    fn messages(script: &Script) -> impl Iterator<Item = &Message> {
        let steps = script.connections.iter().flat_map(|connection| &connection.steps);
        steps.filter_map(|step| match step {
            Step::Send(message) => Some(&**message),
            Step::Wait | Step::Listen => None,
        })
    }

    #[test]
    fn what_matters_stays_and_nothing_else() {
        let noise = |id| {
            let mut message = Message::new(Command::RegionRead, id, &[4, 0, 4]);
            message.data = Data::fill(7, 100);
            Step::Send(Box::new(message))
        };
        let mut guilty = Message::new(Command::DmaMap, 9, &[32, 3, 0, 0xffff_f000, 0x2345]);
        guilty.fds = vec![crate::descriptors::Descriptor::Pipe; 40];
        guilty.flags = 0xff10;
        let mut steps: Vec<_> = (0..20).map(noise).collect();
        steps.insert(13, Step::Send(Box::new(guilty)));
        let with_noise = Connection { steps: (0..5).map(noise).collect(), ..Connection::default() };
        let connection = Connection { steps, late: true, ..Connection::default() };
        let mut script = Script { connections: vec![with_noise.clone(), connection, with_noise] };
        let mut tries = 0;
        let outcome = minimise(&mut script, &mut |script| {
            tries += 1;
            Some(messages(script).any(|m| m.fields.get(4).is_some_and(|size| *size > 0x1000)))
        });
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(
            script.to_string(),
            "connection\n  send DMA_MAP id=0 argsz=0 flags=0 offset=0 address=0 size=0x1234\n"
                .replace(
                    "0x1234",
                    &format!(
                        "{:#x}",
                        script.connections[0]
                            .steps
                            .iter()
                            .map(|s| match s {
                                Step::Send(m) => m.fields[4],
                                Step::Wait | Step::Listen => 0,
                            })
                            .sum::<u64>()
                    )
                )
        );
        assert!(tries < 500, "{tries}");
    }

    #[test]
    fn it_ends_when_there_is_no_time() {
        let step = Step::Wait;
        let connection = Connection { steps: vec![step; 8], ..Connection::default() };
        let mut script = Script { connections: vec![connection] };
        let mut tries = 3;
        let outcome = minimise(&mut script, &mut |_| {
            tries -= 1;
            (tries > 0).then_some(false)
        });
        assert_eq!(outcome, Outcome::Unfinished);
        assert_eq!(script.connections[0].steps.len(), 8);
    }
}
