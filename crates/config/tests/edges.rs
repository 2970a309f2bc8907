//! Edges that no whole file shows: where an escape ends, how deep includes go, where a caret stands.

mod world;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

use config::json::Value;
use config::{Errors, Macros, Parsed, Sources, dump, parse};
use model::Sev;
use world::World;

fn read(text: &str) -> Result<Parsed, Errors> {
    parse("vm.conf", text.as_bytes(), &Macros::new(), &World, &World)
}

/// The path of the only disk.
fn disk(text: &str) -> String {
    let parsed = read(text).unwrap_or_else(|errors| panic!("{errors}"));
    parsed.config.vms[0].disks[0].path.to_string()
}

/// Each error and its hint, as shown behind line and column.
fn errors(text: &str) -> Vec<String> {
    let shown = |error: &config::Diagnostic| {
        let place = error.place.as_ref().expect("a place");
        let hint = error.fault.hint().map(|hint| format!(": {hint}")).unwrap_or_default();
        format!("{}:{}: {}{hint}", place.line, place.column, error.fault)
    };
    read(text).expect_err("refused").errors.iter().map(shown).collect()
}

#[test]
fn a_carriage_return_is_nothing_before_a_newline_alone() {
    assert_eq!(disk("vm \"v\" {\r\n\tdisk \"d\"\r\n}\r\n"), "/here/d");
    let found = "syntax error: found byte 0x0d: expected a vm option";
    assert_eq!(errors("vm \"v\" {\n\tdisk \"d\"\n\tdisable \rup\n}\n"), [format!("3:10: {found}")]);
    assert_eq!(errors("vm \"v\" {\n\tdisk \"d\"\n\tdisable \\\rx\n}\n"), [format!("3:11: {found}")]);
    assert_eq!(disk("vm \"v\" {\n\tdisable \\\r\ndisk \"d\"\n}\n"), "/here/d", "a line that goes on");
}

#[test]
fn a_backslash_behind_a_backslash_hides_nothing_also_behind_digits() {
    assert_eq!(disk("vm \"v\" {\n\tdisk 12\\\\x\n}\n"), "/here/12\\x");
}

#[test]
fn a_backslash_at_the_end_of_a_line_vanishes_in_quotes_with_it() {
    assert_eq!(disk("vm \"v\" {\n\tdisk \"a\\\nb\"\n}\n"), "/here/ab");
}

#[test]
fn a_minus_that_begins_no_number_stands_alone() {
    let cpus = |word: &str| errors(&format!("vm \"v\" {{\n\tdisk \"d\"\n\tcpus {word}\n}}\n"));
    let alone = "3:7: syntax error: found \"-\": expected a number of CPUs (1 to 64)";
    assert_eq!((cpus("-"), cpus("-5x")), (vec![alone.to_owned()], vec![alone.to_owned()]));
    assert_eq!(cpus("-5"), ["3:7: invalid number of cpus: -5: expected 1 to 64"]);
}

#[test]
fn a_word_that_is_too_long_is_marked_where_it_begins() {
    let shown = read(&format!("a = {}\n", "x".repeat(8096))).expect_err("too long").to_string();
    let marks = shown.lines().last().expect("a line of marks");
    assert_eq!(marks, "      |     ^ at most 8095 bytes");
}

#[test]
fn an_end_of_file_is_told_where_the_outermost_file_ends() {
    let expected = "syntax error: found end of file: expected an instance right";
    let text = "vm \"v\" {\n\tdisk \"d\"\n\tallow instance { boot,\n";
    assert!(errors(text).contains(&format!("4:1: {expected}")), "{:?}", errors(text));
}

#[test]
fn a_string_of_which_a_part_is_bad_is_not_checked() {
    assert_eq!(errors("vm \"-\" $undefined {\n\tdisk \"d\"\n}\n"), ["1:8: macro 'undefined' not defined"]);
}

#[test]
fn a_bad_token_where_an_option_stands_is_told_once() {
    let told = errors("vm \"v\" {\n\tdisk \"d\"\n\t$undefined\n}\n$undefined\n");
    assert_eq!(told, ["3:2: macro 'undefined' not defined", "5:1: macro 'undefined' not defined"]);
}

#[test]
fn an_end_of_line_is_told_behind_what_came_before_it() {
    let told = errors("vm \"v\" {\n\tdisk \"d\"\n\tcpus  # none\n}\n");
    assert_eq!(told, ["3:6: syntax error: found end of line: expected a number of CPUs (1 to 64)"]);
}

