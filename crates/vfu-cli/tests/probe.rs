//! `vfu probe` as a user or a script sees it.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::thread;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use serde_json::{Value, json};
use vfu::Server;
use vfu::pci::{Ats, Bar, ConfigSpace, Pasid, Pci, Pm, RawCapability, Sriov};
use vfu::server::Shareable;
use vfu::wire::{Command as Wire, Errno, FeatureOp, FeatureRequest, RegionReadRequest};
use vfu_devices::{edu, idio16};
use vfu_testkit::{
    Call, CallLog, RawListener, RawPeer, TestDevice, TestServer, Vmm, serve_in_process,
};

/// Long enough for any machine: nothing here waits for it.
const PATIENT: &str = "--timeout=60";

fn probe(path: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.env_remove("RUST_LOG").stdin(Stdio::null()).arg("probe").arg(path).args(args);
    command.output().unwrap()
}

#[track_caller]
fn good(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stderr, "");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, needle: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(needle), "no '{needle}' in: {stderr}");
    assert!(stderr.starts_with("vfu: "), "{stderr}");
    assert!(output.stdout.is_empty(), "nothing may be printed before the failure");
}

#[track_caller]
fn shows(text: &str, needles: &[&str]) {
    for needle in needles {
        assert!(text.contains(needle), "no '{needle}' in:\n{text}");
    }
}

/// `vfu serve`, killed at the end.
struct Serving {
    child: Child,
    _stderr: BufReader<ChildStderr>,
}

impl Serving {
    fn start(model: &str, path: &Path) -> Serving {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
        command.args(["serve", model, "--socket-path"]).arg(path).env_remove("RUST_LOG");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on "), "{line}");
        Serving { child, _stderr: stderr }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn bytes_of(space: &ConfigSpace) -> Vec<u8> {
    let mut bytes = vec![0; space.size()];
    space.read(0, &mut bytes);
    bytes
}

/// The bytes of a dump, whose lines each carry their offset.
fn parse_hex<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let (offset, values) = line.split_once(": ").expect(line);
        assert_eq!(usize::from_str_radix(offset, 16), Ok(bytes.len()), "{line}");
        let values = values.split(' ').map(|value| {
            assert_eq!(value.len(), 2, "{line}");
            u8::from_str_radix(value, 16).expect(line)
        });
        let before = bytes.len();
        bytes.extend(values);
        assert_eq!(bytes.len(), before + 16, "{line}");
    }
    bytes
}

#[test]
fn text_tells_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (at, i) = (folder.path().join("edu.sock"), folder.path().join("idio.sock"));
    let _servers = [Serving::start("edu", &at), Serving::start("idio16", &i)];
    let text = good(probe(&at, &[PATIENT]));
    shows(
        &text,
        &["1234:11e8", "twin socket        yes", "BAR0          1 MiB  rw", "INTx", "MSI", "REQ"],
    );
    shows(
        &text,
        &[
            "1 MiB of 32-bit memory, no address yet",
            "pin A",
            "1af4:1100",
            "[0x05] 1 of 1",
            "logs dirty pages   yes",
        ],
    );
    assert!(!text.contains("Problems"), "{text}");
    let text = good(probe(&i, &[PATIENT]));
    shows(&text, &["494f:0dc8", "Bridge [068000]", "BAR2               8 bytes of I/O ports"]);
    // The next client is served, and finds the same.
    assert_eq!(text, good(probe(&i, &[PATIENT])));
}

