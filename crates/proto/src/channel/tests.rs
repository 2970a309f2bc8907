//! One test per rule of a channel.

use model::Text;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Say {
    Words(Text<8>),
    Thing,
    Much(Vec<u8>),
}

impl Message for Say {
    fn fds(&self) -> usize {
        match self {
            Say::Words(_) | Say::Much(_) => 0,
            Say::Thing => 1,
        }
    }
}

fn ends() -> (Channel<Say, Say>, Channel<Say, Say>) {
    pair().unwrap()
}

/// Of a conversation of version `N`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Of<const N: u32>(Say);

impl<const N: u32> Message for Of<N> {
    const VERSION: Option<u32> = Some(N);

    fn fds(&self) -> usize {
        self.0.fds()
    }
}

fn words<const N: u32>(text: &str) -> Of<N> {
    Of(Say::Words(Text::new(text).unwrap()))
}

#[test]
fn the_version_stands_before_the_first_message_of_each_way_alone() {
    let (mut a, mut b) = pair::<Of<7>, Of<7>>().unwrap();
    for text in ["one", "two"] {
        a.send(&words(text), vec![]).unwrap();
        assert!(matches!(b.recv().unwrap(), Received::Message(said, _) if said == words(text)));
        b.send(&words(text), vec![]).unwrap();
        assert!(matches!(a.recv().unwrap(), Received::Message(said, _) if said == words(text)));
    }
    a.send(&words("three"), vec![]).unwrap();
    let Packet::Whole(bytes, _) = seqpacket::recv(b.as_fd(), MAX_MESSAGE).unwrap() else { panic!("no packet") };
    assert_eq!(bytes, postcard::to_stdvec(&words::<7>("three")).unwrap());
}

#[test]
fn another_version_is_told_with_both_and_nothing_is_decoded() {
    let (left, right) = seqpacket::pair().unwrap();
    let (mut old, mut new) = (Channel::<Of<7>, Of<7>>::new(left), Channel::<Of<8>, Of<8>>::new(right));
    old.send(&words("hello"), vec![]).unwrap();
    let error = new.recv().unwrap_err();
    assert!(matches!(error, ChannelError::Version { theirs: 7, ours: 8 }), "{error:?}");
    assert_eq!(error.to_string(), "the peer speaks version 7 of this conversation, and this process version 8");
    let (left, right) = seqpacket::pair().unwrap();
    seqpacket::send(left.as_fd(), &[8, 0, 0], &[]).unwrap();
    let mut short = Channel::<Of<8>, Of<8>>::new(right);
    assert!(matches!(short.recv(), Err(ChannelError::Malformed(_))));
}

fn raw(end: &Channel<Say, Say>, bytes: &[u8], fds: usize) {
    let fds: Vec<BorrowedFd<'_>> = (0..fds).map(|_| end.as_fd()).collect();
    seqpacket::send(end.as_fd(), bytes, &fds).unwrap();
}

#[test]
fn messages_arrive_in_order_with_their_descriptors() {
    let (mut a, mut b) = ends();
    a.send(&Say::Words(Text::new("one").unwrap()), vec![]).unwrap();
    let fd = a.as_fd().try_clone_to_owned().unwrap();
    a.send(&Say::Thing, vec![fd]).unwrap();
    assert!(matches!(b.recv().unwrap(), Received::Message(Say::Words(w), _) if w.as_str() == "one"));
    assert!(matches!(b.recv().unwrap(), Received::Message(Say::Thing, fds) if fds.len() == 1));
    assert!(matches!(b.recv().unwrap(), Received::Empty));
    drop(a);
    assert!(matches!(b.recv().unwrap(), Received::Closed));
}

#[test]
fn a_wrong_number_of_descriptors_is_refused_on_both_sides() {
    let (mut a, mut b) = ends();
    assert!(matches!(a.send(&Say::Thing, vec![]), Err(ChannelError::Descriptors { got: 0, want: 1 })));
    raw(&a, &postcard::to_stdvec(&Say::Thing).unwrap(), 2);
    assert!(matches!(b.recv(), Err(ChannelError::Descriptors { got: 2, want: 1 })));
    raw(&a, &postcard::to_stdvec(&Say::Words(Text::default())).unwrap(), 1);
    assert!(matches!(b.recv(), Err(ChannelError::Descriptors { got: 1, want: 0 })));
}

#[test]
fn unknown_short_long_and_trailing_bytes_are_malformed() {
    let (a, mut b) = ends();
    for bytes in [&[9u8][..], &[0, 4, b'a'], &[0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9], &[0, 1, 0xff], &[0, 1, b'a', 0]] {
        raw(&a, bytes, 0);
        assert!(matches!(b.recv(), Err(ChannelError::Malformed(_))), "{bytes:?}");
    }
}

#[test]
fn a_packet_over_the_limit_is_too_long() {
    let (a, mut b) = ends();
    raw(&a, &vec![0; MAX_MESSAGE + 1], 0);
    assert!(matches!(b.recv(), Err(ChannelError::TooLong)));
}

