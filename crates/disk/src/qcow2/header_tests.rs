//! The header's rules: one test a row of openbsd/devices.md, 11.3.

use proptest::prelude::*;

use super::*;

const LEN: u64 = 1 << 20;

/// A version 3 header of 64 KiB clusters and a disk of 1 GiB, with `changes` of big-endian bytes.
fn image(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let geometry = Geometry::new(16, 4, false).unwrap();
    let header = Header::new(geometry, 1 << 30, Table { at: 3 << 16, count: 2 }, Table { at: 1 << 16, count: 1 });
    let mut bytes = header.to_bytes().unwrap();
    bytes.resize(65536, 0);
    for (at, change) in changes {
        bytes[*at..*at + change.len()].copy_from_slice(change);
    }
    bytes
}

fn parse(changes: &[(usize, &[u8])]) -> Result<Header, HeaderError> {
    Header::parse(&image(changes), LEN)
}

fn with32(at: usize, value: u32) -> Result<Header, HeaderError> {
    parse(&[(at, &value.to_be_bytes())])
}

fn with64(at: usize, value: u64) -> Result<Header, HeaderError> {
    parse(&[(at, &value.to_be_bytes())])
}

#[test]
fn a_header_is_read_as_it_was_written() {
    let read = parse(&[]).unwrap();
    assert_eq!((read.size, read.version, read.backing.clone()), (1 << 30, Version::V3, None));
    assert_eq!(read.check(Access::Write), Ok(()));
    assert_eq!(Header::parse(&read.to_bytes().unwrap(), LEN), Ok(read));
}

#[test]
fn q1_a_short_file_a_foreign_version_or_length_is_refused() {
    let whole = image(&[]);
    for len in 0..104 {
        assert_eq!(Header::parse(&whole[..len], LEN), Err(HeaderError::Short), "{len}");
    }
    assert_eq!(Header::parse(&[0; 4096], LEN), Err(HeaderError::Magic));
    for version in [0, 1, 4, u32::MAX] {
        assert_eq!(with32(4, version), Err(HeaderError::Version(version)));
    }
    for len in [0, 72, 96, 103, 105, 111, 65544, u32::MAX] {
        assert_eq!(with32(100, len), Err(HeaderError::HeaderLength(len)));
    }
    assert!(with32(100, 104).is_ok());
    assert!(with32(100, 65536).is_ok());
}

#[test]
fn q1_a_version_2_header_ends_at_72_bytes() {
    let mut bytes = image(&[(4, &2u32.to_be_bytes())]);
    bytes[72..].fill(0);
    let read = Header::parse(&bytes, LEN).unwrap();
    assert_eq!((read.version, read.geometry.refcount_order(), read.incompatible), (Version::V2, 4, 0));
    assert_eq!(Header::parse(&bytes[..72], LEN), Ok(read.clone()));
    assert_eq!(Header::parse(&read.to_bytes().unwrap(), LEN), Ok(read));
    // Where version 3 has its features, version 2 has extensions: here the base's format.
    bytes[72..85].copy_from_slice(b"\xe2\x79\x2a\xca\0\0\0\x05qcow2");
    let read = Header::parse(&bytes, LEN).unwrap();
    assert_eq!(read.extensions.backing_format(), Some(&b"qcow2"[..]));
}

#[test]
fn q2_cluster_bits_are_9_to_21() {
    for bits in (0..=300).chain([u32::MAX, 1 << 31]) {
        match with32(20, bits) {
            Err(HeaderError::ClusterBits(told, 9)) => assert!(told == bits && !(9..=21).contains(&bits)),
            // Tables of 64 KiB clusters are not where those of larger ones can be.
            Err(HeaderError::TableAt(..)) => assert!((17..=21).contains(&bits)),
            // A disk of 1 GiB has more L1 entries in smaller clusters.
            Err(HeaderError::L1Entries { .. }) => assert!((9..16).contains(&bits)),
            Ok(_) => assert_eq!(bits, 16),
            Err(other) => panic!("{bits}: {other}"),
        }
    }
}

#[test]
fn q3_a_disk_has_a_sector_and_can_be_counted() {
    for size in [0, 1, 511, 1 << 63, u64::MAX] {
        assert_eq!(with64(24, size), Err(HeaderError::Size(size)));
    }
    assert!(matches!(with64(24, (1 << 63) - 1), Err(HeaderError::L1Entries { .. })));
    assert_eq!(with64(24, 1000).unwrap().size, 1000, "what is cut of a sector is left out later");
}

#[test]
fn q4_the_l1_table_is_as_large_as_the_disk_needs_and_memory_bears() {
    for entries in [0, 1, MAX_L1_ENTRIES + 1, 1 << 29, u32::MAX] {
        assert_eq!(with32(36, entries), Err(HeaderError::L1Entries { entries, needed: 2 }));
    }
    assert!(with32(36, 3).is_ok());
    assert!(matches!(with32(36, MAX_L1_ENTRIES), Err(HeaderError::TableAt(TableName::L1, _))), "beyond the file");
}

