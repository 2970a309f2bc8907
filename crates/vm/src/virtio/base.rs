//! Where a queue stands, which a back end tells when nothing of the queue is under way any more (QEMU's
//! docs/interop/vhost-user.rst, VHOST_USER_GET_VRING_BASE).
//!
//! It is the one request of vhost-user whose answer may take any time, since a disk of the host does. The vhost crate would
//! wait for it, so it is asked here, and its answer is taken when it has come.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use vhost::vhost_user::message::FrontendReq;

use super::Failure;

/// Version 1 of the protocol.
const VERSION: u32 = 0x1;
/// The message is an answer.
const REPLY: u32 = 0x4;
/// Bytes behind the header: the queue and its base.
const PAYLOAD: u32 = 8;
/// Bytes of such a message: request, flags, size, queue and base.
const MESSAGE: usize = 20;

/// Asks where a queue stands: the back end finishes what is under way, and serves it no more.
pub fn ask(socket: BorrowedFd<'_>, queue: u16) -> Result<(), Failure> {
    let mut bytes = Vec::with_capacity(MESSAGE);
    for word in [FrontendReq::GET_VRING_BASE.into(), VERSION, PAYLOAD, u32::from(queue), 0] {
        bytes.extend(word.to_ne_bytes());
    }
    match send(socket, &bytes, SendFlags::NOSIGNAL) {
        Ok(MESSAGE) => Ok(()),
        Ok(_) => Err(Failure::Gone("it does not read what it is asked".into())),
        Err(error) => Err(Failure::Gone(error.to_string())),
    }
}

/// As much as has come of an answer.
#[derive(Default)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// Where the queue stands, once the whole answer has come. It is the queue that was asked for first.
    pub fn take(&mut self, socket: BorrowedFd<'_>, queue: u16) -> Result<Option<u16>, Failure> {
        let mut bytes = [0; MESSAGE];
        let Some(rest) = bytes.get_mut(self.0.len()..) else { return Ok(None) };
        match recv(socket, &mut *rest, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Failure::Gone("its process is gone".into())),
            Ok((count, _)) => self.0.extend(rest.iter().take(count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(Failure::Gone(error.to_string())),
        }
        if self.0.len() < MESSAGE {
            return Ok(None);
        }
        let base = judge(&self.0, queue);
        self.0.clear();
        base.map(Some)
    }
}

fn judge(bytes: &[u8], queue: u16) -> Result<u16, Failure> {
    let words: Vec<u32> = bytes.chunks_exact(4).flat_map(<[u8; 4]>::try_from).map(u32::from_ne_bytes).collect();
    let expected = [FrontendReq::GET_VRING_BASE.into(), VERSION | REPLY, PAYLOAD, queue.into()];
    match *words.as_slice() {
        [ref head @ .., base] if *head == expected => {
            u16::try_from(base).map_err(|_| Failure::Gone(format!("queue {queue} stands at {base}")))
        }
        _ => Err(Failure::Gone(format!("it does not tell where queue {queue} stands"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn answer(words: [u32; 5]) -> Vec<u8> {
        words.map(u32::to_ne_bytes).concat()
    }

    #[test]
    fn an_answer_is_taken_when_all_of_it_has_come() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ask(ours.as_fd(), 1).unwrap();
        let mut asked = [0; MESSAGE];
        theirs.read_exact(&mut asked).unwrap();
        assert_eq!(asked.to_vec(), answer([11, 1, 8, 1, 0]));
        let mut taken = Answer::default();
        for byte in answer([11, 5, 8, 1, 7]) {
            assert_eq!(taken.take(ours.as_fd(), 1).unwrap(), None);
            theirs.write_all(&[byte]).unwrap();
        }
        assert_eq!(taken.take(ours.as_fd(), 1).unwrap(), Some(7));
        // Two that come together are taken one by one.
        theirs.write_all(&[answer([11, 5, 8, 0, 8]), answer([11, 5, 8, 1, 9])].concat()).unwrap();
        assert_eq!([0, 1].map(|queue| taken.take(ours.as_fd(), queue).unwrap()), [Some(8), Some(9)]);
    }

    #[test]
    fn an_answer_to_something_else_or_none_is_no_answer() {
        for wrong in [[10, 5, 8, 1, 7], [11, 1, 8, 1, 7], [11, 5, 9, 1, 7], [11, 5, 8, 0, 7], [11, 5, 8, 1, 0x1_0000]] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(&answer(wrong)).unwrap();
            assert!(matches!(Answer::default().take(ours.as_fd(), 1), Err(Failure::Gone(_))), "{wrong:?}");
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(matches!(Answer::default().take(ours.as_fd(), 1), Err(Failure::Gone(_))));
    }
}
