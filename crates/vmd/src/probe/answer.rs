//! From a question and the bytes of a file to the answer. Pure but for the reader it is given.

use std::io::{Read, Seek};

use boot::kernel::Kernel;
use disk::qcow2::{self, Header};
use model::{MemorySize, UserPath};
use proto::probe::{Base, Found, KernelKind, ToParent, ToProbe};
use proto::{Code, Failure};

/// Answers `question` about `file`, whose position is at its start.
pub fn answer(question: ToProbe, file: &mut (impl Read + Seek)) -> ToParent {
    let found = match question {
        ToProbe::Kernel { memory } => kernel(file, memory),
        ToProbe::RawDisk => raw(file, |begin| disk::check_raw(begin).map_err(|error| error.to_string())),
        ToProbe::RawBase => raw(file, |begin| disk::check_raw_base(begin).map_err(|error| error.to_string())),
        ToProbe::Qcow2 { len, write } => image(file, len, write),
    };
    found.map_or_else(ToParent::Failed, ToParent::Found)
}

fn kernel(file: &mut (impl Read + Seek), memory: MemorySize) -> Result<Found, Failure> {
    let fitting = Kernel::probe(file).and_then(|kernel| {
        let ram = boot::layout::ram(memory.bytes())?;
        kernel.fits(boot::layout::low_ram_end(&ram)).map(|()| kernel)
    });
    match fitting {
        Ok(Kernel::BzImage(_)) => Ok(Found::Kernel { kind: KernelKind::BzImage }),
        Ok(Kernel::ElfPvh(_)) => Ok(Found::Kernel { kind: KernelKind::Pvh }),
        Err(error @ boot::Error::Read(_)) => Err(Failure::new(Code::Io, error.to_string())),
        Err(error) => Err(Failure::new(Code::NotExecutable, error.to_string())),
    }
}

/// The question is asked only about what nobody called raw.
fn raw(file: &mut impl Read, check: impl FnOnce(&[u8]) -> Result<(), String>) -> Result<Found, Failure> {
    check(&begin(file, disk::QCOW2_MAGIC.len())?).map(|()| Found::Raw).map_err(|why| Failure::new(Code::Invalid, why))
}

/// Bytes of a qcow2 image's begin that tell how long its header can be (QEMU, docs/interop/qcow2.rst, "Header").
const CLUSTER_BITS_END: usize = 24;

/// A qcow2 image: its first cluster alone is read.
fn image(file: &mut impl Read, len: u64, write: bool) -> Result<Found, Failure> {
    let wrong = |error: qcow2::HeaderError| Failure::new(Code::Invalid, error.to_string());
    let mut first = begin(file, CLUSTER_BITS_END)?;
    let needed = Header::bytes_needed(&first).map_err(wrong)?;
    first.append(&mut begin(file, needed.saturating_sub(first.len()))?);
    let header = Header::probe(&first, len).map_err(wrong)?;
    if write {
        header.writable.map_err(wrong)?;
    }
    let base = header.backing.map(|backing| {
        let name = std::str::from_utf8(&backing.name).ok().and_then(|name| UserPath::new(name).ok());
        let name = name.ok_or_else(|| Failure::new(Code::Invalid, "the name of its base is no UTF-8 text"))?;
        Ok(Base { name, format: backing.format })
    });
    Ok(Found::Qcow2 { size: header.size, base: base.transpose()? })
}

/// So many bytes, or all that there are.
fn begin(file: &mut impl Read, len: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(len);
    let read = file.take(u64::try_from(len).unwrap_or(u64::MAX)).read_to_end(&mut bytes);
    read.map_err(|error| Failure::new(Code::Io, format!("can't be read: {error}")))?;
    Ok(bytes)
}
