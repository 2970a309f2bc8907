//! docs/architecture.md: the table of messages is that of `proto`.

use std::fs;

use crate::{read, root};

/// The files of `proto` and the two peers of each.
const PAIRS: [(&str, &str, &str); 9] = [
    ("client", "client", "control"),
    ("control", "control", "parent"),
    ("opener", "parent", "opener"),
    ("probe", "parent", "probe"),
    ("privileged", "parent", "priv"),
    ("vmm", "parent", "vmm"),
    ("vm", "vmm", "vm"),
    ("device", "vmm", "device"),
    ("agentx", "parent", "agentx"),
];

#[test]
fn the_table_of_messages_is_made_from_proto() {
    let mut table = String::from("| file | from | to | messages |\n|---|---|---|---|\n");
    let mut enums = 0;
    for (file, one, other) in PAIRS {
        let source = read(format!("crates/proto/src/{file}.rs"));
        for name in source.lines().filter_map(|line| line.strip_prefix("impl Message for ")) {
            let name = name.trim_end_matches(" {");
            let to = name.strip_prefix("To").expect("a direction is called To...").to_lowercase();
            let from = if to == one { other } else { one };
            assert!(to == one || to == other, "{file}.rs: {name} goes to neither {one} nor {other}");
            table += &format!("| `{file}.rs` | {from} | {to} | {} |\n", variants(&source, name).join(", "));
            enums += 1;
        }
    }
    assert_eq!(enums, 2 * PAIRS.len(), "two directions a pair");
    let page = read("docs/architecture.md");
    assert!(page.contains(&table), "docs/architecture.md: the table of messages is\n{table}");
}

#[test]
fn every_file_of_messages_is_in_the_table() {
    for entry in fs::read_dir(root().join("crates/proto/src")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(source) = fs::read_to_string(&path) else { continue };
        if source.lines().any(|line| line.starts_with("impl Message for ")) {
            let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(PAIRS.iter().any(|(known, ..)| *known == file), "{file}.rs has messages and no line in PAIRS");
        }
    }
}

fn variants(source: &str, name: &str) -> Vec<String> {
    let begin = format!("pub enum {name} {{");
    let body = source.lines().skip_while(|line| *line != begin).skip(1).take_while(|line| *line != "}");
    let variant = |line: &str| {
        let line = line.strip_prefix("    ")?;
        let end = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(line.len());
        line.starts_with(|c: char| c.is_ascii_uppercase()).then(|| line.split_at(end).0.to_owned())
    };
    let all: Vec<String> = body.filter_map(variant).collect();
    assert!(!all.is_empty(), "{name} has no variants: is it written otherwise than the others?");
    all
}
