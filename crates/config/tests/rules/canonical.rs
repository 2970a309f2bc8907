//! What `vmd -n --format` writes: the text of a configuration that is its own.

use std::fs;
use std::path::Path;

use crate::world::World;
use crate::{config, told};

#[test]
fn the_canonical_text_is_its_own_and_says_all_defaults() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut right = 0;
    for entry in fs::read_dir(folder).expect("the folder of cases") {
        let text = fs::read(entry.expect("an entry").path()).expect("a case");
        let Some(read) = told(&String::from_utf8_lossy(&text)).config else { continue };
        let canonical = String::from_utf8(config::canonical(&read, &World)).expect("text");
        let again = config(&canonical);
        assert_eq!(String::from_utf8(config::canonical(&again, &World)).expect("text"), canonical);
        right += 1;
    }
    assert!(right > 5, "{right} right ones");
    let canonical = config::canonical(&config("vm a { disk d }\n"), &World);
    let text = String::from_utf8(canonical).expect("text");
    for default in ["\tenable\n", "\tmemory 536870912\n", "\tcpus 1\n", "\towner 0\n"] {
        assert!(text.contains(default), "{default:?} in {text}");
    }
}
