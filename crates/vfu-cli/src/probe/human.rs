//! The report for people.

use std::fmt::{self, Display, Formatter, Write};

use super::report::{Bar, BarKind, Capability, Config, Detail, Interrupt, Region, Report};

/// The text of a report.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    // Into a String: nothing can fail.
    let _ = write_report(&mut text, report);
    text
}

fn write_report(to: &mut String, report: &Report) -> fmt::Result {
    match &report.config {
        Some(config) => writeln!(
            to,
            "{}: {:04x}:{:04x} (rev {:02x}), {} [{:06x}]",
            report.socket,
            config.vendor,
            config.device,
            config.revision,
            config.class.name,
            config.class.code
        )?,
        None => writeln!(to, "{}: no PCI configuration space", report.socket)?,
    }
    write_session(to, report)?;
    write_regions(to, &report.regions)?;
    write_interrupts(to, &report.interrupts)?;
    if let Some(config) = &report.config {
        write_config(to, config)?;
    }
    if !report.problems.is_empty() {
        writeln!(to, "\nProblems")?;
        for problem in &report.problems {
            writeln!(to, "  {problem}")?;
        }
    }
    Ok(())
}

fn write_session(to: &mut String, report: &Report) -> fmt::Result {
    let (session, server) = (&report.session, &report.session.server);
    writeln!(to, "\nSession")?;
    let mut line = |name: &str, value: &dyn Display| writeln!(to, "  {name:<18} {value}");
    line("largest transfer", &Size(session.max_transfer as u64))?;
    line("protocol", &session.version)?;
    line("twin socket", &if session.twin_socket { "yes" } else { "no" })?;
    if let Some(fds) = server.max_msg_fds {
        line("fds per message", &fds)?;
    }
    if let Some(maps) = server.max_dma_maps {
        line("DMA mappings", &format_args!("up to {maps}"))?;
    }
    if let Some(sizes) = server.pgsizes {
        let sizes = (0..64).filter(|bit| sizes & 1 << bit != 0).map(|bit| Size(1 << bit));
        let sizes: Vec<_> = sizes.map(|size| size.to_string()).collect();
        line("page sizes", &sizes.join(", "))?;
    }
    if let Some(migration) = &server.migration {
        let page = migration.pgsize.map_or("unstated".to_string(), |size| Size(size).to_string());
        line("migration", &format_args!("yes, dirty page size {page}"))?;
    }
    if let Some(yes) = server.write_multiple {
        line("write multiple", &if yes { "yes" } else { "no" })?;
    }
    let device = &report.device;
    let kind = if device.pci { "PCI" } else { "not PCI" };
    line("device", &kind)?;
    let name = |way: &&'static str| match *way {
        "flr" => "function level reset",
        "d3hot_to_d0" => "D3hot to D0",
        other => other,
    };
    match &report.moving {
        Some(moving) => {
            let ways = moving.ways.join(", ").to_uppercase();
            line("can be moved", &format_args!("{ways}; {}", moving.state.to_uppercase()))?;
        }
        None => line("can be moved", &"no")?,
    }
    line("logs dirty pages", &if report.dma_logging { "yes" } else { "no" })?;
    let ways: Vec<_> = device.resets.iter().map(name).collect();
    line("resets", &if ways.is_empty() { "none".to_string() } else { ways.join(", ") })
}

fn write_regions(to: &mut String, regions: &[Region]) -> fmt::Result {
    writeln!(to, "\nRegions")?;
    for region in regions.iter().filter(|region| region.size > 0) {
        let (read, write) = (region.readable, region.writable);
        write!(
            to,
            "  {:<2} {:<8} {:>10}  {}{}",
            region.index,
            region.name,
            Size(region.size).to_string(),
            if read { 'r' } else { '-' },
            if write { 'w' } else { '-' },
        )?;
        if let Some((kind, subtype)) = region.device_specific {
            write!(to, "  type {kind:#x}/{subtype:#x}")?;
        }
        writeln!(to)?;
        for area in region.mmap.iter().flat_map(|mmap| &mmap.areas) {
            let end = area.offset + (area.size - 1);
            writeln!(to, "     mmap {:#x}-{end:#x} ({})", area.offset, Size(area.size))?;
        }
    }
    Ok(())
}

fn write_interrupts(to: &mut String, interrupts: &[Interrupt]) -> fmt::Result {
    writeln!(to, "\nInterrupts")?;
    for irq in interrupts.iter().filter(|irq| irq.count > 0) {
        writeln!(
            to,
            "  {:<2} {:<8} {:>10}  {}",
            irq.index,
            irq.name,
            irq.count,
            words(&irq.flags)
        )?;
    }
    Ok(())
}

