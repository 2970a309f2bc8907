//! The user's terminal, raw while a console is on it. Where standard input is no terminal, nothing is changed.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::termios::Termios;

/// What the terminal was before, until it is given back.
type Before = Arc<Mutex<Option<Termios>>>;

/// While this lives the terminal is raw. Dropped, or when the program panics (a release aborts then, and drops
/// nothing), the terminal is as it was.
pub struct Raw {
    terminal: Option<Arc<OwnedFd>>,
    before: Before,
}

impl Raw {
    /// Makes the terminal raw and says how to leave; does nothing where there is none.
    pub fn enter(input: BorrowedFd<'_>, device: &Path) -> io::Result<Self> {
        if !input.is_terminal() {
            return Ok(Self { terminal: None, before: Before::default() });
        }
        let terminal = Arc::new(input.try_clone_to_owned()?);
        let before: Before = Arc::new(Mutex::new(None));
        restore_on_panic(&terminal, &before);
        let _ = writeln!(io::stderr(), "connected to {}; leave with ~. at the beginning of a line", device.display());
        *before.lock().unwrap_or_else(PoisonError::into_inner) = Some(sys::pty::make_raw(&terminal)?);
        Ok(Self { terminal: Some(terminal), before })
    }
}

fn restore_on_panic(terminal: &Arc<OwnedFd>, before: &Before) {
    let (terminal, before) = (Arc::clone(terminal), Arc::clone(before));
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        give_back(&terminal, &before);
        usual(panic);
    }));
}

fn give_back(terminal: &OwnedFd, before: &Before) {
    if let Some(settings) = before.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs nothing back.
        let _ = sys::pty::restore(terminal, &settings);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let Some(terminal) = &self.terminal else { return };
        give_back(terminal, &self.before);
        // The cursor may stand anywhere; the shell's prompt must not.
        let _ = io::stderr().write_all(b"\r\n");
    }
}
