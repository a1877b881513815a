//! Offsets and bits of the registers, by their names in the specification.
//!
//! Header registers are offsets in configuration space; capability registers are offsets from the
//! start of the capability.

/// Vendor ID, 2 bytes (PCI 6.2.1).
pub const VENDOR_ID: usize = 0x00;
/// Device ID, 2 bytes (PCI 6.2.1).
pub const DEVICE_ID: usize = 0x02;
/// Command, 2 bytes (PCI 6.2.2).
pub const COMMAND: usize = 0x04;
/// Status, 2 bytes (PCI 6.2.3).
pub const STATUS: usize = 0x06;
/// Revision ID, 1 byte, followed by the 3 bytes of Class Code (PCI 6.2.1).
pub const REVISION_ID: usize = 0x08;
/// Class Code, 3 bytes: programming interface, sub-class, base class (PCI 6.2.1).
pub const CLASS_CODE: usize = 0x09;
/// Cache Line Size, 1 byte (PCI 6.2.4).
pub const CACHE_LINE_SIZE: usize = 0x0c;
/// Latency Timer, 1 byte (PCI 6.2.4, PCIe 7.5.1.1.8).
pub const LATENCY_TIMER: usize = 0x0d;
/// Header Type, 1 byte (PCI 6.2.1).
pub const HEADER_TYPE: usize = 0x0e;
/// Built-in self test, 1 byte (PCI 6.2.4).
pub const BIST: usize = 0x0f;
/// First of six Base Address Registers, 4 bytes each (PCI 6.2.5.1).
pub const BAR0: usize = 0x10;
/// CardBus CIS Pointer, 4 bytes (PCI 6.2.4).
pub const CARDBUS_CIS: usize = 0x28;
/// Subsystem Vendor ID, 2 bytes (PCI 6.2.4).
pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
/// Subsystem ID, 2 bytes (PCI 6.2.4).
pub const SUBSYSTEM_ID: usize = 0x2e;
/// Expansion ROM Base Address, 4 bytes (PCI 6.2.5.2).
pub const EXPANSION_ROM: usize = 0x30;
/// Capabilities Pointer, 1 byte (PCI 6.7).
pub const CAPABILITIES_POINTER: usize = 0x34;
/// Interrupt Line, 1 byte (PCI 6.2.4).
pub const INTERRUPT_LINE: usize = 0x3c;
/// Interrupt Pin, 1 byte (PCI 6.2.4).
pub const INTERRUPT_PIN: usize = 0x3d;
/// Where the device dependent region, and here the first capability, begins (PCI 6.1).
pub const DEVICE_DEPENDENT: usize = 0x40;
/// Where the extended capabilities begin (PCIe 7.6.1).
pub const EXTENDED: usize = 0x100;

/// Command: I/O Space Enable.
pub const COMMAND_IO: u16 = 1 << 0;
/// Command: Memory Space Enable.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: Bus Master Enable.
pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command: Parity Error Response.
pub const COMMAND_PARITY: u16 = 1 << 6;
/// Command: SERR# Enable.
pub const COMMAND_SERR: u16 = 1 << 8;
/// Command: Interrupt Disable (INTx only).
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;

/// Status: Interrupt Status, set while the function asks for INTx; read-only.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status: Capabilities List, set when there is one; read-only.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Status: Master Data Parity Error, Signaled and Received Target Abort, Received Master Abort,
/// Signaled System Error and Detected Parity Error; each is cleared by writing 1.
pub const STATUS_ERRORS: u16 = 0xf900;

/// Expansion ROM Base Address: Expansion ROM Enable.
pub const ROM_ENABLE: u32 = 1 << 0;

/// Capability ID of PCI Power Management (PM 3.2).
pub const CAP_PM: u8 = 0x01;
/// Capability ID of MSI (PCI 6.8.1).
pub const CAP_MSI: u8 = 0x05;
/// Capability ID of a vendor specific capability (PCI appendix H).
pub const CAP_VENDOR: u8 = 0x09;
/// Capability ID of PCI Express (PCIe 7.5.3).
pub const CAP_PCIE: u8 = 0x10;
/// Capability ID of MSI-X (PCI 6.8.2).
pub const CAP_MSIX: u8 = 0x11;

/// PM: Power Management Capabilities, 2 bytes (PM 3.2.3).
pub const PM_CAPABILITIES: usize = 0x02;
/// PM: Power Management Control/Status, 2 bytes (PM 3.2.4).
pub const PM_CONTROL: usize = 0x04;
/// PMCSR: PME_Status, cleared by writing 1; sticky.
pub const PM_CONTROL_PME_STATUS: u16 = 1 << 15;

/// MSI and MSI-X: Message Control, 2 bytes (PCI 6.8.1.3, 6.8.2.3).
pub const MESSAGE_CONTROL: usize = 0x02;
/// MSI-X: Table Offset and Table BIR, 4 bytes (PCI 6.8.2.4).
pub const MSIX_TABLE: usize = 0x04;
/// MSI-X: PBA Offset and PBA BIR, 4 bytes (PCI 6.8.2.5).
pub const MSIX_PBA: usize = 0x08;

