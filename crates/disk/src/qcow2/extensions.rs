//! Header extensions: what follows the header's fields in the first cluster (qcow2.rst, "Header extensions").

use super::HeaderError;
use super::header::Fields;

/// No more extensions.
const END: u32 = 0;
/// The format of the base, as a word.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// Names of feature bits, for messages.
const FEATURE_NAMES: u32 = 0x6803_f857;
/// Where bitmaps are; read by nobody here.
const BITMAPS: u32 = 0x2385_2875;
/// Where the header of the encryption is.
const ENCRYPTION: u32 = 0x0537_be77;
/// The name of the file that has the data.
const EXTERNAL_DATA: u32 = 0x4441_5441;
/// A feature name's entry: kind, bit, 46 bytes of name.
const NAME_LEN: usize = 48;

/// An extension as it stands in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// What it is.
    pub kind: u32,
    /// Its content without padding.
    pub data: Vec<u8>,
}

/// All of an image's, in their order. Unknown ones are kept as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    list: Vec<Extension>,
}

impl Extensions {
    /// Reads the extensions from `area`: what is between the header and the base's name, or the cluster's end. An area
    /// that just ends is as good as one with an end in it, as in QEMU.
    pub fn parse(area: &[u8]) -> Result<Self, HeaderError> {
        let mut list: Vec<Extension> = Vec::new();
        let mut fields = Fields::new(area);
        while let (Some(kind), Some(len)) = (fields.u32(), fields.u32()) {
            if kind == END {
                break;
            }
            let too_long = HeaderError::ExtensionLength(kind, len);
            let bytes = usize::try_from(len).ok().and_then(|len| fields.bytes(len)).ok_or(too_long)?;
            // The padding may be cut off by the area's end.
            fields.skip_to_multiple_of_8();
            let known = [BACKING_FORMAT, FEATURE_NAMES, BITMAPS, ENCRYPTION, EXTERNAL_DATA].contains(&kind);
            if known && list.iter().any(|other| other.kind == kind) {
                return Err(HeaderError::ExtensionTwice(kind));
            }
            list.push(Extension { kind, data: bytes.to_vec() });
        }
        Ok(Self { list })
    }

    /// Those of a new image whose base has this format.
    pub fn new(backing_format: Option<&str>) -> Self {
        let format = backing_format.map(|word| Extension { kind: BACKING_FORMAT, data: word.as_bytes().to_vec() });
        Self { list: format.into_iter().collect() }
    }

    /// Their bytes with the end mark.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for Extension { kind, data } in &self.list {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend([0; 8]);
        bytes
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Extension> {
        self.list.iter()
    }

    fn get(&self, kind: u32) -> Option<&[u8]> {
        self.list.iter().find(|one| one.kind == kind).map(|one| one.data.as_slice())
    }

    /// The word for the base's format.
    pub fn backing_format(&self) -> Option<&[u8]> {
        self.get(BACKING_FORMAT)
    }

    /// Sets, or takes away, the word for the base's format.
    pub fn set_backing_format(&mut self, word: Option<&str>) {
        self.list.retain(|one| one.kind != BACKING_FORMAT);
        self.list.extend(Self::new(word).list);
    }

    /// Whether there are bitmaps.
    pub fn has_bitmaps(&self) -> bool {
        self.get(BITMAPS).is_some()
    }

    /// What the image calls the incompatible features of `bits`, else their numbers; for messages alone.
    pub fn incompatible_names(&self, bits: u64) -> String {
        let named = |bit: u32| {
            let table = self.get(FEATURE_NAMES)?;
            let entry = table.chunks_exact(NAME_LEN).find(|entry| match entry {
                [0, number, ..] => u32::from(*number) == bit,
                _ => false,
            })?;
            let name = entry.get(2..)?.split(|byte| *byte == 0).next()?;
            // It is the image's text: printable ASCII alone reaches a terminal.
            let plain = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
            plain.then(|| String::from_utf8_lossy(name).into_owned())
        };
        let set = (0..64u32).filter(|bit| bits.wrapping_shr(*bit) & 1 == 1);
        let words = set.map(|bit| match named(bit) {
            Some(name) => format!("\"{name}\" (bit {bit})"),
            None => format!("bit {bit}"),
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(kind: u32, len: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = [kind.to_be_bytes(), len.to_be_bytes()].concat();
        bytes.extend(data);
        bytes
    }

    #[test]
    fn they_are_read_and_written_alike() {
        let mut area = one(BACKING_FORMAT, 5, b"qcow2\0\0\0");
        area.extend(one(0x1234, 8, b"whatever"));
        area.extend([0; 8]);
        let read = Extensions::parse(&area).unwrap();
        assert_eq!(read.backing_format(), Some(&b"qcow2"[..]));
        assert_eq!(read.iter().map(|one| one.kind).collect::<Vec<_>>(), [BACKING_FORMAT, 0x1234]);
        assert_eq!(read.to_bytes(), area, "an unknown one is kept");
        area.extend(one(BITMAPS, 0, b""));
        assert!(!Extensions::parse(&area).unwrap().has_bitmaps(), "nothing counts behind the end");
    }

    #[test]
    fn one_that_runs_out_of_the_area_is_refused() {
        for len in [9, 1 << 20, u32::MAX] {
            let area = one(0x1234, len, b"8 bytes.");
            assert_eq!(Extensions::parse(&area), Err(HeaderError::ExtensionLength(0x1234, len)));
        }
        assert!(Extensions::parse(&one(0x1234, 8, b"8 bytes.")).is_ok(), "an area may end without an end mark");
        assert!(Extensions::parse(&one(0x1234, 5, b"5 byt")).is_ok(), "and without padding");
        assert!(Extensions::parse(&[]).is_ok());
    }

    #[test]
    fn many_are_read_and_a_known_one_stands_once() {
        let many: Vec<u8> = (0..100_000).flat_map(|_| one(0x77, 0, b"")).collect();
        assert_eq!(Extensions::parse(&many).unwrap().iter().count(), 100_000);
        let twice = [one(BITMAPS, 0, b""), one(BITMAPS, 0, b"")].concat();
        assert_eq!(Extensions::parse(&twice), Err(HeaderError::ExtensionTwice(BITMAPS)));
    }

    #[test]
    fn features_are_told_by_the_image_s_names() {
        let mut names = vec![0; 3 * NAME_LEN];
        names[..12].copy_from_slice(b"\x00\x05new layout");
        names[NAME_LEN..NAME_LEN + 9].copy_from_slice(b"\x01\x06compat.");
        names[2 * NAME_LEN..2 * NAME_LEN + 5].copy_from_slice(b"\x00\x07\x1b[2");
        let area = one(FEATURE_NAMES, 144, &names);
        let read = Extensions::parse(&area).unwrap();
        let told = read.incompatible_names(1 << 5 | 1 << 6 | 1 << 7 | 1 << 63);
        assert_eq!(told, "\"new layout\" (bit 5), bit 6, bit 7, bit 63");
    }

    #[test]
    fn the_base_s_format_can_be_set() {
        let mut extensions = Extensions::new(Some("raw"));
        assert_eq!(extensions.backing_format(), Some(&b"raw"[..]));
        extensions.set_backing_format(Some("qcow2"));
        assert_eq!(extensions.backing_format(), Some(&b"qcow2"[..]));
        extensions.set_backing_format(None);
        assert_eq!(extensions, Extensions::default());
    }
}
