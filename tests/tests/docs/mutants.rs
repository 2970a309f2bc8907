//! docs/mutants.md: what is excluded from the changes that are tried is explained, and each room has its figures.

use crate::read;

/// The expressions of `exclude_re`, each with whether a reason stands above it.
fn exclusions(config: &str) -> Vec<(String, bool)> {
    let lines: Vec<&str> = config.lines().map(str::trim).collect();
    let list = lines.iter().skip_while(|line| **line != "exclude_re = [").skip(1).take_while(|line| **line != "]");
    let mut reason = false;
    let mut found = Vec::new();
    for line in list {
        if let Some(expression) = line.strip_prefix('\'').and_then(|line| line.strip_suffix("',")) {
            found.push((expression.to_owned(), reason));
        }
        reason = line.starts_with('#');
    }
    found
}

#[test]
fn changes_that_are_not_tried_are_explained_where_they_are_excluded_and_in_the_docs() {
    let config = read(".cargo/mutants.toml");
    assert!(config.contains("\nexclude_re = [\n"), "the list is written otherwise than this test reads it");
    let excluded = exclusions(&config);
    for (expression, reason) in &excluded {
        assert!(reason, ".cargo/mutants.toml: no reason above '{expression}'");
    }
    let page = read("docs/mutants.md");
    let told = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | ")).map(|(name, _)| name);
    let told: Vec<&str> = told.filter(|name| name.contains("src/")).collect();
    let excluded: Vec<&str> = excluded.iter().map(|(expression, _)| expression.as_str()).collect();
    assert_eq!(told, excluded, "docs/mutants.md and .cargo/mutants.toml");
    let rooms = read("scripts/mutants");
    let rooms = rooms.lines().find_map(|line| line.strip_prefix("ROOMS=(")?.strip_suffix(')')).expect("ROOMS");
    for room in rooms.split(' ') {
        assert!(page.contains(&format!("| {room} |")), "docs/mutants.md: no figures of {room}");
    }
}

#[test]
fn an_exclusion_without_a_reason_is_found() {
    let config = "exclude_re = [\n    # why\n    'src/a.rs',\n    'src/b.rs',\n]\n";
    assert_eq!(exclusions(config), [("src/a.rs".to_owned(), true), ("src/b.rs".to_owned(), false)]);
}
