//! man/vm.conf.5 and README.md against the parser: no word of the language is missing there, and what they show does
//! what they say.

use config::{Config, Keyword, Macros};

mod world;
use world::World;

const MANUAL: &str = include_str!("../../../man/vm.conf.5");
const README: &str = include_str!("../../../README.md");

/// Reserved for what older versions had; no statement uses them.
const UNUSED: [&str; 3] = ["add", "id", "size"];

#[test]
fn every_word_of_the_language_is_in_the_manual() {
    let reserved = Keyword::ALL.iter().map(|keyword| keyword.text()).filter(|word| !UNUSED.contains(word));
    for word in reserved.chain([
        "initrd",
        "cmdline",
        "description",
        "inet",
        "nat",
        "guarded",
        "isolated",
        "external",
        "iops",
        "bandwidth",
        "burst",
    ]) {
        let marked = MANUAL
            .lines()
            .filter(|line| line.starts_with('.'))
            .any(|line| line.split([' ', '|', '(', ')']).any(|part| part == word));
        assert!(marked, "{word}");
    }
}

/// What the file means that begins at this line and ends before that one.
#[track_caller]
fn shown(page: &str, begins: &str, ends: &str) -> Config {
    let (_, rest) = page.split_once(begins).expect("an example");
    let (text, _) = rest.split_once(ends).expect("its end");
    config::parse("example", text.as_bytes(), &Macros::default(), &World, &World).expect("it is right").config
}

#[test]
fn whoever_owns_the_vm_of_an_example_can_reach_the_daemon() {
    let readme = shown(README, "points at what is wrong:\n", "\n`vmctl start web`");
    let first = shown(README, "shell of its initrd:\n", "\nThen `vmd -n`");
    let (_, examples) = MANUAL.split_once(".Sh EXAMPLES").expect("examples");
    let manual = shown(examples, ".Bd -literal -offset indent\n", ".Ed");
    for config in [readme, first, manual] {
        assert_eq!(config.vms.iter().map(|vm| vm.owner.uid).collect::<Vec<_>>(), [1001]);
        assert_eq!(config.globals.socket_owner.gid, Some(20), "the group staff");
    }
}
