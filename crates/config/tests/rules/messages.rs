//! Section 6: what is said of a file that is wrong, and how reading goes on.

use config::Macros;

use crate::world::World;
use crate::{errors, refused, told};

#[test]
fn one_mistake_in_a_block_is_one_message() {
    refused(
        "vm \"a\" {\n\tkernel \"/bsd\"\n\tdisk \"/d\"\n\tinterface { up }\n}\n",
        "2: syntax error: unknown vm option \"kernel\"",
    );
    refused("vm \"a\" {\n\tcpus 99\n\tdisk \"/d\"\n}\n", "2: invalid number of cpus: 99");
}

/// What a web page, a word processor or a shell's habit puts into a file is told with what to write instead.
#[test]
fn characters_that_are_not_what_they_seem_are_told_with_the_right_ones() {
    let quote = "this is a typographic quote (U+201C); write \" instead";
    let blank = "this is a blank of another kind (U+00A0); write an ordinary one instead";
    let dash = "this is a typographic dash (U+2013); write - instead";
    let tilde = "\"~\" is no home here, as it is for a shell: write the whole path, from \"/\"";
    for (text, hint) in [
        ("vm \u{201C}a\u{201D} {\n\tdisk \"/d\"\n}\n", quote),
        ("vm \"a\" {\n\tdisk \u{201C}/d\u{201D}\n}\n", quote),
        ("vm \"a\" {\n\tdisk \"/d\"\n\towner \u{201C}root\u{201D}\n}\n", quote),
        ("vm \"a\" {\n\tdisk \"/d\"\n\tmemory\u{A0}512M\n}\n", blank),
        ("vm \"a\" {\n\u{A0}\tdisk \"/d\"\n}\n", blank),
        ("vm \"a\" {\n\tdisk \"/d\"\u{A0}\n}\n", blank),
        ("vm web\u{2013}1 {\n\tdisk \"/d\"\n}\n", dash),
        ("vm \"web\u{2013}1\" {\n\tdisk \"/d\"\n}\n", "it has a typographic dash (U+2013); write - instead"),
        ("vm \"a\" {\n\tdisk \"/nonexistent/x\u{2013}y\"\n}\n", "it has a typographic dash (U+2013); write - instead"),
        ("vm \"a\" {\n\u{FEFF}\tdisk \"/d\"\n}\n", "this is an invisible character (U+FEFF); remove it"),
        ("vm \"a\" {\n\tdisk ~/d\n}\n", tilde),
        ("vm \"a\" {\n\tdisk \"~/d\"\n}\n", tilde),
        ("vm \"a\" {\n\tboot \"~ann/k\"\n}\n", tilde),
    ] {
        let wrong = config::parse("f", text.as_bytes(), &Macros::new(), &World, &World).expect_err(text).errors;
        let hints: Vec<String> = wrong.iter().filter_map(|error| error.fault.hint()).collect();
        assert_eq!(hints, [hint], "{text:?}: {wrong:?}");
    }
}

/// The original drops the rest of the block.
#[test]
fn every_error_of_a_file_is_told_in_its_order() {
    let wrong = errors(
        "rubbish\nvm \"a\" {\n\tcpus 99\n\tmemory 1GB\n\tdisk \"/nonexistent\"\n}\nswitch \"s\" {\n\tup\n}\nlocal prefix 10/8\n",
    );
    let expected = [
        "1: syntax error: unknown statement \"rubbish\"",
        "3: invalid number of cpus: 99",
        "4: invalid memory size: 1GB: Invalid argument",
        "5: disk path not found: \"/nonexistent\": No such file or directory",
        "9: switch \"s\" is missing interface name",
        "10: syntax error: found number 10",
    ];
    assert_eq!(wrong, expected);
}