#[test]
fn the_last_word_on_nat_counts() {
    let nat = |text: &str| read(text).expect("right").config.globals.local_nat;
    assert_eq!(
        (nat("local nat yes\n"), nat("local nat no\n"), nat("local nat no\nlocal nat yes\n")),
        (true, false, true)
    );
    assert_eq!(errors("local nat maybe\n"), ["1:11: syntax error: found \"maybe\": expected \"yes\" or \"no\""]);
}

#[test]
fn every_right_may_be_given() {
    let parsed = read(
        "vm \"v\" {\n\tdisk \"d\"\n\tallow instance { boot, cdrom, cpus, disk, instance, interface, memory }\n}\n",
    );
    let words: Vec<&str> = parsed.expect("right").config.vms[0].allow.rights.iter().map(|right| right.word()).collect();
    assert_eq!(words, ["boot", "cdrom", "cpus", "disk", "instance", "interface", "memory"]);
}

#[test]
fn local_knows_inet_and_no_other_word_before_prefix() {
    assert!(read("local inet prefix \"10.0.0.0/8\"\n").is_ok());
    let expected = "1:7: syntax error: found \"other\": expected \"inet\", \"inet6\", \"nat\" or \"prefix\"";
    assert_eq!(errors("local other prefix \"10.0.0.0/8\"\n"), [expected]);
}

#[test]
fn a_mistake_whose_block_is_never_closed_ends_with_the_file() {
    assert_eq!(errors("rotten {\n\tdisk \"d\"\n").len(), 1);
}

#[test]
fn a_vm_at_the_beginning_of_a_line_ends_a_mistake_and_shows_its_own() {
    let of_lines = |text: &str| errors(text).iter().map(|error| error.split(':').next().map(str::to_owned)).collect();
    let lines: Vec<Option<String>> = of_lines("rotten {\nvm \"a\" { rotten\n}\n");
    assert_eq!(lines, [Some("1".to_owned()), Some("2".to_owned())]);
    let lines: Vec<Option<String>> = of_lines("rotten vm \"a\" {\ncpus 0\n}\n");
    assert_eq!(lines, [Some("1".to_owned())], "not one in the middle of a line");
}

#[test]
fn a_comma_before_the_next_vm_leaves_the_rights_open_and_the_vm_is_read() {
    let told = errors("vm \"a\" {\n\tdisk \"d\"\n\tallow instance { boot,\nvm \"b\" { cpus 0 }\n");
    assert!(told.iter().any(|error| error.starts_with("3:17: syntax error: this block is not closed")), "{told:?}");
    assert!(told.iter().any(|error| error.contains("number of cpus: 0")), "{told:?}");
}

#[test]
fn a_vm_has_16_disks_and_8_cards_at_most() {
    let vm = |disks: usize, nics: usize| {
        read(&format!("vm \"v\" {{\n{}{}}}\n", "disk \"d\"\n".repeat(disks), "interface\n".repeat(nics)))
    };
    let parsed = vm(16, 8).expect("the most of both");
    assert_eq!((parsed.config.vms[0].disks.len(), parsed.config.vms[0].nics.len()), (16, 8));
    assert!(vm(17, 8).is_err() && vm(16, 9).is_err());
}

#[test]
fn an_interface_of_15_bytes_is_short_enough_to_be_a_wrong_one() {
    let told = |length: usize| errors(&format!("vm \"v\" {{\n\tdisk \"d\"\n\tinterface {}\n}}\n", "x".repeat(length)));
    assert!(told(15)[0].contains("invalid interface: x"), "{:?}", told(15));
    assert!(told(16)[0].contains("interface name too long: x"), "{:?}", told(16));
}

#[test]
fn a_switch_below_locks_the_cards_that_are_on_it_and_no_others() {
    let locked = |card: &str| {
        let text = format!(
            "vm \"v\" {{\n\tdisk \"d\"\n\tinterface {{ {card} }}\n}}\n\
             switch \"lan\" {{\n\tinterface br0\n\tlocked lladdr\n}}\nswitch \"dmz\" {{ interface br1 }}\n"
        );
        read(&text).expect("right").config.vms[0].nics[0].locked
    };
    assert_eq!((locked("switch lan"), locked("switch dmz"), locked("up")), (true, false, false));
    assert!(locked("locked lladdr switch dmz"));
}

