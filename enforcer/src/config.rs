//! The daemon's settings, which seldom change.
//!
//! Input: the file that `--config` names. Output: [`Settings`], or the error with its place. `docs/settings.md` describes them.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use enforcer_common::limits;
use serde::{Deserialize, Serialize};

/// The settings. Every field may be left out.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Flows of the node. The table is allocated as a whole: 148 bytes a flow. Takes effect when the maps are made; a
    /// running setup keeps its table.
    pub flows: u32,
    /// Established flows of one workload, of those that it opened and of those opened to it: what it has beyond is denied
    /// with `flow-quota`.
    pub flow_quota: u32,
    /// Bytes that an ICMP error may have which passes with the flow that it quotes. Over IPv4 never more than 576.
    pub icmp_error_bytes: u32,
    /// For how long after the first attach a segment of an older connection is accepted as one (D10), in seconds; 0 turns
    /// it off.
    pub older_connections_seconds: u64,
    /// Lines of the flow log that one workload can cause in a second; what it has beyond is told as a sum. 0: any number.
    pub flow_log_lines_per_second: u32,
    /// Lines of the flow log that one workload can cause at once, after it was quiet.
    pub flow_log_burst: u32,
    /// Size from which the flow log's file is put aside and a new one begun, in MiB. 0: never.
    pub flow_log_mib: u64,
    /// Files of the flow log that are kept beside the newest one.
    pub flow_log_kept_files: u32,
    /// For how long the policy files must have been quiet before a change opens what was denied (D15), in seconds; 0: not at all.
    pub opening_wait_seconds: u64,
    /// For how long after a veth was first seen the addresses that its workload shows are pinned to it (D11), in seconds.
    pub settling_seconds: u64,
    /// What a workload sends to the address of a Service is judged by its backend, behind the node's translation (D5).
    pub judge_services: bool,
    /// Where HTTP requests are answered.
    pub http_listen: Listen,
    /// Where the sources of the policy in force and the state for `status` are kept. Below it each pin directory has a
    /// directory of its own. On a tmpfs: it is of no use after a reboot.
    pub state_dir: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flows: limits::FLOWS,
            flow_quota: limits::FLOW_QUOTA,
            icmp_error_bytes: limits::ERROR_BYTES,
            older_connections_seconds: 60,
            flow_log_lines_per_second: 200,
            flow_log_burst: 2_000,
            flow_log_mib: 100,
            flow_log_kept_files: 4,
            opening_wait_seconds: 3,
            settling_seconds: 10,
            judge_services: false,
            http_listen: Listen(None),
            state_dir: PathBuf::from("/run/enforcer"),
        }
    }
}

/// An address and a port to listen on; `None`: the daemon listens nowhere.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen(pub Option<SocketAddr>);

/// A text that says where to listen has errors.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "`{0}` is no place to listen on; write a port, an address and a port such as 127.0.0.1:9847 or [::1]:9847, or off"
)]
pub struct InvalidListen(String);

impl FromStr for Listen {
    type Err = InvalidListen;

    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        if text == "off" {
            return Ok(Self(None));
        }
        let port = text.parse().ok().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        // Port 0 would be another one at every start.
        let place = port.or_else(|| text.parse().ok()).filter(|place: &SocketAddr| place.port() != 0);
        place.map(|place| Self(Some(place))).ok_or_else(|| InvalidListen(text.to_owned()))
    }
}

impl TryFrom<String> for Listen {
    type Error = InvalidListen;

    fn try_from(text: String) -> Result<Self, InvalidListen> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => place.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that is not a setting.
    #[error("the settings file {path} is not valid: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong, with the line itself.
        message: String,
    },
    /// A number is out of range.
    #[error("{path}: {setting} is {value}, but it must be from {low} to {high}")]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// Which.
        setting: &'static str,
        /// What it says.
        value: u64,
        /// Least.
        low: u64,
        /// Most.
        high: u64,
    },
}

impl Settings {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, InvalidSettings> {
        let text =
            fs::read_to_string(path).map_err(|source| InvalidSettings::Unreadable { path: path.to_owned(), source })?;
        let settings: Self = if text.trim().is_empty() {
            Self::default()
        } else {
            serde_yaml::from_str(&text)
                .map_err(|error| InvalidSettings::Malformed { path: path.to_owned(), message: error.to_string() })?
        };
        let Self {
            flows,
            flow_quota,
            icmp_error_bytes,
            older_connections_seconds,
            flow_log_lines_per_second,
            flow_log_burst,
            flow_log_mib,
            flow_log_kept_files,
            opening_wait_seconds,
            settling_seconds,
            judge_services: _,
            http_listen: _,
            state_dir: _,
        } = &settings;
        for (setting, value, low, high) in [
            ("flows", u64::from(*flows), 1024, 16 << 20),
            ("flow_quota", u64::from(*flow_quota), 64, u64::from(*flows)),
            ("icmp_error_bytes", u64::from(*icmp_error_bytes), 96, u64::from(limits::ERROR_BYTES)),
            ("older_connections_seconds", *older_connections_seconds, 0, 3600),
            ("flow_log_lines_per_second", u64::from(*flow_log_lines_per_second), 0, 1_000_000),
            ("flow_log_burst", u64::from(*flow_log_burst), 1, 1_000_000),
            ("flow_log_mib", *flow_log_mib, 0, 1 << 20),
            ("flow_log_kept_files", u64::from(*flow_log_kept_files), 1, 1000),
            ("opening_wait_seconds", *opening_wait_seconds, 0, 3600),
            ("settling_seconds", *settling_seconds, 0, 3600),
        ] {
            if !(low..=high).contains(&value) {
                return Err(InvalidSettings::OutOfRange { path: path.to_owned(), setting, value, low, high });
            }
        }
        Ok(settings)
    }