#[test]
fn q5_tables_are_within_the_file_and_apart() {
    for at in [0, 1, 512, 0x10001, 0x30200, LEN, 1 << 63, u64::MAX, u64::MAX - 0xffff] {
        assert_eq!(with64(40, at), Err(HeaderError::TableAt(TableName::L1, at)));
        assert_eq!(with64(48, at), Err(HeaderError::TableAt(TableName::Refcount, at)));
        let snapshots = parse(&[(60, &1u32.to_be_bytes()), (64, &at.to_be_bytes())]);
        assert_eq!(snapshots, Err(HeaderError::TableAt(TableName::Snapshot, at)));
        assert!(with64(64, at).is_ok(), "without snapshots their table is nowhere");
    }
    assert_eq!(with64(48, 3 << 16), Err(HeaderError::Overlap(TableName::L1, TableName::Refcount)));
    let over = parse(&[(60, &1u32.to_be_bytes()), (64, &0x10000u64.to_be_bytes())]);
    assert_eq!(over, Err(HeaderError::Overlap(TableName::Refcount, TableName::Snapshot)));
    assert_eq!(with32(60, 65537), Err(HeaderError::Snapshots(65537)));
}

#[test]
fn q5_a_table_may_end_in_the_last_cluster_of_a_cut_file() {
    assert!(Header::parse(&image(&[]), (3 << 16) + 16).is_ok());
    assert!(Header::parse(&image(&[]), 3 << 16).is_err());
}

#[test]
fn q9_refcounts_have_1_to_64_bits_and_a_table() {
    for order in [7, 8, 63, u32::MAX] {
        assert_eq!(with32(96, order), Err(HeaderError::RefcountOrder(order)));
    }
    assert!((0..=6).all(|order| with32(96, order).is_ok()));
    for clusters in [0, 129, u32::MAX] {
        assert_eq!(with32(56, clusters), Err(HeaderError::RefcountTable(clusters)));
    }
    assert_eq!(with32(56, 128), Err(HeaderError::TableAt(TableName::Refcount, 0x10000)));
}

#[test]
fn q10_encrypted_images_are_refused() {
    for (method, told) in [(1, "AES"), (2, "LUKS"), (3, "method 3")] {
        assert_eq!(with32(32, method), Err(HeaderError::Encrypted(told.to_owned())));
    }
    let said = with32(32, 2).unwrap_err().to_string();
    assert!(said.starts_with("the image is encrypted (LUKS); decrypt it with qemu-img convert"), "{said}");
}

/// Each of the 64 incompatible bits alone.
#[test]
fn q11_incompatible_features_are_known_or_refused_with_their_names() {
    for bit in 0..64 {
        let read = with64(72, 1 << bit);
        let write = |header: Result<Header, HeaderError>| header.and_then(|header| header.check(Access::Write));
        match bit {
            0 => assert_eq!(write(read), Err(HeaderError::Dirty)),
            1 => assert_eq!(write(read), Err(HeaderError::Corrupt)),
            2 => assert_eq!(read.unwrap().check(Access::Read), Err(HeaderError::ExternalData)),
            3 => assert_eq!(read, Err(HeaderError::Compression(0)), "its field says nothing"),
            4 => {
                let extended = parse(&[(72, &16u64.to_be_bytes()), (36, &4u32.to_be_bytes())]);
                assert_eq!(write(extended), Err(HeaderError::ExtendedL2));
            }
            _ => assert_eq!(read, Err(HeaderError::Features(format!("bit {bit}")))),
        }
    }
    let names = b"\x68\x03\xf8\x57\0\0\0\x30\x00\x09better clusters";
    let named = parse(&[(72, &(1u64 << 9).to_be_bytes()), (112, names)]);
    assert_eq!(named, Err(HeaderError::Features("\"better clusters\" (bit 9)".to_owned())));
}

#[test]
fn q11_the_compression_is_named_where_its_bit_is_set() {
    let bit = 8u64.to_be_bytes();
    assert_eq!(parse(&[(72, &bit), (104, &[1])]).unwrap().compression, Compression::Zstd);
    assert_eq!(parse(&[(72, &bit), (104, &[2])]), Err(HeaderError::Compression(2)));
    assert_eq!(parse(&[(104, &[1])]), Err(HeaderError::Compression(1)));
    // A field beyond the header's length is not there.
    assert!(parse(&[(100, &104u32.to_be_bytes())]).is_ok());
}

fn with_name(at: u64, len: u32, name: &[u8]) -> Result<Header, HeaderError> {
    let place = usize::try_from(at).unwrap().min(60000);
    parse(&[(8, &at.to_be_bytes()), (16, &len.to_be_bytes()), (place, name)])
}

