//! The journal's own protocol: a datagram of fields, so that a record says which VM and which process it is of
//! (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md). `journalctl VMD_VM=web` then shows what concerns one VM.

use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};

use super::line::{Form, Line, Weight};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A connection to it, which never waits.
pub struct Journal(OwnedFd);

impl Journal {
    /// Fails where there is no journal.
    pub fn connect() -> io::Result<Self> {
        Self::at(SOCKET)
    }

    fn at(path: &str) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// Whether it was taken. `origin` is who it is of (`vm/web/vioblk0`, `vmm/web`, `priv`).
    pub(super) fn write(
        &self,
        weight: Weight,
        origin: &str,
        name: fmt::Arguments<'_>,
        text: fmt::Arguments<'_>,
    ) -> bool {
        let entry = entry(weight, origin, name, text);
        send(&self.0, entry.as_bytes(), SendFlags::NOSIGNAL).is_ok()
    }
}

/// What an origin says: the process, and the VM where it is of one.
fn parts(origin: &str) -> (&str, Option<&str>) {
    let mut parts = origin.split('/');
    let (first, vm, device) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    (device.unwrap_or(first), vm)
}

/// No value has a newline, since control characters are escaped; so each field is `NAME=value`.
fn entry(weight: Weight, origin: &str, name: fmt::Arguments<'_>, text: fmt::Arguments<'_>) -> String {
    let line = Line::new(Form::Plain, weight, name, text);
    let priority = weight.severity();
    let (process, vm) = parts(origin);
    // The line ends with the newline that ends the field.
    let mut entry = format!("PRIORITY={priority}\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=vmd\nVMD_PROCESS={process}\n");
    let _ = vm.map(|vm| writeln!(entry, "VMD_VM={vm}"));
    let _ = write!(entry, "MESSAGE={}", String::from_utf8_lossy(line.bytes()));
    entry
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    fn fields(origin: &str, text: &str) -> Vec<String> {
        let entry = entry(Level::Warn.into(), origin, format_args!("{origin}"), format_args!("{text}"));
        assert!(entry.ends_with('\n'));
        entry.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_record_names_its_process_and_its_vm() {
        let of = |origin| fields(origin, "x")[3..].to_vec();
        assert_eq!(of("vm/web/vioblk0"), ["VMD_PROCESS=vioblk0", "VMD_VM=web", "MESSAGE=vm/web/vioblk0: x"]);
        assert_eq!(of("vm/web"), ["VMD_PROCESS=vm", "VMD_VM=web", "MESSAGE=vm/web: x"]);
        assert_eq!(of("vmm/web"), ["VMD_PROCESS=vmm", "VMD_VM=web", "MESSAGE=vmm/web: x"]);
        assert_eq!(of("priv"), ["VMD_PROCESS=priv", "MESSAGE=priv: x"]);
    }

    #[test]
    fn no_text_begins_a_field_of_its_own() {
        let fields = fields("vm/web", "a\nVMD_VM=other\nPRIORITY=0");
        assert_eq!(fields.len(), 6, "{fields:?}");
        assert_eq!(fields[0], "PRIORITY=4");
        assert_eq!(fields[5], "MESSAGE=vm/web: a\\nVMD_VM=other\\nPRIORITY=0");
    }

    #[test]
    fn a_journal_that_is_away_or_full_takes_nothing_and_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let path = path.to_str().expect("UTF-8");
        assert!(Journal::at(path).is_err());
        let reader = std::os::unix::net::UnixDatagram::bind(path).expect("bound");
        let journal = Journal::at(path).expect("connected");
        let write = || journal.write(Level::Info.into(), "priv", format_args!("priv"), format_args!("x"));
        let taken = (0..100_000).take_while(|_| write()).count();
        assert!((1..100_000).contains(&taken), "it is full at some time: {taken}");
        let mut bytes = [0; 200];
        let got = reader.recv(&mut bytes).expect("an entry");
        assert!(bytes[..got].ends_with(b"VMD_PROCESS=priv\nMESSAGE=priv: x\n"));
        drop(reader);
        assert!(!write());
    }
}
