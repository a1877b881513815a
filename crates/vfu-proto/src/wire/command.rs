//! The numbers and names of the commands.

use std::fmt;

macro_rules! commands {
    ($($(#[$meta:meta])* $variant:ident = $value:literal, $name:literal;)*) => {
        /// A command of the protocol (specification, "Commands").
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        #[repr(u16)]
        pub enum Command {
            $($(#[$meta])* $variant = $value,)*
        }

        impl Command {
            /// Every command, in the order of their numbers.
            pub const ALL: &'static [Command] = &[$(Command::$variant,)*];

            /// The command with this number, if there is one. 14 was a command once and is none.
            pub const fn from_u16(number: u16) -> Option<Command> {
                match number {
                    $($value => Some(Command::$variant),)*
                    _ => None,
                }
            }

            /// The name in the specification, such as `"REGION_READ"`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Command::$variant => $name,)*
                }
            }
        }
    };
}

commands! {
    /// Opens the session and negotiates capabilities.
    Version = 1, "VERSION";
    /// Announces memory that the device may use.
    DmaMap = 2, "DMA_MAP";
    /// Takes such memory back.
    DmaUnmap = 3, "DMA_UNMAP";
    /// Asks what the device is.
    DeviceGetInfo = 4, "DEVICE_GET_INFO";
    /// Asks for the size and features of a region.
    DeviceGetRegionInfo = 5, "DEVICE_GET_REGION_INFO";
    /// Asks for the ioeventfds and ioregionfds of a region.
    DeviceGetRegionIoFds = 6, "DEVICE_GET_REGION_IO_FDS";
    /// Asks for the number of vectors of an interrupt type.
    DeviceGetIrqInfo = 7, "DEVICE_GET_IRQ_INFO";
    /// Assigns, masks or triggers interrupts.
    DeviceSetIrqs = 8, "DEVICE_SET_IRQS";
    /// Reads from a region.
    RegionRead = 9, "REGION_READ";
    /// Writes to a region.
    RegionWrite = 10, "REGION_WRITE";
    /// The device reads the memory of the client.
    DmaRead = 11, "DMA_READ";
    /// The device writes the memory of the client.
    DmaWrite = 12, "DMA_WRITE";
    /// Resets the device.
    DeviceReset = 13, "DEVICE_RESET";
    /// Many small writes to regions in one message.
    RegionWriteMulti = 15, "REGION_WRITE_MULTI";
    /// Gets, sets or probes a feature of the device.
    DeviceFeature = 16, "DEVICE_FEATURE";
    /// Reads the device's migration stream.
    MigDataRead = 17, "MIG_DATA_READ";
    /// Writes the device's migration stream.
    MigDataWrite = 18, "MIG_DATA_WRITE";
}

impl Command {
    /// The number on the wire.
    pub const fn as_u16(self) -> u16 {
        self as u16
    }

    /// True if the server sends this command, false if the client does.
    pub const fn is_from_server(self) -> bool {
        matches!(self, Command::DmaRead | Command::DmaWrite)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
