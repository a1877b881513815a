//! A device that is stopped and started while its threads do DMA.

use shuttle::thread;
use vfu_proto::wire::{DeviceState, FeatureOp, FeatureRequest, Request};

use super::device::{PLAIN, STUBBORN, pattern};
use super::peer::Peer;
use super::server::{Serving, server};
use super::{check, no_timeouts};

fn set(peer: &mut Peer, state: DeviceState) -> u16 {
    let op = FeatureOp::SetDeviceState { state, data_fd: 0 };
    peer.ask(&Request::DeviceFeature(FeatureRequest::new(op)))
}

/// A stop ends what is under way and lets nothing begin; a start lets all go on, and nobody waits
/// for ever.
#[test]
fn a_stop_ends_dma_and_a_start_lets_it_go_on() {
    check(|| {
        let mut s = Serving::begin(no_timeouts());
        let ids = [s.peer.write(STUBBORN, 0x10), s.peer.write(STUBBORN, 0x20)];
        let mut before = Vec::new();
        for id in ids {
            s.peer.reply_to(id, &mut before);
        }
        let stop = set(&mut s.peer, DeviceState::StopCopy);
        s.peer.reply_to(stop, &mut before);
        // What was asked before the stop is not wanted any more. Then nothing is asked.
        let mut stopped = Vec::new();
        let id = s.peer.read(PLAIN);
        s.peer.reply_to(id, &mut stopped);
        assert!(stopped.is_empty(), "DMA of a device that is stopped");
        let start = set(&mut s.peer, DeviceState::Running);
        let mut after = Vec::new();
        s.peer.reply_to(start, &mut after);
        while after.len() < 2 {
            after.push(s.peer.next_command().unwrap());
        }
        after.iter().for_each(|command| s.peer.give(command));
        s.log.wait_for(&[0x10, 0x20]);
        let log = s.end();
        assert_eq!(log.outcome(0x10), Some(Ok(pattern(0x10))));
        assert_eq!(log.outcome(0x20), Some(Ok(pattern(0x20))));
    });
}

/// The device's thread moves its pin while the server saves what it keeps of the device.
#[test]
fn a_pin_moves_while_the_device_is_saved() {
    check(|| {
        let (mut server, _, mut peer) = server(no_timeouts());
        let (pin, stopper) = (server.handle().intx(), server.stopper());
        let serving = thread::spawn(move || server.run().unwrap());
        peer.begin();
        let moving = thread::spawn(move || [true, false].map(|up| pin.set(up)));
        let save = set(&mut peer, DeviceState::StopCopy);
        peer.reply_to(save, &mut Vec::new());
        moving.join().unwrap();
        peer.hang_up();
        stopper.stop();
        serving.join().unwrap();
    });
}
