//! The files of one disk: its image, then the bases that their headers name, each found when the one before it is open.
//! Used by starts and by `vmd -n`. Pure.
//!
//! ```text
//!   file is open ──opened()──► a question for the probe ──found()──► the next base to open
//!                      └─────► nothing more                  └─────► nothing more
//! ```

use std::path::Path;

use disk::{is_beside, path_of_base};
use model::{Disk, DiskFormat, List, MAX_BASES, UserPath};
use proto::opener::{FileId, OpenFile};
use proto::probe::{self, Found, ToProbe};
use proto::{Code, Failure};

/// The files of one disk, as far as they are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Its image first.
    files: Vec<File>,
    /// Bytes of the guest's disk, where the image's header says them.
    size: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
struct File {
    disk: Disk,
    id: Option<FileId>,
    /// It and all that lead to it lie beside the image that names them.
    beside: bool,
}

impl Chain {
    /// Of this disk, of which nothing is open.
    pub fn new(disk: &Disk) -> Self {
        Self { files: vec![File { disk: disk.clone(), id: None, beside: true }], size: None }
    }

    /// The number of its last file: 0 is the image.
    pub fn last(&self) -> u8 {
        u8::try_from(self.files.len().saturating_sub(1)).unwrap_or(u8::MAX)
    }

    /// Where its last file is.
    pub fn path(&self) -> UserPath {
        self.files.last().map(|file| file.disk.path.clone()).unwrap_or_default()
    }

    /// Whether its last file may be opened with root's rights, if those opened the image. An image's header is not root's word:
    /// who wrote the image could name any file of the host. Beside an image lies what belongs to it.
    pub fn is_beside(&self) -> bool {
        self.files.last().is_some_and(|file| file.beside)
    }

    /// Whether it has this file.
    pub fn has(&self, id: FileId) -> bool {
        self.files.iter().any(|file| file.id == Some(id))
    }

    /// The formats of its bases, the nearest first.
    pub fn bases(&self) -> List<DiskFormat, MAX_BASES> {
        let bases: Vec<DiskFormat> = self.files.iter().skip(1).map(|file| file.disk.format.kind).collect();
        List::try_from(bases).unwrap_or_default()
    }

    /// Bytes of the guest's disk, where they are not those of the file.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Its last file is open: what a probe is asked about it, if anything.
    pub fn opened(&mut self, open: OpenFile) -> Result<Option<ToProbe>, Failure> {
        if self.has(open.id) {
            return Err(self.leads_back(open.id));
        }
        let top = self.files.len() == 1;
        let Some(last) = self.files.last_mut() else { return Ok(None) };
        last.id = Some(open.id);
        Ok(match last.disk.format.kind {
            DiskFormat::Qcow2 => Some(ToProbe::Qcow2 { len: open.size, write: top }),
            DiskFormat::Raw if last.disk.is_called() => None,
            DiskFormat::Raw if top => Some(ToProbe::RawDisk),
            DiskFormat::Raw => Some(ToProbe::RawBase),
        })
    }

    /// What the probe says of its last file: whether there is one more file to open, which is its last then.
    pub fn found(&mut self, found: Found) -> Result<bool, Failure> {
        let Found::Qcow2 { size, base } = found else { return Ok(false) };
        self.size.get_or_insert(size);
        let Some(base) = base else { return Ok(false) };
        if usize::from(self.last()) == MAX_BASES {
            let why = format!(
                "has one more base, but a disk has {MAX_BASES} at most; join some of them with qemu-img commit"
            );
            return Err(self.refused(&Failure::new(Code::Invalid, why)));
        }
        self.push(base)?;
        Ok(true)
    }

    fn push(&mut self, base: probe::Base) -> Result<(), Failure> {
        let image = self.path();
        let path = path_of_base(Path::new(&*image), base.name.as_bytes()).map_err(|error| error.to_string());
        let path = path.and_then(|path| {
            UserPath::new(&path.to_string_lossy())
                .map_err(|_| "the path of its base is longer than 1023 bytes".to_owned())
        });
        let path = path.map_err(|why| self.refused(&Failure::new(Code::Invalid, format!("its base: {why}"))))?;
        let beside = self.is_beside() && is_beside(Path::new(&*image), Path::new(&*path));
        self.files.push(File { disk: Disk::new(path, base.format), id: None, beside });
        Ok(())
    }

