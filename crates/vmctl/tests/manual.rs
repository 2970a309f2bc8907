//! man/vmctl.8 against the program: each command and option of a usage line has its place there.

use std::ffi::OsString;

const MANUAL: &str = include_str!("../../../man/vmctl.8");

/// What a command says about wrong arguments.
fn usage(command: &str) -> String {
    let arguments = [command, "--", "too", "many", "words"].map(OsString::from);
    vmctl::parse(&arguments).expect_err("too many words").to_string()
}

#[test]
fn every_command_and_option_is_in_the_manual() {
    let commands = "console create load log pause receive reload reset send show start status stop unpause wait";
    for command in commands.split(' ') {
        let entry = MANUAL.split("\n.It ").find(|entry| {
            let words: Vec<&str> = entry.split_whitespace().filter(|word| *word != "Xo").collect();
            words.first().is_some_and(|first| first.ends_with("Cm")) && words.get(1) == Some(&command)
        });
        assert!(entry.is_some(), "{command}");
        let usage = usage(command);
        let letters =
            usage.split_whitespace().skip(3).filter_map(|word| word.trim_start_matches('[').strip_prefix('-'));
        for letter in letters.flat_map(|cluster| cluster.trim_end_matches(']').chars()) {
            let marked = MANUAL.lines().any(|line| {
                line.starts_with('.')
                    && line.split("Fl ").skip(1).any(|fl| fl.split(' ').next().is_some_and(|f| f.contains(letter)))
            });
            assert!(marked, "{command} -{letter}");
        }
    }
}
