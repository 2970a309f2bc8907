//! A limit on how long a back end may take to answer. The vhost crate waits without end: it takes a socket's timeout for a
//! reason to try again. So at the limit the socket is shut down, and its wait ends as if the peer were gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use log::error;
use rustix::net::{Shutdown, shutdown};

/// Stack of the thread that watches the time: as large as a vCPU's, so that libc gives the same pages to one later.
const STACK: usize = 128 << 10;

/// Asks, over `socket`; whatever is waited for on it ends after `limit`.
pub fn within<T>(limit: Duration, socket: BorrowedFd<'_>, ask: impl FnOnce() -> T) -> io::Result<T> {
    if cfg!(fuzzing) {
        return Ok(ask()); // of a peer that has said all already, and there is no time for a thread
    }
    let (asking, answered) = channel::<()>();
    thread::scope(|scope| {
        let watch = move || {
            if answered.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                error!("a back end has not answered for {} s", limit.as_secs());
                // One that is gone already needs none.
                let _ = shutdown(socket.as_fd(), Shutdown::Both);
            }
        };
        thread::Builder::new().name("answer".into()).stack_size(STACK).spawn_scoped(scope, watch)?;
        let answer = ask();
        drop(asking);
        Ok(answer)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_wait_for_a_peer_that_says_nothing_ends() {
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        let watched = ours.try_clone().unwrap();
        let read = within(Duration::from_millis(10), watched.as_fd(), || ours.read(&mut [0; 8]));
        assert_eq!(read.unwrap().unwrap(), 0, "the end");
    }

    #[test]
    fn an_answer_in_time_leaves_the_socket_as_it_is() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(within(Duration::from_secs(600), ours.as_fd(), || 7).unwrap(), 7);
        io::Write::write_all(&mut &ours, b"x").unwrap();
        let mut byte = [0];
        (&theirs).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }
}
