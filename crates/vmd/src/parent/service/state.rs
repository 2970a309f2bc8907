//! What outlives the daemon: one small file a thing, below /var/lib/vmd. Each is written beside, and then takes its place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};

use model::VmName;
use proto::VmId;
use proto::failure::plain;
use rustix::fs::OFlags;

use crate::parent::accounts::random;
use crate::parent::registry::{HostBytes, Ids};

/// Whoever likes may keep images there too.
const PLACE: &str = "/var/lib/vmd";
/// A line for each name: number, owner, name.
const IDS: &str = "/var/lib/vmd/ids";
/// This host's bytes in the addresses of cards, as `ab:cd`.
const HOST_BYTES: &str = "/var/lib/vmd/lladdr";
/// What a name has beside itself while it is written.
const NEW: &str = ".new";
/// Locked by the daemon that uses the place.
const LOCK: &str = "/var/lib/vmd/lock";
/// Bytes of a file that are read: some 100,000 names.
const MAX_READ: u64 = 8 << 20;

/// The numbers of names that an earlier daemon gave. What can't be read is as if it had never been.
pub fn ids() -> Ids {
    ids_of(&read(IDS, "VMs get new numbers").unwrap_or_default())
}

/// This host's bytes: those of before, else new ones, which are kept.
pub fn host_bytes() -> HostBytes {
    let lose = "cards get new addresses";
    if let Some(bytes) = read(HOST_BYTES, lose).as_deref().and_then(host_bytes_of) {
        return bytes;
    }
    let bytes = random();
    if let Err(error) = make_place().and_then(|()| replace(HOST_BYTES, &text_of_host_bytes(bytes))) {
        log::warn!("{HOST_BYTES}: {}; {lose} when vmd is started again", plain(&error));
    }
    bytes
}

/// What a daemon that was killed left half written goes.
pub fn clean() {
    for name in [IDS, HOST_BYTES] {
        match fs::remove_file(new_of(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => log::warn!("{}: {}", new_of(name), plain(&error)),
            _ => {}
        }
    }
}

fn new_of(name: &str) -> String {
    format!("{name}{NEW}")
}

/// Nothing where there is no such file, or none that can be read, and then this is lost.
fn read(name: &str, lose: &str) -> Option<String> {
    let mut text = String::new();
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(name);
    match file.and_then(|file| file.take(MAX_READ).read_to_string(&mut text)) {
        Ok(_) => return Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log::warn!("{name}: {}; {lose}", plain(&error)),
    }
    None
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
    if let Err(error) = make_place().and_then(|()| replace(IDS, &text_of(ids))) {
        sys::guest_log!(Warn, "{IDS}: {}; VMs may have other numbers when vmd is started again", plain(&error));
    }
}

fn replace(name: &str, text: &str) -> io::Result<()> {
    let new = new_of(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // a daemon was killed while it wrote
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, name)?;
    File::open(PLACE)?.sync_all()
}

fn text_of_host_bytes([a, b]: HostBytes) -> String {
    format!("{a:02x}:{b:02x}\n")
}

fn host_bytes_of(text: &str) -> Option<HostBytes> {
    let (a, b) = text.strip_suffix('\n')?.split_once(':')?;
    let fits = |text: &str| text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let byte = |text: &str| fits(text).then(|| u8::from_str_radix(text, 16).ok()).flatten();
    Some([byte(a)?, byte(b)?])
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

    #[test]
    fn a_hosts_bytes_are_read_as_they_were_written_and_nothing_else_is() {
        for bytes in [[0, 0], [0x0a, 0xff], [0x7f, 0x80]] {
            assert_eq!(host_bytes_of(&text_of_host_bytes(bytes)), Some(bytes));
        }
        for odd in ["", "ab", "ab:cd", "ab:c\n", "+1:cd\n", "ab:cd:ef\n", "ab:cd\n\n", "ab:\u{e9}\n"] {
            assert_eq!(host_bytes_of(odd), None, "{odd:?}");
        }
    }
}
