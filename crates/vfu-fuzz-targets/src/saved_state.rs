//! The state of each device that can be moved, from anywhere: it is refused, or the device can run
//! with it.

use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use vfu::migration::Migration;
use vfu::{Access, Device, Handle, Reset, Server};
use vfu_devices::{Model, Options};

use crate::script::Script;

pub(crate) const ABOUT: &str = "saved states of every device that can be moved";

/// Those that can.
const MODELS: [Model; 3] = [Model::DmaTest, Model::Edu, Model::Idio16];
/// The longest state that is tried, in bytes.
const LONGEST: usize = 16 << 10;

pub(crate) fn run(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let index = script.below(MODELS.len());
    let (model, handle) = handle(index);
    let mut device = model.device(handle.clone(), &Options::default());
    // A device in which something has happened.
    for _ in 0..script.below(4) {
        touch(&mut device, &mut script);
    }
    let mut state = if script.one_in(4) {
        script.bytes(64).to_vec()
    } else {
        // A device that runs can't be saved.
        migration(&mut device).stop().expect("it stops");
        migration(&mut device).save().expect("it is stopped")
    };
    let version = if script.one_in(8) { script.u32() } else { 1 };
    let original = state.clone();
    for _ in 0..script.below(6) {
        edit(&mut state, &mut script);
    }
    state.truncate(LONGEST);
    let mut there = model.device(handle, &Options::default());
    let early = script.one_in(8);
    if early {
        let _whatever = migration(&mut there).load_early(version, &state);
    }
    let loaded = migration(&mut there).load(version, &state);
    if loaded.is_ok() {
        let again = migration(&mut there).save().expect("it is stopped");
        assert!(again.len() <= migration(&mut there).max_len());
        migration(&mut there).load(1, &again).expect("what it gives it takes");
        assert_eq!(migration(&mut there).save().expect("as before"), again);
        migration(&mut there).start().expect("it starts");
        while !script.is_empty() {
            touch(&mut there, &mut script);
        }
        migration(&mut there).stop().expect("it stops");
        migration(&mut there).save().expect("it is stopped");
    } else {
        let own = state == original && original.len() > 64 && version == 1 && !early;
        assert!(!own, "it does not take its own state: {loaded:?}");
    }
    there.reset(Reset::Device);
    migration(&mut there).start().expect("a reset heals it");
    crate::steps::add(1);
}

/// A handle without a client: DMA fails. One for each model, for as long as the process lasts.
fn handle(index: usize) -> (Model, Handle) {
    static HANDLES: OnceLock<Vec<Handle>> = OnceLock::new();
    let handles = HANDLES.get_or_init(|| {
        let handle = |model: Model| {
            let (socket, _) = UnixStream::pair().expect("sockets");
            let bound = Server::builder(model.pci()).fd(socket.into()).expect("a server");
            let server = bound.serve(|handle| model.device(handle, &Options::default()));
            server.expect("a device").handle()
        };
        MODELS.into_iter().map(handle).collect()
    });
    (MODELS[index], handles[index].clone())
}

fn migration(device: &mut Box<dyn Device + Send>) -> &mut dyn Migration {
    device.migration().expect("it can be moved")
}

/// One access of a driver.
fn touch(device: &mut Box<dyn Device + Send>, script: &mut Script<'_>) {
    let at = Access { region: script.pick(&[0, 2]), offset: u64::from(script.u8()) & !3 };
    if script.one_in(3) {
        let _whatever = device.region_read(at, &mut [0; 4]);
    } else {
        let value = script.number() as u32;
        let _whatever = device.region_write(at, &value.to_le_bytes());
    }
}

fn edit(state: &mut Vec<u8>, script: &mut Script<'_>) {
    let len = state.len();
    let at = if script.one_in(2) {
        script.below(len + 1)
    } else {
        usize::from(script.u16()) % (len + 1)
    };
    match script.below(6) {
        0 => state.truncate(at),
        1 => drop(state.drain(at..len.min(at + script.below(9)))),
        2 => {
            let len = script.below(9);
            state.splice(at..at, script.bytes(len).iter().copied()).for_each(drop);
        }
        3 => {
            let number = script.number().to_le_bytes();
            state.iter_mut().skip(at).zip(number).for_each(|(to, from)| *to = from);
        }
        _ => state.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << script.below(8)),
    }
}