/// The original says both, and swallows the line behind.
#[test]
fn a_token_that_cannot_be_read_is_told_once_and_the_next_line_is_read() {
    for (token, said) in [
        ("99999999999999999999", "\"99999999999999999999\" invalid number: too large"),
        ("$undef", "macro 'undef' not defined"),
    ] {
        let wrong = errors(&format!("vm \"a\" {{\n\tdisk \"/d\"\n\tinterfaces {token}\n\trubbish\n}}\n"));
        assert_eq!(wrong, [format!("3: {said}"), "4: syntax error: unknown vm option \"rubbish\"".to_owned()]);
    }
}

/// The original's next block then gets "kernel specified more than once".
#[test]
fn an_error_of_a_block_leaves_nothing_for_the_next_one() {
    refused(
        "vm \"a\" {\n\tboot \"/k\"\n\trubbish\n}\nvm \"b\" {\n\tboot \"/k\"\n}\n",
        "3: syntax error: unknown vm option \"rubbish\"",
    );
    refused(
        "vm \"a\" {\n\tboot \"/k\"\n\tboot \"/k\"\n}\nvm \"b\" {\n\tboot \"/k\"\n}\n",
        "3: boot specified more than once",
    );
}

#[test]
fn an_error_anywhere_refuses_the_whole_file() {
    let told = told("vm \"a\" { disk \"/d\" }\nrubbish\nvm \"b\" { disk \"/d\" }\n");
    assert!(told.config.is_none());
    assert_eq!(told.errors.len(), 1);
}

#[test]
fn an_instance_of_a_vm_that_is_wrong_is_not_blamed() {
    refused("vm \"a\" {\n\tcpus 99\n}\nvm \"a\" instance \"b\" { disk \"/d\" }\n", "2: invalid number of cpus: 99");
}

#[test]
fn a_message_shows_its_place_the_line_a_caret_and_what_to_do() {
    let text = b"vm \"a\" {\n\tboot device hd\n}\n";
    let world = &crate::world::World;
    let wrong = config::parse("vm.conf", text, &config::Macros::new(), world, world).expect_err("hd");
    let expected = "vm.conf:2:14: unknown boot device \"hd\"\n    2 | \tboot device hd\n      | \t            ^^ expected \"cdrom\", \"disk\" or \"net\"";
    assert_eq!(wrong.to_string(), expected);
}

#[test]
fn a_word_that_is_nearly_one_is_offered() {
    let hint = |text: &str| {
        let world = &crate::world::World;
        let wrong = config::parse("f", text.as_bytes(), &config::Macros::new(), world, world).expect_err(text);
        wrong.errors[0].fault.hint().unwrap_or_default()
    };
    assert_eq!(hint("vm v {\n\tmemroy 1G\n}\n"), "did you mean \"memory\"?");
    assert_eq!(hint("swich s { }\n"), "did you mean \"switch\"?");
    assert_eq!(hint("vm v {\n\tkernel \"/k\"\n}\n"), "did you mean \"boot\"?");
    assert_eq!(hint("disk = d\nvm v { disk $dsk }\n"), "choose another name");
    assert_eq!(hint("dask = d\nvm v { disk $dsk }\n"), "did you mean \"dask\"?");
}

/// The original names the closing brace for both.
#[test]
fn a_vm_that_can_be_none_is_told_at_its_name_and_a_switch_without_interface_at_its_brace() {
    refused("\n\nvm \"a\" {\n\tcpus 1\n}\n", "3: vm \"a\" failed: no kernel or disk/cdrom specified");
    refused("\nvm \"a\"\\\ninstance \"b\" {\n\tdisk d\n}\n", "2: vm \"b\" failed: invalid template \"a\"");
    refused("\nswitch \"s\" {\n\tup\n}\n", "4: switch \"s\" is missing interface name");
}