    /// How long D10's window is; `None`: it is off.
    pub fn window(&self) -> Option<Duration> {
        (self.older_connections_seconds > 0).then(|| Duration::from_secs(self.older_connections_seconds))
    }

    /// The state directory of one pin directory.
    pub fn state_of(&self, pin_dir: &Path) -> PathBuf {
        let name = pin_dir.to_string_lossy().trim_matches('/').replace('/', "-");
        self.state_dir.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, InvalidSettings> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        fs::write(&path, text).unwrap();
        Settings::load(&path)
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        assert_eq!(load("").unwrap(), Settings::default());
        let some = load("flows: 2048\nflow_quota: 100\n").unwrap();
        assert_eq!(some, Settings { flows: 2048, flow_quota: 100, ..Settings::default() });
    }

    #[test]
    fn what_is_no_setting_is_refused_with_its_place() {
        let error = load("flows: 2048\nflow_qouta: 100\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("flow_qouta"), "{error}");
        let error = load("flow_quota: 10\n").unwrap_err().to_string();
        assert!(error.ends_with("flow_quota is 10, but it must be from 64 to 524288"), "{error}");
        let error = load("older_connections_seconds: 86400").unwrap_err().to_string();
        assert!(error.contains("from 0 to 3600"), "{error}");
        for no_time in ["", "-1", "3s", "1.5", "[3]", "99999999999999999999", "3600\nopening_wait_seconds: 0"] {
            let error = load(&format!("opening_wait_seconds: {no_time}")).unwrap_err().to_string();
            assert!(error.contains("line 1") || error.contains("line 2"), "{no_time}: {error}");
        }
    }

    #[test]
    fn a_place_to_listen_on_is_a_port_or_an_address_with_one() {
        let listen =
            |text: &str| load(&format!("http_listen: {text}\n")).map(|settings| settings.http_listen.to_string());
        for (text, place) in [
            ("9847", "127.0.0.1:9847"),
            ("\"9847\"", "127.0.0.1:9847"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("\"[::1]:9847\"", "[::1]:9847"),
            ("\"off\"", "off"),
            ("off", "off"),
        ] {
            assert_eq!(listen(text).unwrap(), place, "{text}");
        }
        for no_place in [
            "0",
            "65536",
            "-1",
            "9847.5",
            "localhost:9847",
            "127.0.0.1",
            "127.0.0.1:0",
            "::1:9847",
            ":9847",
            "[1]",
            "~",
            "\"\"",
        ] {
            let error = listen(no_place).unwrap_err().to_string();
            assert!(error.contains("http_listen") || error.contains("line 1"), "{no_place}: {error}");
        }
    }

    /// Rows of the page's table: name, type, unit, default, allowed values.
    fn rows() -> Vec<Vec<String>> {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
        let page = fs::read_to_string(page).unwrap();
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()).collect()
    }

    #[test]
    fn the_page_has_every_setting_with_its_default() {
        macro_rules! defaults {
            ($($name:ident),*) => {{
                // Taken apart whole: a new setting does not compile until it is on the page.
                let Settings { $($name),* } = Settings::default();
                vec![$((stringify!($name).to_owned(), serde_json::to_value($name).unwrap())),*]
            }};
        }
        let defaults = defaults!(
            flows,
            flow_quota,
            icmp_error_bytes,
            older_connections_seconds,
            flow_log_lines_per_second,
            flow_log_burst,
            flow_log_mib,
            flow_log_kept_files,
            opening_wait_seconds,
            settling_seconds,
            judge_services,
            http_listen,
            state_dir
        );
        let plain = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let expected: Vec<(String, String)> =
            defaults.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
        let shown: Vec<(String, String)> = rows().into_iter().map(|row| (row[0].clone(), row[3].clone())).collect();
        assert_eq!(shown, expected, "the table of docs/settings.md is not what enforcer/src/config.rs has");
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
        let page = fs::read_to_string(page).unwrap();
        for (name, _) in expected {
            assert!(page.contains(&format!("\n### `{name}`\n")), "docs/settings.md has no section on {name}");
        }
    }

    #[test]
    fn the_page_has_the_ranges_that_are_checked() {
        let mut checked = 0;
        for row in rows() {
            let [name, allowed] = [&row[0], &row[4]];
            let Some((low, high)) = allowed.split_once(" to ") else { continue };
            let low: u64 = low.parse().unwrap();
            let high = high.parse().unwrap_or(u64::from(limits::FLOWS));
            for (value, allowed) in [(low, true), (high, true), (high + 1, false)]
                .into_iter()
                .chain(low.checked_sub(1).map(|below| (below, false)))
            {
                // A quota of more than the flows is refused, whichever of the two is meant.
                let quota = if name == "flows" { "flow_quota: 64\n" } else { "" };
                let loaded = load(&format!("{name}: {value}\n{quota}"));
                assert_eq!(loaded.is_ok(), allowed, "{name}: {value}: {loaded:?}");
            }
            checked += 1;
        }
        assert_eq!(checked, 10, "settings with a range");
    }

    #[test]
    fn pin_directories_do_not_share_state() {
        let settings = Settings::default();
        assert_eq!(
            settings.state_of(Path::new("/sys/fs/bpf/enforcer")),
            Path::new("/run/enforcer/sys-fs-bpf-enforcer")
        );
        assert_ne!(settings.state_of(Path::new("/a")), settings.state_of(Path::new("/b")));
    }
}
