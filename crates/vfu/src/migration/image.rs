//! The bytes of a saved device: a header, records, and a checksum over all of it.
//!
//! ```text
//!  "VFUSTATE"  format  vendor:device  │ tag  version  len  bytes │ ... │ END  0  4  crc32
//! ```
//!
//! Integers are little-endian. What belongs to the library is saved by the library, what belongs to
//! the device by the device.

use zerocopy::little_endian::{U16, U32};

/// Ours, and a line end that a text transfer would harm.
const MAGIC: &[u8; 8] = b"VFUSTATE";
const FORMAT: u32 = 1;

const CONFIG: u32 = 1;
const MSIX: u32 = 2;
const IRQS: u32 = 3;
const EARLY: u32 = 4;
const DEVICE: u32 = 5;
const END: u32 = 0xffff_ffff;

/// Bytes before those of each part.
pub(crate) const RECORD: usize = 12;

/// Bytes that a stream has besides the device's own, at most.
pub(crate) const OVERHEAD: usize = 128 << 10;

/// Why the bytes of a saved device are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Not a saved device at all.
    #[error("these bytes are no saved device")]
    NotAnImage,
    /// Of a later vfu.
    #[error("the device was saved in format {found}; this vfu knows format {FORMAT}")]
    Format {
        /// The format found.
        found: u32,
    },
    /// Of another kind of device.
    #[error("a device {saved:?} was saved, this one is {here:?} (vendor, device)")]
    OtherDevice {
        /// Ids of the one that was saved.
        saved: (u16, u16),
        /// Ids of this one.
        here: (u16, u16),
    },
    /// Cut short, or bytes are missing in the midst.
    #[error("the saved device is cut short")]
    CutShort,
    /// Bytes have changed.
    #[error("the saved device was damaged on its way: its checksum differs")]
    Checksum,
    /// A part occurs twice, or is missing, or is unknown.
    #[error("the saved device has a part too many or too few (tag {0:#x})")]
    Parts(u32),
    /// Of a later version of the device.
    #[error("the device was saved in version {saved} of its state; here it knows up to {here}")]
    Newer {
        /// The version that was saved.
        saved: u32,
        /// The version of this device.
        here: u32,
    },
    /// More than the device takes.
    #[error("the device's own state has {len} bytes; it takes at most {most}")]
    TooLong {
        /// How many there are.
        len: usize,
        /// How many there may be.
        most: usize,
    },
}

/// What the library saves of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Library {
    /// Configuration space.
    pub(crate) config: Vec<u8>,
    /// The MSI-X table, then the pending bits; empty if there is none.
    pub(crate) msix: Vec<u8>,
    /// Level of the pin and interrupts that wait.
    pub(crate) irqs: Vec<u8>,
}

/// A saved device, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) library: Library,
    /// Version and bytes of what the device sent early, piece by piece.
    pub(crate) early: Vec<(u32, Vec<u8>)>,
    /// Version and bytes of the device.
    pub(crate) device: (u32, Vec<u8>),
}

/// Makes an image piece by piece: the checksum runs over all of them.
#[derive(Debug)]
pub(crate) struct Writer {
    crc: crc32fast::Hasher,
}

impl Writer {
    /// Begins an image; gives its header.
    pub(crate) fn begin(vendor: u16, device: u16) -> (Writer, Vec<u8>) {
        let mut writer = Writer { crc: crc32fast::Hasher::new() };
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&vendor.to_le_bytes());
        out.extend_from_slice(&device.to_le_bytes());
        writer.crc.update(&out);
        (writer, out)
    }

    fn record(&mut self, out: &mut Vec<u8>, tag: u32, version: u32, bytes: &[u8]) {
        let start = out.len();
        for word in [tag, version, u32::try_from(bytes.len()).unwrap_or(u32::MAX)] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(bytes);
        self.crc.update(&out[start..]);
    }

    /// What the device sends while it runs.
    pub(crate) fn early(&mut self, version: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.record(&mut out, EARLY, version, bytes);
        out
    }

    /// The rest, and the end.
    pub(crate) fn finish(mut self, library: &Library, version: u32, device: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.record(&mut out, CONFIG, FORMAT, &library.config);
        self.record(&mut out, MSIX, FORMAT, &library.msix);
        self.record(&mut out, IRQS, FORMAT, &library.irqs);
        self.record(&mut out, DEVICE, version, device);
        let crc = self.crc.finalize();
        for word in [END, 0, 4, crc] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }
}