/// A word or number in quotes is text: that alone may be what is wrong.
#[test]
fn what_stands_without_quotes_is_told_so() {
    let hint = |text: &str| {
        let world = &crate::world::World;
        let wrong = config::parse("f", text.as_bytes(), &config::Macros::new(), world, world).expect_err(text);
        wrong.errors[0].fault.hint().unwrap_or_default()
    };
    let option = |text: &str| hint(&format!("vm v {{\n\tdisk d\n\t{text}\n}}\n"));
    let not_found = |what, path: &str| {
        config::Fault::PathNotFound { what, path: path.to_owned(), reason: String::new() }.hint().expect("a hint")
    };
    assert_eq!(
        (not_found("kernel", "x"), not_found("initrd", "device")),
        ("correct the path".into(), "correct the path".into())
    );
    for (word, told) in [
        ("disk", option("boot device \"disk\"")),
        ("cdrom", option("boot device \"cdrom\"")),
        ("net", option("boot device 'net'")),
        ("device", not_found("kernel", "device")),
        ("yes", hint("local nat \"yes\"\n")),
        ("no", hint("local nat \"no\"\n")),
        ("inet", hint("local \"inet\" prefix \"10/8\"\n")),
        ("nat", hint("local \"nat\" no\n")),
        ("owner", hint("socket \"owner\" joe\n")),
        ("path", hint("agentx \"path\" \"/x\"\n")),
        ("context", hint("agentx path \"/x\" \"context\" x\n")),
        ("vm", hint("\"vm\" a { disk d }\n")),
        ("start", hint("staggered \"start\" parallel 1 delay 1\n")),
        ("2", hint("staggered start parallel \"2\" delay 1\n")),
        ("lladdr", hint("switch s {\n\tlocked \"lladdr\"\n}\n")),
        ("interface", hint("switch s {\n\t\"interface\" br0\n}\n")),
        ("disable", option("\"disable\"")),
        ("initrd", option("\"initrd\" \"/i\"")),
        ("-2", option("cpus \"-2\"")),
        ("5000", option("owner \"5000\"")),
        ("up", option("interface \"up\"")),
        ("up", option("interface tap3 \"up\"")),
        ("up", option("interface down \"up\"")),
        ("up", option("interface { \"up\" }")),
        ("boot", option("allow instance \"boot\"")),
        ("instance", option("allow \"instance\" boot")),
    ] {
        assert_eq!(told, format!("write {word} without quotes"));
    }
}

#[test]
fn what_is_wrong_with_quotes_and_without_is_told_what_was_expected() {
    let hint = |text: &str| {
        let world = &crate::world::World;
        let wrong = config::parse("f", text.as_bytes(), &config::Macros::new(), world, world).expect_err(text);
        wrong.errors[0].fault.hint().unwrap_or_default()
    };
    let option = |text: &str| hint(&format!("vm v {{\n\tdisk d\n\t{text}\n}}\n"));
    assert_eq!(option("boot device \"hd\""), "expected \"cdrom\", \"disk\" or \"net\"");
    assert_eq!(option("boot device up"), "expected \"cdrom\", \"disk\" or \"net\"");
    for text in ["maybe", "\"maybe\"", "\" or \"", "\"\""] {
        assert_eq!(hint(&format!("local nat {text}\n")), "expected \"yes\" or \"no\"");
    }
    for text in ["\"\"", "\"-\"", "\"+2\"", "\"2x\"", "\"9223372036854775808\"", "x"] {
        assert_eq!(option(&format!("cpus {text}")), "expected a number of CPUs (1 to 64)");
    }
    assert_eq!(option("\"rubbish\""), "expected a vm option");
    assert_eq!(
        option("interface \"eth0\""),
        "expected \"tap\" or \"tap\" and a number; a bridge is named by \"switch\""
    );
    assert_eq!(option("interface down \"rubbish\""), "expected a vm option");
    assert_eq!(option("owner \"5000:staff\""), "with \":\" a user is given by name");
    assert_eq!(option("owner \":5000\""), "with \":\" a group is given by name");
    assert_eq!(option("owner nosuch"), "no user has this name");
}

