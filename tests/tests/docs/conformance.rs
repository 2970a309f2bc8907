//! docs/conformance.md and the pages beside it: each rule has a verdict, and names tests that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{read, root};

/// How a rule stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As OpenBSD's vmd, or as the rule says.
    Same,
    /// The original's defect is mended.
    Fixed,
    /// Otherwise, for a reason.
    Differs,
    /// Not in this release.
    Later,
    /// Nothing here corresponds to it.
    Nothing,
}

/// A line of docs/conformance.md, or of a page in docs/conformance.
#[derive(Debug)]
struct Rule {
    section: String,
    name: String,
    verdict: Option<Verdict>,
    words: String,
    tests: Vec<String>,
}

/// Rules that each section of the page has at least: what docs/openbsd has there, and what is promised besides.
const SECTIONS: [(&str, usize); 38] = [
    ("2.1", 1),
    ("2.2", 5),
    ("2.3", 19),
    ("2.4", 6),
    ("2.5", 5),
    ("2.6", 8),
    ("2.7", 1),
    ("2.8", 11),
    ("2.9", 1),
    ("2.10", 6),
    ("2.11", 13),
    ("2.12", 6),
    ("3.1", 9),
    ("3.2", 17),
    ("3.3", 5),
    ("3.4", 2),
    ("3.5", 10),
    ("3.6", 2),
    ("3.7", 11),
    ("3.8", 4),
    ("3.9", 2),
    ("3.10", 5),
    ("3.11", 15),
    ("5.1", 4),
    ("5.2", 8),
    ("5.3", 3),
    ("5.4", 1),
    ("7", 25),
    ("Isolation", 6),
    ("Switches and taps", 7),
    ("Processes that end", 5),
    ("Clients", 7),
    ("What it has", 22),
    ("What programs read", 4),
    ("vmctl doctor", 20),
    ("As a service", 5),
    ("Limits and bad input", 15),
    ("Known past defects", 12),
];

/// The same of docs/conformance/vm.conf.md.
const VM_CONF: [(&str, usize); 28] = [
    ("1", 16),
    ("2.1", 7),
    ("2.2", 3),
    ("2.3", 3),
    ("2.4", 7),
    ("2.5", 5),
    ("2.6", 6),
    ("2.7", 5),
    ("2.8", 3),
    ("3", 16),
    ("4", 9),
    ("5", 12),
    ("6", 9),
    ("7", 7),
    ("8", 18),
    ("9", 16),
    ("10.1", 19),
    ("10.2", 3),
    ("10.3", 4),
    ("10.4", 2),
    ("11.1", 15),
    ("11.2", 4),
    ("12", 12),
    ("13", 18),
    ("14", 3),
    ("15", 8),
    ("18", 2),
    ("What vm.conf has here beside it", 4),
];

/// The same of docs/conformance/vmctl.md.
const VMCTL: [(&str, usize); 11] = [
    ("1", 11),
    ("2", 13),
    ("3", 11),
    ("4", 13),
    ("5", 24),
    ("6", 12),
    ("7", 18),
    ("8", 5),
    ("9", 9),
    ("10", 5),
    ("11", 2),
];

/// The same of docs/conformance/daemon.md.
const DAEMON: [(&str, usize); 30] = [
    ("1.1", 4),
    ("1.2", 16),
    ("1.3", 9),
    ("1.4", 7),
    ("1.5", 6),
    ("1.6", 7),
    ("1.7", 20),
    ("1.8", 16),
    ("1.9", 8),
    ("1.10", 12),
    ("2", 11),
    ("3.1", 4),
    ("3.5", 6),
    ("3.7", 6),
    ("3.14", 5),
    ("4.1", 12),
    ("4.2", 8),
    ("4.3", 8),
    ("4.4", 25),
    ("4.5", 3),
    ("6", 6),
    ("8", 6),
    ("9", 24),
    ("10", 16),
    ("11.1", 7),
    ("11.2", 13),
    ("11.3", 28),
    ("Test families", 7),
    ("Under load and misuse", 9),
    ("12", 10),
];

/// Pages beside docs/conformance.md, which names them, and their sections.
const PAGES: [(&str, &[(&str, usize)]); 3] = [("daemon", &DAEMON), ("vm.conf", &VM_CONF), ("vmctl", &VMCTL)];

