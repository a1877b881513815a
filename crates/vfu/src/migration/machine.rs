//! The state machine, and the bytes of a session that saves or loads. Pure: the executor does what
//! its [`Hop`]s say.

use vfu_proto::wire::{DeviceState, Errno, next_hop};

/// One direct transition, and what it demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// The device stops.
    Stop,
    /// The device starts.
    Start,
    /// A session that saves begins while the device runs.
    BeginEarly,
    /// The rest is saved, of a device that has stopped or now stops.
    Save {
        /// It still runs.
        stop_first: bool,
    },
    /// The session that saves ends.
    EndSaving,
    /// A session that loads begins.
    BeginLoading,
    /// What was loaded is checked and put in place.
    Load,
}

/// The migration side of a device.
#[derive(Debug)]
pub(crate) struct Machine {
    state: DeviceState,
    stream: Stream,
    /// It was made to wait for a state, and has had none yet.
    awaits: bool,
}

/// The bytes on their way.
#[derive(Debug, Default)]
enum Stream {
    #[default]
    None,
    Saving {
        bytes: Vec<u8>,
        read: usize,
    },
    Loading(Vec<u8>),
}

impl Default for Machine {
    fn default() -> Self {
        Machine { state: DeviceState::Running, stream: Stream::None, awaits: false }
    }
}

impl Machine {
    /// A device that waits for the state of another before it runs.
    pub(crate) fn incoming() -> Machine {
        let stream = Stream::Loading(Vec::new());
        Machine { state: DeviceState::Resuming, stream, awaits: true }
    }

    pub(crate) fn state(&self) -> DeviceState {
        self.state
    }

    /// Whether the device is stopped, by the client's wish or after an error.
    pub(crate) fn is_stopped(&self) -> bool {
        !matches!(self.state, DeviceState::Running | DeviceState::PreCopy)
    }

    /// The next hop on the way to `target`, and where it leads. `None`: arrived.
    pub(crate) fn next(
        &self,
        target: DeviceState,
        can_pre_copy: bool,
    ) -> Result<Option<(Hop, DeviceState)>, Errno> {
        use DeviceState::*;
        if target == PreCopy && !can_pre_copy {
            return Err(Errno::EINVAL);
        }
        let Some(to) = next_hop(self.state, target)? else { return Ok(None) };
        let hop = match (self.state, to) {
            (Running, Stop) => Hop::Stop,
            (Stop, Running) => Hop::Start,
            (Running, PreCopy) => Hop::BeginEarly,
            (PreCopy, Running) | (StopCopy, Stop) => Hop::EndSaving,
            (PreCopy, StopCopy) => Hop::Save { stop_first: true },
            (Stop, StopCopy) => Hop::Save { stop_first: false },
            (Stop, Resuming) => Hop::BeginLoading,
            (Resuming, Stop) => Hop::Load,
            _ => return Err(Errno::EINVAL),
        };
        Ok(Some((hop, to)))
    }

    /// Whether the device does nothing, not even answer for its registers: its state has been saved,
    /// or is not there.
    pub(crate) fn is_frozen(&self) -> bool {
        use DeviceState::*;
        !matches!(self.state, Running | PreCopy | Stop)
    }

    /// Whether the way to `target` stops a device that runs.
    pub(crate) fn stops(&self, target: DeviceState, can_pre_copy: bool) -> bool {
        if self.is_stopped() || target == DeviceState::PreCopy && !can_pre_copy {
            return false;
        }
        let ways = std::iter::successors(Some(self.state), |at| next_hop(*at, target).ok()?);
        ways.skip(1).any(|at| !matches!(at, DeviceState::Running | DeviceState::PreCopy))
    }

    /// A hop has been made.
    pub(crate) fn arrive(&mut self, at: DeviceState) {
        self.state = at;
        self.awaits = false;
    }

    /// A hop that can't be undone has failed: only a reset leads out.
    pub(crate) fn fail(&mut self) {
        *self = Machine { state: DeviceState::Error, ..Machine::default() };
    }

