//! vm.conf's rules of names, paths and texts beside those of the messages that carry them: what config takes, proto
//! takes, and what proto refuses was refused by config, at its place.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use config::names::{CommandLine, IfName, SwitchName, VmName};
use config::{Config, Errors, Macros, Sources, Users};
use proptest::prelude::*;
use proto::agentx::Context;
use proto::{MAX_CMDLINE, Text, UserPath};

use super::of_config;
use crate::parent::accounts::HostAccounts;

/// A host on which every file is there, and no account.
struct Host;

impl Sources for Host {
    fn include(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

impl Users for Host {
    fn uid(&self, _: &str) -> io::Result<Option<u32>> {
        Ok(None)
    }

    fn gid(&self, _: &str) -> io::Result<Option<u32>> {
        Ok(None)
    }

    fn interface_group(&self, _: &str) -> io::Result<Option<u32>> {
        Ok(None)
    }
}

/// A file in which `#` is this string, in quotes.
fn read(text: &str, string: &[u8]) -> Result<Config, Errors> {
    let (before, behind) = text.split_once('#').expect("a place");
    let string = [b"\"", string, b"\""].concat();
    let text = [before.as_bytes(), &string, behind.as_bytes()].concat();
    config::parse("vm.conf", &text, &Macros::new(), &Host, &Host).map(|parsed| parsed.config)
}

/// What holds a string of vm.conf, and whether proto takes it there.
type Rule = (&'static str, fn(&str) -> bool);

const RULES: [Rule; 8] = [
    ("vm v { disk # format raw }\n", |path| UserPath::new(path).is_ok()),
    ("vm v { boot # }\n", |path| UserPath::new(path).is_ok()),
    ("vm v { cdrom # }\n", |path| UserPath::new(path).is_ok()),
    ("vm v { boot k\ninitrd #\n}\n", |path| UserPath::new(path).is_ok()),
    ("vm v { boot k\ncmdline #\n}\n", |text| Text::<MAX_CMDLINE>::new(text).is_ok()),
    ("agentx context #\n", |text| Context::new(text).is_ok()),
    ("switch s { interface # }\n", |name| proto::IfName::new(name).is_ok()),
    ("vm # { disk d }\n", |name| proto::VmName::new(name).is_ok()),
];

/// Both rules of one string: equal, and nothing that was read is refused later.
fn agree(string: &[u8]) {
    for (text, right) in RULES {
        let read = read(text, string);
        let right = std::str::from_utf8(string).is_ok_and(right);
        assert_eq!(read.is_ok(), right, "{text} with {:?}", String::from_utf8_lossy(string));
        match read {
            Ok(config) => assert_eq!(of_config(&config, 1, &mut HostAccounts).1, [], "{text}"),
            Err(errors) => assert!(errors.errors.iter().all(|error| error.place.is_some()), "{errors}"),
        }
    }
}

#[test]
fn interface_and_vm_names_are_the_same_for_every_character() {
    for letter in '\0'..=char::MAX {
        for name in [letter.to_string(), format!("a{letter}"), format!("{letter}a")] {
            let of_config = (IfName::new(name.as_bytes()).is_ok(), VmName::new(name.as_bytes()).is_ok());
            assert_eq!(of_config, (proto::IfName::new(&name).is_ok(), proto::VmName::new(&name).is_ok()), "{name:?}");
        }
    }
    for name in ["", ".", "..", "...", "a.", &"x".repeat(15), &"x".repeat(16), &"x".repeat(63), &"x".repeat(64)] {
        let of_config = (IfName::new(name.as_bytes()).is_ok(), VmName::new(name.as_bytes()).is_ok());
        assert_eq!(of_config, (proto::IfName::new(name).is_ok(), proto::VmName::new(name).is_ok()), "{name:?}");
    }
}

#[test]
fn paths_and_texts_have_the_same_lengths() {
    for length in [1, 15, 16, 32, 33, 63, 64, 1023, 1024, 2047, 2048] {
        agree(&vec![b'x'; length]);
        agree(&[&vec![b'x'; length - 1][..], b"\xff"].concat());
    }
    let command_line = |length: usize| CommandLine::new(&vec![b'x'; length]).is_ok();
    assert_eq!((command_line(MAX_CMDLINE), command_line(MAX_CMDLINE + 1)), (true, false));
    let socket = |path: &[u8]| read("agentx path #\n", path).map(|config| of_config(&config, 1, &mut HostAccounts).1);
    assert_eq!(socket(&[b"/", &[b'x'; 102][..]].concat()), Ok(vec![]));
    assert!(socket(b"/\xff").is_err());
}

/// A name that is cut would be another.
#[test]
fn no_name_of_a_switch_is_cut() {
    let longest = ["x".repeat(63), "é".repeat(31)];
    assert!(longest.iter().all(|name| SwitchName::new(name.as_bytes()).is_ok()));
    assert!(longest.iter().all(|name| proto::SwitchName::cut(name).as_str() == name));
    assert!(SwitchName::new(&[b'x'; 64]).is_err());
}

/// The second check stays: what was made elsewhere than from a file is refused too.
#[test]
fn what_is_not_utf8_is_refused_a_second_time() {
    let mut config = read("vm v { disk # }\n", b"/d").expect("right");
    config.vms[0].disks[0].path = OsString::from_vec(b"/\xff".to_vec()).into();
    let (_, refused) = of_config(&config, 1, &mut HostAccounts);
    assert_eq!(refused.len(), 1, "{refused:?}");
}

proptest! {
    #[test]
    fn what_vm_conf_takes_is_what_the_messages_take(
        string in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let plain = |byte: &u8| !b"\"\\\n\r\0".contains(byte);
        agree(&string.into_iter().filter(plain).chain([b'x']).collect::<Vec<_>>());
    }

    #[test]
    fn the_same_of_text(string in "[^\"\\\\\\n\\r\\x00]{1,20}") {
        agree(string.as_bytes());
    }
}
