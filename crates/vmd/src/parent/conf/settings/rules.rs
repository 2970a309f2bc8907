//! vm.conf's rules of names, paths and texts are those of their types: what the types take, the reader takes, and what
//! they refuse is an error at its place.

use std::io;
use std::path::{Path, PathBuf};

use config::{Config, Errors, Macros, Sources, Users};
use model::{CommandLine, Description, IfName, MAX_CMDLINE, UserPath, VmName};
use proptest::prelude::*;
use proto::agentx::Context;

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

const RULES: [Rule; 9] = [
    ("vm v { disk # format raw }\n", |path| UserPath::new(path).is_ok()),
    ("vm v { boot # }\n", |path| UserPath::new(path).is_ok()),
    ("vm v { cdrom # }\n", |path| UserPath::new(path).is_ok()),
    ("vm v { boot k\ninitrd #\n}\n", |path| UserPath::new(path).is_ok()),
    ("vm v { boot k\ncmdline #\n}\n", |text| CommandLine::new(text).is_ok()),
    ("vm v { disk d\ndescription #\n}\n", |text| Description::new(text).is_ok()),
    ("agentx context #\n", |text| Context::new(text).is_ok()),
    ("switch s { interface # }\n", |name| IfName::new(name).is_ok()),
    ("vm # { disk d }\n", |name| VmName::new(name).is_ok()),
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
fn paths_and_texts_have_the_same_lengths() {
    for length in [1, 15, 16, 32, 33, 63, 64, 1023, 1024, 2047, 2048] {
        agree(&vec![b'x'; length]);
        agree(&[&vec![b'x'; length - 1][..], b"\xff"].concat());
    }
    let command_line = |length: usize| CommandLine::new(vec![b'x'; length]).is_ok();
    assert_eq!((command_line(MAX_CMDLINE), command_line(MAX_CMDLINE + 1)), (true, false));
    let socket = |path: &[u8]| read("agentx path #\n", path).map(|config| of_config(&config, 1, &mut HostAccounts).1);
    assert_eq!(socket(&[b"/", &[b'x'; 102][..]].concat()), Ok(vec![]));
    assert!(socket(b"/\xff").is_err());
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
