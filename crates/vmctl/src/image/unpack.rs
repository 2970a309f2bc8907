//! Packed images: `.gz`, `.xz` and `.zst` as streams of what is in them. Memory is bounded, whatever the file says.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// What a decoder may look back at: that of `xz -9` is 64 MiB, that of `zstd --long=27` this. A file that needs more is
/// refused, since a forged one may name 4 GiB.
const MAX_WINDOW: u32 = 128 << 20;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip(1), RFC 1952.
    Gzip,
    /// xz(1).
    Xz,
    /// zstd(1), RFC 8878.
    Zstd,
}

impl Packing {
    /// What a name's last extension says, in any case, and the name without it.
    pub fn of_path(path: &Path) -> Option<(Self, &Path)> {
        let extension = path.extension()?;
        let packing = [(Self::Gzip, "gz"), (Self::Xz, "xz"), (Self::Zstd, "zst")]
            .into_iter()
            .find(|(_, word)| extension.eq_ignore_ascii_case(OsStr::new(word)));
        Some((packing?.0, Path::new(path.file_stem()?)))
    }
}

/// How many bytes of the packed file were read.
pub type Taken = Rc<Cell<u64>>;

/// What is in a packed file, and how much of the file it took so far.
pub fn reader(packing: Packing, file: File) -> (Box<dyn Read>, Taken) {
    let taken = Taken::default();
    let file = BufReader::with_capacity(64 << 10, Counted { file, taken: taken.clone() });
    let reader: Box<dyn Read> = match packing {
        Packing::Gzip => Box::new(Told(MultiGzDecoder::new(file))),
        // In KiB; the tables beside the window take less than one MiB.
        Packing::Xz => Box::new(Told(XzReader::new_mem_limit(file, true, (MAX_WINDOW >> 10) + 1024))),
        Packing::Zstd => Box::new(Told(Zstd::new(file))),
    };
    (reader, taken)
}

/// Says the same of a file that is cut short, whichever decoder found it.
struct Told<R>(R);

impl<R: Read> Read for Told<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes).map_err(|error| match error.kind() {
            kind @ io::ErrorKind::UnexpectedEof => io::Error::new(kind, "it is cut short: its end is missing"),
            _ => error,
        })
    }
}

struct Counted {
    file: File,
    taken: Taken,
}

impl Read for Counted {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(bytes)?;
        self.taken.set(self.taken.get().saturating_add(got as u64));
        Ok(got)
    }
}