/// Section 18, what is refused there, with the message of each row; the layout that we accept is in `grammar`.
#[test]
fn the_rejected_examples_of_the_specification_are_refused() {
    let long = "x".repeat(64);
    let nics = "interface\n".repeat(9);
    for (text, said) in [
        ("vm \"a\"\n{\ndisk d\n}".to_owned(), "syntax error: found end of line"),
        ("vm \"a\" { nifs 5\n}".to_owned(), "syntax error: unknown vm option \"nifs\""),
        ("vm 12 {\ndisk d\n}".to_owned(), "syntax error: found number 12"),
        ("vm vm {\ndisk d\n}".to_owned(), "syntax error: found \"vm\""),
        ("vm a { memory 1048575 }".to_owned(), "failed to parse size: 1048575: memory size must be at least 1MB"),
        ("vm a { memory 512 }".to_owned(), "failed to parse size: 512: memory size must be at least 1MB"),
        ("vm a { memory 1GB }".to_owned(), "invalid memory size: 1GB: Invalid argument"),
        ("vm a { memory 129G }".to_owned(), "failed to parse size: 129G: memory size too large (limit is 128G)"),
        ("vm a { memory 1G\nmemory 1G\n}".to_owned(), "memory specified more than once"),
        ("vm a { memory 1073741824\nmemory 1073741824\n}".to_owned(), "memory specified more than once"),
        ("vm a { disk \"x\" format rotten }".to_owned(), "unrecognized disk format rotten"),
        ("vm a { disk \"x\" format\n}".to_owned(), "syntax error: found end of line"),
        (
            "vm a { disk \"/nonexistent\" }".to_owned(),
            "disk path not found: \"/nonexistent\": No such file or directory",
        ),
        (format!("vm a {{ disk d\n{nics}}}"), "too many interfaces: 9"),
        ("vm a { disk d\ninterfaces -1\n}".to_owned(), "too many interfaces: -1"),
        ("vm a { interface eth0 }".to_owned(), "invalid interface: eth0"),
        ("vm a { interface { group \"grp1\" } }".to_owned(), "invalid group name: grp1"),
        ("vm a { interface { rdomain 256 } }".to_owned(), "invalid rdomain: 256"),
        ("vm a { interface { lladdr 00:11:22:33:44 } }".to_owned(), "invalid address: 00:11:22:33:44"),
        ("vm a { owner nosuchuser }".to_owned(), "failed to get user: nosuchuser"),
        ("switch \"s\" { up }".to_owned(), "switch \"s\" is missing interface name"),
        ("switch \"s\" { interface bridge0\nadd vether0\n}".to_owned(), "syntax error: unknown switch option \"add\""),
        ("local prefix 10.0.0.0/24".to_owned(), "invalid local prefix: too large"),
        ("local prefix 10.0.0.1/16".to_owned(), "invalid local prefix: bad mask"),
        ("local prefix 10/8".to_owned(), "syntax error: found number 10"),
        ("vm a { interfaces 99999999999999999999 }".to_owned(), "\"99999999999999999999\" invalid number: too large"),
        ("agentx context \"x".to_owned(), "reached end of file while parsing quoted string"),
        ("x = 1".to_owned(), "syntax error: found number 1"),
        ("\"a b\" = \"c\"".to_owned(), "macro name cannot contain whitespace"),
        ("vm $undef {\ndisk d\n}".to_owned(), "macro 'undef' not defined"),
        ("include \"/nope\"".to_owned(), "failed to include file /nope: No such file or directory"),
        (
            "vm a { boot \"/nonexistent\" }".to_owned(),
            "kernel path not found: \"/nonexistent\": No such file or directory",
        ),
        (format!("vm {long} {{ disk d }}"), "vm name too long"),
    ] {
        let wrong = errors(&text);
        assert_eq!(wrong.len(), 1, "{text}: {wrong:?}");
        assert!(wrong[0].ends_with(&format!(": {said}")), "{text}: {wrong:?}");
    }
}
