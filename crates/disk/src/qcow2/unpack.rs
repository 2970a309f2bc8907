//! Compressed clusters (qcow2.rst, "Compressed Clusters Descriptor"). Whatever the data is, at most one cluster comes out.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Compression, MAX_CLUSTER_BITS};

/// Bytes of a zstd window: the largest cluster and the least that a writer may round up to. A longer one is refused
/// before memory is taken for it.
const MAX_WINDOW: u64 = 4 << MAX_CLUSTER_BITS;

/// The cluster of `cluster_len` bytes that `packed` begins with; none where it holds no whole one. What follows in
/// `packed` is another cluster's.
pub fn unpack(packed: &[u8], compression: Compression, cluster_len: usize) -> Option<Vec<u8>> {
    match compression {
        Compression::Deflate => inflate(packed, cluster_len),
        Compression::Zstd => unzstd(packed, cluster_len),
    }
}

fn inflate(packed: &[u8], cluster_len: usize) -> Option<Vec<u8>> {
    let mut cluster = vec![0; cluster_len];
    let mut stream = Decompress::new(false);
    let status = stream.decompress(packed, &mut cluster, FlushDecompress::Finish).ok()?;
    // A stream that has more is whole as far as the cluster goes, as in QEMU (block/qcow2-threads.c).
    let ended = matches!(status, Status::Ok | Status::BufError | Status::StreamEnd);
    (ended && usize::try_from(stream.total_out()) == Ok(cluster_len)).then_some(cluster)
}

fn unzstd(mut packed: &[u8], cluster_len: usize) -> Option<Vec<u8>> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    decoder.init(&mut packed).ok()?;
    // A frame may keep its whole window back until it ends; a block has 128 KiB at most.
    while !decoder.is_finished() && decoder.can_collect() < cluster_len {
        if decoder.decode_blocks(&mut packed, BlockDecodingStrategy::UptoBlocks(1)).is_err() {
            return None;
        }
    }
    let mut cluster = vec![0; cluster_len];
    decoder.read_exact(&mut cluster).ok()?;
    Some(cluster)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn a_cluster_comes_out_as_it_went_in() {
        let cluster: Vec<u8> = (0..65536u32).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect();
        let mut packed = deflated(&cluster);
        packed.extend(b"another cluster's");
        assert_eq!(unpack(&packed, Compression::Deflate, 65536).as_deref(), Some(&cluster[..]));
        let mut packed = zstd(&cluster);
        packed.extend(b"another cluster's");
        assert_eq!(unpack(&packed, Compression::Zstd, 65536).as_deref(), Some(&cluster[..]));
    }

    #[test]
    fn a_bomb_gives_one_cluster_and_less_than_one_gives_none() {
        let huge = vec![0; 8 << 20];
        for (packed, compression) in [(deflated(&huge), Compression::Deflate), (zstd(&huge), Compression::Zstd)] {
            assert_eq!(unpack(&packed, compression, 512), Some(vec![0; 512]));
            assert_eq!(unpack(&packed, compression, 2 << 20), Some(vec![0; 2 << 20]));
            assert_eq!(unpack(&packed, compression, 9 << 20), None, "{compression:?}");
            assert_eq!(unpack(&packed[..packed.len() / 2], compression, 8 << 20), None, "{compression:?}");
        }
    }

    /// A frame that says its window has 2 GiB (RFC 8878, 3.1.1.1.2) takes no memory for it.
    #[test]
    fn a_frame_with_a_huge_window_is_refused() {
        let packed = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x03, 0x00, 0x80, 0x00];
        assert_eq!(unpack(&packed, Compression::Zstd, 512), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_give_a_cluster_or_nothing(packed: Vec<u8>, at: usize, value: u8) {
            let mut near = zstd(b"what is near to a frame");
            let len = near.len();
            near[at % len] = value;
            for packed in [packed, near] {
                for compression in [Compression::Deflate, Compression::Zstd] {
                    let cluster = unpack(&packed, compression, 512);
                    proptest::prop_assert!(cluster.is_none_or(|cluster| cluster.len() == 512));
                }
            }
        }
    }
}