#[test]
fn json_has_the_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edu.sock");
    let _server = Serving::start("edu", &path);
    let report: Value = serde_json::from_str(&good(probe(&path, &["--json", PATIENT]))).unwrap();
    assert_eq!(report["format"], 1);
    assert_eq!(report["socket"], path.to_str().unwrap());
    assert_eq!(report["session"]["twin_socket"], true);
    assert_eq!(report["dma_logging"], true);
    assert_eq!(report["session"]["max_transfer"], 1 << 20);
    assert_eq!(report["session"]["server"]["pgsizes"], 4096);
    assert_eq!(
        report["device"],
        json!({
            "pci": true,
            "reset": true,
            "resets": ["device"],
            "num_regions": 9,
            "num_irqs": 5
        })
    );
    let names: Vec<_> = report["regions"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    let all = ["BAR0", "BAR1", "BAR2", "BAR3", "BAR4", "BAR5", "ROM", "config", "VGA"];
    assert_eq!(names, all);
    assert_eq!(report["regions"][0]["size"], edu::BAR_SIZE);
    assert_eq!(report["regions"][1]["size"], 0);
    assert_eq!(report["interrupts"][1]["name"], "MSI");
    assert_eq!(report["interrupts"][1]["count"], 1);
    assert_eq!(report["interrupts"][2]["count"], 0);
    let config = &report["config"];
    assert_eq!(config["vendor"], edu::VENDOR);
    assert_eq!(config["device"], edu::DEVICE);
    assert_eq!(config["class"]["code"], 0x00_ff_00);
    assert_eq!(config["interrupt_pin"], "A");
    assert_eq!(
        config["bars"],
        json!([{"index": 0, "kind": "memory32", "prefetchable": false, "address": 0,
                "size": edu::BAR_SIZE}])
    );
    assert_eq!(config["capabilities"][0]["kind"], "msi");
    assert_eq!(config["capabilities"][0]["vectors"], 1);
    assert_eq!(report["problems"], json!([]));
    let hex: String =
        bytes_of(&edu::pci().build().unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(config["bytes"], hex);
}

#[test]
fn capabilities_and_extended_space_are_decoded() {
    let server = TestServer::start();
    let report: Value =
        serde_json::from_str(&good(probe(server.path(), &["--json", PATIENT]))).unwrap();
    let config = &report["config"];
    assert_eq!(config["size"], 4096);
    let bars = config["bars"].as_array().unwrap();
    let kinds: Vec<_> =
        bars.iter().map(|bar| (&bar["index"], &bar["kind"], &bar["size"])).collect();
    let (memory32, memory64, io) = (json!("memory32"), json!("memory64"), json!("io"));
    assert_eq!(kinds[0], (&json!(0), &memory32, &json!(TestDevice::BAR0_SIZE)));
    assert_eq!(kinds[2], (&json!(2), &memory64, &json!(TestDevice::BAR2_SIZE)));
    assert_eq!(kinds[3], (&json!(4), &io, &json!(32)));
    assert_eq!(bars[2]["prefetchable"], true);
    let find = |kind: &str| {
        let list = config["capabilities"].as_array().unwrap();
        list.iter().find(|capability| capability["kind"] == kind).expect(kind).clone()
    };
    assert_eq!(find("power_management")["state"], 0);
    assert_eq!(find("msi")["vectors"], 4);
    let msix = find("msi_x");
    assert_eq!((&msix["vectors"], &msix["table"]["bar"]), (&json!(4), &json!(1)));
    assert_eq!(msix["enabled"], false);
    assert_eq!(find("express")["port_type"], "endpoint");
    let text = good(probe(server.path(), &[PATIENT]));
    shows(&text, &["4 vectors, table in BAR1 at 0x", "PCI Express [0x10]", "4096 bytes"]);
}

#[test]
fn sparse_areas_are_listed() {
    let memory = memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, TestDevice::BAR2_SIZE).unwrap();
    let shared = Shareable::new(memory, 0).area(0x1000, 0x1000).area(0x10_0000, 0x4000);
    let server = TestServer::with(|builder| builder.mmap(2, shared));
    let report: Value =
        serde_json::from_str(&good(probe(server.path(), &["--json", PATIENT]))).unwrap();
    assert_eq!(
        report["regions"][2]["mmap"],
        json!({"file_offset": 0, "areas": [
            {"offset": 0x1000, "size": 0x1000}, {"offset": 0x10_0000, "size": 0x4000}]})
    );
    assert_eq!(report["regions"][0]["mmap"], Value::Null);
    shows(&good(probe(server.path(), &[PATIENT])), &["mmap 0x100000-0x103fff (16 KiB)"]);
}

#[test]
fn dumps_are_the_bytes_of_configuration_space() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("idio.sock");
    let _serving = Serving::start("idio16", &path);
    let large = TestServer::start();
    let spaces = [(path.as_path(), idio16::pci()), (large.path(), TestDevice::pci())];
    for (path, pci) in spaces {
        let expected = bytes_of(&pci.build().unwrap());
        assert_eq!(parse_hex(good(probe(path, &["--hex", PATIENT])).lines()), expected);
        let dump = good(probe(path, &["--lspci", PATIENT]));
        let mut lines = dump.lines();
        let (address, title) = lines.next().unwrap().split_once(' ').unwrap();
        assert_eq!(address, "00:00.0");
        let (vendor, device) = (&expected[..2], &expected[2..4]);
        let ids = format!("{:02x}{:02x}:{:02x}{:02x}", vendor[1], vendor[0], device[1], device[0]);
        assert!(title.contains(&ids), "{title}");
        assert!(dump.ends_with("\n\n"), "an empty line ends a device");
        assert_eq!(parse_hex(lines.take_while(|line| !line.is_empty())), expected);
    }
}

