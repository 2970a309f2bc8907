//! Each D row of openbsd/devices.md, 11.4 by its number, the rules of 4.8, and dhcproto as the other side.

use std::net::Ipv4Addr;

use dhcproto::v4::{self, DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use proptest::prelude::*;

use super::packet::{emit, parse};
use super::*;

const MAC: [u8; 6] = [0xfe, 0xe1, 0xbb, 0xd1, 2, 0xff];
const HOST_MAC: [u8; 6] = [2, 9, 8, 7, 6, 5];
const HOST: Ipv4Addr = Ipv4Addr::new(100, 64, 1, 2);
const GUEST: Ipv4Addr = Ipv4Addr::new(100, 64, 1, 3);
const XID: u32 = 0x1234_5678;
const IHL: usize = 14;
const LENGTH: usize = 16;
const FRAGMENT: usize = 20;
const BOOTP: usize = 42;
const OPTIONS: usize = BOOTP + 240;

fn lease() -> Lease {
    Lease {
        mac: MAC,
        host_mac: HOST_MAC,
        host: HOST,
        address: GUEST,
        name_servers: vec![],
        name: host_name("web"),
        net_boot: false,
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// A frame around a BOOTP message, with every length and checksum right.
fn framed(to: [u8; 6], message: &[u8]) -> Vec<u8> {
    let udp = (8 + message.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255];
    ip[2..4].copy_from_slice(&(20 + udp).to_be_bytes());
    let sum = !checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut datagram = [&68u16.to_be_bytes()[..], &67u16.to_be_bytes(), &udp.to_be_bytes(), &[0, 0], message].concat();
    let pseudo = [&ip[12..20], &[0, 17], &udp.to_be_bytes(), &datagram].concat();
    let sum = !checksum(&pseudo);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    [&to[..], &MAC, &[0x08, 0x00], &ip, &datagram].concat()
}

/// A request with these bytes of options behind the cookie, padded as a client does.
fn raw(options: &[u8]) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0];
    message.extend(XID.to_be_bytes());
    message.extend([0; 20]);
    message.extend(MAC);
    message.resize(236, 0);
    message.extend([0x63, 0x82, 0x53, 0x63]);
    message.extend(options);
    message.resize(message.len().max(300), 0);
    framed([0xff; 6], &message)
}

/// A request as dhcproto says it.
fn said<T>(kind: MessageType, change: impl FnOnce(&mut Message) -> T) -> Vec<u8> {
    let mut message = Message::new_with_id(
        XID,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &MAC,
    );
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    change(&mut message);
    let mut bytes = message.to_vec().unwrap();
    bytes.resize(bytes.len().max(300), 0);
    framed([0xff; 6], &bytes)
}

/// Fixes the sums of a frame that was changed by hand.
fn mended(mut frame: Vec<u8>) -> Vec<u8> {
    frame[24..26].fill(0);
    let header = 14 + usize::from(frame[IHL] & 15) * 4;
    let sum = !checksum(&frame[14..header.max(34).min(frame.len())]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[40..42].fill(0); // no UDP checksum
    frame
}

fn changed(at: usize, byte: u8) -> Vec<u8> {
    let mut frame = raw(&[53, 1, 1, 255]);
    frame[at] = byte;
    mended(frame)
}

fn asked(frame: &[u8]) -> Option<Answer> {
    let lease = lease();
    lease.answer(&parse(frame, &lease, true)?)
}

fn reply_of(frame: &[u8], lease: &Lease) -> Message {
    let request = parse(frame, lease, true).unwrap();
    let reply = emit(lease.answer(&request).unwrap(), request.xid, lease);
    assert_eq!(checksum(&reply[14..34]), 0xffff, "the header's sum");
    let pseudo = [&reply[26..34], &[0, 17], &reply[38..40], &reply[34..]].concat();
    assert_eq!(checksum(&pseudo), 0xffff, "the datagram's sum");
    assert_eq!(usize::from(u16::from_be_bytes([reply[16], reply[17]])), reply.len() - 14);
    assert_eq!(reply[..6], MAC);
    assert_eq!(reply[6..12], [0xfe, 0xe1, 0xbb, 0xd1, 2, 0], "the guest's address, and one more in its last byte");
    assert_eq!((&reply[26..30], &reply[30..34]), (&HOST.octets()[..], &GUEST.octets()[..]));
    assert_eq!(reply[34..38], [0, 67, 0, 68]);
    assert!(reply.len() >= 342);
    let message = Message::decode(&mut Decoder::new(&reply[42..])).unwrap();
    assert_eq!((message.opcode(), message.xid(), message.chaddr()), (Opcode::BootReply, XID, &MAC[..]));
    assert_eq!((message.flags(), message.secs(), message.giaddr()), (Flags::default(), 0, Ipv4Addr::UNSPECIFIED));
    message
}

fn codes(message: &Message) -> Vec<u8> {
    let mut codes: Vec<u8> = message.opts().iter().map(|(code, _)| u8::from(*code)).collect();
    codes.retain(|code| *code != 255);
    codes.sort_unstable();
    codes
}

#[test]
fn discover_is_offered_the_guests_one_address() {
    let reply = reply_of(&said(MessageType::Discover, |_| ()), &lease());
    assert_eq!((reply.yiaddr(), reply.siaddr()), (GUEST, HOST));
    assert_eq!(codes(&reply), [1, 3, 6, 12, 51, 53, 54]);
    let option = |code| reply.opts().get(code).unwrap().clone();
    assert_eq!(option(OptionCode::MessageType), DhcpOption::MessageType(MessageType::Offer));
    assert_eq!(option(OptionCode::SubnetMask), DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 254)));
    assert_eq!(option(OptionCode::Router), DhcpOption::Router(vec![HOST]));
    assert_eq!(option(OptionCode::DomainNameServer), DhcpOption::DomainNameServer(vec![HOST]));
    assert_eq!(option(OptionCode::AddressLeaseTime), DhcpOption::AddressLeaseTime(u32::MAX));
    assert_eq!(option(OptionCode::ServerIdentifier), DhcpOption::ServerIdentifier(HOST));
    assert_eq!(option(OptionCode::Hostname), DhcpOption::Hostname("web".to_owned()));
    assert_eq!(reply.fname(), None, "no boot file");
}