    /// Adds to what the client can read.
    pub(crate) fn save(&mut self, more: &[u8]) {
        match &mut self.stream {
            Stream::Saving { bytes, read } => {
                bytes.drain(..std::mem::take(read));
                bytes.extend_from_slice(more);
            }
            stream => *stream = Stream::Saving { bytes: more.to_vec(), read: 0 },
        }
    }

    pub(crate) fn begin_loading(&mut self) {
        self.stream = Stream::Loading(Vec::new());
    }

    pub(crate) fn end_stream(&mut self) {
        self.stream = Stream::None;
    }

    /// How many bytes [`read`](Self::read) would give.
    pub(crate) fn left(&self, most: usize) -> usize {
        match &self.stream {
            Stream::Saving { bytes, read } => (bytes.len() - *read).min(most),
            _ => 0,
        }
    }

    /// The next bytes of what is saved; fewer than `most` at the end of what there is for now.
    pub(crate) fn read(&mut self, most: usize) -> Result<&[u8], Errno> {
        match (&mut self.stream, self.state) {
            (Stream::Saving { bytes, read }, DeviceState::PreCopy | DeviceState::StopCopy) => {
                let from = *read;
                *read = bytes.len().min(from.saturating_add(most));
                Ok(&bytes[from..*read])
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether the client saves a device that runs, and has read all that there is.
    pub(crate) fn wants_more(&self) -> bool {
        self.state == DeviceState::PreCopy
            && matches!(&self.stream, Stream::Saving { bytes, read } if *read == bytes.len())
    }

    /// Takes bytes of what is to be loaded; at most `limit` in all.
    pub(crate) fn write(&mut self, more: &[u8], limit: usize) -> Result<(), Errno> {
        match (&mut self.stream, self.state) {
            (Stream::Loading(bytes), DeviceState::Resuming) => {
                if more.len() > limit.saturating_sub(bytes.len()) {
                    return Err(Errno::ENOSPC);
                }
                bytes.try_reserve(more.len()).map_err(|_| Errno::ENOMEM)?;
                bytes.extend_from_slice(more);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// What was loaded.
    pub(crate) fn take_loaded(&mut self) -> Vec<u8> {
        match std::mem::take(&mut self.stream) {
            Stream::Loading(bytes) => bytes,
            _ => Vec::new(),
        }
    }

    /// The device is reset: it runs, whatever it was.
    pub(crate) fn reset(&mut self) {
        *self = Machine::default();
    }

    /// The client has gone: a session of it ends. What was half loaded is no state to run from; a
    /// device that was made to wait for a state still does.
    pub(crate) fn disconnect(&mut self) {
        use DeviceState::*;
        if self.awaits {
            *self = Machine::incoming();
            return;
        }
        self.stream = Stream::None;
        self.state = match self.state {
            PreCopy => Running,
            StopCopy => Stop,
            Resuming => Error,
            state => state,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeviceState::*;

    fn walk(machine: &mut Machine, target: DeviceState, pre_copy: bool) -> Result<Vec<Hop>, Errno> {
        let mut hops = Vec::new();
        while let Some((hop, to)) = machine.next(target, pre_copy)? {
            hops.push(hop);
            machine.arrive(to);
            assert!(hops.len() < 8, "no way leads round");
        }
        assert_eq!(machine.state(), target);
        Ok(hops)
    }

    fn at(state: DeviceState) -> Machine {
        Machine { state, ..Machine::default() }
    }

    /// Every pair of states: the hops, or that there is no way.
    #[test]
    fn all_arcs() {
        let (save, save_now) = (Hop::Save { stop_first: false }, Hop::Save { stop_first: true });
        type Row = (DeviceState, DeviceState, Option<Vec<Hop>>);
        let table: Vec<Row> = vec![
            (Running, Stop, Some(vec![Hop::Stop])),
            (Running, StopCopy, Some(vec![Hop::Stop, save])),
            (Running, Resuming, Some(vec![Hop::Stop, Hop::BeginLoading])),
            (Running, PreCopy, Some(vec![Hop::BeginEarly])),
            (Stop, Running, Some(vec![Hop::Start])),
            (Stop, StopCopy, Some(vec![save])),
            (Stop, Resuming, Some(vec![Hop::BeginLoading])),
            (Stop, PreCopy, Some(vec![Hop::Start, Hop::BeginEarly])),
            (StopCopy, Running, Some(vec![Hop::EndSaving, Hop::Start])),
            (StopCopy, Stop, Some(vec![Hop::EndSaving])),
            (StopCopy, Resuming, Some(vec![Hop::EndSaving, Hop::BeginLoading])),
            (StopCopy, PreCopy, None),
            (Resuming, Running, Some(vec![Hop::Load, Hop::Start])),
            (Resuming, Stop, Some(vec![Hop::Load])),
            (Resuming, StopCopy, Some(vec![Hop::Load, save])),
            (Resuming, PreCopy, Some(vec![Hop::Load, Hop::Start, Hop::BeginEarly])),
            (PreCopy, Running, Some(vec![Hop::EndSaving])),
            (PreCopy, Stop, Some(vec![Hop::EndSaving, Hop::Stop])),
            (PreCopy, StopCopy, Some(vec![save_now])),
            (PreCopy, Resuming, Some(vec![Hop::EndSaving, Hop::Stop, Hop::BeginLoading])),
        ];
        for (from, to, hops) in table {
            let stopping = |hop: &Hop| matches!(hop, Hop::Stop | Hop::Save { stop_first: true });
            let stops = hops.as_ref().is_some_and(|hops| hops.iter().any(stopping));
            let runs = matches!(from, Running | PreCopy);
            assert_eq!(at(from).stops(to, true), stops && runs, "{from:?} to {to:?}");
            assert_eq!(walk(&mut at(from), to, true).ok(), hops, "{from:?} to {to:?}");
        }
        for state in [Running, Stop, StopCopy, Resuming, PreCopy] {
            assert_eq!(walk(&mut at(state), state, true), Ok(vec![]));
            for unused in [Error, RunningP2p, PreCopyP2p] {
                assert_eq!(at(state).next(unused, true), Err(Errno::EINVAL));
                assert_eq!(at(unused).next(state, true), Err(Errno::EINVAL));
                assert!(!at(state).stops(unused, true));
            }
            assert_eq!(at(state).next(PreCopy, false), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn streams_belong_to_their_states() {
        let mut machine = at(Running);
        assert_eq!(machine.read(8), Err(Errno::EINVAL));
        assert_eq!(machine.write(b"x", 100), Err(Errno::EINVAL));
        machine.arrive(PreCopy);
        machine.save(b"early");
        assert_eq!(machine.read(3).unwrap(), b"ear");
        assert_eq!(machine.read(100).unwrap(), b"ly");
        assert_eq!(machine.read(100).unwrap(), b"");
        machine.arrive(StopCopy);
        machine.save(b"late");
        assert_eq!(machine.read(100).unwrap(), b"late");
        let mut machine = at(Resuming);
        machine.begin_loading();
        machine.write(b"1234", 6).unwrap();
        assert_eq!(machine.write(b"567", 6), Err(Errno::ENOSPC));
        machine.write(b"56", 6).unwrap();
        assert_eq!(machine.take_loaded(), b"123456");
    }

    #[test]
    fn a_device_that_waits_for_a_state_waits_until_it_has_one() {
        let mut machine = Machine::incoming();
        machine.write(b"half", 100).unwrap();
        machine.disconnect();
        assert_eq!((machine.state(), machine.take_loaded()), (Resuming, vec![]));
        let mut machine = Machine::incoming();
        walk(&mut machine, Running, false).unwrap();
        machine.disconnect();
        assert_eq!(machine.state(), Running);
        walk(&mut machine, Resuming, false).unwrap();
        machine.disconnect();
        assert_eq!(machine.state(), Error, "it is a device like any other now");
        let mut machine = Machine::incoming();
        machine.fail();
        machine.disconnect();
        assert_eq!(machine.state(), Error);
    }

    #[test]
    fn what_a_lost_client_leaves() {
        let left = [(Running, Running), (Stop, Stop), (StopCopy, Stop), (Resuming, Error)];
        for (state, then) in left.into_iter().chain([(PreCopy, Running), (Error, Error)]) {
            let mut machine = at(state);
            machine.disconnect();
            assert_eq!(machine.state(), then);
            machine.reset();
            assert_eq!(machine.state(), Running);
        }
    }
}
