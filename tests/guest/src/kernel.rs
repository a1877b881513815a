//! The kernel without its own decompressor: QEMU starts an ELF file directly, and the emulated
//! processor is spared the work.

use std::io::Read;

use anyhow::{Context, Result, ensure};

/// The `vmlinux` in a `bzImage` that was compressed with zstd, as Debian's is.
///
/// # Errors
///
/// If it is no `bzImage`, or compressed otherwise.
pub fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image).context("the kernel is no bzImage")?;
    // The build appends the uncompressed size to the compressed stream.
    let (stream, size) = payload.split_last_chunk::<4>().context("the kernel is empty")?;
    let size = u32::from_le_bytes(*size) as usize;
    let mut elf = Vec::with_capacity(size);
    ruzstd::decoding::StreamingDecoder::new(stream)
        .context("the kernel is not compressed with zstd")?
        .read_to_end(&mut elf)?;
    ensure!(elf.len() == size && elf.starts_with(b"\x7fELF"), "the kernel holds no ELF file");
    Ok(elf)
}

/// The compressed part, as the boot protocol's header (2.08) places it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup_sectors = usize::from(*image.get(0x1f1)?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    image.get(start..start.checked_add(word(0x24c)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_other_files() {
        assert!(vmlinux(b"").is_err());
        assert!(vmlinux(&[0; 4096]).is_err());
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c] = 64;
        assert!(vmlinux(&image).is_err());
    }
}
