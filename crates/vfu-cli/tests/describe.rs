//! `vfu describe` as a user or a script sees it.

use std::process::{Command, Output};

use serde_json::Value;
use vfu_devices::{Model, edu, idio16};

fn describe(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfu"));
    command.env_remove("RUST_LOG").arg("describe").args(args).output().unwrap()
}

fn good(args: &[&str]) -> String {
    let output = describe(args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn text_has_the_map_of_each_bar() {
    let text = good(&["idio16"]);
    assert!(text.starts_with("# idio16\n\n494f:0dc8, "), "{text}");
    assert!(text.contains("## BAR 2: 0x8 bytes of I/O ports"), "{text}");
    assert!(text.ends_with(&idio16::register_map().to_markdown()), "{text}");
}

#[test]
fn json_has_the_same() {
    let value: Value = serde_json::from_str(&good(&["edu", "--json"])).unwrap();
    assert_eq!(value["format"], 1);
    assert_eq!((&value["vendor"], &value["device"]), (&0x1234.into(), &0x11e8.into()));
    let bar = &value["bars"][0];
    assert_eq!((&bar["index"], &bar["size"]), (&0.into(), &edu::BAR_SIZE.into()));
    let map: Value = serde_json::from_str(&edu::register_map().to_json()).unwrap();
    assert_eq!(bar["registers"], map);
}

#[test]
fn every_model_can_be_described() {
    for model in Model::ALL {
        assert!(good(&[model.name()]).starts_with(&format!("# {model}\n")));
        let value: Value = serde_json::from_str(&good(&[model.name(), "--json"])).unwrap();
        assert_eq!(value["name"], model.name());
    }
    let unknown = describe(&["edo"]);
    assert_eq!(unknown.status.code(), Some(2));
}
