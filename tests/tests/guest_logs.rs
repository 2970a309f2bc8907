//! No guest fills the host's log: in the processes that serve guests each line above debug goes by `guest_log!`, which has a
//! rate, but for those that are said once, as the process or its conversation ends with them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use testkit::artefacts;

/// Files with such lines, and how many.
const ONCE: [(&str, usize); 8] = [
    ("devices/src/blk/serve.rs", 1),
    ("devices/src/serve_vhost/mod.rs", 2),
    ("devices/src/start.rs", 3),
    ("vm/src/lib.rs", 2),
    ("vm/src/running.rs", 4),
    ("vm/src/vcpus.rs", 1),
    ("vm/src/virtio/answer.rs", 1),
    ("vm/src/virtio/worker.rs", 2),
];

/// Lines with a macro that writes at once, tests apart.
fn lines_at_once(source: &str) -> usize {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let writes = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("//") && ["error!(", "warn!(", "info!("].iter().any(|name| line.contains(name))
    };
    code.lines().filter(writes).count()
}

fn visit(folder: &Path, crates: &Path, found: &mut BTreeMap<String, usize>) {
    for entry in fs::read_dir(folder).expect("a folder of ours").flatten() {
        let path = entry.path();
        if path.is_dir() {
            visit(&path, crates, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let count = lines_at_once(&fs::read_to_string(&path).expect("a file of ours"));
            let name = path.strip_prefix(crates).expect("it lies there").to_str().expect("UTF-8");
            if count > 0 && !name.ends_with("tests.rs") {
                found.insert(name.to_owned(), count);
            }
        }
    }
}

#[test]
fn what_a_guest_can_cause_is_logged_at_a_limited_rate() {
    let crates = artefacts::project().join("crates");
    let mut found = BTreeMap::new();
    for name in ["devices/src", "hw/src", "vm/src"] {
        visit(&crates.join(name), &crates, &mut found);
    }
    let known = ONCE.iter().map(|(file, count)| ((*file).to_owned(), *count));
    assert_eq!(found, known.collect::<BTreeMap<_, _>>(), "use sys::guest_log!, or say here that it is said once");
}

#[test]
fn lines_that_are_written_at_once_are_found() {
    let source = "log::warn!(\"a\");\n// warn!(\"b\")\nsys::guest_log!(Warn, \"c\");\n  error!(\"d\");\ndebug!(\"e\");\n\
                  #[cfg(test)]\nmod tests {\n info!(\"f\");\n}\n";
    assert_eq!(lines_at_once(source), 2);
}
