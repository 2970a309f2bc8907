//! What a frame may be: its virtio-net header (virtio 1.2, 5.1.6) and, on a locked card, its Ethernet addresses. Pure:
//! header and addresses are copies that the guest can't change any more.

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM.to_le_bytes()[0];
const DATA_VALID: u8 = VIRTIO_NET_HDR_F_DATA_VALID.to_le_bytes()[0];

/// Bytes of the header with VERSION_1.
pub const HEADER: usize = 12;

/// Bytes of an Ethernet header: the least that a frame has.
pub const ETHERNET: usize = 14;

/// Bytes of the largest frame: a GSO packet of 65535 bytes of IP with an Ethernet header and a VLAN tag.
pub const MAX_FRAME: usize = 65535 + 14 + 4;

/// `struct virtio_net_hdr_v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// A hint: bytes of all headers.
    pub hdr_len: U16,
    /// Payload of each segment.
    pub gso_size: U16,
    /// Where the checksum begins.
    pub csum_start: U16,
    /// Where it is put, from there.
    pub csum_offset: U16,
    /// Chains that the frame fills; only towards the driver.
    pub num_buffers: U16,
}

/// What one direction has negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// CSUM, or GUEST_CSUM towards the guest: a checksum may be left to the other side.
    pub checksum: bool,
    /// HOST_TSO4, or GUEST_TSO4: a packet may be larger than the link's.
    pub tso4: bool,
    /// HOST_TSO6, or GUEST_TSO6.
    pub tso6: bool,
}

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Drop {
    /// No whole Ethernet header.
    #[error("frame of {0} bytes is too short")]
    Short(u64),
    /// Larger than any.
    #[error("frame of {0} bytes is too long")]
    Long(u64),
    /// An offload that was not negotiated, or makes no sense for this frame.
    #[error("offload of the frame is invalid")]
    Offload,
    /// A locked card's frame from or to another address.
    #[error("address of the frame is not the card's")]
    Address,
    /// A locked card's, which has others learn another address.
    #[error("ARP or neighbour discovery of the frame names an address that is not the card's")]
    Sender,
    /// A locked or guarded card's, of which headers are missing that tell what it is.
    #[error("headers of the frame are cut short")]
    Cut,
    /// A guarded card's, as only a DHCP server or a router sends it.
    #[error("frame is one of a DHCP server or of a router")]
    Server,
}

/// Whether a header asks for no more than was negotiated, of a frame of `len` bytes; the header that is passed on has
/// nothing in it that was not checked.
pub fn check_header(header: Header, len: u64, offloads: Offloads) -> Result<Header, Drop> {
    let Header { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, .. } = header;
    let mut checked = Header { hdr_len, ..NO_OFFLOAD };
    let needs_checksum = flags & NEEDS_CSUM != 0;
    if needs_checksum {
        let end = u64::from(csum_start.get()).saturating_add(u64::from(csum_offset.get())).saturating_add(2);
        if !offloads.checksum || end > len {
            return Err(Drop::Offload);
        }
        checked = Header { flags: NEEDS_CSUM, csum_start, csum_offset, ..checked };
    } else if offloads.checksum {
        checked.flags = flags & DATA_VALID;
    }
    let allowed = match u32::from(gso_type) {
        VIRTIO_NET_HDR_GSO_NONE => return Ok(Header { hdr_len: 0.into(), ..checked }),
        VIRTIO_NET_HDR_GSO_TCPV4 => offloads.tso4,
        VIRTIO_NET_HDR_GSO_TCPV6 => offloads.tso6,
        _ => false,
    };
    // 5.1.6.2.1: segmentation needs a checksum to be computed, and a size to cut to.
    if !allowed || !needs_checksum || gso_size.get() == 0 || u64::from(hdr_len.get()) > len {
        return Err(Drop::Offload);
    }
    Ok(Header { gso_type, gso_size, ..checked })
}

/// Whether a checked header leaves a checksum to the other side.
pub fn leaves_checksum(header: Header) -> bool {
    header.flags & NEEDS_CSUM != 0
}

