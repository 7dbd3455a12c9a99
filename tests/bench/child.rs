//! The processes of a measurement. Dropping one kills it, and whoever outlives this process ends by itself.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::Outcome;

/// One of the benchmark's own processes. It says what it has to say as lines of JSON.
pub(crate) struct Part {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
    /// Its end is a part's end.
    hears: ChildStdin,
}

impl Part {
    pub(crate) fn start(name: &str, settings: &Value) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["part", name, &settings.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(hears), Some(says)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a part has no pipes".into());
        };
        Ok(Self { child, says: BufReader::new(says).lines(), hears })
    }

    /// What it says next.
    pub(crate) async fn hear(&mut self) -> Outcome<Value> {
        match self.says.next_line().await? {
            Some(line) => Ok(serde_json::from_str(&line)?),
            None => Err(format!("a part ended with {} and said nothing", self.child.wait().await?).into()),
        }
    }

    /// Tells it something, and hears what it answers.
    pub(crate) async fn tell(&mut self, line: &str) -> Outcome<Value> {
        self.hears.write_all(format!("{line}\n").as_bytes()).await?;
        self.hear().await
    }

    /// The port that it listens on, which is the first that it says.
    pub(crate) async fn port(&mut self) -> Outcome<u16> {
        let said = self.hear().await?;
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        port.ok_or_else(|| format!("no port in {said}").into())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }
}

/// Runs a part to its end, and gives what it said.
pub(crate) async fn run(name: &str, settings: &Value) -> Outcome<Value> {
    Part::start(name, settings)?.hear().await
}

/// A program that is not the benchmark's own; it is killed when this process ends, however that comes.
pub(crate) fn program<A: AsRef<OsStr>>(
    path: &Path,
    arguments: &[A],
    variables: &[(String, String)],
    log: &Path,
) -> Outcome<Child> {
    let log = std::fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(path).args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("THREEPID_") {
            command.env_remove(name);
        }
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    Ok(command.spawn()?)
}

/// How much time of processors a process has had.
pub(crate) fn processor_time(pid: u32) -> Outcome<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // `pid (name) state …`, and a name may hold anything. Ticks of 10 ms.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok(Duration::from_millis(10 * (ticks() + ticks())))
}

/// How much memory of a process is in use, in MiB.
pub(crate) fn resident_mib(pid: u32) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let kib: f64 = kib.ok_or("no VmRSS")?.trim().parse()?;
    Ok(kib / 1024.0)
}
