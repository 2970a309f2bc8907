//! The documents are true of the code, a file for each thing that they say.
#![forbid(unsafe_code)]

mod citations;
mod conformance;
mod links;
mod messages;
mod mutants;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
