//! Commands that a client may send: well-formed, and with luck also sensible.

use fastrand::Rng;
use vfu_proto::wire::Command;

use crate::descriptors::Descriptor;
use crate::generate::Area;
use crate::script::{Data, Message, Step};
use crate::survey::Survey;
use crate::values::{interesting, one_in};

/// Where memory is mapped: a few places, so that maps meet each other.
const PLACES: u64 = 8;
const PLACE: u64 = 0x1000;

/// Memory without a descriptor, which a device reaches by messages, begins at 0 and has this size.
/// Most addresses that a register takes are in it.
const WINDOW: u64 = 1 << 28;

const GET: u64 = 1 << 16;
const SET: u64 = 1 << 17;
const PROBE: u64 = 1 << 18;

/// Makes commands for one device.
#[derive(Debug)]
pub(crate) struct Commands<'a> {
    pub(crate) rng: &'a mut Rng,
    survey: &'a Survey,
    next_id: u16,
    /// What has been mapped: address and size.
    maps: Vec<(u64, u64)>,
}

impl<'a> Commands<'a> {
    pub(crate) fn new(rng: &'a mut Rng, survey: &'a Survey) -> Commands<'a> {
        Commands { rng, survey, next_id: 1, maps: Vec::new() }
    }

    /// A command of the area.
    pub(crate) fn any(&mut self, area: Area) -> Message {
        match area {
            Area::Dma => match self.rng.u8(0..8) {
                0..3 => self.map(),
                3..5 => self.unmap(),
                5 => self.bus_master(),
                _ => self.access(true),
            },
            Area::Regions => match self.rng.u8(0..10) {
                0..3 => self.access(false),
                3..6 => self.access(true),
                6 => self.write_multi(),
                7 => self.region_info(),
                8 => self.io_fds(),
                _ => self.info(),
            },
            Area::Irqs => match self.rng.u8(0..6) {
                0 => self.irq_info(),
                1 => self.access(true),
                _ => self.set_irqs(),
            },
            Area::Migration => match self.rng.u8(0..8) {
                0..5 => self.feature(),
                5 => self.mig_read(),
                6 => self.mig_write(),
                _ => self.map(),
            },
            Area::Fds => match self.rng.u8(0..3) {
                0 => self.map(),
                1 => self.set_irqs(),
                _ => self.whatever(),
            },
            Area::Life if one_in(self.rng, 4) => self.command(Command::DeviceReset, &[]),
            Area::Framing | Area::Version | Area::Life => self.whatever(),
        }
    }

    fn whatever(&mut self) -> Message {
        let area = self.rng.choice([Area::Dma, Area::Regions, Area::Irqs, Area::Migration]);
        self.any(area.unwrap_or(Area::Regions))
    }

    fn command(&mut self, command: Command, fields: &[u64]) -> Message {
        // Ids may be used again while they are in use.
        if !one_in(self.rng, 8) {
            self.next_id = self.next_id.wrapping_add(1) % 0xc000;
        }
        Message::new(command, self.next_id, fields)
    }

    fn map(&mut self) -> Message {
        let address = self.rng.u64(0..PLACES) * PLACE;
        let size = self.rng.u64(1..4) * PLACE;
        let flags = self.rng.u64(1..4);
        self.maps.push((address, size));
        let mut map = self.command(Command::DmaMap, &[32, flags, 0, address, size]);
        if self.rng.bool() {
            map.fds = vec![Descriptor::Memfd(size)];
            if let (true, Some(all)) = (one_in(self.rng, 4), map.fields.get_mut(1)) {
                *all |= self.rng.u64(1..3) << 2;
            }
        }
        map
    }

    fn unmap(&mut self) -> Message {
        if one_in(self.rng, 6) {
            return self.command(Command::DmaUnmap, &[24, 2, 0, 0]);
        }
        let (address, size) = self.mapped();
        let mut unmap = self.command(Command::DmaUnmap, &[24, 0, address, size]);
        if one_in(self.rng, 6) {
            let bitmap = size.div_ceil(PLACE).div_ceil(64) * 8;
            unmap.fields = vec![40 + bitmap, 1, address, size];
            unmap.data = Data::bytes([PLACE.to_le_bytes(), bitmap.to_le_bytes()].concat());
        }
        unmap
    }

    /// Maps much memory of which the server gets no descriptor.
    pub(crate) fn window(&mut self) -> Message {
        self.maps.push((0, WINDOW));
        self.command(Command::DmaMap, &[32, 3, 0, 0, WINDOW])
    }

    fn mapped(&mut self) -> (u64, u64) {
        self.rng.choice(&self.maps).copied().unwrap_or((0, PLACE))
    }

    /// Lets the device reach memory.
    pub(crate) fn bus_master(&mut self) -> Message {
        let mut write = self.command(Command::RegionWrite, &[4, 7, 2]);
        write.data = Data::bytes([6, 0]);
        write
    }

    fn region(&mut self) -> (u64, u64) {
        self.region_but(None)
    }

    fn region_but(&mut self, not: Option<usize>) -> (u64, u64) {
        let regions = self.survey.regions.iter().enumerate();
        let some = regions.filter(|(index, size)| **size > 0 && Some(*index) != not);
        let region = self.rng.choice(some.collect::<Vec<_>>());
        region.map_or((7, 256), |(index, size)| (index as u64, *size))
    }

    fn access(&mut self, write: bool) -> Message {
        let (region, size) = self.region();
        let width = 1_u64 << self.rng.u32(0..4);
        let count = match self.rng.u8(0..16) {
            0 => size.min(self.rng.u64(0..5000)),
            1 => 0,
            _ => width,
        };
        // Registers are at the beginning.
        let within = if one_in(self.rng, 4) { size } else { size.min(256) };
        let slots = within.saturating_sub(count) / width;
        let offset = self.rng.u64(0..=slots) * width;
        if !write {
            return self.command(Command::RegionRead, &[offset, region, count]);
        }
        let mut message = self.command(Command::RegionWrite, &[offset, region, count]);
        message.data = if count > 8 {
            Data::fill(self.rng.u8(..), count as u32)
        } else {
            let value = self.value().to_le_bytes();
            Data::bytes(value.get(..count as usize).unwrap_or_default())
        };
        if one_in(self.rng, 4) {
            message.flags = 0x10;
        }
        message
    }

    /// An address that a device may have been made for: a round one, or any that is mapped.
    fn address(&mut self) -> u64 {
        if one_in(self.rng, 4) {
            let (address, size) = self.mapped();
            return address + (self.rng.u64(0..size.max(1)) & !7);
        }
        1 << (2 * self.rng.u32(6..14))
    }

    /// Writes all that may be registers with addresses and sizes, and then, from the last to the
    /// first, with a command: so that a device of which nothing is known moves memory.
    pub(crate) fn search(&mut self) -> Vec<Message> {
        // The registers of the device are not those of configuration space.
        let (region, size) = self.region_but(Some(7));
        let width = if one_in(self.rng, 3) { 4 } else { 8 };
        let far = if one_in(self.rng, 4) { self.rng.u64(0..=size / 256) * 256 } else { 0 };
        let end = size.min(far + 256);
        let offsets: Vec<_> = (far..end).step_by(width).collect();
        let command = self.rng.u64(1..4);
        let mut found = Vec::new();
        for offset in &offsets {
            let value = match self.rng.u8(0..8) {
                0..5 => self.address(),
                _ => self.rng.u64(1..64) * 4,
            };
            found.push(self.write(region, *offset, width, value));
        }
        for offset in offsets.iter().rev() {
            found.push(self.write(region, *offset, width, command));
            if one_in(self.rng, 4) {
                found.push(self.command(Command::RegionRead, &[*offset, region, width as u64]));
            }
        }
        found
    }

    /// Has the device reach memory as it was seen to do, or nearly so.
    pub(crate) fn ring(&mut self) -> Vec<Step> {
        let doorbell = self.rng.choice(&self.survey.doorbells).cloned().unwrap_or_default();
        let mut steps = Vec::new();
        for mut message in doorbell {
            message.id = self.command(Command::DeviceReset, &[]).id;
            if !message.data.is_empty() && one_in(self.rng, 5) {
                let value = if self.rng.bool() { self.address() } else { self.value() };
                let width = message.data.to_vec().len();
                message.data = Data::bytes(value.to_le_bytes().get(..width).unwrap_or_default());
            }
            steps.push(Step::Send(Box::new(message)));
        }
        if !one_in(self.rng, 4) {
            steps.push(Step::Listen);
        }
        steps
    }

    /// Whether there is anything to ring.
    pub(crate) fn can_ring(&self) -> bool {
        !self.survey.doorbells.is_empty()
    }

    fn write(&mut self, region: u64, offset: u64, width: usize, value: u64) -> Message {
        let mut message = self.command(Command::RegionWrite, &[offset, region, width as u64]);
        message.data = Data::bytes(value.to_le_bytes().get(..width).unwrap_or_default());
        message
    }

    /// Writes of registers that are neighbours, as a driver makes them to start something.
    pub(crate) fn sweep(&mut self) -> Vec<Message> {
        let (region, size) = self.region();
        let width = if self.rng.bool() { 4 } else { 8 };
        let slots = size.min(256) / width;
        let within = if self.rng.bool() { slots.min(4) } else { slots };
        let first = self.rng.u64(0..within.max(1));
        let count = self.rng.u64(2..9).min(slots.saturating_sub(first));
        let mut write = |at: u64| {
            // Most registers take addresses and lengths; the last one says what to do.
            let value = match self.rng.u8(0..4) {
                _ if at + 1 == count => self.rng.u64(1..5),
                0..2 => self.mapped().0,
                2 => self.rng.u64(1..64) * 4,
                _ => self.value(),
            };
            self.write(region, (first + at) * width, width as usize, value)
        };
        (0..count).map(&mut write).collect()
    }

    /// What drivers write into registers: commands, sizes, addresses.
    fn value(&mut self) -> u64 {
        match self.rng.u8(0..8) {
            0..2 => self.rng.u64(0..4),
            2 => self.rng.u64(0..256),
            3..5 => self.mapped().0 + (self.rng.u64(0..PLACE) & !7),
            5 => self.rng.u64(0..PLACE),
            _ => interesting(self.rng),
        }
    }

    fn write_multi(&mut self) -> Message {
        let count = self.rng.u64(1..5);
        let mut data = Vec::new();
        for _ in 0..count {
            let (region, size) = self.region();
            let width = 1_u32 << self.rng.u32(0..4);
            let offset = self.rng.u64(0..=size.saturating_sub(8).min(256)) & !7;
            data.extend(offset.to_le_bytes());
            data.extend((region as u32).to_le_bytes());
            data.extend(width.to_le_bytes());
            data.extend(self.value().to_le_bytes());
        }
        let mut message = self.command(Command::RegionWriteMulti, &[count]);
        message.data = Data::bytes(data);
        message
    }

    fn info(&mut self) -> Message {
        self.command(Command::DeviceGetInfo, &[16, 0, 0, 0])
    }

    fn region_info(&mut self) -> Message {
        let index = self.rng.u64(0..10);
        let argsz = self.rng.choice([32, 33, 47, 64, 80, 4096, 0xffff_ffff]).unwrap_or(32);
        self.command(Command::DeviceGetRegionInfo, &[argsz, 0, index, 0, 0, 0])
    }

    fn io_fds(&mut self) -> Message {
        let index = self.rng.u64(0..10);
        let argsz = self.rng.choice([16, 56, 64, 4096, 1 << 20]).unwrap_or(16);
        self.command(Command::DeviceGetRegionIoFds, &[argsz, 0, index, 0])
    }

    fn irq_info(&mut self) -> Message {
        let index = self.rng.u64(0..6);
        self.command(Command::DeviceGetIrqInfo, &[16, 0, index, 0])
    }

    fn set_irqs(&mut self) -> Message {
        let index = self.rng.usize(0..5);
        let vectors = self.survey.irqs.get(index).copied().unwrap_or(0);
        let start = self.rng.u32(0..=vectors.saturating_sub(1).min(8));
        let count = self.rng.u32(0..=vectors.saturating_sub(start).min(16));
        let data = 1_u64 << self.rng.u32(0..3);
        let action = 1_u64 << (3 + self.rng.u32(0..3));
        let fields = [20, data | action, index as u64, start.into(), count.into()];
        let mut message = self.command(Command::DeviceSetIrqs, &fields);
        match data {
            2 => message.data = Data::bytes((0..count).map(|n| (n % 2) as u8).collect::<Vec<_>>()),
            4 if !one_in(self.rng, 4) => {
                message.fds = vec![Descriptor::Eventfd; count.min(16) as usize];
            }
            _ => {}
        }
        if let (2, Some(argsz)) = (data, message.fields.first_mut()) {
            *argsz += u64::from(count);
        }
        message
    }

    fn feature(&mut self) -> Message {
        let feature = self.rng.choice([1, 2, 2, 2, 6, 7, 8, 8]).unwrap_or(1);
        let (mut op, mut argsz) = (GET, 16);
        let mut data = Vec::new();
        match feature {
            2 if !one_in(self.rng, 4) => {
                op = SET;
                data.extend(self.rng.u32(1..7).to_le_bytes());
                data.extend([0; 4]);
            }
            6 => {
                op = SET;
                data.extend(PLACE.to_le_bytes());
                let ranges = self.rng.u32(0..3);
                data.extend(u64::from(ranges).to_le_bytes());
                for _ in 0..ranges {
                    let (address, size) = self.mapped();
                    data.extend(address.to_le_bytes());
                    data.extend(size.to_le_bytes());
                }
                argsz = 8 + data.len() as u64;
            }
            7 => op = SET,
            8 => {
                let (address, size) = self.mapped();
                let page = self.rng.choice([PLACE, PLACE, PLACE / 4, PLACE * 2]).unwrap_or(PLACE);
                for value in [address, size, page] {
                    data.extend(value.to_le_bytes());
                }
                argsz = 8 + 24 + size.div_ceil(page).div_ceil(64) * 8;
            }
            _ => {}
        }
        if one_in(self.rng, 10) {
            op |= PROBE;
        }
        let mut message = self.command(Command::DeviceFeature, &[argsz, feature | op]);
        message.data = Data::bytes(data);
        message
    }

    fn mig_read(&mut self) -> Message {
        let size = self.rng.choice([1, 8, 4096, 65536, 1 << 20]).unwrap_or(1);
        self.command(Command::MigDataRead, &[8 + size, size])
    }

    fn mig_write(&mut self) -> Message {
        let size = self.rng.u32(0..200);
        let mut message = self.command(Command::MigDataWrite, &[8 + u64::from(size), size.into()]);
        message.data = if self.rng.bool() {
            Data::fill(self.rng.u8(..), size)
        } else {
            Data::bytes((0..size).map(|_| self.rng.u8(..)).collect::<Vec<_>>())
        };
        message
    }
}