#[test]
fn a_switch_option_is_said_to_be_none_of_a_vm_where_it_begins_a_line() {
    let first = |line: &str| errors(&format!("vm \"v\" {{\n\tdisk \"d\"\n\t{line}\n}}\n")).remove(0);
    assert!(first("switch \"s\"").contains("\"switch\" in a vm block"));
    assert!(first("disable switch \"s\"").contains("found \"switch\": expected a vm option"));
}

#[test]
fn memory_encryption_is_the_stronger_that_was_given() {
    let sev =
        |options: &str| read(&format!("vm \"v\" {{\n\tdisk \"d\"\n{options}\n}}\n")).expect("right").config.vms[0].sev;
    assert_eq!((sev("sev"), sev("seves"), sev("")), (Some(Sev::Memory), Some(Sev::State), None));
    assert_eq!((sev("seves\nsev"), sev("sev\nseves")), (Some(Sev::State), Some(Sev::State)));
}

/// The words of other programs and versions, and ours, by block.
#[test]
fn a_word_of_another_program_is_answered_with_ours() {
    let vm = |word: &str| format!("vm \"v\" {{\n\tdisk \"d\"\n\t{word}\n}}\n");
    let switch = |word: &str| format!("switch \"s\" {{\n\tinterface br0\n\t{word}\n}}\n");
    let nic = |word: &str| format!("vm \"v\" {{\n\tdisk \"d\"\n\tinterface {{\n{word}\n}}\n}}\n");
    let told = |text: String, word: &str, ours: &str| {
        let error = errors(&text).remove(0);
        assert!(error.ends_with(&format!("option \"{word}\": did you mean \"{ours}\"?")), "{error}");
    };
    for (words, ours) in [
        ("kernel firmware bios", "boot"),
        ("nifs nics", "interfaces"),
        ("nic net network", "interface"),
        ("ram mem size", "memory"),
        ("cpu ncpus vcpus smp", "cpus"),
        ("iso cd", "cdrom"),
        ("append cmd", "cmdline"),
        ("initramfs", "initrd"),
        ("user", "owner"),
    ] {
        words.split(' ').for_each(|word| told(vm(word), word, ours));
    }
    for (word, ours) in [("bridge", "interface"), ("vrf", "rdomain")] {
        told(switch(word), word, ours);
    }
    for (word, ours) in
        [("mac", "lladdr"), ("ether", "lladdr"), ("hwaddr", "lladdr"), ("bridge", "switch"), ("vrf", "rdomain")]
    {
        told(nic(word), word, ours);
    }
}

/// Lines of this many characters are shown whole, longer ones around the caret.
#[test]
fn a_line_of_160_characters_is_shown_whole_and_a_longer_one_from_60_before_the_caret() {
    let shown = |length: usize| {
        let text = format!("vm \"v\" {{ disk \"{}\" 1", "x".repeat(length - 18));
        assert_eq!(text.len(), length);
        let errors = read(&format!("{text}\n}}\n")).expect_err("no option").to_string();
        let (line, marks) = errors.split_once("\n    1 | ").expect("a line").1.split_once("\n      | ").expect("marks");
        (line.to_owned(), marks.find('^').expect("a caret"))
    };
    let (line, caret) = shown(160);
    assert_eq!((line.len(), line.starts_with("vm"), caret), (160, true, 159));
    let (line, caret) = shown(161);
    assert_eq!((line.len(), line.ends_with("x\" 1"), caret), (61, true, 60));
}

/// Includes, each file a name and what it holds, and how often each was opened.
struct Files<'a>(&'a dyn Fn(&str) -> String, RefCell<usize>);

impl Sources for Files<'_> {
    fn include(&self, path: &Path) -> io::Result<Vec<u8>> {
        *self.1.borrow_mut() += 1;
        Ok(self.0(path.to_str().expect("text")).into_bytes())
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

/// Whether a file that begins with `include 1` is right, and how many files it opened.
fn included(first: &str, file: &dyn Fn(&str) -> String) -> (bool, usize) {
    let files = Files(file, RefCell::new(0));
    let right = parse("vm.conf", first.as_bytes(), &Macros::new(), &files, &World).is_ok();
    (right, files.1.into_inner())
}

#[test]
fn a_file_that_includes_itself_is_read_once() {
    assert_eq!(included("include \"1\"\n", &|_| "include \"1\"\n".to_owned()), (false, 1));
}

#[test]
fn includes_lie_64_files_deep_and_no_deeper() {
    let chain = |last: usize| {
        included("include \"1\"\n", &|name| match name.parse::<usize>() {
            Ok(number) if number < last => format!("include \"{}\"\n", number + 1),
            _ => String::new(),
        })
    };
    assert_eq!(chain(63), (true, 63), "with the first one 64");
    assert_eq!(chain(64), (false, 63));
}

#[test]
fn a_configuration_has_4096_files_and_no_more() {
    let list = |count: usize| included(&"include \"1\"\n".repeat(count), &|_| String::new());
    assert_eq!(list(4095), (true, 4095));
    assert_eq!(list(4096), (false, 4095));
}

/// Files by what they begin with and their size, and which were opened. A NUL ends them all.
struct Sized<'a>(&'a [(&'a str, &'a str, usize)], RefCell<Vec<String>>);

