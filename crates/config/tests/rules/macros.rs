//! Section 3: macros.

use config::Macros;

use crate::world::World;
use crate::{config, errors, refused, told, told_by};

fn disk(text: &str) -> String {
    config(text).vms[0].disks[0].path.to_string()
}

#[test]
fn a_value_is_exactly_one_string() {
    refused("n = 1\n", "1: syntax error: found number 1");
    refused("s = up\n", "1: syntax error: found \"up\"");
    refused("a = \"x\" \"y\"\n", "1: syntax error: found \"y\"");
    refused("a =\n", "1: syntax error: found end of line");
    assert_eq!(disk("b = \"/d\"\na = $b\nvm v { disk $a }\n"), "/d");
    assert!(told("n = \"1\"\nm = 512M\nd = /var/vm\ne = \"\"\n").errors.is_empty());
}

#[test]
fn macros_are_defined_outside_of_blocks_alone() {
    refused("vm v {\n\tdisk d\n\ta = \"x\"\n}\n", "3: syntax error: unknown vm option \"a\"");
}

#[test]
fn a_macros_name_has_no_blank_and_may_else_be_any_string() {
    refused("\"a b\" = \"c\"\n", "1: macro name cannot contain whitespace");
    for blank in ["\t", "\u{b}", "\u{c}", "\r"] {
        refused(&format!("\"a{blank}b\" = \"c\"\n"), "1: macro name cannot contain whitespace");
    }
    assert!(
        told("\"a\u{8}\u{e}b\" = \"c\"\n\"\u{b}b\" = \"c\"\n").errors.is_empty(),
        "no blanks, and one that is the first"
    );
    assert!(told("\"vm\" = \"x\"\n\"a-b\" = \"y\"\n\"\" = \"z\"\n").errors.is_empty());
    refused("disk = \"x\"\n", "1: syntax error: \"disk\" is a keyword and can name no macro");
}

#[test]
fn a_reference_is_letters_digits_and_underscores() {
    assert_eq!(disk("a_1 = \"/d\"\nvm v { disk $a_1-b }\n"), "/d-b");
}

#[test]
fn a_new_value_counts_from_there_on() {
    let read = config("m = \"/one\"\nvm a { disk $m }\nm = \"/two\"\nvm b { disk $m }\n");
    let paths: Vec<_> = read.vms.iter().map(|vm| vm.disks[0].path.to_string()).collect();
    assert_eq!(paths, ["/one", "/two"]);
}

#[test]
fn a_macro_that_is_not_defined_is_named_and_the_next_line_is_read() {
    let wrong = errors("vm $undef {\n\tdisk \"/d\"\n}\nvm \"a\" {\n\tdisk $ foo\n\trubbish\n}\n");
    let expected =
        ["1: macro 'undef' not defined", "5: macro '' not defined", "6: syntax error: unknown vm option \"rubbish\""];
    assert_eq!(wrong, expected);
}

#[test]
fn a_value_is_read_as_if_it_stood_there() {
    assert_eq!(disk("dir = \"/tmp\"\nvm v { disk $dir/file }\n"), "/tmp/file");
    assert_eq!(config("n = \"2\"\nvm v { disk d\n\tinterfaces $n\n}\n").vms[0].nics.len(), 2, "a number");
    assert!(!config("w = \"disable\"\nvm v { disk d\n\t$w\n}\n").vms[0].enabled, "a keyword");
    let read =
        config("two = \"format raw\"\nopen = \"{ up #\"\nvm v {\n\tdisk d $two\n\tinterface $open rubbish\n}\n}\n");
    assert!(read.vms[0].disks[0].format.named, "two tokens, a brace, a comment");
    assert_eq!(disk("q = \"'/a b'\"\nvm v { disk $q }\n"), "/a b", "quotes");
    assert_eq!(config("m = \"1.5G\"\nvm v { disk d\n\tmemory $m\n}\n").vms[0].memory.bytes(), 1_610_612_736);
}

#[test]
fn a_macro_is_expanded_where_a_token_begins_and_not_within_a_word() {
    assert_eq!(disk("m = \"/x\"\nvm v { disk /dir$m\n\tboot $m\n}\n"), "/dir$m");
}