    /// A file that it has already is what its last one turned out to be.
    pub fn leads_back(&self, id: FileId) -> Failure {
        let earlier = self.files.iter().find(|file| file.id == Some(id)).map(|file| &file.disk.path);
        let earlier = earlier.cloned().unwrap_or_default();
        let why =
            format!("is \"{earlier}\" again: an image can't be based on itself; mend it with \"qemu-img rebase -u\"");
        self.refused(&Failure::new(Code::Invalid, why))
    }

    /// Why its last file can't be used, with what it is.
    pub fn refused(&self, why: &Failure) -> Failure {
        let noun = if self.files.len() == 1 { "disk" } else { "base" };
        self.told(&Failure::new(why.code, format!("{noun} \"{}\": {why}", self.path())))
    }

    /// A failure that begins with its last file, with the way to that: `disk "/a": its base "/b": ...`, and for one further on
    /// `disk "/a": base "/b": its base "/c": ...` with the image that names it.
    pub fn told(&self, failure: &Failure) -> Failure {
        let way = match self.files.as_slice() {
            [] | [_] => return failure.clone(),
            [top, _] => format!("disk \"{}\": its ", top.disk.path),
            [top, .., before, _] => format!("disk \"{}\": base \"{}\": its ", top.disk.path, before.disk.path),
        };
        Failure::new(failure.code, format!("{way}{failure}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &str, format: Option<DiskFormat>) -> Disk {
        Disk::new(UserPath::new(path).unwrap(), format)
    }

    fn open(inode: u64) -> OpenFile {
        OpenFile { id: FileId { device: 1, inode }, size: 7, block: false }
    }

    fn image(name: &str, format: Option<DiskFormat>) -> Found {
        Found::Qcow2 { size: 1 << 20, base: Some(probe::Base { name: UserPath::new(name).unwrap(), format }) }
    }

    const LAST: Found = Found::Qcow2 { size: 4096, base: None };

    #[test]
    fn each_base_is_found_in_the_image_before_it() {
        let mut chain = Chain::new(&disk("/srv/a.qcow2", None));
        assert_eq!(chain.opened(open(1)), Ok(Some(ToProbe::Qcow2 { len: 7, write: true })));
        assert_eq!(chain.found(image("bases/b", Some(DiskFormat::Qcow2))), Ok(true));
        assert_eq!((chain.last(), chain.path().as_str()), (1, "/srv/bases/b"));
        assert_eq!(chain.opened(open(2)), Ok(Some(ToProbe::Qcow2 { len: 7, write: false })));
        assert_eq!(chain.found(image("/x/c", Some(DiskFormat::Raw))), Ok(true));
        assert_eq!(chain.opened(open(3)), Ok(None), "it was recorded raw");
        assert_eq!(chain.bases().to_vec(), [DiskFormat::Qcow2, DiskFormat::Raw]);
        assert_eq!((chain.size(), chain.has(open(2).id), chain.has(open(9).id)), (Some(1 << 20), true, false));
    }

    #[test]
    fn a_base_whose_format_is_not_recorded_is_what_its_name_says_and_else_raw_and_looked_at() {
        for (name, kind, question) in [
            ("b.qcow2", DiskFormat::Qcow2, Some(ToProbe::Qcow2 { len: 7, write: false })),
            ("b.raw", DiskFormat::Raw, None),
            ("b.img", DiskFormat::Raw, Some(ToProbe::RawBase)),
            ("b", DiskFormat::Raw, Some(ToProbe::RawBase)),
        ] {
            let mut chain = Chain::new(&disk("/a", Some(DiskFormat::Qcow2)));
            chain.opened(open(1)).unwrap();
            chain.found(image(name, None)).unwrap();
            assert_eq!((chain.opened(open(2)), chain.bases().to_vec()), (Ok(question), vec![kind]), "{name}");
        }
    }

    #[test]
    fn a_raw_disk_has_no_base() {
        let mut chain = Chain::new(&disk("/a.img", None));
        assert_eq!(chain.opened(open(1)), Ok(Some(ToProbe::RawDisk)));
        assert_eq!((chain.found(Found::Raw), chain.bases().len(), chain.size()), (Ok(false), 0, None));
        assert_eq!(Chain::new(&disk("/a.raw", None)).opened(open(1)), Ok(None));
    }

    #[test]
    fn a_chain_ends_at_its_last_image_and_has_sixteen_files_at_most() {
        let mut chain = Chain::new(&disk("/0.qcow2", None));
        for n in 0..15 {
            chain.opened(open(n)).unwrap();
            assert_eq!(chain.found(image(&format!("{}.qcow2", n + 1), None)), Ok(true));
        }
        chain.opened(open(15)).unwrap();
        assert_eq!((chain.clone().found(LAST), chain.bases().len()), (Ok(false), MAX_BASES));
        let refused = chain.found(image("16.qcow2", None)).unwrap_err();
        assert_eq!(
            refused.text.as_str(),
            "disk \"/0.qcow2\": base \"/14.qcow2\": its base \"/15.qcow2\": has one more base, but a disk has 15 at most; \
             join some of them with qemu-img commit"
        );
    }

    #[test]
    fn a_chain_that_leads_back_is_refused_whatever_its_files_are_called() {
        let mut chain = Chain::new(&disk("/a.qcow2", None));
        chain.opened(open(1)).unwrap();
        chain.found(image("b.qcow2", None)).unwrap();
        chain.opened(open(2)).unwrap();
        chain.found(image("link.qcow2", None)).unwrap();
        let refused = chain.opened(open(2)).unwrap_err();
        assert_eq!(
            refused.text.as_str(),
            "disk \"/a.qcow2\": base \"/b.qcow2\": its base \"/link.qcow2\": is \"/b.qcow2\" again: an image can't be based \
             on itself; mend it with \"qemu-img rebase -u\""
        );
    }

    #[test]
    fn what_is_no_file_is_refused_with_the_image_that_names_it() {
        let mut chain = Chain::new(&disk("/a.qcow2", None));
        chain.opened(open(1)).unwrap();
        let refused = chain.found(image("nbd://h/x", None)).unwrap_err();
        let begins = "disk \"/a.qcow2\": its base: \"nbd://h/x\" is no plain file name";
        assert!(refused.code == Code::Invalid && refused.text.starts_with(begins), "{refused}");
        let long = format!("/{}", "x/".repeat(300));
        let mut chain = Chain::new(&disk(&format!("{long}a.qcow2"), None));
        chain.opened(open(1)).unwrap();
        assert!(chain.found(image(&long[1..], None)).unwrap_err().text.contains("longer than 1023 bytes"));
    }

    #[test]
    fn once_a_base_lies_elsewhere_what_it_names_does_too() {
        let mut chain = Chain::new(&disk("/srv/a.qcow2", None));
        chain.opened(open(1)).unwrap();
        chain.found(image("b.qcow2", None)).unwrap();
        assert!(chain.is_beside());
        chain.opened(open(2)).unwrap();
        chain.found(image("/home/ann/c.qcow2", None)).unwrap();
        assert!(!chain.is_beside());
        chain.opened(open(3)).unwrap();
        chain.found(image("d.qcow2", None)).unwrap();
        assert!(!chain.is_beside(), "it is beside what is not root's");
    }

    #[test]
    fn a_failure_of_the_opener_is_told_with_the_way_to_its_file() {
        let mut chain = Chain::new(&disk("/a.qcow2", None));
        let failure = |text: &str| Failure::new(Code::DiskMissing, text);
        assert_eq!(chain.told(&failure("disk \"/a.qcow2\": no")), failure("disk \"/a.qcow2\": no"));
        chain.opened(open(1)).unwrap();
        chain.found(image("b", None)).unwrap();
        assert_eq!(chain.told(&failure("base \"/b\": no")), failure("disk \"/a.qcow2\": its base \"/b\": no"));
    }
}
