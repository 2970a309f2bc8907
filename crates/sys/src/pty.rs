//! Pseudo-terminals: a VM's console. The parent makes one for each VM, gives its owner the slave, keeps one open, raw.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Gid, Mode, Uid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// Both ends and the name. While a slave is open here, the master gives no error though no client is attached.
#[derive(Debug)]
pub struct Pty {
    /// The end whose holder is the terminal.
    pub master: OwnedFd,
    /// The end that programs open by name.
    pub slave: OwnedFd,
    /// Where the slave is.
    pub name: PathBuf,
}

impl Pty {
    /// A new pair, close-on-exec, controlling nobody, raw.
    pub fn open() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        // By the master, not by name: whoever mounts another /dev/pts cannot put a file in its place.
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let name = PathBuf::from(OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes()));
        make_raw(&slave)?;
        Ok(Self { master, slave, name })
    }

    /// Gives the slave to this user and group with these permission bits.
    pub fn give(&self, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
        rustix::fs::fchmod(&self.slave, Mode::from_raw_mode(mode))?;
        Ok(rustix::fs::fchown(&self.slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
    }
}

/// Makes a terminal raw: each byte as it comes, no echo, no signals. Gives the settings it had, for `restore`.
pub fn make_raw(terminal: impl AsFd) -> io::Result<Termios> {
    let before = tcgetattr(&terminal)?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &raw)?;
    Ok(before)
}

/// Gives a terminal the settings back that `make_raw` told.
pub fn restore(terminal: impl AsFd, settings: &Termios) -> io::Result<()> {
    Ok(tcsetattr(terminal, OptionalActions::Flush, settings)?)
}

/// Rows and columns of a terminal, either end.
pub fn window_size(terminal: impl AsFd) -> io::Result<(u16, u16)> {
    let size = tcgetwinsize(terminal)?;
    Ok((size.ws_row, size.ws_col))
}

/// Sets rows and columns; who reads the terminal gets SIGWINCH.
pub fn set_window_size(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::{alone, fill_descriptors};
    use rustix::termios::{LocalModes, OutputModes};

    #[test]
    fn bytes_pass_unchanged_both_ways() {
        let pty = Pty::open().expect("pty");
        let mut got = [0u8; 16];
        for (from, to) in [(&pty.master, &pty.slave), (&pty.slave, &pty.master)] {
            rustix::io::write(from, b"a\r\n\x03\x04\xff").expect("write");
            let count = rustix::io::read(to, &mut got).expect("read");
            assert_eq!(got.get(..count), Some(&b"a\r\n\x03\x04\xff"[..]));
        }
    }

    #[test]
    fn slave_is_raw_and_restore_undoes_it() {
        let pty = Pty::open().expect("pty");
        let settings = tcgetattr(&pty.slave).expect("settings");
        assert!(!settings.local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
        let mut cooked = settings.clone();
        cooked.output_modes |= OutputModes::OPOST;
        restore(&pty.slave, &cooked).expect("restore");
        let before = make_raw(&pty.slave).expect("raw");
        assert!(before.output_modes.contains(OutputModes::OPOST));
        restore(&pty.slave, &before).expect("restore");
        assert!(tcgetattr(&pty.slave).expect("settings").output_modes.contains(OutputModes::OPOST));
    }

    #[test]
    fn name_leads_to_the_slave_and_is_given_to_its_owner() {
        let pty = Pty::open().expect("pty");
        pty.give(1234, 4321, 0o620).expect("give");
        let (by_name, by_fd) =
            (rustix::fs::stat(&pty.name).expect("by name"), rustix::fs::fstat(&pty.slave).expect("by descriptor"));
        assert_eq!((by_name.st_dev, by_name.st_ino), (by_fd.st_dev, by_fd.st_ino));
        assert_eq!((by_name.st_uid, by_name.st_gid, by_name.st_mode & 0o777), (1234, 4321, 0o620));
    }

    #[test]
    fn window_size_set_at_one_end_is_seen_at_the_other() {
        let pty = Pty::open().expect("pty");
        set_window_size(&pty.slave, 40, 132).expect("set");
        assert_eq!(window_size(&pty.master).expect("get"), (40, 132));
    }

    #[test]
    fn full_descriptor_table_leaves_no_half() {
        alone("pty::tests::full_descriptor_table_leaves_no_half", || {
            for left in [0, 1] {
                let _held = fill_descriptors(left);
                let before = std::fs::read_link("/proc/self/fd/0").is_ok();
                assert!(Pty::open().is_err(), "{left} left");
                assert!(before);
                let again = (0..left).map(|_| rustix::io::dup(rustix::stdio::stdin()).is_ok()).collect::<Vec<_>>();
                assert_eq!(again, vec![true; left], "as many are free as before");
            }
        });
    }
}
