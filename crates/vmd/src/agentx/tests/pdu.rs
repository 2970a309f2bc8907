//! Packets in both byte orders, to RFC 2741's figures; and any bytes, which are read or refused.

use proptest::prelude::*;

use super::super::codec::MAX_RANGES;
use super::super::wire::{CONTEXT, Wire};
use super::*;

fn read(bytes: &[u8]) -> Result<Packet, Malformed> {
    let header = Header::read(bytes)?.expect("a whole header");
    assert_eq!((header.session, header.transaction, header.packet), (7, 21, 42));
    assert_eq!(header.payload, bytes.len() - HEADER);
    header.body(&bytes[HEADER..])
}

const ORDERS: [Wire; 2] = [Wire::Little, Wire::Big];

#[test]
fn questions_are_read_in_both_byte_orders_with_prefix_context_and_include() {
    for wire in ORDERS {
        let start = [1, 3, 6, 1, 2, 1, 236, 1, 2];
        let one = wire.range(&start, true, &[1, 3, 6, 1, 2, 1, 237]);
        let range = Range { start: start.to_vec(), include: true, end: vec![1, 3, 6, 1, 2, 1, 237] };
        let packet = |context, body| Ok(Packet { context, body });
        assert_eq!(read(&wire.packet(5, 0, &one)), packet(None, Body::Get(vec![range.clone()])));
        let with_context = [wire.octets(b"lab"), one.clone(), wire.range(&[], false, &[])].concat();
        let two = vec![range.clone(), Range::default()];
        assert_eq!(read(&wire.packet(6, CONTEXT, &with_context)), packet(Some(b"lab".to_vec()), Body::GetNext(two)));
        let bulk = [wire.half(1), wire.half(300), one].concat();
        let body = Body::GetBulk { non_repeaters: 1, max_repetitions: 300, ranges: vec![range] };
        assert_eq!(read(&wire.packet(7, 0, &bulk)), packet(None, body));
        for (kind, payload, body) in [
            (2, vec![3, 0, 0, 0], Body::Close(3)),
            (9, vec![], Body::CommitSet),
            (10, vec![], Body::UndoSet),
            (11, vec![], Body::CleanupSet),
            (13, vec![], Body::Ping),
            (18, [wire.word(9), wire.half(263), wire.half(1)].concat(), Body::Response { error: 263 }),
        ] {
            assert_eq!(read(&wire.packet(kind, 0, &payload)), packet(None, body));
        }
    }
}

#[test]
fn a_question_has_no_more_names_than_an_snmp_message_can_hold() {
    for wire in ORDERS {
        let names = |count| wire.packet(6, 0, &wire.range(&[], false, &[]).repeat(count));
        assert!(
            matches!(read(&names(MAX_RANGES)), Ok(Packet { body: Body::GetNext(all), .. }) if all.len() == MAX_RANGES)
        );
        assert_eq!(read(&names(MAX_RANGES + 1)), Err(Malformed::Ranges));
    }
}

#[test]
fn values_of_every_type_are_counted_in_a_set() {
    for wire in ORDERS {
        let name = wire.oid(&[1, 3, 6, 1, 2, 1, 236, 1, 4, 1, 2, 1], false);
        let value = |kind: u16, value: Vec<u8>| [wire.half(kind), wire.half(0), name.clone(), value].concat();
        let values = [
            value(2, wire.word(1)),
            value(4, wire.octets(b"three")),
            value(5, vec![]),
            value(6, wire.oid(&[0, 0], false)),
            value(64, wire.octets(&[127, 0, 0, 1])),
            value(65, wire.word(1)),
            value(66, wire.word(1)),
            value(67, wire.word(1)),
            value(68, wire.octets(b"")),
            value(70, vec![0; 8]),
            value(129, vec![]),
        ];
        let all = read(&wire.packet(8, 0, &values.concat()));
        assert_eq!(all.unwrap().body, Body::TestSet(values.len()));
        assert_eq!(read(&wire.packet(8, 0, &value(3, vec![]))), Err(Malformed::Value(3)));
    }
}

