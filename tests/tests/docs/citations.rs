//! Citations of what OpenBSD's programs do have one form, `openbsd/NAME.md, SECTION`, and lead to a section that there is
//! in docs/openbsd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::{read, root};

const PAGES: [&str; 4] = ["daemon", "devices", "vm.conf", "vmctl"];

/// Where citations may stand.
const FOLDERS: [&str; 8] = ["crates", "docs", "man", "fuzz", "tests", "examples", "packaging", "scripts"];

/// Folders of the same tree that are made, or hold inputs.
const NOT_READ: [&str; 3] = ["target", "corpus", "artifacts"];

/// This folder: it speaks of the forms that it looks for.
const OWN: &str = "tests/tests/docs";

/// Numbers of a page's headings, and the names of the rows in its table of attacks ("V21").
fn sections(page: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix('#') {
            let number = title.trim_start_matches('#').trim_start();
            let number: String = number.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            found.insert(number.trim_end_matches('.').to_owned());
        } else if line.starts_with("| ") {
            found.extend(line.split(' ').nth(1).map(str::to_owned).filter(|word| is_row(word)));
        }
    }
    found.remove("");
    found
}

fn is_row(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next().is_some_and(|c| c.is_ascii_uppercase()) && word.len() > 1 && chars.all(|c| c.is_ascii_digit())
}

/// The text of comments and pages with each break between two lines as one blank.
fn joined(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim();
        let line = line.strip_prefix("//").or_else(|| line.strip_prefix("# ")).unwrap_or(line);
        line.trim_start_matches(['/', '!']).trim()
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// A section's number or a row's name at the beginning of the text, and what follows it.
fn section(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(text.len());
    let word = text.get(..end)?.trim_end_matches('.');
    let is_number = word.split('.').all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit()));
    (is_number || is_row(word)).then(|| (word, text.get(word.len()..).unwrap_or_default()))
}

/// Each document that is cited with this in front of its name, and each of the sections that follow the name.
fn citations(text: &str, front: &str) -> Vec<(String, Option<String>)> {
    let text = joined(text);
    let mut found = Vec::new();
    for page in PAGES {
        let name = format!("{front}{page}.md");
        for (at, _) in text.match_indices(&name) {
            let before = text.get(..at).and_then(|before| before.chars().next_back());
            if before.is_some_and(|c| c.is_ascii_alphanumeric() || (front.is_empty() && "/(.".contains(c))) {
                continue; // another name's end, or a link
            }
            let mut rest = text.get(at + name.len()..).unwrap_or_default();
            let before = found.len();
            while let Some((number, after)) =
                [", ", " and ", "; "].iter().find_map(|sign| section(rest.strip_prefix(sign)?))
            {
                found.push((page.to_owned(), Some(number.to_owned())));
                rest = after;
            }
            if found.len() == before {
                found.push((page.to_owned(), None));
            }
        }
    }
    found
}

