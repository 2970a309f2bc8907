//! docs/roles.md says what the promises say.
#![forbid(unsafe_code)]

#[test]
fn the_docs_have_the_table_of_roles() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/roles.md");
    let text = std::fs::read_to_string(docs).expect("docs/roles.md");
    for table in [sandbox::table(), sandbox::unseen()] {
        assert!(
            text.contains(&table),
            "docs/roles.md: put in what `cargo run -p sandbox --example roles` prints:\n{table}"
        );
    }
}