/// Stands between a probe and a device and gives what the probe asked.
#[test]
fn nothing_is_written_and_no_register_is_read() {
    let builder = Server::builder(TestDevice::pci()).twin_socket(false);
    let server = serve_in_process(builder, |handle| TestDevice::new(handle, Default::default()));
    let server = server.unwrap();
    let (listener, upstream) = (RawListener::new().unwrap(), RawPeer::connect(server.path()));
    let (path, upstream) = (listener.path().to_path_buf(), upstream.unwrap());
    let relay = thread::spawn(move || {
        let client = listener.accept().unwrap();
        let mut asked = Vec::new();
        while let Ok(request) = client.recv() {
            let mut bytes = request.header.emit().to_vec();
            bytes.extend_from_slice(&request.payload);
            upstream.send(&bytes).unwrap();
            let reply = upstream.recv().unwrap();
            let mut bytes = reply.header.emit().to_vec();
            bytes.extend_from_slice(&reply.payload);
            client.send(&bytes).unwrap();
            asked.push(request);
        }
        asked
    });
    good(probe(&path, &[PATIENT]));
    let asked = relay.join().unwrap();
    assert!(asked.len() > 15, "{} requests", asked.len());
    for request in asked {
        match Wire::from_u16(request.header.command).unwrap() {
            Wire::Version
            | Wire::DeviceGetInfo
            | Wire::DeviceGetRegionInfo
            | Wire::DeviceGetIrqInfo => {}
            Wire::RegionRead => {
                let region = RegionReadRequest::parse(&request.payload).unwrap().region;
                assert_eq!(region, 7, "reading a register may change the device");
            }
            Wire::DeviceFeature => {
                let op = FeatureRequest::parse(&request.payload).unwrap().op;
                use FeatureOp::{GetDeviceState, GetMigration, Probe};
                let asks = matches!(op, GetMigration | GetDeviceState | Probe { .. });
                assert!(asks, "{op:?} is not harmless");
            }
            other => panic!("{} is not harmless", other.name()),
        }
    }
}

#[test]
fn the_device_is_not_called() {
    let server = TestServer::start();
    good(probe(server.path(), &[PATIENT]));
    let lost = Call::Reset(vfu::Reset::ConnectionLost);
    server.log().wait_for(&lost).unwrap();
    let calls = server.log().all();
    let expected = [Call::Connected, lost];
    assert_eq!(calls, expected, "only the session is told");
}

#[test]
fn a_missing_server_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fails(&probe(&at("none"), &["--wait=0"]), 4, "no such socket");
    std::fs::write(at("file"), "").unwrap();
    fails(&probe(&at("file"), &[]), 4, "not a UNIX stream socket");
    drop(UnixListener::bind(at("dead")).unwrap());
    fails(&probe(&at("dead"), &["--wait=0"]), 4, "nobody listens there");
    fails(&probe(&at(&"long".repeat(40)), &[]), 3, "at most 107");
}

/// `vfu serve ... & vfu probe ...`
#[test]
fn a_server_that_is_just_starting_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late.sock");
    let late = path.clone();
    let probing = thread::spawn(move || probe(&late, &["--wait=20", PATIENT]));
    let mut server = Command::new(env!("CARGO_BIN_EXE_vfu"))
        .args(["serve", "idio16", "--socket-path"])
        .arg(&path)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = good(probing.join().unwrap());
    assert!(output.contains("494f:0dc8"));
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn a_silent_server_is_not_waited_for() {
    let listener = RawListener::new().unwrap();
    fails(&probe(listener.path(), &["--timeout=0.05"]), 4, "did not answer VERSION in time");
}

