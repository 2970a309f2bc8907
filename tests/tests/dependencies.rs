//! What the project depends on, held against deny.toml: licences, where crates come from, and what is never linked.
//!
//! The part of cargo-deny's work that needs nothing but Cargo.lock and the crates that were built. Its advisory check needs
//! a database from the network and stays with cargo-deny itself.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::process::Command;

use testkit::artefacts;

/// What `cargo tree` prints for each package, one a line.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(artefacts::project())
        .args(["tree", "--locked", "--offline", "--prefix", "none"])
        .args(arguments)
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().map(|line| line.trim_end_matches(" (*)").trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// The strings of one list in deny.toml.
fn list(key: &str) -> Vec<String> {
    let text = fs::read_to_string(artefacts::project().join("deny.toml")).expect("deny.toml is there");
    let (_, after) = text.split_once(&format!("\n{key} = [")).unwrap_or_else(|| panic!("deny.toml has no {key}"));
    let (inside, _) = after.split_once(']').expect("a list ends");
    let strings: Vec<String> = inside.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(!strings.is_empty(), "deny.toml: {key} is empty");
    strings
}

/// Does an SPDX expression allow use under these licences alone? `OR` binds weaker than `AND` (SPDX 2.3, annex D); the
/// old form with a slash means `OR`.
fn allowed(expression: &str, licences: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (value, rest) = any(&words, licences);
    value && rest.is_empty()
}

fn any<'w>(words: &'w [&'w str], licences: &[String]) -> (bool, &'w [&'w str]) {
    let (mut value, mut rest) = all(words, licences);
    while let Some((&"OR", after)) = rest.split_first() {
        let (other, left) = all(after, licences);
        (value, rest) = (value || other, left);
    }
    (value, rest)
}

fn all<'w>(words: &'w [&'w str], licences: &[String]) -> (bool, &'w [&'w str]) {
    let (mut value, mut rest) = one(words, licences);
    while let Some((&"AND", after)) = rest.split_first() {
        let (other, left) = one(after, licences);
        (value, rest) = (value && other, left);
    }
    (value, rest)
}

fn one<'w>(words: &'w [&'w str], licences: &[String]) -> (bool, &'w [&'w str]) {
    match words {
        ["(", inside @ ..] => {
            let (value, rest) = any(inside, licences);
            match rest {
                [")", rest @ ..] => (value, rest),
                _ => (false, rest),
            }
        }
        [name, "WITH", exception, rest @ ..] => (licences.contains(&format!("{name} WITH {exception}")), rest),
        [name, rest @ ..] => (licences.iter().any(|it| it == name), rest),
        [] => (false, words),
    }
}

#[test]
fn expressions_are_read_as_spdx_says() {
    let licences = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    for good in [
        "MIT",
        "GPL-2.0 OR MIT",
        "MIT/Apache-2.0",
        "(GPL-2.0 OR MIT) AND ISC",
        "GPL-2.0 AND GPL-3.0 OR ISC",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
    ] {
        assert!(allowed(good, &licences), "{good}");
    }
    for bad in ["", "GPL-2.0", "MIT AND GPL-2.0", "Apache-2.0", "(GPL-2.0 OR MIT", "MIT )", "ISC AND", "MIT ISC"] {
        assert!(!allowed(bad, &licences), "{bad}");
    }
}

#[test]
fn every_licence_is_on_the_list() {
    let licences = list("allow");
    let packages = tree(&["--workspace", "--edges", "normal,build,dev", "--format", "{p} | {l}"]);
    assert!(packages.len() > 20, "the tree is not whole: {packages:?}");
    let refused: Vec<&String> = packages
        .iter()
        .filter(|line| !line.split_once(" | ").is_some_and(|(_, licence)| allowed(licence, &licences)))
        .collect();
    assert!(refused.is_empty(), "not allowed by deny.toml: {refused:#?}");
}

#[test]
fn every_crate_comes_from_the_registry_or_from_here() {
    let lock = fs::read_to_string(artefacts::project().join("Cargo.lock")).expect("Cargo.lock is there");
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = "));
    let foreign: BTreeSet<&str> = sources.filter(|it| !it.contains("rust-lang/crates.io-index")).collect();
    assert!(foreign.is_empty(), "crates from elsewhere: {foreign:?}");
}

#[test]
fn the_daemon_links_nothing_that_is_banned() {
    let banned = list("deny");
    let linked = tree(&["--package", "vmd", "--edges", "normal", "--format", "{p}"]);
    let found: Vec<&String> = linked
        .iter()
        .filter(|line| line.split(' ').next().is_some_and(|name| banned.iter().any(|it| it == name)))
        .collect();
    assert!(found.is_empty(), "banned in vmd: {found:?}");
}

#[test]
fn all_of_rust_vmm_meets_on_one_vm_memory() {
    let linked = tree(&["--package", "vmd", "--edges", "normal", "--format", "{p}"]);
    let versions: Vec<&String> = linked.iter().filter(|line| line.starts_with("vm-memory ")).collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
}
