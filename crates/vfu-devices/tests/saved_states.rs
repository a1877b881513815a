//! States from anywhere: whatever they hold, no device panics, and what it has taken it can run with.

use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use vfu::migration::Migration;
use vfu::{Access, Device, Reset, Server};
use vfu_devices::{Model, Options};

/// A device without a client: its DMA fails.
fn device(model: Model) -> Box<dyn Device + Send> {
    let (socket, _) = UnixStream::pair().unwrap();
    let bound = Server::builder(model.pci()).fd(socket.into()).unwrap();
    let handle = bound.serve(|handle| model.device(handle, &Options::default())).unwrap().handle();
    model.device(handle, &Options::default())
}

/// Those that can be moved.
fn models() -> impl Iterator<Item = Model> {
    Model::ALL.into_iter().filter(|model| device(*model).migration().is_some())
}

fn migration(device: &mut Box<dyn Device + Send>) -> &mut dyn Migration {
    device.migration().expect("it can be moved")
}

/// Puts a state in, runs with it if it is one, and resets the device.
fn load(model: Model, version: u32, state: &[u8]) -> bool {
    let mut device = device(model);
    let loaded = migration(&mut device).load(version, state).is_ok();
    if loaded {
        let again = migration(&mut device).save().unwrap();
        migration(&mut device).load(version, &again).expect("what it gives it takes");
        migration(&mut device).start().unwrap();
        for offset in (0..0x100).step_by(4) {
            for region in [0, 2] {
                let at = Access { region, offset };
                let _whatever = device.region_read(at, &mut [0; 4]);
                let _whatever = device.region_write(at, &[1, 0, 0, 0]);
            }
        }
        migration(&mut device).stop().unwrap();
        assert!(migration(&mut device).save().unwrap().len() <= migration(&mut device).max_len());
    }
    device.reset(Reset::Device);
    migration(&mut device).start().unwrap();
    loaded
}

/// The state of a device in which something has happened.
fn saved(model: Model) -> Vec<u8> {
    let mut device = device(model);
    migration(&mut device).stop().unwrap();
    for (offset, value) in [(0x04, 5_u32), (0x08, 6), (0x20, 0x80), (0x90, 64), (0x18, 64)] {
        for region in [0, 2] {
            let _none = device.region_write(Access { region, offset }, &value.to_le_bytes());
        }
    }
    let run = match model {
        Model::Edu => (0x98, 1_u32),
        _ => (0x20, 2),
    };
    let _none = device.region_write(Access { region: 0, offset: run.0 }, &run.1.to_le_bytes());
    migration(&mut device).save().unwrap()
}

#[test]
fn a_state_of_each_is_taken() {
    for model in [Model::DmaTest, Model::Edu, Model::Idio16] {
        assert!(models().any(|movable| movable == model), "{model}");
    }
    for model in models() {
        let version = migration(&mut device(model)).version();
        assert!(load(model, version, &saved(model)), "{model}");
        assert!(!load(model, version, &[]), "{model}");
        for other in models().filter(|other| *other != model) {
            assert!(!load(model, version, &saved(other)), "{other} in {model}");
        }
    }
}

#[test]
fn no_state_that_is_cut_short_is_taken() {
    for model in models() {
        let state = saved(model);
        for len in (0..state.len()).step_by(state.len().div_ceil(300)) {
            assert!(!load(model, 1, &state[..len]), "{model}, {len} bytes");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_refused(state: Vec<u8>, version: u32) {
        for model in models() {
            prop_assert!(!load(model, version, &state));
            let _whatever = migration(&mut device(model)).load_early(version, &state);
        }
    }

    #[test]
    fn damage_does_no_harm(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        for model in models() {
            let mut state = saved(model);
            for (at, byte) in &damage {
                let at = at.index(state.len());
                state[at] = *byte;
            }
            let _whatever = load(model, 1, &state);
        }
    }
}
