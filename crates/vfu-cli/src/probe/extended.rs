//! What extended capabilities say.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;
use vfu::pci::regs;

use super::header::Space;
use super::human::Size;

/// Uncorrectable errors, by their bits (PCIe 7.8.4.2).
const UNCORRECTABLE: [(u32, &str); 13] = [
    (4, "data_link_protocol"),
    (5, "surprise_down"),
    (12, "poisoned_tlp"),
    (13, "flow_control_protocol"),
    (14, "completion_timeout"),
    (15, "completer_abort"),
    (16, "unexpected_completion"),
    (17, "receiver_overflow"),
    (18, "malformed_tlp"),
    (19, "ecrc"),
    (20, "unsupported_request"),
    (21, "acs_violation"),
    (22, "internal"),
];
/// Correctable errors (PCIe 7.8.4.5).
const CORRECTABLE: [(u32, &str); 8] = [
    (0, "receiver"),
    (6, "bad_tlp"),
    (7, "bad_dllp"),
    (8, "replay_rollover"),
    (12, "replay_timeout"),
    (13, "advisory_non_fatal"),
    (14, "internal"),
    (15, "header_log_overflow"),
];

/// What an extended capability says, with the `kind` that tells its fields.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum ExtendedDetail {
    AdvancedErrors {
        /// Errors that have been reported and not cleared, by name.
        uncorrectable: Vec<&'static str>,
        uncorrectable_masked: Vec<&'static str>,
        correctable: Vec<&'static str>,
        correctable_masked: Vec<&'static str>,
    },
    SerialNumber {
        serial: u64,
    },
    ResizableBars {
        bars: Vec<ResizableBar>,
    },
    Ats {
        /// How many invalidate requests the device queues.
        queue: u8,
        enabled: bool,
    },
    Pasid {
        /// How many bits a PASID has.
        width: u8,
        enabled: bool,
    },
    Sriov {
        total_vfs: u16,
        num_vfs: u16,
        /// The device id of the virtual functions.
        vf_device: u16,
        enabled: bool,
    },
    Vendor {
        vendor_id: u16,
        revision: u8,
        /// As the capability says, its headers included.
        length: u16,
    },
    Other,
}

/// A BAR that can be resized.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ResizableBar {
    pub(super) index: u8,
    /// As the register has it now.
    pub(super) size: u64,
    /// All sizes that it can have.
    pub(super) sizes: Vec<u64>,
}

pub(super) fn detail(space: Space<'_>, at: usize, id: u16) -> ExtendedDetail {
    match id {
        regs::EXT_AER => {
            let named = |register, names| named(space.u32(at + register), names);
            ExtendedDetail::AdvancedErrors {
                uncorrectable: named(regs::AER_UNCORRECTABLE_STATUS, &UNCORRECTABLE),
                uncorrectable_masked: named(regs::AER_UNCORRECTABLE_MASK, &UNCORRECTABLE),
                correctable: named(regs::AER_CORRECTABLE_STATUS, &CORRECTABLE),
                correctable_masked: named(regs::AER_CORRECTABLE_MASK, &CORRECTABLE),
            }
        }
        regs::EXT_SERIAL => ExtendedDetail::SerialNumber {
            serial: u64::from(space.u32(at + 8)) << 32 | u64::from(space.u32(at + 4)),
        },
        regs::EXT_REBAR => ExtendedDetail::ResizableBars { bars: resizable_bars(space, at) },
        regs::EXT_ATS => ExtendedDetail::Ats {
            queue: match space.u16(at + 4) as u8 & 0x1f {
                0 => 32,
                depth => depth,
            },
            enabled: space.u16(at + 6) & 1 << 15 != 0,
        },
        regs::EXT_PASID => ExtendedDetail::Pasid {
            width: (space.u16(at + 4) >> 8) as u8 & 0x1f,
            enabled: space.u16(at + 6) & 1 != 0,
        },
        regs::EXT_SRIOV => ExtendedDetail::Sriov {
            total_vfs: space.u16(at + 0x0e),
            num_vfs: space.u16(at + 0x10),
            vf_device: space.u16(at + 0x1a),
            enabled: space.u16(at + 8) & 1 != 0,
        },
        regs::EXT_VENDOR => {
            let header = space.u32(at + 4);
            ExtendedDetail::Vendor {
                vendor_id: header as u16,
                revision: (header >> 16) as u8 & 0xf,
                length: (header >> 20) as u16,
            }
        }
        _ => ExtendedDetail::Other,
    }
}

fn named(value: u32, names: &[(u32, &'static str)]) -> Vec<&'static str> {
    names.iter().filter(|(bit, _)| value & 1 << bit != 0).map(|(_, name)| *name).collect()
}

/// PCIe 7.8.6: sizes are powers of two from 1 MiB up, which begin at bit 4 of the capability register
/// and go on at bit 16 of the control register.
fn resizable_bars(space: Space<'_>, at: usize) -> Vec<ResizableBar> {
    const MIB: u64 = 1 << 20;
    const MOST: usize = 6;
    let pair = |n: usize| {
        (
            space.u32(at + regs::REBAR_CAPABILITY + 8 * n),
            space.u32(at + regs::REBAR_CONTROL + 8 * n),
        )
    };
    let count = (pair(0).1 >> 5 & 0b111) as usize;
    let bars = (0..count.min(MOST)).map(|n| {
        let (capability, control) = pair(n);
        let offered = u64::from(control >> 16) << 28 | u64::from(capability >> 4);
        ResizableBar {
            index: control as u8 & 0b111,
            size: MIB.checked_shl(control >> 8 & 0x3f).unwrap_or(0),
            sizes: (0..44).filter(|bit| offered & 1 << bit != 0).map(|bit| MIB << bit).collect(),
        }
    });
    bars.collect()
}

impl Display for ExtendedDetail {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AdvancedErrors { uncorrectable, correctable, .. } => {
                if uncorrectable.is_empty() && correctable.is_empty() {
                    return f.write_str(", no errors");
                }
                let mut before = ", ";
                for (kind, errors) in
                    [("uncorrectable", uncorrectable), ("correctable", correctable)]
                {
                    if !errors.is_empty() {
                        let errors = errors.join(" ").replace('_', " ");
                        write!(f, "{before}{kind} errors: {errors}")?;
                        before = "; ";
                    }
                }
                Ok(())
            }
            Self::SerialNumber { serial } => {
                let bytes = serial.to_be_bytes().map(|byte| format!("{byte:02x}"));
                write!(f, ", {}", bytes.join("-"))
            }
            Self::ResizableBars { bars } => bars.iter().try_for_each(|bar| {
                let sizes: Vec<_> = bar.sizes.iter().map(|size| Size(*size).to_string()).collect();
                write!(f, ", BAR{} {} of {}", bar.index, Size(bar.size), sizes.join(" "))
            }),
            Self::Ats { queue, enabled } => write!(f, ", queue of {queue}, {}", on(*enabled)),
            Self::Pasid { width, enabled } => write!(f, ", {width} bits, {}", on(*enabled)),
            Self::Sriov { total_vfs, num_vfs, vf_device, enabled } => {
                let on = on(*enabled);
                write!(f, ", {num_vfs} of {total_vfs} virtual functions {vf_device:04x}, {on}")
            }
            Self::Vendor { vendor_id, revision, length } => {
                write!(f, ", {vendor_id:04x} revision {revision}, {length} bytes")
            }
            Self::Other => Ok(()),
        }
    }
}

fn on(enabled: bool) -> &'static str {
    if enabled { "enabled" } else { "disabled" }
}