/// Frames one after the other, with their checksums compared: ruzstd reads one frame at a time and compares none.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    inside: bool,
    /// Whether there was a frame; a file without one is none of zstd(1)'s.
    begun: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW.into());
        Self { source, decoder, inside: false, begun: false }
    }

    /// Begins the next frame that holds something; false at the end of the file.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.begun = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                    if skipped < length.into() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.begun = true;
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(_))) => {
                    let what = if self.begun { "what follows its last frame is no zstd data" } else { "no zstd data" };
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        if self.begun { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.inside {
                if bytes.is_empty() || !self.begin()? {
                    return Ok(0);
                }
                self.inside = true;
            }
            if self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, one);
                decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            let got = self.decoder.read(bytes)?;
            if got > 0 {
                return Ok(got);
            }
            if self.decoder.is_finished() {
                self.inside = false;
                let (said, found) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
                if said.is_some() && said != found {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "checksum mismatch"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// What a program of the host makes of bytes.
    fn packed(program: &str, options: &[&str], bytes: &[u8]) -> Vec<u8> {
        let mut command = Command::new(program);
        let child = command.args(options).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut input = child.stdin.take().expect("piped");
        let bytes = bytes.to_owned();
        let writing = std::thread::spawn(move || input.write_all(&bytes));
        let output = child.wait_with_output().expect("it ends");
        writing.join().expect("no panic").expect("it reads all");
        assert!(output.status.success(), "{program}");
        output.stdout
    }

    fn unpacked(packing: Packing, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("it is ours");
        std::io::Seek::rewind(&mut file).expect("it is ours");
        let (mut reader, taken) = reader(packing, file);
        let mut all = Vec::new();
        reader.read_to_end(&mut all)?;
        assert_eq!(taken.get(), bytes.len() as u64);
        Ok(all)
    }

    const ALL: [(Packing, &str); 3] = [(Packing::Gzip, "gzip"), (Packing::Xz, "xz"), (Packing::Zstd, "zstd")];

    /// Some MiB that are neither one byte nor random.
    fn sample() -> Vec<u8> {
        (0..3_000_000_u32).map(|at| ((at / 7) ^ (at / 4096)) as u8).collect()
    }

    #[test]
    fn what_the_hosts_programs_pack_is_read_in_one_part_and_in_several() {
        let sample = sample();
        for (packing, program) in ALL {
            let mut bytes = packed(program, &[], &sample);
            assert!(unpacked(packing, &bytes).expect(program) == sample, "{program}");
            bytes.extend(packed(program, &["-1"], &sample));
            assert!(
                unpacked(packing, &bytes).expect(program) == [sample.clone(), sample.clone()].concat(),
                "{program}"
            );
        }
    }

    #[test]
    fn a_zstd_frame_to_skip_is_skipped() {
        let mut bytes = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        bytes.extend(packed("zstd", &[], b"behind it"));
        assert_eq!(unpacked(Packing::Zstd, &bytes).expect("right"), b"behind it");
        assert!(unpacked(Packing::Zstd, &bytes[..9]).is_err());
    }

    #[test]
    fn what_is_cut_or_changed_is_an_error_and_never_a_panic() {
        let sample = sample();
        for (packing, program) in ALL {
            let bytes = packed(program, &[], &sample);
            for len in [1, 5, 17, bytes.len() / 2, bytes.len() - 1] {
                assert!(unpacked(packing, &bytes[..len]).is_err(), "{program}: {len} bytes");
            }
            for at in 0..200 {
                let mut changed = bytes.clone();
                let at = at * bytes.len() / 200;
                changed[at] ^= 0x11;
                // A gzip header has bytes that mean nothing; elsewhere a checksum tells.
                if let Ok(read) = unpacked(packing, &changed) {
                    assert!(packing == Packing::Gzip && at < 10 && read == sample, "{program}: byte {at}");
                }
            }
        }
    }

    #[test]
    fn an_empty_file_is_cut_short_and_what_is_not_packed_is_told() {
        for (packing, program) in ALL {
            let error = unpacked(packing, b"").expect_err(program);
            assert_eq!(error.to_string(), "it is cut short: its end is missing", "{program}");
            assert_eq!(unpacked(packing, &packed(program, &[], b"")).expect(program), b"", "nothing, packed");
        }
        let frame_to_skip = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        assert_eq!(unpacked(Packing::Zstd, &frame_to_skip).expect("as zstd(1)"), b"");
        let with_more = [packed("zstd", &[], b"x"), b"more".to_vec()].concat();
        for (bytes, said) in
            [(b"more".to_vec(), "no zstd data"), (with_more, "what follows its last frame is no zstd data")]
        {
            assert_eq!(unpacked(Packing::Zstd, &bytes).expect_err("no frame").to_string(), said);
        }
    }

    #[test]
    fn a_window_beyond_the_bound_is_refused() {
        // RFC 8878, 3.1.1.1: no content size, a window descriptor of exponent 31 (2 TiB), an empty last block.
        assert!(unpacked(Packing::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8, 1, 0, 0]).is_err());
        assert_eq!(unpacked(Packing::Xz, &packed("xz", &["--lzma2=dict=64MiB"], b"x")).expect("within it"), b"x");
        assert!(unpacked(Packing::Xz, &packed("xz", &["--lzma2=dict=512MiB"], b"x")).is_err());
    }

    #[test]
    fn the_last_extension_says_how_a_file_is_packed() {
        for (name, packing, inner) in [
            ("/a/disk.qcow2.xz", Packing::Xz, "disk.qcow2"),
            ("d.raw.GZ", Packing::Gzip, "d.raw"),
            ("d.zst", Packing::Zstd, "d"),
        ] {
            assert_eq!(Packing::of_path(Path::new(name)), Some((packing, Path::new(inner))), "{name}");
        }
        for name in ["a", "a.gzip", ".gz", "gz", "a.gz/b", ""] {
            assert_eq!(Packing::of_path(Path::new(name)), None, "{name}");
        }
    }
}
