//! Every file `cases/NAME.conf` against `cases/NAME.out`: the messages of a wrong one; of a right one its warnings
//! and its canonical text, which must mean the same when parsed again.
//!
//! `CONFIG_CASES=write cargo test -p config --test cases` writes the `.out` files anew, for reading in `git diff`.

mod world;

use std::path::{Path, PathBuf};
use std::{env, fs};

use config::{Macros, canonical, parse};
use world::World;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let entries = fs::read_dir(folder).expect("the folder of cases");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut cases: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "conf")).collect();
    cases.sort();
    cases
}

fn outcome(text: &[u8]) -> String {
    match parse("vm.conf", text, &Macros::new(), &World, &World) {
        Ok(parsed) => {
            let mut out: String = parsed.warnings.iter().map(|warning| format!("{warning}\n")).collect();
            let canonical = canonical(&parsed.config, &World).expect("a canonical text");
            out.push_str(&String::from_utf8_lossy(&canonical));
            let mut again = parse("canonical", &canonical, &Macros::new(), &World, &World).expect("canonical text");
            for (vm, first) in again.config.vms.iter_mut().zip(&parsed.config.vms) {
                vm.template.clone_from(&first.template);
            }
            assert_eq!(again.config, parsed.config, "the canonical text means something else");
            out
        }
        Err(errors) => {
            let warnings: String = errors.warnings.iter().map(|warning| format!("{warning}\n")).collect();
            format!("{errors}\n{warnings}")
        }
    }
}

#[test]
fn each_case_has_its_outcome() {
    let write = env::var_os("CONFIG_CASES").is_some_and(|value| value == "write");
    let mut wrong = Vec::new();
    for case in cases() {
        let text = fs::read(&case).expect("a case");
        let out = outcome(&text);
        let expected = case.with_extension("out");
        if write {
            fs::write(&expected, &out).expect("the outcome is written");
        }
        if fs::read_to_string(&expected).unwrap_or_default() != out {
            wrong.push(format!("{}:\n{out}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
