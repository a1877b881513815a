//! Thousands of cases against good devices, on threads of this process.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use vfu_devices::{Model, Options as ModelOptions};
use vfu_fuzz::{Ended, Options, Target};
use vfu_testkit::{Vmm, serve_in_process};

fn withstands(model: Model, cases: u64) {
    let server = serve_in_process(model.builder().unwrap(), |handle| {
        model.device(handle, &ModelOptions::default())
    });
    let server = server.unwrap();
    let options = Options {
        seed: 20_261_127,
        cases: Some(cases),
        timeout: Duration::from_secs(60),
        ..Options::default()
    };
    let target = Target::new(server.path());
    let report = target.attack(&options, &AtomicBool::new(false), &mut |_| {}).unwrap();
    assert!(report.found.is_empty(), "{:?}", report.found);
    assert_eq!((report.stats.cases, report.ended), (cases, Ended::Done));
    // It got further than the door.
    assert!(report.stats.answers > 2 * cases && report.stats.messages > 3 * cases);
    assert!(report.stats.closes < report.stats.connections / 3, "{:?}", report.stats);
    let vmm = Vmm::connect(server.path()).unwrap();
    assert_eq!(vmm.config_read16(0).unwrap(), model.ids().0);
}

#[test]
fn edu() {
    withstands(Model::Edu, 3000);
}

#[test]
fn the_others() {
    for model in Model::ALL {
        withstands(model, 400);
    }
}
