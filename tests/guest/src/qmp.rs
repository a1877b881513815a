//! QEMU's monitor: commands, their answers, and events.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

/// How long QEMU may take for anything. The guest's kernel takes 5 s of it for an unplug.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    /// Takes the connection that QEMU makes to `listener`; `alive` tells why it will not come.
    ///
    /// # Errors
    ///
    /// If QEMU ends, or does not connect in time.
    pub fn accept(listener: &UnixListener, mut alive: impl FnMut() -> Result<()>) -> Result<Qmp> {
        let deadline = Instant::now() + PATIENCE;
        let step = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&step))? == 0 {
            alive()?;
            if Instant::now() > deadline {
                bail!("QEMU did not connect its monitor within {PATIENCE:?}");
            }
        }
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Qmp { stream: BufReader::new(stream), events: Vec::new() };
        qmp.message().context("no greeting from QEMU's monitor")?;
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command, and returns what it returned.
    ///
    /// # Errors
    ///
    /// What QEMU says against it.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let command = json!({ "execute": name, "arguments": arguments });
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes())?;
        loop {
            let message = self.message()?;
            if message.get("event").is_some() {
                self.events.push(message);
            } else if let Some(value) = message.get("return") {
                return Ok(value.clone());
            } else {
                let why = message.pointer("/error/desc").and_then(Value::as_str);
                bail!("QEMU refuses {name}: {}", why.unwrap_or("no reason given"));
            }
        }
    }

    /// Waits until the machine stops.
    ///
    /// # Errors
    ///
    /// If it does not stop in time.
    pub fn stopped(&mut self) -> Result<()> {
        let fits = |message: &Value| message.get("event").and_then(Value::as_str) == Some("STOP");
        self.wait_for(fits, "STOP")
    }

    /// Waits for an event of that name whose data hold `field` with that value.
    ///
    /// # Errors
    ///
    /// If it does not come in time.
    pub fn event(&mut self, name: &str, field: &str, value: &str) -> Result<()> {
        let fits = |message: &Value| {
            message.get("event").and_then(Value::as_str) == Some(name)
                && message.get("data").and_then(|d| d.get(field)).and_then(Value::as_str)
                    == Some(value)
        };
        self.wait_for(fits, &format!("{name} of {value}"))
    }

    fn wait_for(&mut self, fits: impl Fn(&Value) -> bool, what: &str) -> Result<()> {
        if let Some(at) = self.events.iter().position(&fits) {
            self.events.remove(at);
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let message = self.message().with_context(|| format!("no event {what}"))?;
            if fits(&message) {
                return Ok(());
            }
            self.events.push(message);
        }
        bail!("no event {what} within {PATIENCE:?}")
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("QEMU closed its monitor");
        }
        Ok(serde_json::from_str(&line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn commands_and_events() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qemu = thread::spawn(move || {
            let stream = UnixStream::connect(path).unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let send = |text: &str| writeln!(&stream, "{text}").unwrap();
            send(r#"{"QMP":{}}"#);
            assert!(lines.next().unwrap().unwrap().contains("qmp_capabilities"));
            send(r#"{"return":{}}"#);
            assert!(lines.next().unwrap().unwrap().contains("device_del"));
            send(r#"{"event":"DEVICE_DELETED","data":{"device":"a"}}"#);
            send(r#"{"return":{"x":1}}"#);
            lines.next().unwrap().unwrap();
            send(r#"{"error":{"class":"GenericError","desc":"not today"}}"#);
        });
        let mut qmp = Qmp::accept(&listener, || Ok(())).unwrap();
        assert_eq!(qmp.command("device_del", json!({"id": "a"})).unwrap(), json!({"x": 1}));
        qmp.event("DEVICE_DELETED", "device", "a").unwrap();
        let error = qmp.command("stop", json!({})).unwrap_err();
        assert!(error.to_string().contains("not today"));
        qemu.join().unwrap();
    }
}
