//! The manuals: each command and option of vmctl has its place in vmctl(8), and none of the three has a fault of form.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

const MANUAL: &str = include_str!("../../../man/vmctl.8");

/// What a command says about wrong arguments.
fn usage(command: &str) -> String {
    let arguments = [command, "--", "too", "many", "words"].map(OsString::from);
    vmctl::parse(&arguments).expect_err("too many words").to_string()
}

#[test]
fn every_command_and_option_is_in_the_manual() {
    for (command, ..) in vmctl::commands() {
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

/// What mandoc(1) finds: `make test` installs it. Whether other manuals are on this host is nothing of ours.
#[test]
fn the_manuals_lint_clean() {
    for (manual, least) in [("vmctl.8", 250), ("vmd.8", 100), ("vm.conf.5", 250)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../man").join(manual);
        let text = std::fs::read_to_string(&path).expect("a manual");
        assert!(text.lines().count() > least, "{manual} is a stub");
        assert!(text.lines().all(|line| line.len() <= 100 && line.trim_end() == line), "{manual}: form of its lines");
        match Command::new("mandoc").args(["-Tlint", "-Wall"]).arg(&path).output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            output => {
                let said = String::from_utf8(output.expect("mandoc runs").stdout).expect("text");
                let faults: Vec<&str> =
                    said.lines().filter(|line| !line.contains("referenced manual not found")).collect();
                assert!(faults.is_empty(), "{}", faults.join("\n"));
            }
        }
    }
}
