//! What the figures were measured on.

use serde::Serialize;

/// The machine, as far as it tells.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many CPUs this process may use.
    pub cpus: usize,
    /// Kernel and release.
    pub system: String,
    /// Processes that ran or wanted to, in the minute before: figures of a busy machine are worth less.
    pub load: f64,
    /// The version of vfu, and whether it was built with optimization.
    pub vfu: String,
}

impl Machine {
    /// This one, now.
    pub fn here() -> Machine {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let processor = name.and_then(|line| line.split_once(": ")).map(|(_, name)| name);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|first| first.parse().ok());
        let uname = rustix::system::uname();
        let [system, release] = [uname.sysname(), uname.release()].map(|s| s.to_string_lossy());
        let build =
            if cfg!(debug_assertions) { "debug build: figures mean nothing" } else { "release" };
        Machine {
            processor: processor.unwrap_or("unknown").to_owned(),
            cpus: crate::place::cpus().map_or(0, |cpus| cpus.len()),
            system: format!("{system} {release}"),
            load: load.unwrap_or(0.0),
            vfu: format!("{} ({build})", env!("CARGO_PKG_VERSION")),
        }
    }
}
