//! The program `threepid` itself, run as an operator would: with arguments, environment and signals.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tempfile::TempDir;

use super::process::{PeerError, Process, Spec, server_program, temp_folder, wait_until};

/// How long a clean stop may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Program {
    process: Process,
    folder: TempDir,
}

impl Program {
    /// Starts `threepid` with arguments and variables, in a new folder that is its working directory.
    ///
    /// # Errors
    ///
    /// It was not built.
    pub fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self, PeerError> {
        Self::start_with(server_program()?, arguments, variables)
    }

    pub(crate) fn start_with(
        program: PathBuf,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self, PeerError> {
        let folder = temp_folder("threepid")?;
        let spec = arguments.iter().fold(Spec::new("threepid", program), Spec::arg);
        let spec = variables.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        Ok(Self { process: Process::start(spec, folder.path())?, folder })
    }

    /// Starts `threepid` with SIGXFSZ ignored, so that a file that may grow no more is an error to it and not its end,
    /// as on a full disk. See [`Program::limit_file_size`].
    ///
    /// # Errors
    ///
    /// It was not built.
    pub fn start_limitable(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self, PeerError> {
        // What is ignored stays so over exec.
        Self::start_by("trap '' XFSZ; exec \"$0\" \"$@\"", arguments, variables)
    }

    /// Starts `threepid` with its standard error led to `log`, such as `/dev/full`; nothing of it is in what it said.
    ///
    /// # Errors
    ///
    /// It was not built.
    pub fn start_logging_to(
        log: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self, PeerError> {
        Self::start_by(&format!("exec \"$0\" \"$@\" 2>'{log}'"), arguments, variables)
    }

    /// Starts `threepid` where it may open `soft` files, and may raise that to `hard`.
    ///
    /// # Errors
    ///
    /// It was not built.
    pub fn start_with_open_files(soft: u32, hard: u32, arguments: &[&str]) -> Result<Self, PeerError> {
        let script = format!("ulimit -Sn {soft}; ulimit -Hn {hard}; exec \"$0\" \"$@\"");
        Self::start_by(&script, arguments, &[])
    }

    /// Starts `threepid` from a shell's script that ends with its `exec`.
    fn start_by(script: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self, PeerError> {
        let folder = temp_folder("threepid")?;
        let script = Spec::new("threepid", "/bin/sh").arg("-c").arg(script).arg(server_program()?);
        let spec = arguments.iter().fold(script, Spec::arg);
        let spec = variables.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        Ok(Self { process: Process::start(spec, folder.path())?, folder })
    }

    /// From now on the program can make no file longer than so many bytes; `None` lifts the limit again. It needs no
    /// privilege and no file system of its own: writes beyond it fail, as they do on a full disk.
    ///
    /// # Errors
    ///
    /// The program has ended.
    pub fn limit_file_size(&self, bytes: Option<u64>) -> Result<(), PeerError> {
        let ended = || self.process.failure("has ended");
        let limit = Rlimit { current: bytes, maximum: getrlimit(Resource::Fsize).maximum };
        prlimit(Some(self.pid().ok_or_else(ended)?), Resource::Fsize, limit).map_err(|_| ended())?;
        Ok(())
    }

    /// The program's process.
    fn pid(&self) -> Option<Pid> {
        self.process.pid()
    }

    /// Waits until a GET of `url` is answered 200.
    ///
    /// # Errors
    ///
    /// The program ended before that, or took too long; the error quotes its log.
    pub async fn ready_at(&mut self, url: &str) -> Result<(), PeerError> {
        let client = reqwest::Client::new();
        self.process
            .ready(|| async {
                let answer = client.get(url).send().await;
                Ok(answer.is_ok_and(|answer| answer.status() == 200).then_some(()))
            })
            .await
    }

    /// The working directory.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has written to standard output and standard error so far.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn said(&self) -> Result<String, PeerError> {
        Ok(std::fs::read_to_string(self.process.log())?)
    }

    /// Asks it to end (SIGTERM) and does not wait for it.
    pub fn ask_to_end(&self) {
        self.process.ask_to_end();
    }

    /// Asks it to end (SIGTERM) and gives the exit status.
    ///
    /// # Errors
    ///
    /// It has not ended after 30 s.
    pub async fn terminate(&mut self) -> Result<i32, PeerError> {
        self.process.ask_to_end();
        self.ended().await
    }

    /// The exit status, once there is one.
    ///
    /// # Errors
    ///
    /// It cannot be known.
    pub fn status(&mut self) -> Result<Option<i32>, PeerError> {
        self.process.status()
    }

    /// The most memory that the program has held so far, in KiB; `None` once it has ended.
    pub fn peak_memory(&self) -> Option<u64> {
        self.kibibytes("VmHWM:")
    }

    /// The memory that the program holds now, in KiB; `None` once it has ended.
    pub fn memory(&self) -> Option<u64> {
        self.kibibytes("VmRSS:")
    }

    /// The part of [`Program::memory`] that is mapped from files, such as the program's code, in KiB.
    pub fn mapped_memory(&self) -> Option<u64> {
        self.kibibytes("RssFile:")
    }

    fn kibibytes(&self, name: &str) -> Option<u64> {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid()?.as_raw_nonzero())).ok()?;
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().trim_end_matches(" kB").parse().ok()
    }

    /// Waits for it to end by itself and gives the exit status; 128 and the signal's number if one ended it.
    ///
    /// # Errors
    ///
    /// It has not ended after 30 s.
    pub async fn ended(&mut self) -> Result<i32, PeerError> {
        let process = Mutex::new(&mut self.process);
        let status = || process.lock().unwrap_or_else(PoisonError::into_inner).status();
        wait_until("the program's end", STOPPED_WITHIN, || async { status() }).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Result<Program, PeerError> {
        Program::start_with("/bin/sh".into(), &["-c", script], &[("GREETING", "hello")])
    }

    #[tokio::test]
    async fn a_program_that_ends_gives_its_status_and_what_it_said() -> Result<(), PeerError> {
        let mut program = shell("echo $GREETING; exit 7")?;
        assert_eq!(program.ended().await?, 7);
        assert_eq!(program.said()?, "hello\n");
        Ok(())
    }

    #[tokio::test]
    async fn a_program_asked_to_end_may_finish_first() -> Result<(), PeerError> {
        let mut program = shell("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")?;
        let up = || async { Ok(program.said()?.contains("up").then_some(())) };
        wait_until("the program", STOPPED_WITHIN, up).await?;
        assert_eq!(program.terminate().await?, 3);
        assert!(program.said()?.ends_with("bye\n"));
        Ok(())
    }

    #[tokio::test]
    async fn a_dropped_program_is_gone_with_its_children_and_its_folder() -> Result<(), PeerError> {
        let program = shell("trap '' TERM; sleep 60 & echo $! $$; wait")?;
        let said = || async { Ok(program.said()?.lines().next().map(str::to_owned)) };
        let pids = wait_until("the process ids", STOPPED_WITHIN, said).await?;
        let folder = program.folder().to_owned();
        let started = Instant::now();
        drop(program);
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(!folder.exists());
        for pid in pids.split_whitespace() {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // What the first process has not collected yet is a zombie.
            assert!(state.is_empty() || state.contains(") Z "), "{state}");
        }
        Ok(())
    }
}