/// PCI Express: PCI Express Capabilities, 2 bytes (PCIe 7.5.3.2).
pub const PCIE_CAPABILITIES: usize = 0x02;
/// PCI Express: Device Capabilities, 4 bytes (PCIe 7.5.3.3).
pub const DEVICE_CAPABILITIES: usize = 0x04;
/// PCI Express: Device Control, 2 bytes (PCIe 7.5.3.4).
pub const DEVICE_CONTROL: usize = 0x08;
/// PCI Express: Device Status, 2 bytes (PCIe 7.5.3.5).
pub const DEVICE_STATUS: usize = 0x0a;
/// PCI Express: Link Capabilities, 4 bytes (PCIe 7.5.3.6).
pub const LINK_CAPABILITIES: usize = 0x0c;
/// PCI Express: Link Control, 2 bytes (PCIe 7.5.3.7).
pub const LINK_CONTROL: usize = 0x10;
/// PCI Express: Link Status, 2 bytes (PCIe 7.5.3.8).
pub const LINK_STATUS: usize = 0x12;
/// PCI Express: Device Capabilities 2, 4 bytes (PCIe 7.5.3.15).
pub const DEVICE_CAPABILITIES_2: usize = 0x24;
/// PCI Express: Device Control 2, 2 bytes (PCIe 7.5.3.16).
pub const DEVICE_CONTROL_2: usize = 0x28;
/// PCI Express: Link Capabilities 2, 4 bytes (PCIe 7.5.3.18).
pub const LINK_CAPABILITIES_2: usize = 0x2c;

/// Device Capabilities: Function Level Reset Capability.
pub const DEVICE_CAPABILITIES_FLR: u32 = 1 << 28;
/// Device Control: Initiate Function Level Reset; always reads 0.
pub const DEVICE_CONTROL_FLR: u16 = 1 << 15;
/// Device Status: Correctable, Non-Fatal and Fatal Error Detected, Unsupported Request Detected;
/// each is cleared by writing 1.
pub const DEVICE_STATUS_ERRORS: u16 = 0x000f;
/// Device Status: Transactions Pending; read-only.
pub const DEVICE_STATUS_PENDING: u16 = 1 << 5;

/// Extended Capability ID of Advanced Error Reporting (PCIe 7.8.4).
pub const EXT_AER: u16 = 0x0001;
/// Extended Capability ID of Device Serial Number (PCIe 7.9.3).
pub const EXT_SERIAL: u16 = 0x0003;
/// Extended Capability ID of a vendor specific capability (PCIe 7.9.5).
pub const EXT_VENDOR: u16 = 0x000b;
/// Extended Capability ID of Address Translation Services (ATS 1.1, 5.1).
pub const EXT_ATS: u16 = 0x000f;
/// Extended Capability ID of Single Root I/O Virtualization (SR-IOV 1.1, 3.3).
pub const EXT_SRIOV: u16 = 0x0010;
/// Extended Capability ID of Resizable BAR (PCIe 7.8.6).
pub const EXT_REBAR: u16 = 0x0015;
/// Extended Capability ID of Process Address Space ID (PCIe 7.8.8).
pub const EXT_PASID: u16 = 0x001b;

/// AER: Uncorrectable Error Status, 4 bytes (PCIe 7.8.4.2).
pub const AER_UNCORRECTABLE_STATUS: usize = 0x04;
/// AER: Uncorrectable Error Mask, 4 bytes (PCIe 7.8.4.3).
pub const AER_UNCORRECTABLE_MASK: usize = 0x08;
/// AER: Uncorrectable Error Severity, 4 bytes (PCIe 7.8.4.4).
pub const AER_UNCORRECTABLE_SEVERITY: usize = 0x0c;
/// AER: Correctable Error Status, 4 bytes (PCIe 7.8.4.5).
pub const AER_CORRECTABLE_STATUS: usize = 0x10;
/// AER: Correctable Error Mask, 4 bytes (PCIe 7.8.4.6).
pub const AER_CORRECTABLE_MASK: usize = 0x14;
/// AER: Advanced Error Capabilities and Control, 4 bytes (PCIe 7.8.4.7).
pub const AER_CONTROL: usize = 0x18;
/// AER: Header Log, 16 bytes (PCIe 7.8.4.8).
pub const AER_HEADER_LOG: usize = 0x1c;

/// Resizable BAR: the first Resizable BAR Capability, 4 bytes; one every 8 bytes (PCIe 7.8.6.2).
pub const REBAR_CAPABILITY: usize = 0x04;
/// Resizable BAR: the first Resizable BAR Control, 4 bytes; one every 8 bytes (PCIe 7.8.6.3).
pub const REBAR_CONTROL: usize = 0x08;
