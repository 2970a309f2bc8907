//! Descriptors that are kept for when the parent may have no more: a message whose descriptor finds no number is lost, and
//! with it the child that sent it. One gives way while a message is read; what would take its place for good is refused.

use std::io;
use std::os::fd::OwnedFd;

/// How many are kept: what the start of a role needs (its channel, log and report, its pidfd), the child's own copies
/// included, as it begins with the parent's.
const KEPT: usize = 16;

/// What is kept.
#[derive(Debug)]
pub struct Reserve {
    null: OwnedFd,
    kept: Vec<OwnedFd>,
}

impl Reserve {
    /// Copies of /dev/null, which cost nothing else.
    pub fn new(null: OwnedFd) -> io::Result<Self> {
        let kept = (0..KEPT).map(|_| null.try_clone()).collect::<Result<_, _>>()?;
        Ok(Self { null, kept })
    }

    /// Makes room for the descriptor of one message.
    pub fn give_way(&mut self) {
        self.kept.pop();
    }

    /// Makes room for the start of a role.
    pub fn give_all(&mut self) {
        self.kept.clear();
    }

    /// Takes back what was given, and says whether there was room.
    pub fn fill(&mut self) -> bool {
        while self.kept.len() < KEPT {
            let Ok(copy) = self.null.try_clone() else { return false };
            self.kept.push(copy);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn open() -> io::Result<OwnedFd> {
        Ok(File::open("/dev/null")?.into())
    }

    /// In a process of its own, as the limit holds for all tests of one.
    #[test]
    fn it_makes_room_in_a_full_table_and_tells_when_that_is_taken() {
        let name = "parent::peers::reserve::tests::it_makes_room_in_a_full_table_and_tells_when_that_is_taken";
        if std::env::var_os("RESERVE_ALONE").is_none() {
            let own = std::env::current_exe().expect("a test knows its own file");
            let mut again = std::process::Command::new(own);
            let output = again.args(["--exact", name]).env("RESERVE_ALONE", "1").output().expect("it runs");
            let text = String::from_utf8_lossy(&output.stdout);
            return assert!(output.status.success() && text.contains("1 passed"), "{text}");
        }
        let mut reserve = Reserve::new(open().expect("/dev/null")).expect("there is room");
        sys::limits::set(sys::limits::Resource::Nofile, 64).expect("lower");
        let full: Vec<OwnedFd> = std::iter::from_fn(|| open().ok()).collect();
        assert!(full.len() < 64 && open().is_err());
        reserve.give_way();
        let message = open().expect("its room");
        assert!(open().is_err() && !reserve.fill(), "that room is taken");
        drop(message);
        assert!(reserve.fill() && open().is_err());
        reserve.give_all();
        let role: Vec<OwnedFd> = (0..KEPT).map(|_| open().expect("a role's room")).collect();
        drop(role);
        assert!(reserve.fill());
    }
}
