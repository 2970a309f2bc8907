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
    ("vm/src/virtio/worker.rs", 1),
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

/// Where the text of a line above debug begins, or of what a line or an answer has in it.
const BEGINS: [&str; 9] = [
    "Failure::Gone(",
    "error!(",
    "warn!(",
    "info!(",
    "guest_log!(",
    "Failure::new(",
    "#[error(",
    "Exit::Failed(",
    "Error::Description(",
];

/// Each of them to its closing parenthesis, tests apart.
fn texts(source: &str) -> Vec<&str> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let starts = BEGINS.iter().flat_map(|begin| code.match_indices(begin).map(|(at, _)| &code[at..]));
    let whole = starts.map(|call| {
        let mut open = 0;
        let closes = |(at, character)| {
            open += i32::from(character == '(') - i32::from(character == ')');
            (character == ')' && open == 0).then_some(at)
        };
        &call[..call.char_indices().find_map(closes).unwrap_or(call.len())]
    });
    whole.filter(|call| !call.split_once('(').is_some_and(|(_, text)| text.trim_start().starts_with("Debug"))).collect()
}

#[test]
fn texts_of_lines_are_found() {
    let source = "guest_log!(\n  Warn,\n  \"{a:?}\", f(x)\n);\nlog::debug!(\"{b:?}\");\nguest_log!(Debug, \"{c:?}\");\n\
                  Failure::new(Code::Io, format!(\"{d:?}\"))";
    let want = ["guest_log!(\n  Warn,\n  \"{a:?}\", f(x)\n", "Failure::new(Code::Io, format!(\"{d:?}\")"];
    assert_eq!(texts(source), want);
}

/// What is printed as the code has it, though it is no word of the code: a character in quotes, a time.
const PRINTED: [&str; 7] = [
    "name has the character {c:?}",
    "name has the character {0:?}",
    "name begins with {0:?}",
    "name ends in {0:?}",
    "within {0:?}",
    "within {GREETING_TIME:?}",
    "{option} {value:?}: a string",
];

#[test]
fn lines_of_the_log_have_no_words_of_the_code() {
    let crates = artefacts::project().join("crates");
    let mut found = Vec::new();
    for name in ["config", "devices", "disk", "hw", "model", "proto", "sandbox", "sys", "vm", "vmd"] {
        sources(&crates.join(name).join("src"), &mut |path, source| {
            let told = texts(source).into_iter().filter(|text| text.contains(":?}"));
            let told = told.filter(|text| !PRINTED.iter().any(|printed| text.contains(printed)));
            found.extend(told.map(|text| format!("{}: {text}", path.display())));
        });
    }
    assert_eq!(found, Vec::<String>::new(), "a user reads this: say it in words");
}

/// Files of the daemon's own processes with lines that are written at once, and how many: what only root can cause, or what
/// is said once for a process. Whatever a client or a guest can cause has a limit (`guest_log!`, `log::by_user`, `log::of_vm`).
const ROOTS: [(&str, usize); 17] = [
    ("vmd/src/parent/conf/source.rs", 2),
    ("vmd/src/parent/edge.rs", 2),
    ("vmd/src/parent/network/edge.rs", 1),
    ("vmd/src/parent/peers/control.rs", 1),
    ("vmd/src/parent/peers/logs.rs", 1),
    ("vmd/src/parent/peers/lost.rs", 2),
    ("vmd/src/parent/peers/turn.rs", 1),
    ("vmd/src/parent/peers/vmm.rs", 1),
    ("vmd/src/parent/perform.rs", 1),
    ("vmd/src/parent/service/agentx.rs", 1),
    ("vmd/src/parent/service/pid_file.rs", 1),
    ("vmd/src/parent/service/socket.rs", 1),
    ("vmd/src/parent/service/startup.rs", 14),
    ("vmd/src/parent/service/state.rs", 3),
    ("vmd/src/privileged/edge.rs", 8),
    ("vmd/src/privileged/outside.rs", 5),
    ("vmd/src/role.rs", 1),
];

#[test]
fn what_a_user_can_cause_is_logged_at_a_limited_rate() {
    let crates = artefacts::project().join("crates");
    let mut found = BTreeMap::new();
    visit(&crates.join("vmd/src"), &crates, &mut found);
    let known = ROOTS.iter().map(|(file, count)| ((*file).to_owned(), *count));
    assert_eq!(found, known.collect::<BTreeMap<_, _>>(), "limit it, or say here that only root can cause it");
}

/// Each source below a folder but tests'.
fn sources(folder: &Path, each: &mut dyn FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).expect("a folder of ours").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            each(&path, &fs::read_to_string(&path).expect("a file of ours"));
        }
    }
}
