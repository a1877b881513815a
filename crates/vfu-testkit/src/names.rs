//! Names of PCI's numbers.

/// The name of a capability (PCI Code and ID Assignment Specification, section 2).
pub(crate) fn capability(id: u8) -> &'static str {
    match id {
        0x01 => "Power Management",
        0x02 => "AGP",
        0x03 => "Vital Product Data",
        0x04 => "Slot Identification",
        0x05 => "MSI",
        0x06 => "CompactPCI Hot Swap",
        0x07 => "PCI-X",
        0x09 => "Vendor Specific",
        0x0d => "Bridge Subsystem IDs",
        0x10 => "PCI Express",
        0x11 => "MSI-X",
        0x12 => "SATA",
        0x13 => "Advanced Features",
        0x14 => "Enhanced Allocation",
        _ => "Unknown",
    }
}

/// The name of an extended capability (the same specification, section 3).
pub(crate) fn extended(id: u16) -> &'static str {
    match id {
        0x0001 => "Advanced Error Reporting",
        0x0002 | 0x0009 => "Virtual Channel",
        0x0003 => "Device Serial Number",
        0x0004 => "Power Budgeting",
        0x000b => "Vendor Specific",
        0x000d => "Access Control Services",
        0x000e => "Alternative Routing-ID",
        0x000f => "Address Translation Services",
        0x0010 => "SR-IOV",
        0x0013 => "Page Requests",
        0x0015 => "Resizable BAR",
        0x0018 => "Latency Tolerance Reporting",
        0x001b => "PASID",
        0x001e => "L1 PM Substates",
        0x0023 => "Designated Vendor Specific",
        _ => "Unknown",
    }
}

/// The name of a class code's upper two bytes, as `lspci` shows it.
pub(crate) fn class(class: u32) -> &'static str {
    match (class >> 16 & 0xff, class >> 8 & 0xff) {
        (0x01, 0x08) => "Non-Volatile memory controller",
        (0x01, _) => "Mass storage controller",
        (0x02, 0x00) => "Ethernet controller",
        (0x02, _) => "Network controller",
        (0x03, _) => "Display controller",
        (0x04, _) => "Multimedia controller",
        (0x05, 0x00) => "RAM memory",
        (0x05, _) => "Memory controller",
        (0x06, _) => "Bridge",
        (0x07, _) => "Communication controller",
        (0x08, 0x80) => "System peripheral",
        (0x08, _) => "Generic system peripheral",
        (0x09, _) => "Input device controller",
        (0x0c, 0x03) => "USB controller",
        (0x0c, _) => "Serial bus controller",
        (0x0d, _) => "Wireless controller",
        (0x10, _) => "Encryption controller",
        (0x11, _) => "Signal processing controller",
        (0x12, _) => "Processing accelerator",
        (0x00, _) | (0xff, _) => "Unclassified device",
        _ => "Device",
    }
}

/// The name of a PCI Express device type (PCIe 7.5.3.2).
pub(crate) fn express(kind: u8) -> &'static str {
    match kind {
        0x0 => "Endpoint",
        0x1 => "Legacy Endpoint",
        0x4 => "Root Port",
        0x5 => "Upstream Port",
        0x6 => "Downstream Port",
        0x9 => "Root Complex Integrated Endpoint",
        _ => "other device",
    }
}

/// A size as people say it: whole KiB, MiB, GiB, or bytes.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes % unit == 0) {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}