#[test]
fn a_server_that_refuses_or_babbles_is_named() {
    let listener = RawListener::new().unwrap();
    let path = listener.path().to_path_buf();
    let server = thread::spawn(move || {
        let client = listener.accept().unwrap();
        let version = client.recv().unwrap();
        client.send(&version.refusal(Errno::EPERM)).unwrap();
        drop(client);
        let client = listener.accept().unwrap();
        client.recv().unwrap();
        client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        drop(client);
        listener.accept().unwrap().recv().unwrap();
    });
    fails(&probe(&path, &[PATIENT]), 4, "refused VERSION: operation not permitted (EPERM)");
    fails(&probe(&path, &[PATIENT]), 4, "VERSION");
    fails(&probe(&path, &[PATIENT]), 4, "disconnected");
    server.join().unwrap();
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for args in [&["--json", "--lspci"][..], &["--timeout=-1"], &["--timeout=x"], &["extra"]] {
        let output = probe(Path::new("none"), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

const MIB: u64 = 1 << 20;

/// A device with every capability that has something to say.
fn with_everything() -> Pci {
    Pci::endpoint(0x1234, 1)
        .bar(0, Bar::mem32(TestDevice::BAR0_SIZE))
        .bar(2, Bar::mem64(64 * MIB).prefetchable())
        .pm_with(Pm { d1: true, pme_support: 0b01011, no_soft_reset: false, ..Pm::default() })
        .pcie_endpoint()
        .aer()
        .serial_number(0x0011_22ff_fe33_4455)
        .resizable_bar(2, [64 * MIB, 8192 * MIB])
        .ats(Ats { invalidate_queue: 16, page_aligned: true, global_invalidate: false })
        .pasid(Pasid { width: 20, execute: true, privileged: true })
        .sriov(Sriov::new(8, 0x11e9).routing(8, 1).bar(0, Bar::mem64(16 << 10)))
        .vendor_extended(0xcafe, 2, RawCapability::new([0; 8]))
}

#[test]
fn every_capability_is_decoded_in_both_forms() {
    let device = |handle| TestDevice::new(handle, CallLog::default());
    let served = serve_in_process(Server::builder(with_everything()), device).unwrap();
    let vmm = Vmm::connect(served.path()).unwrap();
    vmm.config_write16(0x44, 3).unwrap();
    drop(vmm);
    let text = good(probe(served.path(), &[PATIENT]));
    shows(
        &text,
        &[
            "resets             device, D3hot to D0, function level reset",
            "version 3, in D3hot, soft reset, also D1, PME# from D0 D1 D3hot",
            "Advanced Error Reporting [0x0001] version 2, no errors",
            "version 1, 00-11-22-ff-fe-33-44-55",
            "version 1, BAR2 64 MiB of 64 MiB 8 GiB",
            "version 1, queue of 16, disabled",
            "version 1, 20 bits, disabled",
            "version 1, 0 of 8 virtual functions 11e9, disabled",
            "version 1, cafe revision 2, 16 bytes",
        ],
    );
    let report: Value =
        serde_json::from_str(&good(probe(served.path(), &["--json", PATIENT]))).unwrap();
    assert_eq!(report["device"]["resets"], json!(["device", "d3hot_to_d0", "flr"]));
    let pm = &report["config"]["capabilities"][0];
    assert_eq!((&pm["state"], &pm["states"]), (&3.into(), &json!(["D1"])));
    assert_eq!(pm["pme"], json!(["D0", "D1", "D3hot"]));
    let kinds: Vec<_> = report["config"]["extended_capabilities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|extended| extended["kind"].as_str().unwrap())
        .collect();
    let all =
        ["advanced_errors", "serial_number", "ats", "pasid", "sriov", "vendor", "resizable_bars"];
    for kind in all {
        assert!(kinds.contains(&kind), "no {kind} in {kinds:?}");
    }
    let find = |kind: &str| {
        let at = kinds.iter().position(|known| *known == kind).unwrap();
        &report["config"]["extended_capabilities"][at]
    };
    assert_eq!(find("serial_number")["serial"], 0x0011_22ff_fe33_4455_u64);
    let bars = json!([{"index": 2, "size": 64 * MIB, "sizes": [64 * MIB, 8192 * MIB]}]);
    assert_eq!(find("resizable_bars")["bars"], bars);
    assert_eq!(find("advanced_errors")["uncorrectable"], json!([]));
    assert_eq!(find("advanced_errors")["uncorrectable_masked"], json!(["internal"]));
    assert_eq!(find("sriov")["total_vfs"], 8);
}
