//! The rules of openbsd/vm.conf.md, a test each, a file a group of its sections. `docs/conformance/vm.conf.md`
//! names them.

mod canonical;
mod globals;
mod grammar;
mod includes;
mod instances;
mod lexical;
mod macros;
mod messages;
mod switches;
mod vms;
#[path = "../world/mod.rs"]
mod world;

use config::Config;
use config::{Diagnostic, Macros, Parsed, Sources, parse};
use model::Vm;
use world::World;

/// The file's errors, each as its line and its message; and its warnings alike.
struct Told {
    config: Option<Config>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

fn line(note: &Diagnostic) -> String {
    let place = note.place.as_ref().map(|place| format!("{}:{}: ", place.file, place.line)).unwrap_or_default();
    let place = place.strip_prefix("vm.conf:").unwrap_or(&place);
    format!("{place}{}", note.fault)
}

fn told_by(text: &[u8], macros: &Macros, sources: &dyn Sources) -> Told {
    let lines = |notes: &[Diagnostic]| notes.iter().map(line).collect();
    match parse("vm.conf", text, macros, sources, &World) {
        Ok(Parsed { config, warnings, .. }) => {
            Told { config: Some(config), errors: Vec::new(), warnings: lines(&warnings) }
        }
        Err(errors) => Told { config: None, errors: lines(&errors.errors), warnings: lines(&errors.warnings) },
    }
}

fn told(text: &str) -> Told {
    told_by(text.as_bytes(), &Macros::new(), &World)
}

/// What a file means that is right.
#[track_caller]
fn config(text: &str) -> Config {
    let told = told(text);
    told.config.unwrap_or_else(|| panic!("{text}\n{}", told.errors.join("\n")))
}

/// What is wrong with one that is not.
#[track_caller]
fn errors(text: &str) -> Vec<String> {
    let told = told(text);
    assert!(told.config.is_none(), "accepted:\n{text}");
    told.errors
}

/// Exactly this is wrong with it.
#[track_caller]
fn refused(text: &str, error: &str) {
    assert_eq!(errors(text), [error], "{text}");
}

/// A VM of a disk and these options, each on its line.
#[track_caller]
fn vm(options: &str) -> Vm {
    config(&format!("vm \"v\" {{\n\tdisk \"/d\"\n\t{options}\n}}\n")).vms.remove(0)
}

/// An option of a VM, on line 3, with exactly this error.
#[track_caller]
fn option_refused(option: &str, error: &str) {
    refused(&format!("vm \"v\" {{\n\tdisk \"/d\"\n\t{option}\n}}\n"), &format!("3: {error}"));
}
