//! The netlink socket: one request out, its answers in, until it is acknowledged or its deadline has passed.
//!
//! Answers are read defensively: from the kernel only (port 0), with our sequence number, within the lengths they state.

use std::io;
use std::num::NonZeroI32;
use std::ops::ControlFlow;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, DoneBuffer, Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ALIGNTO,
    NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NlasIterator,
};
use netlink_sys::Socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::NetlinkError;
use super::attributes::Out;

/// Bytes read at once: the kernel makes no answer longer than 32 KiB (af_netlink.c, netlink_dump).
const MAX_DATAGRAM: usize = 64 * 1024;
/// Datagrams that are thrown away at most: a listing of all rules of a large host is some thousands.
const MAX_STALE: usize = 100_000;
/// Bytes of a `struct nlmsghdr` (netlink(7)).
const NETLINK_HEADER_LEN: usize = 16;
/// Where the kernel's words stand in an extended acknowledgement (linux/netlink.h, NLMSGERR_ATTR_MSG).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The socket and the number of its last request.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    sequence: u32,
    deadline: Duration,
}

impl Wire {
    pub(super) fn open(protocol: isize, deadline: Duration) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        // The reason in words, without the request's bytes repeated before it.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 0, deadline })
    }

    /// The same with a socket that is open already and does not block; where another than the kernel is to answer, any that
    /// carries datagrams.
    #[allow(unsafe_code)] // netlink-sys takes no descriptor but by its number
    pub(super) fn over(socket: OwnedFd, deadline: Duration) -> Self {
        // SAFETY: the descriptor was just given up by its only owner.
        let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
        Self { socket, sequence: 0, deadline }
    }

    /// The socket, for another process.
    #[allow(unsafe_code)] // netlink-sys gives its descriptor only as a number
    pub(super) fn into_socket(self) -> OwnedFd {
        // SAFETY: netlink-sys's socket gives up the descriptor here, and nobody else has it.
        unsafe { OwnedFd::from_raw_fd(self.socket.into_raw_fd()) }
    }

    /// Throws away all that came, and what is left of a listing: without that, the next would be refused (EBUSY).
    pub(super) fn drain(&self) -> Result<(), NetlinkError> {
        let mut datagram = vec![0; MAX_DATAGRAM];
        for _ in 0..MAX_STALE {
            match self.socket.recv_from(&mut datagram.as_mut_slice(), libc::MSG_TRUNC) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Some were lost, which is the purpose.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(NetlinkError::Unsteady)
    }

    /// A request whose only answer is that it was done.
    pub(super) fn command(&mut self, kind: u16, flags: u16, body: &impl Emitable) -> Result<(), NetlinkError> {
        self.request(kind, flags, body, |_, _| Ok(())).map(|_| ())
    }

    /// Sends a request and gives each answer (type, payload) to `each`. False: the listing changed while it was made.
    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: &impl Emitable,
        each: impl FnMut(u16, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.exchange(&encode(kind, NLM_F_REQUEST | NLM_F_ACK | flags, self.sequence, body)?, each)
    }

    /// Sends a request and reads the payload of each answer of one type. False: the listing changed while it was made.
    pub(super) fn list<T>(
        &mut self,
        kind: u16,
        flags: u16,
        body: &impl Emitable,
        wanted: u16,
        parse: impl Fn(&[u8]) -> Result<T, NetlinkError>,
    ) -> Result<(Vec<T>, bool), NetlinkError> {
        let mut found = Vec::new();
        let whole = self.request(kind, flags, body, |kind, payload| {
            if kind == wanted {
                found.push(parse(payload)?);
            }
            Ok(())
        })?;
        Ok((found, whole))
    }

    /// Messages (type, flags, payload) that nftables carries out together, or none of them.
    pub(super) fn batch(&mut self, messages: Vec<(u16, u16, Out)>) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (kind, flags, payload) in framed(messages) {
            bytes.extend(encode(kind, flags, self.sequence, &payload)?);
            bytes.resize(bytes.len().next_multiple_of(usize::from(NLMSG_ALIGNTO)), 0);
        }
        // One number for all: the first error, or the acknowledgement of the last, is the answer.
        self.exchange(&bytes, |_, _| Ok(())).map(|_| ())
    }

    fn exchange(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(u16, &[u8]) -> Result<(), NetlinkError>,
    ) -> Result<bool, NetlinkError> {
        let until = Instant::now() + self.deadline;
        self.send(bytes, until)?;
        let mut whole = true;
        let mut datagram = vec![0; MAX_DATAGRAM];
        loop {
            let length = self.receive(&mut datagram, until)?;
            let mut rest = datagram.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let (message, after) = split(rest)?;
                rest = after;
                // An answer to a request that was given up, or none of ours.
                if message.sequence_number() != self.sequence {
                    continue;
                }
                whole &= message.flags() & NLM_F_DUMP_INTR == 0;
                if step(&message, &mut each)?.is_break() {
                    return Ok(whole);
                }
            }
        }
    }

    fn send(&self, bytes: &[u8], until: Instant) -> Result<(), NetlinkError> {
        loop {
            match self.socket.send(bytes, 0) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Err(error) => self.wait_after(error, PollFlags::OUT, until)?,
            }
        }
    }

    fn receive(&self, datagram: &mut [u8], until: Instant) -> Result<usize, NetlinkError> {
        loop {
            match self.socket.recv_from(&mut &mut *datagram, libc::MSG_TRUNC) {
                Ok((length, _)) if length > MAX_DATAGRAM => return Err(NetlinkError::Malformed),
                // Root's other processes may write to our port; only the kernel is believed.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((length, _)) => return Ok(length),
                Err(error) => self.wait_after(error, PollFlags::IN, until)?,
            }
        }
    }

    /// Waits for what the socket was not ready for, until the deadline; any other error is final.
    fn wait_after(&self, error: io::Error, what: PollFlags, until: Instant) -> Result<(), NetlinkError> {
        match error.kind() {
            io::ErrorKind::WouldBlock => {}
            io::ErrorKind::Interrupted => return Ok(()),
            _ => return Err(error.into()),
        }
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| NetlinkError::Deadline(self.deadline))?;
        match poll(&mut [PollFd::new(&self.socket, what)], Some(&timeout)) {
            Ok(0) => Err(NetlinkError::Deadline(self.deadline)),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

fn encode(kind: u16, flags: u16, sequence: u32, body: &impl Emitable) -> Result<Vec<u8>, NetlinkError> {
    let mut bytes = vec![0; NETLINK_HEADER_LEN + body.buffer_len()];
    let length = u32::try_from(bytes.len()).map_err(|_| NetlinkError::Malformed)?;
    let header = header(length, kind, flags, sequence);
    let (head, rest) = bytes.split_at_mut(NETLINK_HEADER_LEN);
    header.emit(head);
    body.emit(rest);
    Ok(bytes)
}

fn header(length: u32, kind: u16, flags: u16, sequence: u32) -> NetlinkHeader {
    let mut header = NetlinkHeader::default();
    header.length = length;
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = sequence;
    header
}

/// The first message of a datagram and what follows it.
fn split(datagram: &[u8]) -> Result<(NetlinkBuffer<&[u8]>, &[u8]), NetlinkError> {
    let message = NetlinkBuffer::new_checked(datagram).map_err(malformed)?;
    let length = usize::try_from(message.length()).map_err(|_| NetlinkError::Malformed)?;
    let next = length.next_multiple_of(usize::from(NLMSG_ALIGNTO));
    Ok((message, datagram.get(next..).unwrap_or_default()))
}

/// What one answer means: whether it is the last.
fn step(
    message: &NetlinkBuffer<&[u8]>,
    each: &mut impl FnMut(u16, &[u8]) -> Result<(), NetlinkError>,
) -> Result<ControlFlow<()>, NetlinkError> {
    let payload = message.payload();
    match message.message_type() {
        NLMSG_NOOP => Ok(ControlFlow::Continue(())),
        NLMSG_OVERRUN => Err(NetlinkError::Malformed),
        NLMSG_ERROR => {
            let answer = ErrorBuffer::new_checked(payload).map_err(malformed)?;
            done(answer.code().map_or(0, NonZeroI32::get), answer.payload().get(NETLINK_HEADER_LEN..))
        }
        NLMSG_DONE => {
            let answer = DoneBuffer::new_checked(payload).map_err(malformed)?;
            done(answer.code(), Some(answer.extended_ack()))
        }
        kind => each(kind, payload).map(ControlFlow::Continue),
    }
}

/// The end of a request: `code` is 0 or a negative errno, `words` the attributes of an extended acknowledgement.
fn done(code: i32, words: Option<&[u8]>) -> Result<ControlFlow<()>, NetlinkError> {
    if code == 0 {
        return Ok(ControlFlow::Break(()));
    }
    let errno = code.checked_neg().filter(|errno| (1..4096).contains(errno)).ok_or(NetlinkError::Malformed)?;
    let reason = NlasIterator::new(words.unwrap_or_default())
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned());
    Err(NetlinkError::Refused { errno: Errno::from_raw_os_error(errno), reason: reason.unwrap_or_default() })
}

