//! Tells the service manager how far the daemon is (sd_notify(3)): one datagram to the socket in `NOTIFY_SOCKET`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};

/// Sends `state` (`READY=1`, `STATUS=...`, `STOPPING=1`). False when nobody asked to be told.
pub fn notify(state: &str) -> io::Result<bool> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(path) => send(&path, state).map(|()| true),
        None => Ok(false),
    }
}

fn send(path: &OsStr, state: &str) -> io::Result<()> {
    let address = match path.as_bytes() {
        [b'/', ..] => SocketAddrUnix::new(path)?,
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // A manager that does not read must not hold the daemon.
    sendto(&socket, state.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn state_arrives_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bind");
        send(path.as_os_str(), "READY=1").expect("send");
        let mut got = [0u8; 32];
        let count = socket.recv(&mut got).expect("receive");
        assert_eq!(got.get(..count), Some(&b"READY=1"[..]));

        use std::os::linux::net::SocketAddrExt;
        let name = format!("vmd-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("name");
        let socket = UnixDatagram::bind_addr(&address).expect("bind");
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").expect("send");
        assert_eq!(socket.recv(&mut got).expect("receive"), "STOPPING=1".len());
    }

    #[test]
    fn a_name_that_is_neither_and_a_socket_that_is_not_there_are_errors() {
        assert!(send(OsStr::new("notify"), "READY=1").is_err());
        assert!(send(OsStr::new("/nonexistent/notify"), "READY=1").is_err());
    }
}
