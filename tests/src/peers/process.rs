//! A peer's process: started in a process group of its own, watched until it is ready, ended on drop.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::future::Future;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tempfile::TempDir;

use crate::kept;

/// How long a peer may take to answer for the first time. A machine that compiles beside it is slow.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// The pause between two looks at something that is waited for.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How much of a peer's log an error quotes, in lines.
const LOG_LINES_IN_ERRORS: usize = 30;

/// Why a peer could not be started, or did not do what it was asked: one text for whoever reads the test's output.
#[derive(Debug)]
pub struct PeerError(String);

impl PeerError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn not_installed(what: &str) -> Self {
        Self(format!("{what} is not installed: run tests/setup"))
    }
}

impl std::fmt::Display for PeerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PeerError {}

impl From<std::io::Error> for PeerError {
    fn from(error: std::io::Error) -> Self {
        Self(format!("input/output: {error}"))
    }
}

impl From<serde_json::Error> for PeerError {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("not the JSON that was expected: {error}"))
    }
}

impl From<reqwest::Error> for PeerError {
    fn from(error: reqwest::Error) -> Self {
        let source = std::error::Error::source(&error).map(|inner| format!(": {inner}")).unwrap_or_default();
        Self(format!("HTTP: {error}{source}"))
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// The target folder, as cargo and `tests/setup` see it.
pub fn target_folder() -> PathBuf {
    repository().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The program `threepid` of the same build as the running test.
///
/// # Errors
///
/// It was not built: a test of one package does not build another package's programs.
pub fn server_program() -> Result<PathBuf, PeerError> {
    // Tests run from `{profile}/deps`, programs from `{profile}`.
    let running = std::env::current_exe()?;
    let program = running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("threepid"))
        .find(|program| program.is_file());
    program.ok_or_else(|| PeerError::new("threepid is not built: run cargo build --workspace --all-features"))
}

/// Where the packages are that `tests/setup` installed for a peer in Python.
///
/// # Errors
///
/// It is not installed.
pub fn python_packages(name: &'static str) -> Result<PathBuf, PeerError> {
    let libraries = target_folder().join("peers").join(name).join("lib");
    let python = std::fs::read_dir(libraries)?.next().ok_or_else(|| PeerError::not_installed(name))??;
    Ok(python.path().join("site-packages"))
}

/// Where the stories leave what people may want to look at afterwards; made if it is not there.
///
/// # Errors
///
/// The folder cannot be made.
pub fn artifacts() -> Result<PathBuf, PeerError> {
    let folder = target_folder().join("test-artifacts");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A new folder below the target folder that goes away when it is dropped.
///
/// # Errors
///
/// The folder cannot be made.
pub fn temp_folder(name: &str) -> Result<TempDir, PeerError> {
    let parent = target_folder().join("test-tmp");
    std::fs::create_dir_all(&parent)?;
    Ok(tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(parent)?)
}

/// A loopback port that nothing listens on, for a peer that cannot pick one itself.
///
/// The ports lie below those that the kernel hands out for `:0` and for outgoing connections, and each is given
/// once per process, so that two peers that start at the same time do not meet.
///
/// # Errors
///
/// Every port was tried and taken.
pub fn free_port() -> Result<u16, PeerError> {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 22_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two test processes start at different places.
    let start = u64::from(std::process::id()).wrapping_mul(2_654_435_761) % u64::from(COUNT);
    for _ in 0..COUNT {
        let step = u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = u16::try_from((start + step) % u64::from(COUNT)).unwrap_or(0);
        if std::net::TcpListener::bind(("127.0.0.1", FIRST + offset)).is_ok() {
            return Ok(FIRST + offset);
        }
    }
    Err(PeerError::new("no free port on 127.0.0.1"))
}

/// Looks again and again until `look` finds something.
///
/// # Errors
///
/// `within` has passed: the error names `what` was waited for. An error of `look` itself ends the wait at once.
pub async fn wait_until<T, F, Fut>(what: &str, within: Duration, mut look: F) -> Result<T, PeerError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>, PeerError>>,
{
    let started = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if started.elapsed() > within {
            return Err(PeerError::new(format!("waited {} s in vain for {what}", within.as_secs_f32())));
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// What to run; kept, so that a peer can be started again.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Spec {
    pub(crate) fn new(name: &'static str, program: impl Into<PathBuf>) -> Self {
        Self { name, program: program.into(), arguments: Vec::new(), environment: Vec::new() }
    }

    /// The python of the environment that `tests/setup` made for `name`.
    pub(crate) fn python(name: &'static str) -> Result<Self, PeerError> {
        let home = target_folder().join("peers").join(name);
        if !home.join("stamp").exists() {
            return Err(PeerError::not_installed(name));
        }
        Ok(Self::new(name, home.join("bin/python")))
    }

    /// A program of the system, looked for in `PATH` and where Debian keeps servers.
    pub(crate) fn system(name: &'static str) -> Result<Self, PeerError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/bin".into()])
            .map(|folder| folder.join(name))
            .find(|candidate| candidate.is_file())
            .map(|program| Self::new(name, program))
            .ok_or_else(|| PeerError::not_installed(name))
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Whether this is the server under test. Its other commands answer an operator, who may be told tokens.
    fn serves(&self) -> bool {
        self.name == "threepid" && self.arguments.iter().any(|argument| argument == "serve")
    }

    /// Runs to the end and gives what was written to standard output.
    pub(crate) fn output(&self) -> Result<String, PeerError> {
        let output = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(PeerError::new(format!("{} ended with {}: {said}", self.name, output.status)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A running peer. Dropping it ends its process group.
#[derive(Debug)]
pub(crate) struct Process {
    spec: Spec,
    log: PathBuf,
    child: Child,
    /// Held open: its end is what ends the group if this process is killed.
    _lifeline: Option<ChildStdin>,
}

impl Process {
    /// Starts a peer whose log goes to `{folder}/{name}.log`.
    pub(crate) fn start(spec: Spec, folder: &Path) -> Result<Self, PeerError> {
        let log = folder.join(format!("{}.log", spec.name));
        let out = File::options().create(true).append(true).open(&log)?;
        let mut child = Command::new("/bin/sh")
            .arg(repository().join("tests/peers/lifeline.sh"))
            .arg(&spec.program)
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            // What a peer leaves in the temporary folder goes away with its own.
            .env("TMPDIR", folder)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .map_err(|error| PeerError::new(format!("{} does not start: {error}", spec.name)))?;
        let lifeline = child.stdin.take();
        if spec.serves() {
            kept::started();
        }
        Ok(Self { spec, log, child, _lifeline: lifeline })
    }

    /// Waits until `look` finds something, or the peer has ended.
    pub(crate) async fn ready<T, F, Fut>(&mut self, mut look: F) -> Result<T, PeerError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Option<T>, PeerError>>,
    {
        let started = Instant::now();
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failure(&format!("ended with {status} before it was ready")));
            }
            if started.elapsed() > READY_WITHIN {
                return Err(self.failure(&format!("was not ready after {} s", READY_WITHIN.as_secs())));
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// An error that quotes the end of the log.
    pub(crate) fn failure(&self, text: &str) -> PeerError {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_IN_ERRORS)..].join("\n  ");
        PeerError::new(format!("{} {text}; the end of its log:\n  {tail}", self.spec.name))
    }

    /// The file that standard output and standard error go to.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Sends SIGTERM to the group. Its number cannot have become somebody else's: see [`Process::end`].
    pub(crate) fn ask_to_end(&self) {
        if let Some(group) = self.group() {
            let _ = kill_process_group(group, Signal::TERM);
        }
    }

    /// The exit status, once there is one.
    pub(crate) fn status(&mut self) -> Result<Option<i32>, PeerError> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// The peer itself, which the lifeline's script started and which goes by its name; `None` once it has ended.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let script = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{script}/task/{script}/children")).ok()?;
        let mut children = children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
        // The kernel keeps the first 15 bytes of a name.
        let is_peer = |pid: &i32| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            !comm.trim().is_empty() && self.spec.name.starts_with(comm.trim())
        };
        children.find(is_peer).and_then(Pid::from_raw)
    }

    fn group(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    fn end(&mut self) {
        let Some(group) = self.group() else { return };
        // Nothing a peer holds is worth a slow goodbye. The number cannot have become somebody else's: whoever
        // holds the lifeline's other end is a member of the group as long as it is open.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
        // Members that are still going would write into a folder that is about to be removed.
        let started = Instant::now();
        while test_kill_process_group(group).is_ok() && started.elapsed() < Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        if self.spec.serves() {
            kept::log(&self.log);
        }
        if std::thread::panicking()
            && let Ok(folder) = artifacts()
        {
            let kept = folder.join(format!("{}-{}.log", self.spec.name, self.child.id()));
            let _ = std::fs::copy(&self.log, kept);
        }
    }
}
