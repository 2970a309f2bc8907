//! Section 2: bytes to tokens.

use config::{Keyword, Macros};

use crate::world::World;
use crate::{config, errors, option_refused, refused, told_by, vm};

fn disk(text: &str) -> String {
    config(text).vms[0].disks[0].path.to_string()
}

#[test]
fn spaces_and_tabs_separate_and_are_else_ignored() {
    let vm = vm(" \t memory \t\t 1G\t \t");
    assert_eq!(vm.memory.bytes(), 1 << 30);
    assert_eq!(config(" \t\nvm\t\"a\" \t{ disk \"/d\" }\t ").vms.len(), 1);
}

#[test]
fn a_newline_ends_a_statement_and_there_is_no_semicolon() {
    refused("local inet6 local inet6\n", "1: syntax error: found \"local\"");
    refused("local inet6 ; local inet6\n", "1: syntax error: found \";\"");
    assert_eq!(errors("local\ninet6\n")[0], "1: syntax error: found end of line");
}

#[test]
fn the_last_line_needs_no_newline() {
    assert_eq!(config("vm \"a\" {\n\tdisk \"/d\"\n}").vms.len(), 1);
}

#[test]
fn a_carriage_return_ends_a_line_with_its_newline_and_is_no_blank_alone() {
    assert_eq!(config("vm \"a\" {\r\n\tdisk \"/d\"\r\n\tmemory \\\r\n1G\r\n}\r\n").vms.len(), 1);
    for stray in ['\r', '\u{b}', '\u{c}'] {
        let wrong = errors(&format!("local {stray} inet6\n"));
        assert_eq!(wrong, [format!("1: syntax error: found byte 0x{:02x}", u32::from(stray))]);
    }
}

#[test]
fn a_carriage_return_and_its_newline_in_quotes_are_a_newline() {
    assert_eq!(disk("vm a { disk \"/one\r\ntwo\" }\r\n"), "/onetwo");
    assert_eq!(disk("vm a { disk '/one\\\r\n  two' }\r\n"), "/one  two", "also where the line goes on");
    assert_eq!(disk("vm a { disk \"/a\\\\\r\n\" }\n"), "/a\\", "the first of two backslashes stays");
    assert_eq!(disk("vm a { disk \"/a\rb\\\rc\r\" }\n"), "/a\rb\\\rc\r", "one alone is kept");
    assert_eq!(disk("vm a { disk \"/a\r\r\nb\" }\n"), "/a\rb", "one is part of the end");
}

#[test]
fn bytes_from_0x80_are_stray_outside_of_quotes_and_kept_within() {
    let wrong = told_by(b"vm \xe9 {\n\tdisk \"/d\"\n}\n", &Macros::new(), &World).errors;
    assert_eq!(wrong[0], "1: syntax error: found byte 0xe9");
    assert_eq!(disk("vm a { disk \"/é\u{1}🦀\" }\n"), "/é\u{1}🦀");
}

/// A file that is no text at all is another matter: its first byte is only a stray one.
#[test]
fn a_byte_order_mark_is_told_by_its_name() {
    let told = |text: &[u8]| {
        let wrong = config::parse("f", text, &Macros::new(), &World, &World).expect_err("a stray byte").errors;
        wrong.iter().map(|error| (error.fault.to_string(), error.fault.hint().expect("a hint"))).collect::<Vec<_>>()
    };
    let found = "syntax error: found byte 0xef".to_owned();
    let named = (found.clone(), "the file begins with a byte order mark; save it without one".to_owned());
    assert_eq!(told("\u{feff}local inet6\n".as_bytes()), [named]);
    let inside = (found.clone(), "this is an invisible character (U+FEFF); remove it".to_owned());
    assert_eq!(told("\n\u{feff}local inet6\n".as_bytes()), [inside], "not at the beginning");
    assert_eq!(told(b"\xef\xbb x\n"), [(found, "expected a statement".to_owned())]);
}

#[test]
fn a_nul_outside_of_quotes_ends_the_file_with_a_warning() {
    let told = told_by(b"local inet6\n\0rubbish {{{", &Macros::new(), &World);
    assert!(told.config.expect("right").globals.local_inet6.is_some());
    assert_eq!(told.warnings, ["2: a NUL byte ends the configuration"]);
}

#[test]
fn a_nul_in_quotes_is_an_error_and_the_next_line_is_read() {
    let told = told_by(b"agentx context \"a\0b\"\nrubbish\n", &Macros::new(), &World);
    let wrong = ["1: syntax error: NUL byte in a quoted string", "2: syntax error: unknown statement \"rubbish\""];
    assert_eq!(told.errors, wrong);
}

#[test]
fn a_backslash_and_the_end_of_its_line_vanish_everywhere_and_lines_count_on() {
    let split = vm("me\\\nmory 10\\\n73741824");
    assert_eq!(split.memory.bytes(), 1 << 30);
    let named = config("na\\\nme = \"/d\"\nvm \"v\" {\n\tdisk $na\\\nme\n}\n");
    assert_eq!(named.vms[0].disks[0].path.as_str(), "/d");
    refused("local \\\n\\\ninet6 \\\nrubbish\n", "4: syntax error: found \"rubbish\"");
}

