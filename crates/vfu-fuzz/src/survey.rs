//! What a device has: found out once, by a client that does nothing wrong.

use std::path::Path;
use std::time::{Duration, Instant};

use vfu_proto::wire::{Command, DEFAULT_MAX_MSG_FDS, Version};

use crate::channel::{self, Channel, Incoming, Next, NoConnection};
use crate::script::{Data, Message};

/// Regions and vectors of a device, so that what is sent gets further than its first check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Sizes of the regions.
    pub regions: Vec<u64>,
    /// Numbers of vectors.
    pub irqs: Vec<u32>,
    /// Whether it has a migration state.
    pub migration: bool,
    /// How many descriptors the server takes with a message.
    pub max_msg_fds: u32,
    /// Accesses of registers that made the device reach memory by messages.
    pub doorbells: Vec<Vec<Message>>,
    pub(crate) info: Vec<u8>,
    pub(crate) ids: Option<Vec<u8>>,
}

/// Why there is no survey.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// Nobody listens.
    #[error("can't connect: {0}")]
    Connect(std::io::Error),
    /// No answer came.
    #[error("the server did not answer {0} in time; it may be serving another client")]
    Silent(&'static str),
    /// Something else came than the answer.
    #[error("the server did not answer {0} as it should: {1}")]
    Wrong(&'static str, String),
}

/// What a good client proposes.
pub(crate) const JSON: &str = concat!(
    r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"#,
    r#""write_multiple":true}}"#
);

/// The same, and a second socket.
pub(crate) const JSON_TWIN: &str = concat!(
    r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"#,
    r#""write_multiple":true,"twin_socket":{"supported":true}}}"#
);

/// A well-formed VERSION.
pub(crate) fn version(json: &str) -> Message {
    let mut message = Message::new(Command::Version, 0, &[0, 1]);
    let mut text = json.as_bytes().to_vec();
    text.push(0);
    message.data = Data::bytes(text);
    message
}

/// Asks the server at `path` what it has. No step takes longer than `timeout`.
///
/// # Errors
/// There is no such server, or it does not answer like one.
pub fn survey(path: &Path, timeout: Duration) -> Result<Survey, SurveyError> {
    let connected = Channel::connect(path, Instant::now() + timeout);
    let channel = connected.map_err(|e| match e {
        NoConnection::Refused(e) => SurveyError::Connect(e.into()),
        NoConnection::Full => SurveyError::Silent("a connection"),
    })?;
    let mut asker = Asker { channel, timeout };
    let reply = asker.must(version(JSON))?;
    let max_msg_fds = Version::parse(&reply.payload).ok().and_then(|v| v.caps.max_msg_fds);
    let info = asker.must(Message::new(Command::DeviceGetInfo, 1, &[16, 0, 0, 0]))?.payload;
    let u32_at = |bytes: &[u8], at: usize| {
        let four = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
        four.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let mut found = Survey {
        max_msg_fds: max_msg_fds.unwrap_or(DEFAULT_MAX_MSG_FDS),
        info: info.clone(),
        ..Survey::default()
    };
    for index in 0..u32_at(&info, 8).min(64) {
        let fields = [32, 0, index.into(), 0, 0, 0];
        let reply = asker.ask(Message::new(Command::DeviceGetRegionInfo, 2, &fields))?;
        let size = reply.payload.get(16..).and_then(|rest| rest.first_chunk::<8>());
        found.regions.push(size.map_or(0, |size| u64::from_le_bytes(*size)));
    }
    for index in 0..u32_at(&info, 12).min(64) {
        let message = Message::new(Command::DeviceGetIrqInfo, 3, &[16, 0, index.into(), 0]);
        found.irqs.push(u32_at(&asker.ask(message)?.payload, 12));
    }
    let ids = asker.ask(Message::new(Command::RegionRead, 4, &[0, 7, 4]))?;
    found.ids = ids.payload.get(16..20).filter(|_| !ids.header.is_error()).map(<[u8]>::to_vec);
    let state = Message::new(Command::DeviceFeature, 5, &[16, 2 | 1 << 16]);
    found.migration = !asker.ask(state)?.header.is_error();
    Ok(found)
}

struct Asker {
    channel: Channel,
    timeout: Duration,
}

impl Asker {
    fn must(&mut self, message: Message) -> Result<Incoming, SurveyError> {
        let name = Command::from_u16(message.command).map_or("a command", Command::name);
        let reply = self.ask(message)?;
        if reply.header.is_error() {
            let why = format!("it is refused with {}", reply.header.errno());
            return Err(SurveyError::Wrong(name, why));
        }
        Ok(reply)
    }

    fn ask(&mut self, message: Message) -> Result<Incoming, SurveyError> {
        let name = Command::from_u16(message.command).map_or("a command", Command::name);
        let deadline = Instant::now() + self.timeout;
        self.channel.push(message.bytes(), Vec::new());
        loop {
            self.channel.flush();
            self.channel.fill();
            match self.channel.next() {
                Next::Message(reply) if reply.header.command == message.command => {
                    return Ok(reply);
                }
                Next::Message(other) => {
                    let why = format!("a message of command {} came", other.header.command);
                    return Err(SurveyError::Wrong(name, why));
                }
                Next::Nonsense(header) => {
                    let why = format!("a message of {} bytes came", header.size);
                    return Err(SurveyError::Wrong(name, why));
                }
                Next::Nothing if self.channel.is_closed() => {
                    let why = "it closed the connection".to_owned();
                    return Err(SurveyError::Wrong(name, why));
                }
                Next::Nothing => {}
            }
            if !channel::wait(&[&self.channel], deadline) {
                return Err(SurveyError::Silent(name));
            }
        }
    }
}