/// Citations in a form that was used once.
fn old_forms(text: &str) -> Vec<String> {
    let text = joined(text);
    let mut found = Vec::new();
    let mut look = |pattern: &str, is_one: &dyn Fn(&str, &str) -> bool| {
        for (at, _) in text.match_indices(pattern) {
            let (before, after) =
                (text.get(..at).unwrap_or_default(), text.get(at + pattern.len()..).unwrap_or_default());
            if is_one(before, after) {
                found.push(format!("{pattern}{}", after.chars().take(12).collect::<String>()));
            }
        }
    };
    let begins = |before: &str| !before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    let a_number = |after: &str| after.starts_with(|c: char| c.is_ascii_digit());
    for page in PAGES {
        look(&format!("spec, {page} "), &|_, _| true);
        look(&format!("spec/{page}.md"), &|_, _| true);
        look(&format!("{page} specification"), &|before, _| begins(before));
        for sign in [" ", ", "] {
            look(&format!("{page}.md{sign}"), &|before, after| begins(before) && section(after).is_some());
        }
    }
    look("specification, ", &|_, after| a_number(after));
    found
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !NOT_READ.iter().any(|made| name == *made) {
            files(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
}

/// The text files of the tree by their names in it.
pub fn texts() -> BTreeMap<String, String> {
    let mut paths = Vec::new();
    for folder in FOLDERS {
        files(&root().join(folder), &mut paths);
    }
    let top = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(top.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let named = paths.into_iter().filter_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        Some((path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text))
    });
    named.filter(|(name, _)| !name.starts_with(OWN)).collect()
}

#[test]
fn each_citation_of_openbsds_programs_leads_to_a_section_that_there_is() {
    let pages: BTreeMap<&str, BTreeSet<String>> =
        PAGES.into_iter().map(|page| (page, sections(&read(format!("docs/openbsd/{page}.md"))))).collect();
    let (mut faults, mut cited) = (Vec::new(), 0);
    for (file, text) in texts() {
        let front = if file.starts_with("docs/openbsd/") { "" } else { "openbsd/" };
        for (page, section) in citations(&text, front) {
            cited += 1;
            if let Some(number) = section.filter(|number| !pages[page.as_str()].contains(number)) {
                faults.push(format!("{file}: docs/openbsd/{page}.md has no {number}"));
            }
        }
        if !front.is_empty() {
            faults.extend(
                old_forms(&text).iter().map(|old| format!("{file}: write openbsd/NAME.md, N instead of {old:?}")),
            );
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(cited > 150, "only {cited} citations: are they written otherwise than this test reads them?");
}

#[test]
fn the_sections_of_the_conformance_pages_are_those_of_openbsds_programs() {
    for (page, about) in [
        ("conformance", "daemon"),
        ("conformance/daemon", "daemon"),
        ("conformance/vm.conf", "vm.conf"),
        ("conformance/vmctl", "vmctl"),
    ] {
        let known = sections(&read(format!("docs/openbsd/{about}.md")));
        let text = read(format!("docs/{page}.md"));
        let headings = text.lines().filter_map(|line| line.strip_prefix("## ")?.split(": ").next());
        let rules = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
        let rules = rules.filter(|word| word.contains('.'));
        for (number, rest) in headings.chain(rules).filter_map(section) {
            assert!(
                !rest.is_empty() || known.contains(number),
                "docs/{page}.md: docs/openbsd/{about}.md has no {number}"
            );
        }
    }
}

#[test]
fn a_citation_that_leads_nowhere_and_one_of_an_old_form_are_found() {
    let page = "# 1. One\n## 1.10 Ten\n### 2.3 Three\n| V21 | a row |\n| x | no row |\n";
    assert_eq!(sections(page), ["1", "1.10", "2.3", "V21"].map(str::to_owned).into());
    let cited = |text: &str| {
        let all =
            citations(text, "openbsd/").into_iter().map(|(page, number)| page + " " + &number.unwrap_or_default());
        all.collect::<Vec<_>>()
    };
    assert_eq!(
        cited("//! a (openbsd/daemon.md, 2.3, 4 and 5;\n//! 11.3 rows 6, 7)."),
        ["daemon 2.3", "daemon 4", "daemon 5", "daemon 11.3"]
    );
    assert_eq!(cited("(openbsd/devices.md, V21; virtio 1.2, 4.1)"), ["devices V21"]);
    assert_eq!(cited("    /// openbsd/vm.conf.md,\n    /// 8.3."), ["vm.conf 8.3"]);
    assert_eq!(cited("of docs/openbsd/vmctl.md."), ["vmctl "]);
    assert!(cited("conformance/daemon.md, 11").is_empty());
    let old = [
        "(spec, daemon 3.2)",
        "(vm.conf specification, 3)",
        "(specification, 8.3)",
        "(devices.md 7.5)",
        "// devices.md,\n// V21",
        "spec/daemon.md 2",
    ];
    for text in old {
        assert!(!old_forms(text).is_empty(), "{text}");
    }
    for text in ["openbsd/devices.md, 7.5", "[vm.conf](conformance/vm.conf.md), 11", "the specification, as written"] {
        assert_eq!(old_forms(text), [""; 0], "{text}");
    }
}
