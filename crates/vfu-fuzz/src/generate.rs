//! The cases of a seed: sequences that a client may send, with something wrong in them.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

use crate::commands::Commands;
use crate::mutate::{mutate, mutate_version};
use crate::script::{Connection, DmaAnswer, Message, Script, Step};
use crate::survey::{JSON, JSON_TWIN, Survey, version};
use crate::values::one_in;

/// What is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Sizes, types, flags and ids in headers; messages in pieces; stray replies.
    Framing,
    /// Descriptors: of all kinds, too many, where none belong.
    Fds,
    /// VERSION and its JSON.
    Version,
    /// Maps, and how DMA commands are answered.
    Dma,
    /// Registers and configuration space, and information on them.
    Regions,
    /// Interrupts.
    Irqs,
    /// Features, migration states and data, dirty pages.
    Migration,
    /// Ends at any byte, resets, many connections.
    Life,
}

impl Area {
    /// All of them, with their names.
    pub const ALL: [(Area, &'static str); 8] = [
        (Area::Framing, "framing"),
        (Area::Fds, "fds"),
        (Area::Version, "version"),
        (Area::Dma, "dma"),
        (Area::Regions, "regions"),
        (Area::Irqs, "irqs"),
        (Area::Migration, "migration"),
        (Area::Life, "life"),
    ];
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Area::ALL.iter().find(|(area, _)| area == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Area {
    type Err = String;

    fn from_str(name: &str) -> Result<Area, String> {
        let known = Area::ALL.iter().find(|(_, known)| *known == name);
        known.map(|(area, _)| *area).ok_or_else(|| {
            let names: Vec<_> = Area::ALL.iter().map(|(_, name)| *name).collect();
            format!("it can be {}", names.join(", "))
        })
    }
}

/// The numbers of one case of a seed. Those of neighbours have nothing in common.
pub(crate) fn rng_of(seed: u64, case: u64) -> Rng {
    // The mixing of splitmix64.
    let mut mixed = seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    Rng::with_seed(mixed ^ mixed >> 31)
}

/// Case number `case` of a seed. The same arguments give the same case.
pub fn case(seed: u64, case: u64, areas: &[Area], survey: &Survey) -> Script {
    let mut rng = rng_of(seed, case);
    let area = rng.choice(areas).copied().unwrap_or(Area::Framing);
    let several = area == Area::Life && one_in(&mut rng, 3);
    let count = if several { rng.usize(2..5) } else { 1 };
    let connections = (0..count).map(|_| connection(&mut rng, area, survey)).collect();
    Script { connections }
}

fn connection(rng: &mut Rng, area: Area, survey: &Survey) -> Connection {
    let mut steps = vec![];
    let with_twin = if area == Area::Dma { rng.bool() } else { one_in(rng, 3) };
    let json = if with_twin { JSON_TWIN } else { JSON };
    let mut first = version(json);
    if area == Area::Version {
        mutate_version(rng, &mut first);
    }
    steps.push(send(first));
    if !one_in(rng, 6) {
        steps.push(Step::Wait);
    }
    let count = rng.usize(0..12);
    let mut commands = Commands::new(rng, survey);
    // Where messages to memory go on while something else happens.
    let reaches = matches!(area, Area::Dma | Area::Migration | Area::Life);
    let window = reaches && commands.rng.bool();
    if window || commands.rng.bool() {
        steps.push(send(commands.bus_master()));
    }
    if window {
        steps.push(send(commands.window()));
    }
    for _ in 0..count {
        if reaches && commands.can_ring() && one_in(commands.rng, 3) {
            steps.extend(commands.ring());
        } else if area == Area::Dma && one_in(commands.rng, 4) {
            steps.extend(commands.sweep().into_iter().map(send));
        }
        let mut message = commands.any(area);
        if area == Area::Life || commands.rng.bool() {
            steps.push(send(message));
        } else {
            mutate(commands.rng, area, &mut message);
            let is_last = message.half.is_some();
            steps.push(send(message));
            if is_last {
                break;
            }
        }
        if one_in(commands.rng, 5) {
            steps.push(Step::Wait);
        }
    }
    if area == Area::Life {
        cut_short(rng, &mut steps);
    }
    let hostile = reaches && rng.bool();
    let dma = if hostile { answer(rng) } else { DmaAnswer::Serve };
    let dma_after = if hostile && one_in(rng, 4) { rng.u32(1..4) } else { 0 };
    Connection { dma, dma_after, late: one_in(rng, 10), steps }
}

/// An answer other than the right one. To wait for one that never comes takes long, so it is rare.
fn answer(rng: &mut Rng) -> DmaAnswer {
    let (answer, _) = rng.choice(DmaAnswer::ALL).unwrap_or((DmaAnswer::Serve, ""));
    if answer == DmaAnswer::Never && !one_in(rng, 20) { DmaAnswer::Refuse } else { answer }
}

/// Ends the connection at any byte of any message.
fn cut_short(rng: &mut Rng, steps: &mut Vec<Step>) {
    steps.truncate(rng.usize(0..=steps.len()));
    if let Some(Step::Send(last)) = steps.last_mut() {
        if rng.bool() {
            let len = last.bytes().len();
            last.half = u32::try_from(rng.usize(0..=len)).ok();
        }
    }
}

fn send(message: Message) -> Step {
    Step::Send(Box::new(message))
}

#[cfg(test)]
mod tests {
    use vfu_proto::wire::Command;

    use super::*;

    #[test]
    fn cases_depend_on_nothing_but_the_seed() {
        let doorbell = Message::new(Command::RegionWrite, 1, &[0, 0, 4]);
        let survey = Survey {
            regions: vec![4096; 9],
            irqs: vec![1; 5],
            doorbells: vec![vec![doorbell]],
            ..Survey::default()
        };
        let all: Vec<_> = Area::ALL.iter().map(|(area, _)| *area).collect();
        for number in 0..2000 {
            let script = case(7, number, &all, &survey);
            assert_eq!(script, case(7, number, &all, &survey));
            assert_eq!(script.to_string().parse(), Ok(script), "as text, too");
        }
        assert_ne!(case(7, 0, &all, &survey), case(8, 0, &all, &survey));
    }

    #[test]
    fn areas_have_names() {
        for (area, name) in Area::ALL {
            assert_eq!((area.to_string().as_str(), name.parse()), (name, Ok(area)));
        }
        assert!("pci".parse::<Area>().unwrap_err().contains("framing, fds"));
    }
}
