//! What outlives the daemon: one small file a thing, below /var/lib/vmd. Each is written beside, and then takes its place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};

use model::VmName;
use proto::VmId;
use proto::failure::plain;
use rustix::fs::OFlags;

use crate::parent::registry::Ids;

/// Whoever likes may keep images there too.
const PLACE: &str = "/var/lib/vmd";
/// A line for each name: number, owner, name.
const IDS: &str = "/var/lib/vmd/ids";
/// The same while it is written.
const NEW_IDS: &str = "/var/lib/vmd/ids.new";
/// Locked by the daemon that uses the place.
const LOCK: &str = "/var/lib/vmd/lock";
/// Bytes of it that are read: some 100,000 names.
const MAX_IDS: u64 = 8 << 20;

/// The numbers of names that an earlier daemon gave. What can't be read is as if it had never been.
pub fn ids() -> Ids {
    let mut text = String::new();
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(IDS);
    let read = file.and_then(|file| file.take(MAX_IDS).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log::warn!("{IDS}: {}; VMs get new numbers", plain(&error)),
    }
    ids_of(&text)
}

fn make_place() -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(PLACE) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// What a daemon locks. Only root may open it, so nobody else may lock it.
pub fn lock_file() -> io::Result<File> {
    make_place()?;
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(LOCK)
}

/// Keeps them. A daemon that can't does without.
pub fn keep_ids(ids: &Ids) {
    if let Err(error) = make_place().and_then(|()| replace(&text_of(ids))) {
        sys::guest_log!(Warn, "{IDS}: {}; VMs may have other numbers when vmd is started again", plain(&error));
    }
}

fn replace(text: &str) -> io::Result<()> {
    match fs::remove_file(NEW_IDS) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // a daemon was killed while it wrote
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(NEW_IDS)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(NEW_IDS, IDS)?;
    File::open(PLACE)?.sync_all()
}

fn text_of(ids: &Ids) -> String {
    ids.iter().map(|((name, owner), id)| format!("{id} {owner} {name}\n")).collect()
}

/// Invalid lines, and numbers that were given already, are skipped.
fn ids_of(text: &str) -> Ids {
    let mut given = std::collections::BTreeSet::new();
    let mut ids = Ids::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [id, owner, name] = words.as_slice() else { continue };
        let (Ok(id @ 1..), Ok(owner), Ok(_)) = (id.parse(), owner.parse(), VmName::new(name)) else { continue };
        if given.insert(id) {
            ids.insert(((*name).to_owned(), owner), VmId(id));
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_were_written_and_nonsense_is_passed_over() {
        let ids = Ids::from([(("web".to_owned(), 0), VmId(1)), (("web".to_owned(), 1000), VmId(3))]);
        assert_eq!(text_of(&ids), "1 0 web\n3 1000 web\n");
        assert_eq!(ids_of(&text_of(&ids)), ids);
        let odd = "0 0 zero\n1 0 web\n1 0 again\n2 0\n2 x a\n-1 0 a\n4 0 -a\n4 0 a b\n3 1000 web\n3";
        assert_eq!(ids_of(odd), ids);
    }
}
