//! The capabilities that VERSION carries as JSON (specification, "Version Data Format").

use serde::Serialize;
use serde_json::{Map, Value};

use super::Errno;

/// Most bytes of JSON that are looked at, the NUL included.
pub const MAX_JSON_LEN: usize = 16 * 1024;
/// Deepest nesting of objects and arrays in the JSON.
pub const MAX_JSON_DEPTH: usize = 32;

/// `max_msg_fds` of a peer that does not say.
pub const DEFAULT_MAX_MSG_FDS: u32 = 1;
/// `max_data_xfer_size` of a peer that does not say, in bytes.
pub const DEFAULT_MAX_DATA_XFER_SIZE: u64 = 1024 * 1024;
/// `max_dma_maps` of a peer that does not say.
pub const DEFAULT_MAX_DMA_MAPS: u64 = 65535;
/// `pgsizes` of a peer that does not say.
pub const DEFAULT_PGSIZES: u64 = 4096;

/// What one side can do. A key that is `None` was not sent, or shall not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Capabilities {
    /// How many fds the sender can receive with one message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_msg_fds: Option<u32>,
    /// Most bytes of data in a message to the sender, or in a reply from it. Never 0 after parsing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_data_xfer_size: Option<u64>,
    /// Most DMA maps at the same time; the server's value counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_dma_maps: Option<u64>,
    /// Page sizes for DMA maps: a bit for each, its value the size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgsizes: Option<u64>,
    /// Migration, in the form that older peers still send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationCaps>,
    /// A second socket for the commands of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin_socket: Option<TwinSocket>,
    /// REGION_WRITE_MULTI is understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_multiple: Option<bool>,
    /// The region capability SPARSE_MMAP_FDS is understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse_mmap_fds: Option<bool>,
    /// The client's replies to DMA_READ come whole, up to `max_data_xfer_size`, however full the socket is.
    /// This key is not in the specification, and in no reply: without a twin socket it tells a client
    /// from those whose large replies are lost, which do not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_replies: Option<bool>,
}

/// The `migration` capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MigrationCaps {
    /// Page size of dirty bitmaps in bytes. A power of two after parsing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgsize: Option<u64>,
    /// Largest dirty bitmap in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bitmap_size: Option<u64>,
}

/// The `twin_socket` capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct TwinSocket {
    /// Offered (request) or agreed (reply).
    pub supported: bool,
    /// Which fd of the reply is the client's end of the socket. It means nothing in a request, so
    /// one that is no index reads as `None`: a reply that agrees without an index is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd_index: Option<u32>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    capabilities: &'a Capabilities,
}

impl Capabilities {
    /// Reads the JSON of a VERSION message, its NUL included. Unknown keys are ignored; of keys
    /// that occur twice the last one counts; a missing `capabilities` object means all defaults.
    ///
    /// # Errors
    /// [`Errno::EINVAL`] if the text has no NUL, or something else than NULs behind it; is longer
    /// than [`MAX_JSON_LEN`] or deeper than [`MAX_JSON_DEPTH`]; is no JSON object in UTF-8; or if a
    /// known key has a value of the wrong type or out of its range.
    pub fn parse(json: &[u8]) -> Result<Capabilities, Errno> {
        if json.len() > MAX_JSON_LEN {
            return Err(Errno::EINVAL);
        }
        let nul = json.iter().position(|&byte| byte == 0).ok_or(Errno::EINVAL)?;
        let (text, tail) = json.split_at(nul);
        if tail.iter().any(|&byte| byte != 0) || is_too_deep(text) {
            return Err(Errno::EINVAL);
        }
        let top: Map<String, Value> = serde_json::from_slice(text).map_err(|_| Errno::EINVAL)?;
        match top.get("capabilities") {
            None => Ok(Capabilities::default()),
            Some(Value::Object(keys)) => Capabilities::from_keys(keys),
            Some(_) => Err(Errno::EINVAL),
        }
    }