impl Image {
    /// Takes the bytes of a saved device apart, and checks that they are whole, and of the same kind
    /// of device. What they say is for their owners to check.
    pub(crate) fn parse(bytes: &[u8], vendor: u16, device: u16) -> Result<Image, ImageError> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(ImageError::NotAnImage)?;
        if magic != MAGIC {
            return Err(ImageError::NotAnImage);
        }
        let (head, mut rest) = rest.split_first_chunk::<8>().ok_or(ImageError::CutShort)?;
        let [a, b, c, d, e, f, g, h] = *head;
        let found = U32::from_bytes([a, b, c, d]).get();
        if found != FORMAT {
            return Err(ImageError::Format { found });
        }
        let saved = (U16::from_bytes([e, f]).get(), U16::from_bytes([g, h]).get());
        let mut parts: [Option<(u32, &[u8])>; 5] = [None; 5];
        let mut early = Vec::new();
        loop {
            let at = bytes.len() - rest.len();
            let (tag, version, data, left) = record(rest)?;
            rest = left;
            if tag == END && version == 0 {
                check_end(bytes, at, data)?;
                break;
            }
            if tag == EARLY {
                early.push((version, data.to_vec()));
                continue;
            }
            let slot = tag.checked_sub(1).and_then(|i| parts.get_mut(i as usize));
            let slot = slot.filter(|slot| slot.is_none()).ok_or(ImageError::Parts(tag))?;
            *slot = Some((version, data));
        }
        if saved != (vendor, device) {
            return Err(ImageError::OtherDevice { saved, here: (vendor, device) });
        }
        if !rest.is_empty() {
            return Err(ImageError::Parts(END));
        }
        let part = |tag: u32| parts[tag as usize - 1].ok_or(ImageError::Parts(tag));
        let library = Library {
            config: part(CONFIG)?.1.to_vec(),
            msix: part(MSIX)?.1.to_vec(),
            irqs: part(IRQS)?.1.to_vec(),
        };
        let (version, bytes) = part(DEVICE)?;
        Ok(Image { library, early, device: (version, bytes.to_vec()) })
    }
}

impl Image {
    /// Checks that the parts of the device itself are of no later version than `newest`, and no
    /// longer than `most` bytes.
    pub(crate) fn check_own(&self, newest: u32, most: usize) -> Result<(), ImageError> {
        for (version, bytes) in self.early.iter().chain([&self.device]) {
            if *version > newest {
                return Err(ImageError::Newer { saved: *version, here: newest });
            }
            if bytes.len() > most {
                return Err(ImageError::TooLong { len: bytes.len(), most });
            }
        }
        Ok(())
    }
}

/// Tag, version, bytes, and what comes behind.
type Record<'a> = (u32, u32, &'a [u8], &'a [u8]);

fn record(bytes: &[u8]) -> Result<Record<'_>, ImageError> {
    let (head, rest) = bytes.split_first_chunk::<RECORD>().ok_or(ImageError::CutShort)?;
    let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
    let len = usize::try_from(word(8)).map_err(|_| ImageError::CutShort)?;
    let (data, left) = rest.split_at_checked(len).ok_or(ImageError::CutShort)?;
    Ok((word(0), word(4), data, left))
}

fn check_end(bytes: &[u8], at: usize, crc: &[u8]) -> Result<(), ImageError> {
    let crc: [u8; 4] = crc.try_into().map_err(|_| ImageError::Parts(END))?;
    if crc32fast::hash(&bytes[..at]) == u32::from_le_bytes(crc) {
        Ok(())
    } else {
        Err(ImageError::Checksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pieces: u32) -> (Image, Vec<u8>) {
        let library = Library { config: vec![1; 256], msix: vec![2; 40], irqs: vec![3; 5] };
        let (mut writer, mut bytes) = Writer::begin(0x1234, 0x11e8);
        for piece in 0..pieces {
            bytes.extend(writer.early(piece, b"early"));
        }
        bytes.extend(writer.finish(&library, 9, b"device"));
        let early = (0..pieces).map(|piece| (piece, b"early".to_vec())).collect();
        (Image { library, early, device: (9, b"device".to_vec()) }, bytes)
    }

    #[test]
    fn what_was_saved_comes_back() {
        for early in 0..3 {
            let (image, bytes) = sample(early);
            assert_eq!(Image::parse(&bytes, 0x1234, 0x11e8), Ok(image));
        }
    }

    #[test]
    fn no_cut_and_no_flip_goes_unnoticed() {
        let (_, bytes) = sample(2);
        for len in 0..bytes.len() {
            assert!(Image::parse(&bytes[..len], 0x1234, 0x11e8).is_err(), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Image::parse(&bytes, 0x1234, 0x11e8).is_err(), "bit {bit}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(Image::parse(&longer, 0x1234, 0x11e8).is_err());
    }

    #[test]
    fn what_is_too_new_or_too_long_is_told() {
        let (image, _) = sample(0);
        assert_eq!(image.check_own(9, 6), Ok(()));
        assert_eq!(image.check_own(8, 6), Err(ImageError::Newer { saved: 9, here: 8 }));
        assert_eq!(image.check_own(9, 5), Err(ImageError::TooLong { len: 6, most: 5 }));
    }

    #[test]
    fn another_device_is_told_apart() {
        let (_, bytes) = sample(0);
        let error = Image::parse(&bytes, 0x1234, 0x0001).unwrap_err();
        let here = (0x1234, 0x0001);
        assert_eq!(error, ImageError::OtherDevice { saved: (0x1234, 0x11e8), here });
    }
}
