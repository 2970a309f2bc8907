//! An ELF kernel (System V ABI, chapter 4 and 5) with Xen's PHYS32_ENTRY note (Xen, public/elfnote.h), checked whole.

use std::io::{Read, Seek};
use std::ops::Range;

use super::{Fields, Head, Loaded};
use crate::registers::Registers;
use crate::{Error, layout};

pub(super) const MAGIC: &[u8] = b"\x7FELF";
/// Program headers of one file. Linux has five; beyond the limit the header is taken for damaged.
pub(super) const MAX_PROGRAM_HEADERS: u16 = 64;
/// Bytes of one note segment: Linux' has some hundred.
const MAX_NOTES: u64 = 64 << 10;
/// Linux' COMMAND_LINE_SIZE of x86, without the NUL.
pub(super) const MAX_COMMAND_LINE: usize = 2047;

const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: u16 = 56;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const NOTE_HEADER_LEN: usize = 12;
const NOTE_ALIGN: usize = 4;

/// An ELF kernel whose headers and notes were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// What the segments need, with what is not in the file.
    segments: Vec<Range<u64>>,
    entry: u32,
}

impl Elf {
    pub(super) fn parse<F: Read + Seek>(head: &mut Head<'_, F>) -> Result<Self, Error> {
        head.whole("ELF header", 0, HEADER_LEN as u64)?;
        let header = head.first.clone();
        if header.get(4) != Some(&ELFCLASS64) || header.get(5) != Some(&ELFDATA2LSB) || header.u16_at(18) != EM_X86_64 {
            return Err(Error::OtherProcessor);
        }
        let (mut segments, mut in_file, mut entry) = (Vec::new(), Vec::new(), None);
        for program_header in program_headers(head, &header)? {
            match program_header.u32_at(0) {
                PT_LOAD => {
                    let (memory, file) = segment(head, &program_header)?;
                    segments.push(memory);
                    in_file.push(file);
                }
                PT_NOTE if entry.is_none() => entry = pvh_entry(&notes(head, &program_header)?)?,
                _ => {}
            }
        }
        let entry = entry.ok_or(Error::NoPvhEntry)?;
        if !in_file.iter().any(|range: &Range<u64>| range.contains(&u64::from(entry))) {
            return Err(Error::Header { field: "PHYS32_ENTRY", value: u64::from(entry) });
        }
        Ok(Self { segments, entry })
    }

    /// That all segments lie in the RAM below 4 GiB.
    pub(super) fn fits(&self, low_ram_end: u64) -> Result<(), Error> {
        match self.segments.iter().find(|range| range.end > low_ram_end) {
            Some(range) => Err(Error::KernelOutsideRam { start: range.start, end: range.end, available: low_ram_end }),
            None => Ok(()),
        }
    }

    pub(super) fn loaded(&self) -> Loaded {
        let end = self.segments.iter().map(|range| range.end).max().unwrap_or(layout::KERNEL_MIN);
        Loaded { registers: Registers::pvh(self.entry), end }
    }
}

fn program_headers<F: Read + Seek>(head: &mut Head<'_, F>, header: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let (offset, entry_len, count) = (header.u64_at(32), header.u16_at(54), header.u16_at(56));
    if entry_len != PROGRAM_HEADER_LEN {
        return Err(Error::Header { field: "e_phentsize", value: entry_len.into() });
    }
    if !(1..=MAX_PROGRAM_HEADERS).contains(&count) {
        return Err(Error::Header { field: "e_phnum", value: count.into() });
    }
    if offset < HEADER_LEN as u64 {
        return Err(Error::Header { field: "e_phoff", value: offset });
    }
    let len = usize::from(count).saturating_mul(usize::from(PROGRAM_HEADER_LEN));
    let table = head.bytes("program headers", offset, len)?;
    Ok(table.chunks_exact(usize::from(PROGRAM_HEADER_LEN)).map(<[u8]>::to_vec).collect())
}

/// What a PT_LOAD header takes in memory, and the part of it that comes from the file.
fn segment<F: Read + Seek>(head: &Head<'_, F>, program_header: &[u8]) -> Result<(Range<u64>, Range<u64>), Error> {
    let (offset, start) = (program_header.u64_at(8), program_header.u64_at(24));
    let (file_len, memory_len) = (program_header.u64_at(32), program_header.u64_at(40));
    if file_len > memory_len {
        return Err(Error::Header { field: "p_filesz", value: file_len });
    }
    if memory_len == 0 {
        return Ok((0..0, 0..0));
    }
    head.whole("segments", offset, file_len)?;
    if start < layout::KERNEL_MIN {
        return Err(Error::KernelTooLow { start });
    }
    let end = start.checked_add(memory_len).ok_or(Error::Header { field: "p_memsz", value: memory_len })?;
    Ok((start..end, start..start.saturating_add(file_len)))
}

fn notes<F: Read + Seek>(head: &mut Head<'_, F>, program_header: &[u8]) -> Result<Vec<u8>, Error> {
    let len = program_header.u64_at(32);
    match usize::try_from(len) {
        Ok(bytes) if len <= MAX_NOTES => head.bytes("notes", program_header.u64_at(8), bytes),
        _ => Err(Error::Header { field: "p_filesz", value: len }),
    }
}

/// The first PHYS32_ENTRY among notes, whose names and descriptors are padded to four bytes.
fn pvh_entry(notes: &[u8]) -> Result<Option<u32>, Error> {
    let mut rest = notes;
    while let Some((header, after)) = rest.split_at_checked(NOTE_HEADER_LEN) {
        let (name_len, descriptor_len) = (header.u32_at(0), header.u32_at(4));
        let (name, after) = take(after, name_len, "n_namesz")?;
        let (descriptor, after) = take(after, descriptor_len, "n_descsz")?;
        if header.u32_at(8) == XEN_ELFNOTE_PHYS32_ENTRY && name == b"Xen\0" {
            return descriptor_address(descriptor).map(Some);
        }
        rest = after;
    }
    Ok(None)
}

/// `len` bytes and what follows their padding; the last note's padding may be missing.
fn take<'a>(bytes: &'a [u8], len: u32, field: &'static str) -> Result<(&'a [u8], &'a [u8]), Error> {
    let damaged = Error::Header { field, value: len.into() };
    let len = usize::try_from(len).map_err(|_| damaged.clone())?;
    let taken = bytes.get(..len).ok_or(damaged)?;
    let padded = len.next_multiple_of(NOTE_ALIGN);
    Ok((taken, bytes.get(padded..).unwrap_or(&[])))
}

fn descriptor_address(descriptor: &[u8]) -> Result<u32, Error> {
    let address = match descriptor.len() {
        4 => u64::from(descriptor.u32_at(0)),
        8 => descriptor.u64_at(0),
        len => return Err(Error::Header { field: "n_descsz", value: len as u64 }),
    };
    u32::try_from(address).map_err(|_| Error::Header { field: "PHYS32_ENTRY", value: address })
}
