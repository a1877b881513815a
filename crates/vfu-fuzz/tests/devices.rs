//! Thousands of cases against good devices, on threads of this process.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use vfu_devices::{Model, Options as ModelOptions};
use vfu_fuzz::{DmaAnswer, Ended, Options, Stats, Target};
use vfu_testkit::{Served, Vmm, serve_in_process};

fn serve(model: Model) -> Served<impl Sized> {
    let server = serve_in_process(model.builder().unwrap(), |handle| {
        model.device(handle, &ModelOptions::default())
    });
    server.unwrap()
}

fn withstands(model: Model, cases: u64) -> Stats {
    let server = serve(model);
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
    report.stats
}

#[test]
fn edu() {
    let stats = withstands(Model::Edu, 2000);
    assert!(stats.doorbells > 0, "its buffer lies at an address that has to be guessed: {stats:?}");
    assert!(stats.dma > 20 && stats.dma_hostile > 3, "{stats:?}");
}

#[test]
fn dmatest() {
    let stats = withstands(Model::DmaTest, 1000);
    assert!(stats.doorbells > 2, "on its thread, in a handler of writes and of reads: {stats:?}");
    assert!(stats.dma > 20 && stats.dma_hostile > 3, "{stats:?}");
}

/// The device asks for memory on its thread, while a handler of it asks, too; memory goes away.
const DMA: &str = r#"
  send VERSION id=0 minor=1 data="{\"capabilities\":{\"twin_socket\":{\"supported\":true}}}\x00"
  wait
  send REGION_WRITE id=1 offset=4 region=7 count=2 data=0600
  send DMA_MAP id=2 argsz=32 flags=3 address=0 size=0x10000000
  send REGION_WRITE id=3 offset=0x10 region=0 count=8 data=0000100000000000
  send REGION_WRITE id=4 offset=0x18 region=0 count=4 data=00200000
  send REGION_WRITE id=5 offset=0x20 region=0 count=4 data=02000000
  listen
  send REGION_WRITE id=6 offset=0x20 region=0 count=4 data=01000000
  listen
  send REGION_READ id=7 offset=0 region=0 count=4
  send DMA_UNMAP id=8 argsz=24 address=0 size=0x10000000
"#;

#[test]
fn each_answer_to_dma_is_given_and_withstood() {
    let server = serve(Model::DmaTest);
    for (answer, name) in DmaAnswer::ALL {
        for after in [0, 1] {
            let json =
                |text: &str| if after == 1 { text.replace("true", "false") } else { text.into() };
            let text = format!("connection dma={name} dma-after={after}{}", json(DMA));
            let options = Options { timeout: Duration::from_secs(60), ..Options::default() };
            let target = Target::new(server.path());
            let script = text.parse().unwrap();
            let report = target.replay(&script, &options, &AtomicBool::new(false), &mut |_| {});
            let report = report.unwrap();
            assert!(report.found.is_empty(), "{name}: {:?}", report.found);
            let hostile = u64::from(answer != DmaAnswer::Serve);
            let stats = &report.stats;
            assert!(stats.dma > after && stats.dma_hostile >= hostile, "{name}: {stats:?}");
        }
    }
}

#[test]
fn the_others() {
    for model in Model::ALL {
        withstands(model, 400);
    }
}