fn malformed(_: DecodeError) -> NetlinkError {
    NetlinkError::Malformed
}

/// The batch as the socket takes it: between a beginning and an end, the last message acknowledged.
fn framed(mut messages: Vec<(u16, u16, Out)>) -> Vec<(u16, u16, Out)> {
    if let Some((_, flags, _)) = messages.last_mut() {
        *flags |= NLM_F_ACK;
    }
    let subsystem = u16::try_from(libc::NFNL_SUBSYS_NFTABLES).unwrap_or(0).to_be_bytes();
    let bound = |kind: libc::c_int| {
        let body = Out([&[0, 0][..], &subsystem].concat());
        (u16::try_from(kind).unwrap_or(0), NLM_F_REQUEST, body)
    };
    messages.insert(0, bound(libc::NFNL_MSG_BATCH_BEGIN));
    messages.push(bound(libc::NFNL_MSG_BATCH_END));
    messages
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use netlink_packet_route::link::LinkMessage;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(NETLINK_HEADER_LEN + payload.len()).unwrap();
        let mut bytes = vec![0; NETLINK_HEADER_LEN];
        header(length, kind, 0, sequence).emit(&mut bytes);
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn refusal(code: i32, words: &[u8]) -> Vec<u8> {
        [&code.to_ne_bytes()[..], &[0; 16], words].concat()
    }

    /// Asks a kernel that says just these datagrams; its first request has number 1.
    fn ask(datagrams: &[Vec<u8>]) -> Result<usize, NetlinkError> {
        let (kernel, ours) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        for datagram in datagrams {
            kernel.send(datagram).unwrap();
        }
        let mut answers = 0;
        let mut wire = Wire::over(ours.into(), SHORT);
        wire.request(libc::RTM_GETLINK, 0, &LinkMessage::default(), |_, _| {
            answers += 1;
            Ok(())
        })?;
        Ok(answers)
    }

    #[test]
    fn an_error_code_of_zero_is_the_acknowledgement() {
        assert_eq!(ask(&[message(NLMSG_ERROR, 1, &refusal(0, &[]))]).unwrap(), 0);
    }

    #[test]
    fn answers_before_the_end_are_counted_in_one_datagram_or_many() {
        let answer = message(libc::RTM_NEWLINK, 1, &[0; 17]);
        let end = message(NLMSG_DONE, 1, &[0; 4]);
        assert_eq!(ask(&[[answer.clone(), answer.clone(), end.clone()].concat()]).unwrap(), 2);
        assert_eq!(ask(&[answer.clone(), message(NLMSG_NOOP, 1, &[]), answer, end]).unwrap(), 2);
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let before = Instant::now();
        assert!(matches!(ask(&[]), Err(NetlinkError::Deadline(SHORT))));
        assert!(matches!(ask(&[message(libc::RTM_NEWLINK, 1, &[])]), Err(NetlinkError::Deadline(SHORT))));
        assert!(before.elapsed() >= 2 * SHORT);
    }

    #[test]
    fn an_answer_to_an_earlier_request_is_dropped() {
        let late = message(NLMSG_ERROR, 0, &refusal(-1, &[]));
        let ours = message(NLMSG_ERROR, 1, &refusal(0, &[]));
        assert_eq!(ask(&[late.clone(), ours]).unwrap(), 0);
        assert!(matches!(ask(&[late]), Err(NetlinkError::Deadline(_))));
    }

    #[test]
    fn an_error_carries_its_errno_and_the_kernels_words() {
        let words = [8, 0, 1, 0, b'w', b'h', b'y', 0];
        let error = ask(&[message(NLMSG_ERROR, 1, &refusal(-17, &words))]).unwrap_err();
        assert!(error.is_taken());
        assert_eq!(error.to_string(), "File exists (os error 17): why");
    }

    #[test]
    fn an_error_code_that_is_no_errno_is_malformed() {
        for code in [1, -4096, i32::MIN, i32::MAX] {
            let answer = message(NLMSG_ERROR, 1, &refusal(code, &[]));
            assert!(matches!(ask(&[answer]), Err(NetlinkError::Malformed)), "{code}");
        }
    }

    #[test]
    fn a_short_or_lying_length_is_malformed() {
        let good = message(NLMSG_ERROR, 1, &refusal(0, &[]));
        for cut in 1..good.len() {
            assert!(matches!(ask(&[good[..cut].to_vec()]), Err(NetlinkError::Malformed)), "cut at {cut}");
        }
        for length in [0u32, 15, 37, u32::MAX] {
            let mut lying = good.clone();
            lying[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(matches!(ask(&[lying]), Err(NetlinkError::Malformed)), "length {length}");
        }
        assert!(matches!(ask(&[message(NLMSG_ERROR, 1, &[0; 3])]), Err(NetlinkError::Malformed)));
        assert!(matches!(ask(&[message(NLMSG_DONE, 1, &[])]), Err(NetlinkError::Malformed)));
        assert!(matches!(ask(&[message(NLMSG_OVERRUN, 1, &[])]), Err(NetlinkError::Malformed)));
    }

    #[test]
    fn a_datagram_over_the_limit_is_malformed() {
        let long = message(libc::RTM_NEWLINK, 1, &vec![0; MAX_DATAGRAM]);
        assert!(matches!(ask(&[long]), Err(NetlinkError::Malformed)));
    }

    #[test]
    fn a_kernel_that_knows_no_owners_gets_the_table_without() {
        use crate::netlink::nft::{Nft, Table};
        for errno in [-22, -95] {
            let (kernel, ours) = UnixDatagram::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            for (sequence, code) in [(1, errno), (2, 0), (3, 0)] {
                kernel.send(&message(NLMSG_ERROR, sequence, &refusal(code, &[]))).unwrap();
            }
            let mut filter = Nft::over(ours.into(), SHORT);
            let table = Table { name: "vmd".to_owned(), device: None, owned: true, sets: vec![], chains: vec![] };
            filter.replace(&table).unwrap();
            assert!(!filter.owns());
            filter.replace(&table).unwrap(); // without a second try
        }
    }
}