#[test]
fn a_dollar_in_a_value_is_no_reference() {
    refused("a = \"/x\"\nb = \"$a\"\nvm v {\n\tdisk $b\n}\n", "4: syntax error: found \"$\"");
}

fn hints(text: &str) -> Vec<(String, String)> {
    let wrong = config::parse("f", text.as_bytes(), &Macros::new(), &World, &World).expect_err(text).errors;
    let column = |error: &config::Diagnostic| error.place.as_ref().map_or(0, |place| place.column);
    let shown = |error: &config::Diagnostic| {
        (format!("{}: {}", column(error), error.fault), error.fault.hint().unwrap_or_default())
    };
    wrong.iter().map(shown).collect()
}

#[test]
fn that_a_value_is_not_expanded_again_is_told() {
    let told = hints("m = \"x\"\nn = \"$m\"\nvm $n { disk d }\n");
    let hint = "a macro's value is not expanded again; define it without quotes, as in name = $other";
    assert_eq!(told, [("4: syntax error: found \"$\"".to_owned(), hint.to_owned())]);
    assert_eq!(hints("m = \"x\"\nn = \"$m\"\n$n\n")[0].1, hint, "also where a statement begins");
}

#[test]
fn a_reference_in_braces_is_one_mistake_and_told_how_it_is_written() {
    let told = hints("d_1 = \"/d\"\nvm v {\n\tdisk ${d_1}/x\n\tmemory 1G\n}\n");
    assert_eq!(told, [("7: macro '' not defined".to_owned(), "write $d_1, without braces".to_owned())]);
    let shown = config::parse("f", b"vm ${d1} { disk d }\n", &Macros::new(), &World, &World).expect_err("braces");
    assert!(shown.to_string().contains("\n      |    ^^^^^ write"), "{shown}");
    for text in ["vm ${} x\n", "vm ${d-1} x\n", "vm ${d x\n", "vm $}d} x\n", "vm $x{d} x\n", "vm $ {d} x\n", "vm ${d"] {
        assert!(hints(text).iter().all(|(_, hint)| !hint.contains("braces")), "{text}");
    }
    let left = hints("vm ${\n\tcpus 0\n}\n");
    assert_eq!(left.len(), 2, "a brace that holds no name opens a block: {left:?}");
}

#[test]
fn blanks_behind_a_reference_separate_also_when_its_value_has_some() {
    let read = config("m = \"rdomain 1\"\nvm v {\n\tdisk d\n\tinterface { $m down }\n}\n");
    assert_eq!((read.vms[0].nics[0].rdomain, read.vms[0].nics[0].up), (Some(1), false));
}

#[test]
fn an_empty_value_is_nothing() {
    assert_eq!(disk("e = \"\"\nvm v { disk $e \"/d\" $e\n}\n"), "/d");
}

#[test]
fn a_macro_that_is_not_used_is_warned_of_and_no_error() {
    let mut macros = Macros::new();
    macros.define(b"idle=x").expect("a definition");
    let told = told_by(b"m = \"x\"\n", &macros, &World);
    assert!(told.config.is_some());
    assert_eq!(told.warnings, ["macro 'idle' not used", "1: macro 'm' not used"]);
}

#[test]
fn macros_of_a_file_end_with_it_and_those_of_the_command_line_do_not() {
    let mut macros = Macros::new();
    macros.define(b"kept=/d").expect("a definition");
    let first = told_by(b"m = \"/d\"\nvm v { disk $m }\nvm w { disk $kept }\n", &macros, &World);
    assert!(first.config.is_some());
    let second = told_by(b"vm v { disk $m }\nvm w { disk $kept }\n", &macros, &World);
    assert_eq!(second.errors, ["1: macro 'm' not defined"]);
}

#[test]
fn a_macro_of_the_command_line_wins_without_a_word() {
    let mut macros = Macros::new();
    macros.define(b"m=/D").expect("a definition");
    macros.define(b"m=/late").expect("a definition");
    let told = told_by(b"m = \"/file\"\nvm v { disk $m }\n", &macros, &World);
    assert_eq!(told.warnings, [""; 0]);
    assert_eq!(told.config.expect("right").vms[0].disks[0].path.as_str(), "/D");
}
