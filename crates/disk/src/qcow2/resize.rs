//! Makes an image's disk larger, with nobody else at the image. Called by vmctl.
//!
//! The header's size and its L1 table change in one write. A larger L1 table is written behind the file's end before that, and
//! the refcounts are put right after it as after any image that was not closed: so is one whose change a power cut interrupted.

use std::io;
use std::ops::ControlFlow;

use super::check::{Bytes, CheckError, Repair, Storage, read_header, repair};
use super::{Access, Header, HeaderError, Table, Version, features};

/// Where the header has the disk's size, the kind of encryption, and the L1 table's entries and place (qcow2.rst, "Header").
const SIZE_AT: u64 = 24;
/// Where it has the incompatible features.
const INCOMPATIBLE_AT: u64 = 72;
/// Entries of an L1 table (qcow2.rst, "Header", size: 32 MiB).
const MAX_L1_ENTRIES: u64 = 4 << 20;

/// Why an image is not larger.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// It would lose data.
    #[error("it has {0} bytes; images are not made smaller: make a smaller copy of what is on it within the guest")]
    Smaller(u64),
    /// More than its L1 table can say.
    #[error("its clusters are too small for a disk of {0} bytes; copy it with vmctl create -i")]
    TooLarge(u64),
    /// They would have to grow too.
    #[error("it has bitmaps; remove them with qemu-img bitmap --remove first")]
    Bitmaps,
    /// A version 2 image's snapshots don't say their size.
    #[error("it has snapshots and version 2 of the format; copy it with vmctl create -i")]
    Snapshots,
    /// It must not be written.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It can't be read, or has errors.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// Its tables are wrong.
    #[error("it has errors: see vmctl image check")]
    Damaged,
    /// It can't be read or written.
    #[error("{}", crate::plain(.0))]
    Io(#[from] io::Error),
}

/// Makes the disk of an image `size` bytes large: whole sectors, not less than it has.
pub fn grow(image: &dyn Storage, size: u64) -> Result<(), ResizeError> {
    let bytes: &dyn Bytes = image;
    let header = read_header(bytes)?;
    header.check(Access::Write)?;
    if size < header.size {
        return Err(ResizeError::Smaller(header.size));
    }
    if header.extensions.has_bitmaps() {
        return Err(ResizeError::Bitmaps);
    }
    if header.version == Version::V2 && header.snapshots.is_some() {
        return Err(ResizeError::Snapshots);
    }
    let geometry = header.geometry;
    let needed = geometry.l1_needed(size);
    let entries = u32::try_from(needed).ok().filter(|_| needed <= MAX_L1_ENTRIES).ok_or(ResizeError::TooLarge(size))?;
    let len = u64::from(header.l1.count).saturating_mul(8);
    let room = geometry.round_up(len).unwrap_or(len);
    let needed = needed.saturating_mul(8);
    if needed <= len {
        switch(image, &header, size, header.l1)?;
    } else if needed <= room {
        // The rest of the table's last cluster is its own, whatever stands there.
        let zeros = vec![0; usize::try_from(needed.saturating_sub(len)).unwrap_or(0)];
        image.write_at(&zeros, header.l1.at.saturating_add(len))?;
        image.sync()?;
        switch(image, &header, size, Table { at: header.l1.at, count: entries })?;
    } else {
        move_table(image, &header, size, entries)?;
    }
    Ok(())
}