impl Sources for Sized<'_> {
    fn include(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = path.to_str().expect("text");
        self.1.borrow_mut().push(path.to_owned());
        let (_, text, size) = self.0.iter().find(|(name, ..)| *name == path).expect("one of them");
        let mut bytes = vec![0; *size];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(bytes)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

/// The limit of one file must not be had again by each that it includes.
#[test]
fn a_configuration_has_64_mebibytes_in_all() {
    let text = "include \"a\"\n";
    let told = |of_a: usize| {
        let a = "include \"b\"\ninclude \"c\"\ninclude \"c\"\n\0\n";
        let files = [("a", a, of_a), ("b", "include \"c\"\n\0\n", 1_000_012), ("c", "", 0)];
        let files = Sized(&files, RefCell::default());
        let told = match parse("vm.conf", text.as_bytes(), &Macros::new(), &files, &World) {
            Ok(parsed) => parsed.warnings.iter().map(ToString::to_string).collect(),
            Err(errors) => errors.errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        };
        (told, files.1.into_inner())
    };
    let most = (64 << 20) - text.len() - 1_000_012;
    let (warned, opened) = told(most);
    assert!(warned.len() == 1 && warned[0].contains("a NUL byte ends the configuration"), "{warned:?}");
    assert_eq!(opened, ["a", "b", "c"], "there is room for nothing, and that is read; then b ends all of it");
    let (refused, opened) = told(most + 1);
    let said = |line: usize, file: &str| {
        format!("a:{line}:9: failed to include file {file}: more than 64 MiB of configuration in all\n")
    };
    let begin = [said(1, "b"), said(2, "c"), said(3, "c")];
    assert!(refused.len() == 3 && refused.iter().zip(&begin).all(|(told, said)| told.starts_with(said)), "{refused:?}");
    assert_eq!(opened, ["a", "b"], "what is beyond it is not even opened");
}

#[test]
fn a_report_is_right_when_nothing_in_it_is_an_error() {
    let told = |configuration, diagnostics: Vec<Value>| {
        dump::report(configuration, diagnostics).to_string().contains("\"ok\": true")
    };
    let warning = Value::Object(vec![("severity", "warning".into())]);
    assert!(told(Some(Value::Null), vec![warning.clone()]));
    assert!(!told(Some(Value::Null), vec![warning, dump::error("not supported")]));
    assert!(!told(None, vec![]));
}

#[test]
fn what_is_for_the_whole_daemon_has_no_place_in_a_file_that_is_loaded() {
    let known = config::Config::default();
    let loaded = |text: &str| config::parse_onto("more", text.as_bytes(), &Macros::new(), &World, &World, &known);
    for (word, rest) in
        [("local", "inet6"), ("socket", "owner :0"), ("agentx", ""), ("staggered", "start parallel 1 delay 1")]
    {
        let text = format!("switch a {{\ninterface br0\n}}\n{word} {rest}\nnonsense\n");
        let errors = loaded(&text).expect_err("it is the daemon's").errors;
        let told: Vec<String> = errors.iter().map(|error| error.to_string()).collect();
        let [first, second] = &told[..] else { panic!("{told:?}") };
        assert!(first.starts_with(&format!("more:4:1: \"{word}\" in a file that is loaded\n")), "{first}");
        assert!(
            first.ends_with("only vm and switch may be loaded; all else belongs into the daemon's own file"),
            "{first}"
        );
        assert!(second.starts_with("more:5:1: syntax error"), "{second}");
    }
    let other = loaded("disk = x\n").expect_err("a keyword").errors;
    assert!(other[0].to_string().contains("\"disk\" is a keyword and can name no macro"), "{}", other[0]);
    let parsed = loaded("a = br0\nswitch a {\ninterface $a\n}\n").expect("switches may be loaded, and macros help");
    assert_eq!(parsed.config.switches.iter().count(), 1);
}
