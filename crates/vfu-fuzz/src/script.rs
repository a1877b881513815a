//! What a hostile client does, step by step: what is generated, replayed and made smaller.

use vfu_proto::wire::{Command, HEADER_SIZE, Header};

use crate::descriptors::Descriptor;
use crate::layout;

/// What to do with a server: connections, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The connections.
    pub connections: Vec<Connection>,
}

/// One connection, from connecting to closing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// How the server's DMA commands are answered.
    pub dma: DmaAnswer,
    /// So many of them are served as asked before that.
    pub dma_after: u32,
    /// Whether replies are read only once the server takes no more.
    pub late: bool,
    /// What is done.
    pub steps: Vec<Step>,
}

/// One thing that a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends a message.
    Send(Box<Message>),
    /// Waits until all commands so far are answered.
    Wait,
    /// Waits until the server has sent a command of its own, or for a moment.
    Listen,
}

/// A message that need not make sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Sent on the twin socket, if there is one.
    pub twin: bool,
    /// Number of the command.
    pub command: u16,
    /// Chosen by the sender.
    pub id: u16,
    /// Flags of the header.
    pub flags: u32,
    /// Error field of the header.
    pub error: u32,
    /// Size that the header claims; `None`: the true one.
    pub size: Option<u32>,
    /// Values of the fields of this command's payload.
    pub fields: Vec<u64>,
    /// What follows the fields.
    pub data: Data,
    /// The payload is cut off after so many bytes.
    pub cut: Option<u32>,
    /// Only so many bytes of the message are sent, and then the connection is closed.
    pub half: Option<u32>,
    /// Descriptors that go with it.
    pub fds: Vec<Descriptor>,
    /// At which byte they go.
    pub fds_at: u32,
    /// In how many system calls it is sent.
    pub pieces: Pieces,
}

/// How a message is handed to the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pieces {
    /// At once.
    #[default]
    Whole,
    /// Byte by byte.
    Single,
    /// The first so many bytes, and then the rest.
    Two(u32),
}

/// Bytes, in short: pieces that are repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data(pub Vec<(Vec<u8>, u32)>);

/// How a hostile client answers DMA_READ and DMA_WRITE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DmaAnswer {
    /// As asked: zeros, or done.
    #[default]
    Serve,
    /// With EFAULT.
    Refuse,
    /// Not at all.
    Never,
    /// As asked, but only when nothing else comes any more, and the last one first.
    Late,
    /// With less data than asked, and a count that says so.
    Less,
    /// With more data than asked.
    More,
    /// Without a payload.
    Bare,
    /// With a count that the data does not have.
    Lie,
    /// With another address.
    WrongAddress,
    /// With an id that nobody used.
    WrongId,
    /// With the number of another command.
    WrongCommand,
    /// On the other socket, if there are two.
    WrongSocket,
    /// As a command.
    Command,
    /// Twice.
    Twice,
    /// With an error, and a payload all the same.
    ErrorWithData,
    /// With an error number that is none.
    BadErrno,
    /// Byte by byte.
    Single,
    /// With descriptors that nobody asked for.
    WithFds,
    /// Half of it, and then the connection ends.
    Half,
}

impl DmaAnswer {
    /// All of them, with the names that scripts use.
    pub const ALL: [(DmaAnswer, &'static str); 19] = [
        (DmaAnswer::Serve, "serve"),
        (DmaAnswer::Refuse, "refuse"),
        (DmaAnswer::Never, "never"),
        (DmaAnswer::Late, "late"),
        (DmaAnswer::Less, "less"),
        (DmaAnswer::More, "more"),
        (DmaAnswer::Bare, "bare"),
        (DmaAnswer::Lie, "lie"),
        (DmaAnswer::WrongAddress, "wrong-address"),
        (DmaAnswer::WrongId, "wrong-id"),
        (DmaAnswer::WrongCommand, "wrong-command"),
        (DmaAnswer::WrongSocket, "wrong-socket"),
        (DmaAnswer::Command, "command"),
        (DmaAnswer::Twice, "twice"),
        (DmaAnswer::ErrorWithData, "error-with-data"),
        (DmaAnswer::BadErrno, "bad-errno"),
        (DmaAnswer::Single, "single"),
        (DmaAnswer::WithFds, "with-fds"),
        (DmaAnswer::Half, "half"),
    ];

    /// Whether a server has a reason to end the session because of it.
    pub(crate) fn is_fair(self) -> bool {
        use DmaAnswer::{Late, Refuse, Serve, Single};
        matches!(self, Serve | Refuse | Single | Late)
    }
}

impl Data {
    /// These bytes, once.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Data {
        let bytes = bytes.into();
        if bytes.is_empty() { Data::default() } else { Data(vec![(bytes, 1)]) }
    }

    /// One byte, many times.
    pub fn fill(byte: u8, count: u32) -> Data {
        if count == 0 { Data::default() } else { Data(vec![(vec![byte], count)]) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(piece, count)| piece.repeat(*count as usize)).collect()
    }
}

impl Message {
    /// A well-formed command.
    pub fn new(command: Command, id: u16, fields: &[u64]) -> Message {
        Message { command: command.as_u16(), id, fields: fields.to_vec(), ..Message::default() }
    }

    /// The payload.
    pub fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        for (value, field) in self.fields.iter().zip(layout::fields(self.command)) {
            payload.extend(value.to_le_bytes().iter().take(field.size));
        }
        payload.extend(self.data.to_vec());
        if let Some(cut) = self.cut {
            payload.truncate(cut as usize);
        }
        payload
    }

    /// All bytes that are sent.
    pub fn bytes(&self) -> Vec<u8> {
        let payload = self.payload();
        let true_size = u32::try_from(payload.len() + HEADER_SIZE).unwrap_or(u32::MAX);
        let (id, command, flags, error) = (self.id, self.command, self.flags, self.error);
        let size = self.size.unwrap_or(true_size);
        let mut bytes = Header { id, command, size, flags, error }.emit().to_vec();
        bytes.extend(payload);
        if let Some(half) = self.half {
            bytes.truncate(half as usize);
        }
        bytes
    }
}