    fn from_keys(keys: &Map<String, Value>) -> Result<Capabilities, Errno> {
        let max_data_xfer_size = number(keys, "max_data_xfer_size")?;
        if max_data_xfer_size == Some(0) {
            return Err(Errno::EINVAL); // nothing could ever be transferred
        }
        Ok(Capabilities {
            max_msg_fds: number(keys, "max_msg_fds")?
                .map(u32::try_from)
                .transpose()
                .map_err(|_| Errno::EINVAL)?,
            max_data_xfer_size,
            max_dma_maps: number(keys, "max_dma_maps")?,
            pgsizes: number(keys, "pgsizes")?,
            migration: object(keys, "migration")?.map(MigrationCaps::from_keys).transpose()?,
            twin_socket: object(keys, "twin_socket")?.map(TwinSocket::from_keys).transpose()?,
            write_multiple: boolean(keys, "write_multiple")?,
            sparse_mmap_fds: boolean(keys, "sparse_mmap_fds")?,
            // Somebody else's key of that name may mean anything.
            whole_replies: keys.get("whole_replies").and_then(Value::as_bool),
        })
    }

    /// Appends `{"capabilities":{...}}`, without spaces (QEMU takes no reply that is longer than
    /// its request) and with the final NUL.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let written = serde_json::to_writer(&mut *out, &Envelope { capabilities: self });
        debug_assert!(written.is_ok(), "numbers and booleans into a Vec: nothing can fail");
        out.push(0);
    }

    /// Those of our capabilities that may stand in the reply to `proposed`: only keys that the
    /// client sent, and a yes only where it said yes.
    #[must_use]
    pub fn restricted_to(&self, proposed: &Capabilities) -> Capabilities {
        Capabilities {
            max_msg_fds: keep(self.max_msg_fds, proposed.max_msg_fds),
            max_data_xfer_size: keep(self.max_data_xfer_size, proposed.max_data_xfer_size),
            max_dma_maps: keep(self.max_dma_maps, proposed.max_dma_maps),
            pgsizes: keep(self.pgsizes, proposed.pgsizes),
            migration: self.migration.zip(proposed.migration).map(|(own, theirs)| MigrationCaps {
                pgsize: keep(own.pgsize, theirs.pgsize),
                max_bitmap_size: keep(own.max_bitmap_size, theirs.max_bitmap_size),
            }),
            twin_socket: match proposed.twin_socket {
                Some(TwinSocket { supported: true, .. }) => self.twin_socket,
                _ => None,
            },
            write_multiple: both(self.write_multiple, proposed.write_multiple),
            sparse_mmap_fds: both(self.sparse_mmap_fds, proposed.sparse_mmap_fds),
            whole_replies: None,
        }
    }
}

impl MigrationCaps {
    fn from_keys(keys: &Map<String, Value>) -> Result<MigrationCaps, Errno> {
        let pgsize = number(keys, "pgsize")?;
        if pgsize.is_some_and(|size| !size.is_power_of_two()) {
            return Err(Errno::EINVAL);
        }
        Ok(MigrationCaps { pgsize, max_bitmap_size: number(keys, "max_bitmap_size")? })
    }
}

impl TwinSocket {
    fn from_keys(keys: &Map<String, Value>) -> Result<TwinSocket, Errno> {
        Ok(TwinSocket {
            supported: boolean(keys, "supported")?.unwrap_or(false),
            fd_index: keys
                .get("fd_index")
                .and_then(Value::as_u64)
                .and_then(|index| u32::try_from(index).ok()),
        })
    }
}

fn keep<T>(own: Option<T>, proposed: Option<T>) -> Option<T> {
    proposed.and(own)
}

fn both(own: Option<bool>, proposed: Option<bool>) -> Option<bool> {
    own.zip(proposed).map(|(own, proposed)| own && proposed)
}

/// A non-negative integer. `8.0` and `1e2` are none: every peer that checks wants it so.
fn number(keys: &Map<String, Value>, key: &str) -> Result<Option<u64>, Errno> {
    keys.get(key).map(|value| value.as_u64().ok_or(Errno::EINVAL)).transpose()
}

fn boolean(keys: &Map<String, Value>, key: &str) -> Result<Option<bool>, Errno> {
    keys.get(key).map(|value| value.as_bool().ok_or(Errno::EINVAL)).transpose()
}

fn object<'a>(
    keys: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, Errno> {
    keys.get(key).map(|value| value.as_object().ok_or(Errno::EINVAL)).transpose()
}

/// Counts brackets outside of strings, before the real parser recurses. In text that is no JSON the
/// count may be wrong, but then that parser refuses it, and has a depth limit of its own.
fn is_too_deep(text: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return true;
        }
    }
    false
}