/// Writes a longer L1 table behind the file's end.
fn move_table(image: &dyn Storage, header: &Header, size: u64, entries: u32) -> Result<(), ResizeError> {
    let bytes: &dyn Bytes = image;
    let geometry = header.geometry;
    let file_len = bytes.file_len()?;
    let at = geometry.round_up(file_len).ok_or(ResizeError::TooLarge(size))?;
    let mut go = |_, _| ControlFlow::Continue(());
    if super::check::check(bytes, &mut go)?.errors > 0 {
        return Err(ResizeError::Damaged);
    }
    let mut table = vec![0; usize::try_from(u64::from(header.l1.count).saturating_mul(8)).unwrap_or(0)];
    let mut done = 0_usize;
    while let Some(rest @ [_, ..]) = table.get_mut(done..) {
        match bytes.read_at(rest, header.l1.at.saturating_add(done as u64))? {
            0 => break,
            got => done = done.saturating_add(got),
        }
    }
    let len = geometry.round_up(u64::from(entries).saturating_mul(8)).unwrap_or(0);
    table.resize(usize::try_from(len).unwrap_or(0), 0);
    image.write_at(&table, at)?;
    if header.version == Version::V3 {
        image.write_at(&(header.incompatible | features::DIRTY).to_be_bytes(), INCOMPATIBLE_AT)?;
    }
    image.sync()?;
    switch(image, header, size, Table { at, count: entries })?;
    match repair(image, &mut go)?.1 {
        Repair::Right | Repair::Done => Ok(()),
        Repair::Refused => Err(ResizeError::Damaged),
    }
}

/// Size and L1 table in one write, within a sector.
fn switch(image: &dyn Storage, header: &Header, size: u64, l1: Table) -> io::Result<()> {
    let mut fields = size.to_be_bytes().to_vec();
    // No image that is read here is encrypted.
    fields.extend(0_u32.to_be_bytes());
    fields.extend(l1.count.to_be_bytes());
    fields.extend(l1.at.to_be_bytes());
    if header.version == Version::V3 && header.autoclear & !features::BITMAPS != 0 {
        image.write_at(&(header.autoclear & features::BITMAPS).to_be_bytes(), 88)?;
    }
    image.write_at(&fields, SIZE_AT)?;
    image.sync()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[track_caller]
    fn done(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; install qemu-utils"));
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    }

    #[test]
    fn a_disk_grows_within_its_table_its_cluster_and_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let [image, raw] = ["image", "raw"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
        for options in ["cluster_size=512", "cluster_size=64k", "compat=0.10,cluster_size=1k"] {
            done("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, &image, "40k"]);
            done("qemu-io", &["-f", "qcow2", "-c", "write -P 7 3k 30k", &image]);
            done("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &image, &raw]);
            let file = std::fs::File::options().read(true).write(true).open(&image).unwrap();
            for size in [40 << 10, 41 << 10, 1 << 20, 3 << 20, (64 << 20) + 512] {
                grow(&file, size).unwrap();
                std::fs::File::options().write(true).open(&raw).unwrap().set_len(size).unwrap();
                assert!(done("qemu-img", &["check", "-f", "qcow2", &image]).contains("No errors"), "{options} {size}");
                done("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &image, &raw]);
                assert_eq!(read_header(&file).unwrap().size, size, "{options}");
            }
            assert!(matches!(grow(&file, 1 << 20), Err(ResizeError::Smaller(_))));
        }
        let file = std::fs::File::options().read(true).write(true).open(&image).unwrap();
        assert!(matches!(grow(&file, 1 << 60), Err(ResizeError::TooLarge(_))));
    }

    #[test]
    fn what_would_be_wrong_then_is_refused_and_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image").to_str().unwrap().to_owned();
        let refused = || {
            let before = std::fs::read(&image).unwrap();
            let file = std::fs::File::options().read(true).write(true).open(&image).unwrap();
            let error = grow(&file, 4 << 20).unwrap_err();
            assert!(std::fs::read(&image).unwrap() == before);
            error
        };
        done("qemu-img", &["create", "-q", "-f", "qcow2", &image, "1M"]);
        done("qemu-img", &["bitmap", "--add", "-f", "qcow2", &image, "b"]);
        assert!(matches!(refused(), ResizeError::Bitmaps));
        done("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", &image, "1M"]);
        done("qemu-img", &["snapshot", "-c", "s", &image]);
        assert!(matches!(refused(), ResizeError::Snapshots));
        done("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", &image, "1M"]);
        assert!(matches!(refused(), ResizeError::Header(HeaderError::ExtendedL2)));
    }
}