#[test]
fn name_servers_that_are_known_are_told_in_the_hosts_place() {
    let servers: Vec<Ipv4Addr> = (1..=3).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect();
    let told = Lease { name_servers: servers.clone(), ..lease() };
    for kind in [MessageType::Discover, MessageType::Request, MessageType::Inform] {
        let reply = reply_of(&said(kind, |_| ()), &told);
        assert_eq!(
            reply.opts().get(OptionCode::DomainNameServer),
            Some(&DhcpOption::DomainNameServer(servers.clone()))
        );
        assert_eq!(reply.opts().get(OptionCode::Router), Some(&DhcpOption::Router(vec![HOST])));
    }
}

#[test]
fn request_is_acknowledged_for_that_address_alone() {
    let wants = |address| said(MessageType::Request, |m| m.opts_mut().insert(DhcpOption::RequestedIpAddress(address)));
    assert_eq!(reply_of(&wants(GUEST), &lease()).opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(asked(&said(MessageType::Request, |_| ())), Some(Answer::Ack), "none named");
    let refused = reply_of(&wants(Ipv4Addr::new(100, 64, 1, 5)), &lease());
    assert_eq!(refused.opts().msg_type(), Some(MessageType::Nak));
    assert_eq!((refused.yiaddr(), refused.siaddr()), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
    assert_eq!(codes(&refused), [53, 54], "a NAK carries no address");
}

#[test]
fn a_guest_that_has_its_address_may_renew_it() {
    let has = |address| said(MessageType::Request, |m| m.set_ciaddr(address).xid());
    assert_eq!(asked(&has(GUEST)), Some(Answer::Ack));
    assert_eq!(asked(&has(Ipv4Addr::new(100, 64, 1, 5))), None, "another's is not ours to answer");
    let mut unicast = has(GUEST);
    unicast[..6].copy_from_slice(&HOST_MAC);
    assert_eq!(asked(&unicast), Some(Answer::Ack), "to the host's address");
    unicast[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    assert_eq!(asked(&unicast), None, "to a third one");
}

#[test]
fn a_bootp_client_has_no_dhcp_options() {
    let reply = reply_of(&raw(&[]), &lease());
    assert_eq!((reply.yiaddr(), codes(&reply)), (GUEST, vec![1, 3, 6, 12]));
    let mut without_cookie = raw(&[]);
    without_cookie[OPTIONS - 4..OPTIONS].fill(0);
    assert_eq!(asked(&mended(without_cookie)), Some(Answer::Bootp));
}

#[test]
fn a_boot_from_the_network_names_the_installers_file() {
    let lease = Lease { net_boot: true, ..lease() };
    assert_eq!(reply_of(&said(MessageType::Discover, |_| ()), &lease).fname(), Some(&b"auto_install\0"[..]));
}

#[test]
fn d1_options_that_run_past_the_end_are_not_read() {
    for (options, answer) in [
        (&[53, 1, 1][..], Answer::Offer),              // no end
        (&[255, 53, 1, 1], Answer::Bootp),             // ended before
        (&[255, 1, 0, 53, 1, 1], Answer::Bootp),       // an end has no length
        (&[0, 0, 0, 0, 53, 1, 1, 255], Answer::Offer), // pads
        (&[0, 53, 1, 1, 255], Answer::Offer),          // nor has a pad
        (&[53, 1, 1, 12, 250, 1, 2], Answer::Offer),   // past the end: what was found counts
        (&[12, 250, 53, 1, 1, 255], Answer::Bootp),
    ] {
        assert_eq!(asked(&raw(options)), Some(answer), "{options:?}");
    }
    // To the last byte: a code without its length, a length without its value, a value that ends with the frame.
    for tail in [&[53][..], &[53, 1], &[53, 1, 1]] {
        let options = [vec![0; 60], tail.to_vec()].concat();
        let expected = if tail.len() == 3 { Answer::Offer } else { Answer::Bootp };
        assert_eq!(asked(&raw(&options)), Some(expected), "{tail:?}");
    }
    for cookie in 1..=3 {
        let mut frame = raw(&[53, 1, 1, 255]);
        frame[OPTIONS - 4 + cookie..OPTIONS].fill(0);
        assert_eq!(asked(&mended(frame)), Some(Answer::Bootp), "{cookie} bytes of the cookie");
    }
}

#[test]
fn d2_the_first_kind_that_is_one_counts_and_unknown_ones_get_no_answer() {
    for (options, answer) in [
        (&[53, 0, 255][..], Some(Answer::Bootp)),
        (&[53, 2, 1, 1, 255], Some(Answer::Bootp)),
        (&[53, 2, 1, 1, 53, 1, 1, 255], Some(Answer::Offer)),
        (&[53, 1, 1, 53, 1, 3, 255], Some(Answer::Offer)),
        (&[53, 1, 0, 255], None),
        (&[53, 1, 9, 255], None),
        (&[53, 1, 255, 255], None),
    ] {
        assert_eq!(asked(&raw(options)), answer, "{options:?}");
    }
}

#[test]
fn d3_options_of_another_length_or_kind_are_ignored() {
    let other = [100, 64, 1, 9];
    for odd in [&other[..3], &[100, 64, 1, 9, 9]] {
        let options = [&[53, 1, 3, 50, odd.len() as u8], odd, &[255]].concat();
        assert_eq!(asked(&raw(&options)), Some(Answer::Ack), "{odd:?}");
    }
    let huge = [&[53, 1, 1, 61, 255][..], &[7; 255], &[52, 1, 3, 12, 3, 7, 27, 10, 255]].concat();
    assert_eq!(asked(&raw(&huge)), Some(Answer::Offer));
}

#[test]
fn d4_what_is_of_another_medium_client_or_relay_is_not_ours() {
    for (at, byte) in [(0, 2), (1, 2), (2, 0), (2, 255), (3, 255), (24, 10), (27, 1), (28, 0), (33, 0), (108, b'x')] {
        assert_eq!(asked(&changed(BOOTP + at, byte)), None, "byte {at} of the message is {byte}");
    }
    assert_eq!(asked(&changed(BOOTP + 10, 0x80)), Some(Answer::Offer), "the broadcast flag changes nothing");
    for at in [6, 11] {
        assert_eq!(asked(&changed(at, 0)), None, "another source");
    }
}

#[test]
fn d5_only_whole_ip_packets_are_looked_at() {
    for byte in [0x40, 0x41, 0x44, 0x46, 0x4f, 0x65, 0x05] {
        assert_eq!(asked(&changed(IHL, byte)), None, "version and length {byte:#x}");
    }
    for (at, byte) in [(FRAGMENT, 0x20), (FRAGMENT, 0x01), (FRAGMENT + 1, 1), (22, 0), (23, 6), (LENGTH, 0xff)] {
        assert_eq!(asked(&changed(at, byte)), None, "byte {at} is {byte}");
    }
    for length in [0u16, 19, 27, 28, 327, 1501] {
        let mut frame = raw(&[53, 1, 1, 255]);
        frame[LENGTH..LENGTH + 2].copy_from_slice(&length.to_be_bytes());
        assert_eq!(asked(&mended(frame)), None, "total length {length}: the datagram is cut, or the packet longer");
    }
    let mut bad_sum = raw(&[53, 1, 1, 255]);
    bad_sum[24] ^= 1;
    assert_eq!(asked(&bad_sum), None);
    assert_eq!(asked(&changed(FRAGMENT, 0x40)), Some(Answer::Offer), "DF is no fragment");
}

#[test]
fn d6_only_whole_right_datagrams_are_looked_at() {
    for length in [0u16, 7, 8, 243, 309, 0xffff] {
        let mut frame = raw(&[53, 1, 1, 255]);
        frame[38..40].copy_from_slice(&length.to_be_bytes());
        assert_eq!(asked(&mended(frame)), None, "{length}");
    }
    let mut wrong = raw(&[53, 1, 1, 255]);
    wrong[40] ^= 1;
    assert_eq!(asked(&wrong), None);
    let lease = lease();
    assert!(parse(&wrong, &lease, false).is_some(), "a sum that the guest leaves to us is none yet");
    wrong[40..42].fill(0);
    assert_eq!(asked(&wrong), Some(Answer::Offer), "no checksum");
    for (at, byte) in [(35, 67), (37, 68)] {
        assert_eq!(asked(&changed(at, byte)), None, "other ports");
    }
}

#[test]
fn d7_frames_have_a_least_and_a_most_and_no_tag() {
    let of = |length: usize| {
        let mut options = vec![53, 1, 1, 255];
        options.resize(length - OPTIONS, 0);
        let mut message = raw(&options)[BOOTP..].to_vec();
        message.resize(length - BOOTP, 0);
        framed([0xff; 6], &message)
    };
    for (length, answer) in [(313, None), (314, Some(Answer::Offer)), (1514, Some(Answer::Offer)), (1515, None)] {
        let frame = of(length);
        assert_eq!((frame.len(), asked(&frame)), (length, answer));
    }
    let frame = of(400);
    let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
    assert_eq!(asked(&tagged), None);
}

#[test]
fn d8_release_and_decline_get_no_answer_and_inform_no_lease() {
    assert_eq!(asked(&said(MessageType::Release, |m| m.set_ciaddr(GUEST).xid())), None);
    assert_eq!(asked(&said(MessageType::Decline, |_| ())), None);
    for kind in [MessageType::Offer, MessageType::Ack, MessageType::Nak] {
        assert_eq!(asked(&said(kind, |_| ())), None);
    }
    let informed = reply_of(&said(MessageType::Inform, |m| m.set_ciaddr(GUEST).xid()), &lease());
    assert_eq!((informed.opts().msg_type(), informed.yiaddr()), (Some(MessageType::Ack), Ipv4Addr::UNSPECIFIED));
    assert_eq!(codes(&informed), [1, 3, 6, 12, 53, 54]);
    let of = |server| said(MessageType::Request, |m| m.opts_mut().insert(DhcpOption::ServerIdentifier(server)));
    assert_eq!((asked(&of(HOST)), asked(&of(Ipv4Addr::new(10, 0, 0, 1)))), (Some(Answer::Ack), None));
}

#[test]
fn d9_answers_that_nobody_reads_are_bounded() {
    let mut server = Server::new(lease());
    for _ in 0..10_000 {
        assert!(server.take(&raw(&[53, 1, 1, 255]), true), "taken, answered or not");
    }
    assert!(server.due().is_some());
    assert_eq!(std::iter::from_fn(|| server.pop()).count(), 16);
    assert_eq!(server.due(), None);
    server.take(&raw(&[53, 1, 1, 255]), true);
    server.clear();
    assert_eq!((server.due(), server.pop()), (None, None));
}

#[test]
fn d10_a_name_is_told_if_it_can_be_a_hosts() {
    let long = "a".repeat(63);
    for good in ["web", "web-1", "WEB.example", "1a", long.as_str()] {
        assert_eq!(host_name(good).as_deref(), Some(good));
    }
    let longer = "a".repeat(64);
    for bad in ["", "a", "a_b", "-a", "a-", "a..b", ".a", "a.", "w\u{e9}b", "a b", longer.as_str()] {
        assert_eq!(host_name(bad), None, "{bad}");
    }
    let nameless = Lease { name: None, ..lease() };
    assert_eq!(reply_of(&said(MessageType::Discover, |_| ()), &nameless).opts().get(OptionCode::Hostname), None);
}

#[test]
fn d11_what_is_not_said_is_zero() {
    let reply = emit(Answer::Offer, XID.to_be_bytes(), &Lease { name: None, ..lease() });
    assert_eq!(reply.len(), 42 + 300);
    let end = OPTIONS + 3 + 6 + 6 + 6 + 6 + 6;
    assert_eq!(reply[end], 255);
    assert!(reply[end + 1..].iter().all(|byte| *byte == 0));
    assert!(reply[BOOTP + 34..BOOTP + 236].iter().all(|byte| *byte == 0), "chaddr's rest, sname, file");
}

proptest! {
    #[test]
    fn any_bytes_are_survived_and_answers_are_ours(bytes in proptest::collection::vec(any::<u8>(), 0..1600)) {
        prop_assert_eq!(parse(&bytes, &lease(), true), None, "random bytes have no right sum");
    }

    #[test]
    fn a_request_with_any_byte_changed_is_refused_or_answered_whole(at in 0usize..400, byte: u8, cut in 0usize..400) {
        let mut frame = raw(&[53, 1, 3, 50, 4, 100, 64, 1, 3, 61, 7, 1, 2, 3, 4, 5, 6, 7, 255]);
        frame.resize(400, 0);
        frame[at] = byte;
        for frame in [mended(frame.clone()), frame[..cut].to_vec(), frame] {
            if let Some(request) = parse(&frame, &lease(), true) {
                if let Some(answer) = lease().answer(&request) {
                    let reply = emit(answer, request.xid, &lease());
                    prop_assert!(reply.len() <= 1514);
                    prop_assert!(Message::decode(&mut Decoder::new(&reply[42..])).is_ok());
                }
            }
        }
    }

    #[test]
    fn options_are_read_as_dhcproto_reads_them(
        codes in proptest::collection::vec((1u8..=254, proptest::collection::vec(any::<u8>(), 0..12)), 0..12),
    ) {
        // Its decoder has a meaning for many options, and refuses a value of a wrong length; those are left out here.
        let plain = |code: u8| !(code == 53 || code == 50 || code == 54) && (224..=254).contains(&code);
        let mut options = vec![53, 1, 3, 50, 4, 100, 64, 1, 3];
        for (code, value) in codes.iter().filter(|(code, _)| plain(*code)) {
            options.extend([*code, value.len() as u8]);
            options.extend(value);
        }
        options.push(255);
        let frame = raw(&options);
        let theirs = v4::Message::decode(&mut Decoder::new(&frame[42..])).unwrap();
        let ours = parse(&frame, &lease(), true).unwrap();
        prop_assert_eq!(ours.kind, theirs.opts().msg_type().map(u8::from));
        let wanted = Some(DhcpOption::RequestedIpAddress(ours.wants.unwrap()));
        prop_assert_eq!(theirs.opts().get(OptionCode::RequestedIpAddress), wanted.as_ref());
        prop_assert_eq!(u32::from_be_bytes(ours.xid), theirs.xid());
    }
}
