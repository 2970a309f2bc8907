//! Runs one short program and takes what it writes, bounded in size and time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;

use super::null;
use crate::child::Exit;
use crate::exe::Executable;
use crate::spawn::Spawn;

/// Bytes of an answer; one that is longer is an error. A line of passwd or initgroups with 65536 groups fits.
const MAX_ANSWER: usize = 1 << 20;

pub enum Answer {
    /// It ended, after it wrote this.
    Ended(Exit, String),
    /// It did not end in time and was killed.
    Late,
}

pub fn run(program: &Path, argv: &[&str], deadline: Instant) -> io::Result<Answer> {
    let exe = Executable::open(program)?;
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let spawn = Spawn::new(&exe, argv).fd(0, null(false)?).fd(1, write).fd(2, null(true)?);
    let mut child = spawn.spawn()?;
    let text = collect(&read, deadline).and_then(|text| Ok((text, ready(&child, deadline)?)));
    if !matches!(text, Ok((_, true))) {
        child.kill(Signal::KILL)?;
    }
    let exit = child.wait()?;
    match text? {
        (text, true) => Ok(Answer::Ended(exit, String::from_utf8_lossy(&text).into_owned())),
        (_, false) => Ok(Answer::Late),
    }
}

/// What it wrote until it closed its output or the deadline passed.
fn collect(from: &OwnedFd, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut part = [0u8; 4096];
    while ready(from, deadline)? {
        if text.len() > MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match rustix::io::read(from, &mut part) {
            Ok(0) => break,
            Ok(got) => text.extend_from_slice(part.get(..got).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(text)
}

/// Waits until the descriptor can be read; false when the deadline has passed.
fn ready(fd: &impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = crate::clock::until(deadline, Instant::now());
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn shell(script: &str, limit: Duration) -> Answer {
        run(Path::new("/bin/sh"), &["sh", "-c", script], Instant::now() + limit).expect("run")
    }

    #[test]
    fn what_it_wrote_and_how_it_ended_are_told() {
        let answer = shell("echo one; exit 2", Duration::from_secs(20));
        assert!(matches!(answer, Answer::Ended(Exit::Code(2), text) if text == "one\n"));
    }

    #[test]
    fn one_that_hangs_is_killed_at_the_deadline() {
        for script in ["while :; do :; done", "exec >&-; while :; do :; done"] {
            assert!(matches!(shell(script, Duration::from_millis(50)), Answer::Late), "{script}");
        }
    }

    #[test]
    fn one_that_writes_without_end_is_killed_and_an_error() {
        let deadline = Instant::now() + Duration::from_secs(20);
        let argv = ["sh", "-c", "exec tr '\\0' x </dev/zero"];
        let error = run(Path::new("/bin/sh"), &argv, deadline).map(|_| ()).expect_err("too much");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(Instant::now() < deadline);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(run(Path::new("/nonexistent"), &["x"], Instant::now()).is_err());
    }
}
