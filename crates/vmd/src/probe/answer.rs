//! From a question and the bytes of a file to the answer. Pure but for the reader it is given.

use std::io::{Read, Seek};

use boot::kernel::Kernel;
use model::MemorySize;
use proto::probe::{KernelKind, ToParent, ToProbe};
use proto::{Code, Failure};

/// Answers `question` about `file`, whose position is at its start.
pub fn answer(question: ToProbe, file: &mut (impl Read + Seek)) -> ToParent {
    match question {
        ToProbe::Kernel { memory } => kernel(file, memory),
        ToProbe::RawDisk => raw_disk(file),
    }
}

fn kernel(file: &mut (impl Read + Seek), memory: MemorySize) -> ToParent {
    let fitting = Kernel::probe(file).and_then(|kernel| {
        let ram = boot::layout::ram(memory.bytes())?;
        kernel.fits(boot::layout::low_ram_end(&ram)).map(|()| kernel)
    });
    match fitting {
        Ok(Kernel::BzImage(_)) => ToParent::Kernel { kind: KernelKind::BzImage },
        Ok(Kernel::ElfPvh(_)) => ToParent::Kernel { kind: KernelKind::Pvh },
        Err(error @ boot::Error::Read(_)) => ToParent::Failed(Failure::new(Code::Io, error.to_string())),
        Err(error) => ToParent::Failed(Failure::new(Code::NotExecutable, error.to_string())),
    }
}

/// The question is asked only about disks that nobody called raw.
fn raw_disk(file: &mut impl Read) -> ToParent {
    let mut header = Vec::with_capacity(disk::QCOW2_MAGIC.len());
    let first = u64::try_from(disk::QCOW2_MAGIC.len()).unwrap_or(u64::MAX);
    if let Err(error) = file.take(first).read_to_end(&mut header) {
        return ToParent::Failed(Failure::new(Code::Io, format!("can't be read: {error}")));
    }
    match disk::check_raw(&header) {
        Ok(()) => ToParent::Raw,
        Err(error) => ToParent::Failed(Failure::new(Code::Invalid, error.to_string())),
    }
}
