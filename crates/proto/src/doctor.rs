//! What `vmd -x doctor` says on its standard output, and vmctl reads: which vmd it is, then what its probe guest did. Two
//! lines of text, since the two programs may be of different releases.

use crate::client::VERSION;

/// The last line where the probe guest ran.
pub const RAN: &str = "ok";

/// The first line: the release, and the version of what vmd and vmctl say to each other.
pub fn banner(release: &str) -> String {
    format!("vmd {release}, protocol {VERSION}")
}

/// The lines, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The release, as the banner has it.
    pub release: String,
    /// The protocol's version.
    pub protocol: u32,
    /// Why the probe guest did not run.
    pub guest: Result<(), String>,
}

/// Reads them; nothing, where it is another release's text or cut short.
pub fn read(text: &str) -> Option<Said> {
    let (banner, guest) = text.trim_end().split_once('\n')?;
    let (release, protocol) = banner.strip_prefix("vmd ")?.split_once(", protocol ")?;
    let guest = if guest == RAN { Ok(()) } else { Err(guest.to_owned()) };
    Some(Said { release: release.to_owned(), protocol: protocol.parse().ok()?, guest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let said = |guest: &str| read(&format!("{}\n{guest}\n", banner("0.1.0")));
        let of = |guest| Some(Said { release: "0.1.0".to_owned(), protocol: VERSION, guest });
        assert_eq!(said(RAN), of(Ok(())));
        assert_eq!(said("CMPXCHG16B: a triple fault"), of(Err("CMPXCHG16B: a triple fault".to_owned())));
    }

    #[test]
    fn other_text_is_nothing() {
        for text in ["", "ok\n", "vmd 1\nok", "vmd 1, protocol x\nok", "vmd 1, protocol 3", "vmd 1, protocol 3\n"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