#[test]
fn any_other_backslash_vanishes_and_hides_nothing() {
    assert!(config("local inet6 \\# a comment\n").globals.local_inet6.is_some());
    assert_eq!(config("vm \"a\" \\{ disk\\ \"/d\" \\}\n").vms.len(), 1);
}

#[test]
fn two_backslashes_are_one_within_a_word() {
    assert_eq!(disk("vm a { disk /a\\\\b }\n"), "/a\\b");
    refused("vm \\\\a {\n", "1: syntax error: found \"\\\"");
}

#[test]
fn a_comment_runs_to_the_end_of_its_line_also_behind_a_word() {
    assert_eq!(disk("vm a { # one\n\tdisk /abc#def\n} # end\n"), "/abc");
}

#[test]
fn a_comment_that_ends_with_a_backslash_goes_on() {
    let config = config("# a comment \\\nvm \"no\" { rubbish\nvm \"a\" { disk \"/d\" }\n");
    assert_eq!(config.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn both_quotes_are_alike_and_know_no_macros() {
    let text = "m = \"x\"\nvm \"a\" {\n\tdisk \"/$m'\"\n\tdisk '/$m\"'\n\tmemory 1G\n}\n";
    let paths: Vec<_> = config(text).vms[0].disks.iter().map(|disk| disk.path.to_string()).collect();
    assert_eq!(paths, ["/$m'", "/$m\""]);
}

#[test]
fn a_newline_in_quotes_is_deleted() {
    assert_eq!(disk("vm a { disk \"/one\ntwo\" }\n"), "/onetwo");
}

#[test]
fn a_backslash_in_quotes_escapes_the_quote_blanks_and_newlines_alone() {
    assert_eq!(disk("vm a { disk \"/a\\\"b\\ c\\\td\\\ne\" }\n"), "/a\"b c\tde");
    assert_eq!(disk("vm a { disk \"/a\\\\b\\n\\'\" }\n"), "/a\\\\b\\n\\'", "and stays before all else");
    assert_eq!(disk("vm a { disk \"/a\\\\\" b\" }\n"), "/a\\\" b", "the second hides the quote");
}

#[test]
fn the_end_of_the_file_in_quotes_is_an_error() {
    refused("agentx context \"abc\n", "1: reached end of file while parsing quoted string");
}

#[test]
fn what_is_quoted_is_neither_keyword_nor_number() {
    assert_eq!(config("vm \"vm\" { disk \"512\" }\n").vms[0].name.as_str(), "vm");
    option_refused("cpus \"2\"", "syntax error: found \"2\"");
    refused("\"vm\" \"a\" { disk \"/d\" }\n", "1: syntax error: found \"vm\"");
}

#[test]
fn an_empty_string_is_a_token() {
    assert_eq!(vm("owner \"\"").owner.uid, 0);
    assert_eq!(vm("memory 1G\n\tcdrom \"\"").cdrom.as_deref(), Some(""));
}

#[test]
fn a_word_begins_with_a_letter_digit_colon_underscore_or_slash() {
    for word in ["abc", "9x", ":x", "_x", "/x"] {
        assert!(disk(&format!("vm a {{ disk {word} }}\n")).ends_with(word), "{word}");
    }
    for first in [".", "@", "~", "*", "+", "%", "&"] {
        let wrong = errors(&format!("vm a {{\n\tdisk {first}x\n}}\n"));
        assert_eq!(wrong, [format!("2: syntax error: found \"{first}\"")]);
    }
}

#[test]
fn a_word_goes_on_with_all_but_seven_signs() {
    let word = "/a.-:/_\"'$@%+*?<>&;~^|[]`z";
    assert_eq!(disk(&format!("vm a {{ disk {word} }}\n")), word);
    for sign in ['(', ')', '{', '!', '=', ','] {
        let wrong = errors(&format!("vm a {{\n\tcdrom /a{sign}b\n}}\n"));
        assert!(wrong.contains(&format!("2: syntax error: found \"{sign}\"")), "{wrong:?}");
    }
}

#[test]
fn a_number_is_digits_up_to_a_blank_an_end_or_one_of_five_signs() {
    assert_eq!(config("vm a { disk d interfaces 2}").vms[0].nics.len(), 2);
    assert_eq!(vm("interface rdomain 7 up, down").nics[0].rdomain, Some(7));
    assert_eq!(vm("interface { rdomain 7\n}").nics[0].rdomain, Some(7));
    refused("x = 5)", "1: syntax error: found number 5");
    refused("local prefix 10/8\n", "1: syntax error: found number 10");
    refused("local prefix 5=\n", "1: syntax error: found number 5");
    assert_eq!(errors("interfaces 5\u{b}\n")[0], "1: syntax error: unknown statement \"interfaces\"");
}

#[test]
fn numbers_have_64_bits_and_a_sign() {
    let number = |text: &str| errors(&format!("vm v {{\n\tdisk d\n\tinterfaces {text}\n}}\n"));
    assert_eq!(number("9223372036854775807"), ["3: too many interfaces: 9223372036854775807"]);
    assert_eq!(number("-9223372036854775808"), ["3: too many interfaces: -9223372036854775808"]);
    assert_eq!(number("9223372036854775808"), ["3: \"9223372036854775808\" invalid number: too large"]);
    assert_eq!(number("-9223372036854775809"), ["3: \"-9223372036854775809\" invalid number: too small"]);
    assert_eq!(number("+1"), ["3: syntax error: found \"+\""]);
    assert_eq!(number("0x1"), ["3: syntax error: found \"0x1\""]);
}

#[test]
fn digits_before_anything_else_are_a_word() {
    assert_eq!(vm("memory 512M").memory.bytes(), 512 << 20);
    assert_eq!(vm("interface lladdr 00:11:22:33:44:55").nics[0].lladdr.expect("one").to_string(), "00:11:22:33:44:55");
    assert_eq!(config("local prefix 100.64.0.0/10\n").globals.local_prefix.to_string(), "100.64.0.0/10");
    assert_eq!(disk("vm a { disk 10x }\n"), "/here/10x");
}

#[test]
fn a_dash_begins_no_word() {
    option_refused("disk -", "syntax error: found \"-\"");
    option_refused("disk -5x", "syntax error: found \"-\"");
    option_refused("disk -x", "syntax error: found \"-\"");
}

#[test]
fn every_keyword_is_reserved_and_free_in_quotes() {
    let reserved = "add agentx allow boot cdrom context cpus delay device disable disk down enable format group id \
        include inet6 instance interface interfaces lladdr local locked memory net owner parallel path prefix rdomain \
        sev seves size socket staggered start switch up vm";
    let ours: Vec<&str> = Keyword::ALL.iter().map(|keyword| keyword.text()).collect();
    assert_eq!(ours.join(" "), reserved);
    for word in ours {
        let wrong = errors(&format!("vm {word} {{ disk \"/d\" }}\n"));
        assert!(wrong[0].starts_with("1: syntax error: found"), "{word}: {wrong:?}");
        assert!(errors(&format!("{word} = \"x\"\n"))[0].starts_with("1: syntax error:"), "{word}");
        assert_eq!(config(&format!("vm \"{word}\" {{ disk \"{word}\" }}\n")).vms[0].name.as_str(), word);
    }
}

#[test]
fn words_of_other_versions_and_of_ours_are_not_reserved() {
    let words =
        "kernel nifs user firmware initrd cmdline inet nat yes no guarded isolated external iops bandwidth burst";
    for word in words.split(' ') {
        assert_eq!(config(&format!("vm {word} {{ disk {word} }}\n")).vms[0].name.as_str(), word);
    }
    option_refused("kernel \"/bsd\"", "syntax error: unknown vm option \"kernel\"");
}

#[test]
fn keywords_that_no_rule_uses_are_errors_everywhere() {
    for word in ["add", "id", "size"] {
        refused(&format!("{word} 1\n"), &format!("1: syntax error: unknown statement \"{word}\""));
        option_refused(&format!("{word} 1"), &format!("syntax error: unknown vm option \"{word}\""));
        refused(
            &format!("switch s {{ interface br0\n\t{word} 1\n}}\n"),
            &format!("2: syntax error: unknown switch option \"{word}\""),
        );
    }
}

#[test]
fn keywords_are_matched_whole_and_in_their_case() {
    refused("VM \"a\" { disk \"/d\" }\n", "1: syntax error: unknown statement \"VM\"");
    option_refused("mem 1G", "syntax error: unknown vm option \"mem\"");
    option_refused("Memory 1G", "syntax error: unknown vm option \"Memory\"");
}

#[test]
fn settings_of_two_values_are_their_own_words() {
    for word in ["yes", "on", "true", "no", "off", "false"] {
        option_refused(&format!("enable {word}"), &format!("syntax error: found \"{word}\""));
    }
}

#[test]
fn adjacent_strings_are_one_where_one_may_be_several() {
    let read = config(
        "d = \"/var\"\nvm \"a\" 'b' c {\n\tdisk $d \"/x\" .img\n\tboot \"/k\" ernel\n}\n"
            .replace(" .img", "\".img\"")
            .as_str(),
    );
    let vm = &read.vms[0];
    assert_eq!((vm.name.as_str(), vm.disks[0].path.as_str()), ("abc", "/var/x.img"));
    assert_eq!(vm.boot.as_deref(), Some("/kernel"));
    for one in ["agentx context \"a\" \"b\"\n", "local prefix \"10.0.0.0\" \"/8\"\n", "a = \"x\" \"y\"\n"] {
        assert!(errors(one)[0].starts_with("1: syntax error: found \""), "{one}");
    }
}

#[test]
fn numbers_and_keywords_take_no_part_in_a_string() {
    option_refused("disk \"d\" 1", "syntax error: found number 1");
    option_refused("disk 1", "syntax error: found number 1");
    option_refused("disk \"d\" start", "syntax error: found \"start\"");
}