fn write_config(to: &mut String, config: &Config) -> fmt::Result {
    writeln!(to, "\nConfiguration space, {} bytes", config.size)?;
    let mut line = |name: &str, value: &dyn Display| writeln!(to, "  {name:<18} {value}");
    if let Some(subsystem) = &config.subsystem {
        let (vendor, device) = (subsystem.vendor, subsystem.device);
        line("subsystem", &format_args!("{vendor:04x}:{device:04x}"))?;
    }
    for (name, register) in [("command", &config.command), ("status", &config.status)] {
        line(name, &format_args!("{:#06x}  {}", register.value, words(&register.flags)))?;
    }
    match config.interrupt_pin {
        Some(pin) => line("interrupt", &format_args!("pin {pin}, line {}", config.interrupt_line))?,
        None => line("interrupt", &"no pin")?,
    }
    for bar in &config.bars {
        line(&format!("BAR{}", bar.index), bar)?;
    }
    if let Some(rom) = &config.rom {
        let state = if rom.enabled { "enabled" } else { "disabled" };
        let (address, size) = (rom.address, Size(rom.size));
        line("ROM", &format_args!("{size} at {address:#010x}, {state}"))?;
    }
    for capability in &config.capabilities {
        line(&format!("capability {:#04x}", capability.offset), capability)?;
    }
    for extended in &config.extended_capabilities {
        let (id, version) = (extended.id, extended.version);
        let (name, detail) = (extended.name, &extended.detail);
        let value = format!("{name} [{id:#06x}] version {version}{detail}");
        line(&format!("extended {:#05x}", extended.offset), &value)?;
    }
    Ok(())
}

impl Display for Bar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            BarKind::Io => "I/O ports",
            BarKind::Memory32 => "32-bit memory",
            BarKind::Memory64 => "64-bit memory",
            BarKind::Reserved => "memory of a reserved type",
        };
        let prefetchable = if self.prefetchable { ", prefetchable" } else { "" };
        write!(f, "{} of {kind}{prefetchable}, ", Size(self.size))?;
        match self.address {
            0 => write!(f, "no address yet"),
            address => write!(f, "at {address:#x}"),
        }
    }
}

impl Display for Capability {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{:#04x}]", self.name, self.id)?;
        match &self.detail {
            Detail::PowerManagement { version, state, no_soft_reset, states, pme } => {
                let state = match state {
                    0 => "D0",
                    1 => "D1",
                    2 => "D2",
                    _ => "D3hot",
                };
                let reset = if *no_soft_reset { ", no soft reset" } else { ", soft reset" };
                write!(f, " version {version}, in {state}{reset}")?;
                for (what, states) in [("also", states), ("PME# from", pme)] {
                    if !states.is_empty() {
                        write!(f, ", {what} {}", states.join(" "))?;
                    }
                }
                Ok(())
            }
            Detail::Msi { enabled, vectors, vectors_enabled, address_64, maskable } => {
                let width = if *address_64 { "64-bit" } else { "32-bit" };
                let maskable = if *maskable { ", maskable" } else { "" };
                write!(f, " {vectors_enabled} of {vectors}, {width}{maskable}, {}", on(*enabled))
            }
            Detail::MsiX { enabled, function_masked, vectors, table, pba } => {
                let masked = if *function_masked { ", masked" } else { "" };
                write!(f, " {vectors} vectors, table in BAR{} at {:#x}", table.bar, table.offset)?;
                write!(f, ", PBA in BAR{} at {:#x}, ", pba.bar, pba.offset)?;
                write!(f, "{}{masked}", on(*enabled))
            }
            Detail::Express { version, port_type, flr, max_payload } => {
                let flr = if *flr { "with FLR" } else { "no FLR" };
                write!(f, " version {version}, {port_type}, {flr}, packets to {max_payload} bytes")
            }
            Detail::Vendor { length } => write!(f, " {length} bytes"),
            Detail::Other => Ok(()),
        }
    }
}

fn on(enabled: bool) -> &'static str {
    if enabled { "enabled" } else { "disabled" }
}

fn words(flags: &[&str]) -> String {
    if flags.is_empty() { "-".into() } else { flags.join(" ").replace('_', " ") }
}

/// A number of bytes, in the largest unit that divides it.
pub(super) struct Size(pub(super) u64);

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fits = |shift: &u32| self.0 >= 1 << shift && self.0 % (1 << shift) == 0;
        match units.iter().find(|(shift, _)| fits(shift)) {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None if self.0 == 1 => write!(f, "1 byte"),
            None => write!(f, "{} bytes", self.0),
        }
    }
}
