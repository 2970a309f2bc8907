//! vm.conf from any bytes: no panic, and what is accepted means the same in its canonical text.
#![no_main]

use std::io;
use std::path::{Path, PathBuf};

use config::{AccountNames, Macros, Sources, Users, canonical, parse};
use libfuzzer_sys::fuzz_target;

/// A host on which every file and account is there; a file that is included holds a macro.
struct Any;

impl Sources for Any {
    fn include(&self, _: &Path) -> io::Result<Vec<u8>> {
        Ok(b"m = \"x y\"\n".to_vec())
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(Path::new("/").join(path))
    }
}

impl Users for Any {
    fn uid(&self, user: &str) -> io::Result<Option<u32>> {
        Ok(user.strip_prefix('u').and_then(|number| number.parse().ok()))
    }

    fn gid(&self, group: &str) -> io::Result<Option<u32>> {
        Ok(group.strip_prefix('g').and_then(|number| number.parse().ok()))
    }

    fn interface_group(&self, group: &str) -> io::Result<Option<u32>> {
        Ok(group.starts_with('i').then_some(1000))
    }
}

impl AccountNames for Any {
    fn user(&self, uid: u32) -> Option<String> {
        Some(format!("u{uid}"))
    }

    fn group(&self, gid: u32) -> Option<String> {
        Some(format!("g{gid}"))
    }
}

fuzz_target!(|text: &[u8]| {
    let mut macros = Macros::new();
    let _ = macros.define(b"d=/d");
    let parsed = match parse("vm.conf", text, &macros, &Any, &Any) {
        Ok(parsed) => parsed,
        Err(errors) => {
            assert!(!errors.to_string().is_empty());
            return;
        }
    };
    let text = canonical(&parsed.config, &Any).expect("every string and account has a form");
    let mut again = parse("canonical", &text, &Macros::new(), &Any, &Any).expect("canonical text is right").config;
    for (vm, first) in again.vms.iter_mut().zip(&parsed.config.vms) {
        vm.template.clone_from(&first.template);
    }
    assert_eq!(again, parsed.config);
});