#[test]
fn q13_a_base_s_name_is_taken_as_it_stands() {
    let long = vec![b'a'; 1023];
    for name in [&b"base.qcow2"[..], b"../b", b"/dev/sda", b"nbd://host/x", b"json:{}", b"fd:3", b"\xff\xfe\n", &long] {
        let len = u32::try_from(name.len()).unwrap();
        let read = with_name(512, len, name).unwrap();
        assert_eq!(read.backing, Some(Backing { name: name.to_vec(), format: None }));
        assert_eq!(Header::parse(&read.to_bytes().unwrap(), LEN).unwrap().backing, read.backing);
    }
}

#[test]
fn q13_names_that_can_not_be_are_refused() {
    for len in [0, 1024, 65536, u32::MAX] {
        assert_eq!(with_name(512, len, b"x"), Err(HeaderError::BackingLength(len)));
    }
    assert_eq!(with_name(512, 3, b"a\0b"), Err(HeaderError::BackingNul));
    for at in [1, 8, 104, 111, 65536, 65534, 1 << 40] {
        let read = with_name(at, 3, b"");
        assert_eq!(read, Err(HeaderError::BackingAt(at)), "{at}");
    }
    let long = Backing { name: vec![b'a'; 500], format: None };
    let geometry = Geometry::new(9, 4, false).unwrap();
    let mut header = Header::new(geometry, 512, Table { at: 512, count: 1 }, Table { at: 1024, count: 1 });
    header.backing = Some(long);
    assert_eq!(header.to_bytes(), Err(HeaderError::TooLong(620)), "a name that does not fit in cluster 0");
}

#[test]
fn q13_a_base_s_format_is_the_header_s_record() {
    let with = |word: &[u8]| {
        let len = u32::try_from(word.len()).unwrap();
        let extension = [&0xe279_2aca_u32.to_be_bytes()[..], &len.to_be_bytes(), word].concat();
        let read = parse(&[(8, &512u64.to_be_bytes()), (16, &1u32.to_be_bytes()), (112, &extension), (512, b"b")]);
        read.map(|header| header.backing.unwrap().format)
    };
    assert_eq!(with(b"raw"), Ok(Some(DiskFormat::Raw)));
    assert_eq!(with(b"qcow2"), Ok(Some(DiskFormat::Qcow2)));
    assert_eq!(with(b""), Ok(None));
    assert_eq!(with(b"vm\x1bdk"), Err(HeaderError::BackingFormat("vm\\x1bdk".to_owned())));
}

#[test]
fn q18_an_extension_stays_in_its_cluster() {
    let huge = parse(&[(112, b"\x12\x34\x56\x78\xff\xff\xff\xff")]);
    assert_eq!(huge, Err(HeaderError::ExtensionLength(0x1234_5678, u32::MAX)));
    let unknown = parse(&[(112, b"\x12\x34\x56\x78\0\0\0\x03abc")]).unwrap();
    let again = Header::parse(&unknown.to_bytes().unwrap(), LEN).unwrap();
    assert_eq!(again.extensions.iter().count(), 1, "an unknown one is kept");
}

#[test]
fn fields_that_are_not_known_are_kept() {
    let read = parse(&[(100, &120u32.to_be_bytes()), (112, b"later on")]).unwrap();
    let bytes = read.to_bytes().unwrap();
    assert_eq!(&bytes[100..104], 120u32.to_be_bytes());
    assert_eq!(&bytes[112..120], b"later on");
    assert_eq!(Header::parse(&bytes, LEN), Ok(read));
}

#[test]
fn the_probe_tells_what_a_start_needs() {
    let probe = Header::probe(&image(&[(72, &1u64.to_be_bytes())]), LEN).unwrap();
    assert!(probe.dirty);
    assert_eq!((probe.size, probe.cluster_size, probe.writable), (1 << 30, 65536, Err(HeaderError::Dirty)));
    assert_eq!(Header::bytes_needed(&image(&[])[..24]), Ok(65536));
    assert_eq!(Header::bytes_needed(&image(&[])[..23]), Err(HeaderError::Short));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever stands there, it is read without harm, and what is read is written and read alike.
    #[test]
    fn any_bytes_are_read_or_refused(
        changes in prop::collection::vec((0usize..300, any::<u8>()), 0..12),
        len in 0u64..(1 << 21),
        cut in 0usize..70000,
    ) {
        let mut bytes = image(&[]);
        bytes.truncate(cut.max(1));
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok(header) = Header::parse(&bytes, len) {
            let again = header.to_bytes().map(|bytes| Header::parse(&bytes, len));
            match again {
                Ok(again) => prop_assert_eq!(again.map(|header| header.size), Ok(header.size)),
                Err(error) => prop_assert!(matches!(error, HeaderError::TooLong(_)), "{}", error),
            }
        }
    }
}
