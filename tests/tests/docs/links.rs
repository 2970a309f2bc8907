//! Pages lead to files that there are, by their links and by their names in comments.

use std::path::Path;

use crate::citations::texts;
use crate::root;

/// Where the links of a page lead, but for those out of the tree and into a page.
fn links(page: &str) -> Vec<&str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).collect()
}

/// Pages of `docs` that a text names by their path. Ours have no capitals in it; systemd's, which are cited too, do.
fn pages(text: &str) -> Vec<&str> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c));
    let names = text.match_indices("docs/").filter_map(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let rest = text.get(at..)?;
        let name = rest.get(..rest.find(ends).unwrap_or(rest.len()))?.trim_end_matches('.');
        let is_ours = name.ends_with(".md") && !name.contains(|c: char| c.is_ascii_uppercase());
        (is_ours && before.is_none_or(ends)).then_some(name)
    });
    names.collect()
}

#[test]
fn links_and_names_of_pages_lead_to_files_that_there_are() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for (file, text) in texts() {
        let folder = Path::new(&file).parent().unwrap();
        let linked = links(&text).into_iter().filter(|_| file.ends_with(".md")).map(|target| folder.join(target));
        for target in linked.chain(pages(&text).into_iter().map(Into::into)) {
            seen += 1;
            if !root().join(&target).exists() {
                faults.push(format!("{file}: there is no {}", target.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 40, "only {seen}: are they written otherwise than this test reads them?");
}

#[test]
fn links_and_names_are_found() {
    assert_eq!(links("[a](b.md), [c](d/e.md#f), [g](https://h.example/) and [i](#j)"), ["b.md", "d/e.md"]);
    assert_eq!(
        pages("(docs/a.md, B), `docs/c/d.e.md`; docs/f, docs/G.md and Documentation/docs/h.md."),
        ["docs/a.md", "docs/c/d.e.md"]
    );
}