fn rules(page: &str) -> Vec<Rule> {
    let mut section = String::new();
    let mut rules = Vec::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.split(": ").next().unwrap_or_default().clone_into(&mut section);
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let is_rule = line.starts_with("| ") && cells.first() != Some(&"rule");
        if let (true, [name, verdict, words, tests]) = (is_rule, cells.as_slice()) {
            let verdict = match *verdict {
                "same" => Some(Verdict::Same),
                "fixed" => Some(Verdict::Fixed),
                "differs" => Some(Verdict::Differs),
                "later" => Some(Verdict::Later),
                "nothing" => Some(Verdict::Nothing),
                _ => None,
            };
            let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            let (name, words) = ((*name).to_owned(), (*words).to_owned());
            rules.push(Rule { section: section.clone(), name, verdict, words, tests });
        } else {
            assert!(!is_rule, "no rule of four cells: {line}");
        }
    }
    rules
}

/// What is wrong with a page, one line each.
fn faults(page: &str, sections: &[(&str, usize)], known: &BTreeSet<String>) -> Vec<String> {
    let rules = rules(page);
    let mut faults = Vec::new();
    for rule in &rules {
        let place = format!("{}, {:?}", rule.section, rule.name);
        match rule.verdict {
            None => faults.push(format!("{place}: no verdict")),
            Some(Verdict::Later | Verdict::Nothing) if rule.words.is_empty() => faults.push(format!("{place}: why?")),
            Some(Verdict::Differs) if rule.words.is_empty() => faults.push(format!("{place}: differs how?")),
            Some(Verdict::Same | Verdict::Fixed | Verdict::Differs) if rule.tests.is_empty() => {
                faults.push(format!("{place}: no test shows it"));
            }
            Some(_) => {}
        }
        let missing = rule.tests.iter().filter(|test| !known.contains(*test));
        faults.extend(missing.map(|test| format!("{place}: there is no test {test}")));
    }
    for (section, least) in sections {
        let there = rules.iter().filter(|rule| rule.section == *section).count();
        if there < *least {
            faults.push(format!("section {section}: {there} of {least} rules"));
        }
    }
    faults
}

/// Every test of the workspace by its function's name: after `#[test]`, or an argument of a macro that makes tests.
fn tests_there_are() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["crates", "tests"] {
        visit(&root().join(folder), &mut names);
    }
    names
}

fn visit(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            if let Ok(source) = fs::read_to_string(&path) {
                names.extend(tests_of(&source));
            }
        }
    }
}

fn tests_of(source: &str) -> Vec<String> {
    let makes_tests = source.contains("$test:ident");
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if std::mem::take(&mut is_test) {
                names.push(name);
            }
        } else if let (true, Some((name, _))) = (makes_tests, line.split_once(": ")) {
            let is_name =
                name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_name {
                names.push(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn every_rule_of_the_conformance_page_has_tests_that_there_are() {
    let faults = faults(&read("docs/conformance.md"), &SECTIONS, &tests_there_are());
    assert!(faults.is_empty(), "docs/conformance.md:\n{}", faults.join("\n"));
}

#[test]
fn every_rule_of_the_pages_beside_it_has_tests_that_there_are() {
    let known = tests_there_are();
    let head = read("docs/conformance.md");
    for entry in fs::read_dir(root().join("docs/conformance")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = file.trim_end_matches(".md");
        let (_, sections) =
            PAGES.iter().find(|(page, _)| *page == name).unwrap_or_else(|| panic!("{file}: not in PAGES"));
        assert!(head.contains(&format!("](conformance/{file})")), "docs/conformance.md does not name {file}");
        let faults = faults(&read(Path::new("docs/conformance").join(&file)), sections, &known);
        assert!(faults.is_empty(), "docs/conformance/{file}:\n{}", faults.join("\n"));
    }
}

#[test]
fn a_rule_without_a_verdict_or_a_test_is_found() {
    let known = BTreeSet::from(["there_is".to_owned()]);
    let fault =
        |line: &str| faults(&format!("## 2.1: x\n\n{line}\n"), &SECTIONS, &known).first().cloned().unwrap_or_default();
    assert_eq!(fault("| a | same |  | `there_is` |"), "section 2.2: 0 of 5 rules", "in order");
    assert!(fault("| a | same |  | `there_is` `no_more` |").contains("there is no test no_more"));
    assert!(fault("| a | same | words |  |").contains("no test shows it"));
    assert!(fault("| a | soon | words | `there_is` |").contains("no verdict"));
    assert!(fault("| a | later |  |  |").contains("why?"));
    assert_eq!(faults("## 2.1: x\n", &SECTIONS, &known).first().unwrap(), "section 2.1: 0 of 1 rules");
}

#[test]
fn tests_are_found_where_they_are_written() {
    let source = "#[test]\nfn one() {}\nfn helper() {}\n proptest! {\n #[test]\n fn two(x in 0..1) {}\n}\n";
    assert_eq!(tests_of(source), ["one", "two"]);
    let made = "($($test:ident: $n:literal;)*) => {}\nmake! {\n    with_1_vcpu: 1;\n}\n";
    assert_eq!(tests_of(made), ["with_1_vcpu"]);
}