#[test]
fn a_length_that_lies_is_refused_and_nothing_is_allocated_for_it() {
    let wire = Wire::Big;
    let huge = [wire.word(u32::MAX), vec![0; 8]].concat();
    assert_eq!(read(&wire.packet(6, CONTEXT, &huge)), Err(Malformed::Short));
    assert_eq!(read(&wire.packet(5, 0, &[128, 0, 0, 0])), Err(Malformed::Short));
    assert_eq!(read(&wire.packet(5, 0, &[129, 0, 0, 0])), Err(Malformed::Name(129)));
    assert_eq!(read(&wire.packet(5, 0, &[124, 2, 0, 0])), Err(Malformed::Name(129)), "with its prefix");
    assert_eq!(read(&wire.packet(5, 0, &[0, 0, 0, 0])), Err(Malformed::Short), "half a range");
    assert_eq!(read(&wire.packet(9, 0, &[0; 4])), Err(Malformed::Rest(4)));
    assert_eq!(read(&wire.packet(2, 0, &[])), Err(Malformed::Short));
    assert_eq!(read(&wire.packet(77, 0, &[])), Err(Malformed::Kind(77)));
    assert_eq!(read(&wire.packet(7, 0, &[0, 1])), Err(Malformed::Length(2)), "no whole words");

    let mut header = wire.packet(5, 0, &[]);
    header[16..20].copy_from_slice(&u32::try_from(MAX_PAYLOAD).unwrap().to_be_bytes());
    assert_eq!(Header::read(&header).unwrap().unwrap().payload, MAX_PAYLOAD);
    header[16..20].copy_from_slice(&u32::try_from(MAX_PAYLOAD + 4).unwrap().to_be_bytes());
    assert_eq!(Header::read(&header), Err(Malformed::Length(u32::try_from(MAX_PAYLOAD + 4).unwrap())));
    header[0] = 2;
    assert_eq!(Header::read(&header), Err(Malformed::Version(2)));
    assert_eq!(Header::read(&header[..19]), Ok(None));
}

#[test]
fn a_response_has_the_order_and_the_numbers_of_its_question() {
    for wire in ORDERS {
        let header = Header::read(&wire.packet(5, 0, &[])).unwrap().unwrap();
        let name = vec![1, 3, 6, 1, 2, 1, 236, 1, 1, 1, 0];
        let bindings = [
            (name.clone(), Value::Integer(-1)),
            (name.clone(), Value::Text("web-1".to_owned())),
            (name.clone(), Value::Oid(vec![0, 0])),
            (name.clone(), Value::NoSuchObject),
            (name.clone(), Value::NoSuchInstance),
            (name.clone(), Value::EndOfMibView),
        ];
        let mut long = vec![11, 0, 0, 0];
        long.extend(name.iter().flat_map(|subid| wire.word(*subid)));
        let value = |kind: u16, value: Vec<u8>| [wire.half(kind), wire.half(0), long.clone(), value].concat();
        let payload = [
            wire.word(0),
            wire.half(17),
            wire.half(1),
            value(2, vec![0xff; 4]),
            value(4, wire.octets(b"web-1")),
            value(6, [vec![2, 0, 0, 0], vec![0; 8]].concat()),
            value(128, vec![]),
            value(129, vec![]),
            value(130, vec![]),
        ];
        assert_eq!(header.response(Error::NotWritable, 1, &bindings), wire.packet(18, 0, &payload.concat()));
    }
}

#[test]
fn our_own_packets_are_as_the_figures_of_the_rfc() {
    let wire = Wire::Big;
    let ours = |packet| Ours { session: 7, packet };
    let region = [1, 3, 6, 1, 2, 1, 236];
    let name = [vec![7, 0, 0, 0], region.iter().flat_map(|subid| wire.word(*subid)).collect()].concat();
    let same = |got: Vec<u8>, kind, flags, payload: &[u8]| {
        let mut expected = wire.packet_of(7, 9, kind, flags, payload);
        expected[8..12].fill(0); // no transaction
        assert_eq!(got, expected, "type {kind}");
    };
    same(ours(9).open("vmd"), 1, 0, &[vec![0; 4], vec![0; 4], wire.octets(b"vmd")].concat());
    same(ours(9).close(), 2, 0, &[5, 0, 0, 0]);
    same(ours(9).register(None, &region), 3, 0, &[vec![0, 127, 0, 0], name.clone()].concat());
    let with_context = [wire.octets(b"lab"), vec![0, 127, 0, 0], name].concat();
    same(ours(9).register(Some("lab"), &region), 3, CONTEXT, &with_context);
    same(ours(9).unregister(Some("lab"), &region), 4, CONTEXT, &with_context);
    same(ours(9).ping(), 13, 0, &[]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(kind in 0u8..20, flags in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..256)) {
        let mut bytes = Wire::Big.packet(kind, flags & 15, &payload);
        bytes[2] = flags;
        if let Ok(Some(header)) = Header::read(&bytes) {
            let _ = header.body(&bytes[HEADER..]);
        }
    }

    #[test]
    fn a_sound_question_with_a_byte_changed_or_cut_is_read_or_refused(at in 0usize..200, byte in any::<u8>(), cut in any::<bool>()) {
        let wire = Wire::Little;
        let range = wire.range(&[1, 3, 6, 1, 2, 1, 236, 1, 4], true, &[1, 3, 6, 1, 2, 1, 237]);
        let payload = [wire.octets(b"lab"), wire.half(1), wire.half(9), range.clone(), range].concat();
        let mut bytes = wire.packet(7, CONTEXT, &payload);
        let at = at % bytes.len();
        bytes[at] = byte;
        if cut {
            bytes.truncate(at.max(HEADER));
        }
        if let Ok(Some(header)) = Header::read(&bytes) {
            let _ = header.body(&bytes[HEADER..]);
        }
    }
}