/// A header that asks for nothing.
pub const NO_OFFLOAD: Header = Header {
    flags: 0,
    gso_type: 0,
    hdr_len: U16::ZERO,
    gso_size: U16::ZERO,
    csum_start: U16::ZERO,
    csum_offset: U16::ZERO,
    num_buffers: U16::ZERO,
};

/// Whether a frame of `len` bytes can be one.
pub fn check_length(len: u64) -> Result<(), Drop> {
    match len {
        len if len < ETHERNET as u64 => Err(Drop::Short(len)),
        len if len > MAX_FRAME as u64 => Err(Drop::Long(len)),
        _ => Ok(()),
    }
}

/// Where the other side writes the checksum that a checked header leaves to it.
pub fn checksum_at(header: Header) -> Option<usize> {
    let at = usize::from(header.csum_start.get()).saturating_add(usize::from(header.csum_offset.get()));
    leaves_checksum(header).then_some(at)
}

/// Whether a guest on a locked card may send this: only in its own name, whatever follows the addresses.
pub fn may_send(ethernet: &[u8; ETHERNET], mac: &[u8; 6]) -> Result<(), Drop> {
    let [_, _, _, _, _, _, source @ .., _, _] = ethernet;
    if source == mac { Ok(()) } else { Err(Drop::Address) }
}

