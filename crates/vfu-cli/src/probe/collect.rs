//! Asks the server for everything. Reads only: nothing here changes the device.

use std::path::Path;

use vfu::IrqIndex;
use vfu::client::{Client, ClientError, RegionDetails};
use vfu::wire::{DeviceFlags, DeviceState, IrqFlags, MigrationFlags};

use super::header;
use super::names;
use super::report::{
    Area, Config, Detail, Device, FORMAT, Interrupt, Mmap, Moving, Region, Report, Session,
};

/// VFIO's number of configuration space.
const CONFIG: u32 = 7;
/// The most regions that are asked for, whatever the server claims to have.
const MOST_REGIONS: u32 = 64;
const CONVENTIONAL: u64 = 256;
const EXTENDED: u64 = 4096;

/// Everything that can be known of the device behind `client`.
pub(super) fn collect(path: &Path, client: &Client) -> Result<Report, ClientError> {
    let mut problems = Vec::new();
    let info = client.device_info()?;
    let mut regions = Vec::new();
    for index in 0..info.num_regions.min(MOST_REGIONS) {
        match client.region_info(index) {
            Ok(details) => regions.push(region(details)),
            Err(e) => problems.push(tolerate(e, &names::region(index))?),
        }
    }
    if info.num_regions > MOST_REGIONS {
        let all = info.num_regions;
        problems
            .push(format!("the server claims {all} regions; the first {MOST_REGIONS} are here"));
    }
    let mut interrupts = Vec::new();
    for index in IrqIndex::ALL.into_iter().filter(|index| (*index as u32) < info.num_irqs) {
        let name = irq_name(index);
        match client.irq_info(index) {
            Ok(info) => interrupts.push(Interrupt {
                index: index as u32,
                name,
                count: info.count,
                flags: irq_flags(info.flags),
            }),
            Err(e) => problems.push(tolerate(e, name)?),
        }
    }
    let size_of = |index| regions.iter().find(|r| r.index == index).map_or(0, |r| r.size);
    let bytes = config_bytes(client, size_of(CONFIG), &mut problems)?;
    let config = bytes.map(|bytes| header::decode(bytes, size_of, &mut problems));
    Ok(Report {
        format: FORMAT,
        socket: path.display().to_string(),
        session: Session {
            server: *client.server_capabilities(),
            version: format!("{}.{}", client.version().0, client.version().1),
            twin_socket: client.has_twin_socket(),
            max_transfer: client.max_transfer(),
        },
        device: Device {
            pci: info.flags.contains(DeviceFlags::PCI),
            reset: info.flags.contains(DeviceFlags::RESET),
            resets: resets(info.flags.contains(DeviceFlags::RESET), config.as_ref()),
            num_regions: info.num_regions,
            num_irqs: info.num_irqs,
        },
        moving: moving(client)?,
        dma_logging: logs(client)?,
        regions,
        interrupts,
        config,
        problems,
    })
}

/// How the device can be moved, and whether it runs.
fn moving(client: &Client) -> Result<Option<Moving>, ClientError> {
    let flags = match client.migration() {
        Ok(Some(flags)) => flags,
        Ok(None) | Err(ClientError::Refused { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let names = [
        (MigrationFlags::STOP_COPY, "stop_copy"),
        (MigrationFlags::P2P, "p2p"),
        (MigrationFlags::PRE_COPY, "pre_copy"),
    ];
    let ways = names.into_iter().filter(|(flag, _)| flags.contains(*flag));
    let state = match client.device_state()? {
        DeviceState::Error => "error",
        DeviceState::Stop => "stop",
        DeviceState::Running => "running",
        DeviceState::StopCopy => "stop_copy",
        DeviceState::Resuming => "resuming",
        DeviceState::RunningP2p => "running_p2p",
        DeviceState::PreCopy => "pre_copy",
        DeviceState::PreCopyP2p => "pre_copy_p2p",
    };
    Ok(Some(Moving { ways: ways.map(|(_, name)| name).collect(), state }))
}

/// Whether dirty pages can be logged. A server that refuses to say can't.
fn logs(client: &Client) -> Result<bool, ClientError> {
    match client.has_dma_logging() {
        Err(ClientError::Refused { .. }) => Ok(false),
        said => said,
    }
}

/// All the ways to reset the device.
fn resets(device: bool, config: Option<&Config>) -> Vec<&'static str> {
    let mut ways = Vec::new();
    if device {
        ways.push("device");
    }
    for capability in config.iter().flat_map(|config| &config.capabilities) {
        match capability.detail {
            Detail::Express { flr: true, .. } => ways.push("flr"),
            Detail::PowerManagement { no_soft_reset: false, .. } => ways.push("d3hot_to_d0"),
            _ => {}
        }
    }
    ways
}

/// What the server refuses is noted, and the probe goes on. Any other error ends it.
fn tolerate(e: ClientError, what: &str) -> Result<String, ClientError> {
    match e {
        ClientError::Refused { .. } | ClientError::Malformed { .. } => Ok(format!("{what}: {e}")),
        e => Err(e),
    }
}

fn region(details: RegionDetails) -> Region {
    Region {
        index: details.index,
        name: names::region(details.index),
        size: details.size,
        readable: details.readable,
        writable: details.writable,
        mmap: details.mmap.map(|mmap| Mmap {
            file_offset: mmap.offset,
            areas: mmap.areas.iter().map(|a| Area { offset: a.offset, size: a.size }).collect(),
        }),
        device_specific: details.type_,
    }
}

fn irq_name(index: IrqIndex) -> &'static str {
    match index {
        IrqIndex::Intx => "INTx",
        IrqIndex::Msi => "MSI",
        IrqIndex::Msix => "MSI-X",
        IrqIndex::Err => "ERR",
        IrqIndex::Req => "REQ",
    }
}

fn irq_flags(flags: IrqFlags) -> Vec<&'static str> {
    let names = [
        (IrqFlags::EVENTFD, "eventfd"),
        (IrqFlags::MASKABLE, "maskable"),
        (IrqFlags::AUTOMASKED, "automasked"),
        (IrqFlags::NORESIZE, "noresize"),
    ];
    names.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| name).collect()
}

/// All of configuration space, at once if the server can, else in registers of 4 bytes.
fn config_bytes(
    client: &Client,
    size: u64,
    problems: &mut Vec<String>,
) -> Result<Option<Vec<u8>>, ClientError> {
    let len = match size {
        EXTENDED.. => EXTENDED,
        CONVENTIONAL.. => CONVENTIONAL,
        _ => {
            problems.push(format!("configuration space has {size} bytes; 256 are the least"));
            return Ok(None);
        }
    };
    let mut bytes = vec![0; len as usize];
    match client.region_read(CONFIG, 0, &mut bytes) {
        Err(ClientError::Refused { .. }) => {}
        other => return other.map(|()| Some(bytes)),
    }
    for (index, register) in bytes.chunks_mut(4).enumerate() {
        if let Err(e) = client.region_read(CONFIG, 4 * index as u64, register) {
            problems.push(tolerate(e, "config")?);
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}