#[test]
fn a_message_of_the_limit_is_sent_and_one_of_a_byte_more_is_too_long() {
    let (mut a, mut b) = ends();
    let much = Say::Much(vec![7; MAX_MESSAGE - 4]); // after its variant's byte and three of its length
    a.send(&much, vec![]).unwrap();
    assert!(matches!(b.recv().unwrap(), Received::Message(got, _) if got == much));
    let error = a.send(&Say::Much(vec![7; MAX_MESSAGE - 3]), vec![]).unwrap_err();
    assert!(matches!(error, ChannelError::TooLong), "{error}");
    assert!(!a.wants_write(), "it is not queued");
}

/// Sends until the peer is too slow, and then has it read: how much was sent, all of which comes.
fn sent_to_a_peer_that_never_reads(mut a: Channel<Say, Say>, mut b: Channel<Say, Say>) -> usize {
    let word = Say::Words(Text::new("x").unwrap());
    let mut sent = 0;
    let error = loop {
        match a.send(&word, vec![]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ChannelError::Slow));
    assert!(a.wants_write());
    let mut got = 0;
    while got < sent {
        a.flush().unwrap();
        while let Received::Message(..) = b.recv().unwrap() {
            got += 1;
        }
    }
    assert!(!a.wants_write());
    sent
}

#[test]
fn a_peer_that_never_reads_is_queued_for_then_cut_off() {
    let (a, b) = ends();
    let sent = sent_to_a_peer_that_never_reads(a, b);
    assert!((MAX_QUEUE..MAX_PATIENT_QUEUE).contains(&sent), "{sent}");
}

#[test]
fn who_is_patient_queues_more_and_not_without_end() {
    let (a, b) = ends();
    let sent = sent_to_a_peer_that_never_reads(a.patient(), b);
    assert!((MAX_PATIENT_QUEUE..MAX_PATIENT_QUEUE * 2).contains(&sent), "{sent}");
}

#[test]
fn waiting_ends_at_the_deadline() {
    let (mut a, _b) = ends();
    assert!(matches!(a.recv_within(Duration::from_millis(10)), Err(ChannelError::Late(_))));
}

#[test]
fn waiting_ends_when_a_message_comes() {
    let (mut a, mut b) = ends();
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        b.send(&Say::Words(Text::new("late").unwrap()), vec![]).unwrap();
        b
    });
    let begun = Instant::now();
    assert!(matches!(a.recv_within(Duration::from_secs(20)), Ok(Received::Message(Say::Words(_), _))));
    assert!(begun.elapsed() < Duration::from_secs(15), "it is not looked for at the deadline alone");
    late.join().unwrap();
}

#[test]
fn what_waits_to_be_sent_goes_out_while_an_answer_is_waited_for() {
    let (mut a, mut b) = ends();
    let word = Say::Words(Text::new("x").unwrap());
    let mut sent = 0;
    while !a.wants_write() {
        a.send(&word, vec![]).unwrap();
        sent += 1;
    }
    let peer = std::thread::spawn(move || {
        for _ in 0..sent {
            assert!(matches!(b.recv_within(Duration::from_secs(20)), Ok(Received::Message(..))));
        }
        b.send(&Say::Words(Text::new("all").unwrap()), vec![]).unwrap();
    });
    assert!(matches!(a.recv_within(Duration::from_secs(20)), Ok(Received::Message(..))));
    peer.join().unwrap();
}

#[test]
fn what_a_broken_socket_did_not_take_is_kept() {
    let mut a: Channel<Say, Say> = Channel::new(std::fs::File::open("/dev/null").unwrap().into());
    assert!(matches!(a.send(&Say::Words(Text::default()), vec![]), Err(ChannelError::Socket(_))));
    assert!(matches!(a.recv_within(Duration::from_secs(5)), Err(ChannelError::Socket(_))));
    assert!(a.wants_write());
}

#[test]
fn last_words_of_a_peer_that_is_gone_are_heard_also_when_something_waits_to_be_sent() {
    let (mut a, mut b) = ends();
    a.send(&Say::Words(Text::new("why").unwrap()), vec![]).unwrap();
    drop(a);
    assert!(b.send(&Say::Words(Text::new("unread").unwrap()), vec![]).is_err());
    let limit = std::time::Duration::from_secs(5);
    assert!(matches!(b.recv_within(limit), Ok(Received::Message(..))));
    assert!(matches!(b.recv_within(limit), Ok(Received::Closed)));
}

#[test]
fn what_was_lost_for_want_of_descriptors_is_known() {
    let (_a, mut b) = ends();
    assert!(b.take_lost().is_none());
    b.lost = Some(postcard::to_stdvec(&Say::Thing).unwrap());
    assert_eq!(b.take_lost(), Some(Say::Thing));
    assert!(b.take_lost().is_none(), "once");
    for bytes in [vec![], vec![9], vec![1, 0]] {
        b.lost = Some(bytes);
        assert!(b.take_lost().is_none(), "what is no message is none");
    }
    b.lost = Some(postcard::to_stdvec(&Say::Thing).unwrap());
    assert!(matches!(b.recv().unwrap(), Received::Empty));
    assert!(b.take_lost().is_none(), "it is of the last read alone");
}