/// Whether a guest on a locked card may see this frame: one for its own address, or a multicast or broadcast.
pub fn may_receive(ethernet: &[u8; ETHERNET], mac: &[u8; 6]) -> Result<(), Drop> {
    let [destination @ .., _, _, _, _, _, _, _, _] = ethernet;
    let is_group = destination.first().is_some_and(|first| first & 1 == 1); // IEEE 802: the I/G bit; broadcast too
    if is_group || destination == mac { Ok(()) } else { Err(Drop::Address) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [0xfe, 0xe1, 0xbb, 0xd1, 2, 3];
    const ALL: Offloads = Offloads { checksum: true, tso4: true, tso6: true };

    fn ethernet(destination: [u8; 6], source: [u8; 6], kind: u16) -> [u8; ETHERNET] {
        let mut bytes = [0; ETHERNET];
        bytes[..6].copy_from_slice(&destination);
        bytes[6..12].copy_from_slice(&source);
        bytes[12..].copy_from_slice(&kind.to_be_bytes());
        bytes
    }

    fn tso(kind: u32) -> Header {
        Header {
            flags: 1,
            gso_type: kind as u8,
            hdr_len: 54.into(),
            gso_size: 1448.into(),
            csum_start: 34.into(),
            csum_offset: 16.into(),
            num_buffers: 0.into(),
        }
    }

    #[test]
    fn a_locked_guest_sends_only_in_its_own_name() {
        let other = [2, 0, 0, 0, 0, 9];
        for kind in [0x0800, 0x8100, 0x88a8, 0x0026, 0x0806] {
            assert_eq!(may_send(&ethernet(other, MAC, kind), &MAC), Ok(()));
            for source in [other, [0xff; 6], [0; 6], [0xff, 0xe1, 0xbb, 0xd1, 2, 3], [0xfe, 0xe1, 0xbb, 0xd1, 2, 2]] {
                assert_eq!(may_send(&ethernet(MAC, source, kind), &MAC), Err(Drop::Address));
            }
        }
    }

    #[test]
    fn a_locked_guest_sees_what_is_for_it_or_for_many() {
        let from = [2, 0, 0, 0, 0, 9];
        for destination in [MAC, [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            assert_eq!(may_receive(&ethernet(destination, from, 0x0800), &MAC), Ok(()));
        }
        for destination in [from, [0; 6], [0xfe, 0xe1, 0xbb, 0xd1, 2, 4]] {
            assert_eq!(may_receive(&ethernet(destination, MAC, 0x0800), &MAC), Err(Drop::Address));
        }
    }

    #[test]
    fn lengths_have_a_least_and_a_most() {
        assert_eq!(check_length(13), Err(Drop::Short(13)));
        assert_eq!(check_length(14), Ok(()));
        assert_eq!(MAX_FRAME, 65553);
        assert_eq!(check_length(MAX_FRAME as u64), Ok(()));
        assert_eq!(check_length(MAX_FRAME as u64 + 1), Err(Drop::Long(MAX_FRAME as u64 + 1)));
        assert_eq!(check_length(u64::MAX), Err(Drop::Long(u64::MAX)));
    }

    #[test]
    fn what_was_not_negotiated_is_refused() {
        let none = Offloads::default();
        assert_eq!(check_header(Header { flags: 1, ..NO_OFFLOAD }, 100, none), Err(Drop::Offload));
        let no_tso = Offloads { checksum: true, ..none };
        for kind in [VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, 3, 5, 0x81, 0xff] {
            assert_eq!(check_header(tso(kind), 2000, no_tso), Err(Drop::Offload), "{kind}");
        }
        assert_eq!(
            check_header(tso(VIRTIO_NET_HDR_GSO_TCPV6), 2000, Offloads { tso6: false, ..ALL }),
            Err(Drop::Offload)
        );
        for good in [VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6].map(tso) {
            assert_eq!(check_header(good, 2000, ALL), Ok(good));
        }
    }

    #[test]
    fn a_checksum_lies_inside_the_frame() {
        let at = |start: u16, offset: u16| Header {
            flags: 1,
            csum_start: start.into(),
            csum_offset: offset.into(),
            ..NO_OFFLOAD
        };
        assert_eq!(check_header(at(34, 16), 52, ALL), Ok(at(34, 16)));
        for (start, offset) in [(34, 17), (51, 0), (u16::MAX, 0), (0, u16::MAX), (u16::MAX, u16::MAX)] {
            assert_eq!(check_header(at(start, offset), 52, ALL), Err(Drop::Offload));
        }
    }

    #[test]
    fn segmentation_needs_a_size_and_a_checksum() {
        let good = tso(VIRTIO_NET_HDR_GSO_TCPV4);
        assert_eq!(check_header(Header { gso_size: 0.into(), ..good }, 2000, ALL), Err(Drop::Offload));
        assert_eq!(check_header(Header { flags: 0, ..good }, 2000, ALL), Err(Drop::Offload));
        assert_eq!(check_header(Header { hdr_len: 2001.into(), ..good }, 2000, ALL), Err(Drop::Offload));
        let whole = Header { hdr_len: 2000.into(), ..good };
        assert_eq!(check_header(whole, 2000, ALL), Ok(whole));
    }

    #[test]
    fn a_checksum_is_left_by_one_flag() {
        for (flags, left) in [(0, false), (1, true), (2, false), (3, true)] {
            assert_eq!(leaves_checksum(Header { flags, ..NO_OFFLOAD }), left, "{flags}");
        }
    }

    #[test]
    fn what_is_not_used_is_not_passed_on() {
        let noise = Header { flags: 0xfe, gso_type: 0, num_buffers: 7.into(), ..tso(0) };
        assert_eq!(check_header(noise, 2000, Offloads::default()), Ok(NO_OFFLOAD));
        assert_eq!(check_header(noise, 2000, ALL), Ok(Header { flags: 2, ..NO_OFFLOAD }));
    }

    proptest! {
        #[test]
        fn no_header_asks_for_more_than_it_may(bytes: [u8; HEADER], len in 14u64..70000, c: bool, t4: bool, t6: bool) {
            let offloads = Offloads { checksum: c, tso4: t4, tso6: t6 };
            let header = Header::read_from_bytes(&bytes[..]).unwrap();
            if let Ok(out) = check_header(header, len, offloads) {
                prop_assert!(out.flags & !3 == 0 && (c || out.flags == 0));
                prop_assert!(matches!((out.gso_type, t4, t6), (0, ..) | (1, true, _) | (4, _, true)));
                prop_assert!(out.gso_type == 0 || (out.gso_size.get() > 0 && out.flags & 1 == 1));
                let end = u64::from(out.csum_start.get()) + u64::from(out.csum_offset.get()) + 2;
                prop_assert!(out.flags & 1 == 0 || end <= len);
                prop_assert_eq!(out.num_buffers.get(), 0);
            }
        }
    }
}
