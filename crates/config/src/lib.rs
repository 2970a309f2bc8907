//! vm.conf(5): text in, checked configuration or a pointed error out.
//!
//! The daemon calls [`parse`] at start, on load and on reload, `vmd -n` too. Nothing here opens a file, looks up
//! a user, logs or reads a clock: what must come from outside comes through [`Sources`] and [`Users`].
//!
//! | room | holds |
//! |---|---|
//! | `input`, `lexer`, `keyword` | bytes to tokens: macros, quoting, continuation, include files |
//! | `parser/` | tokens to statements, a file a block: `global`, `switch`, `vm`, `nic`, `allow` |
//! | `request`, `register`, `instance` | what a whole `vm` block must hold to be a VM |
//! | `globals`, `switches`, `prefix`, `size` | the configuration around its VMs, which are `model`'s |
//! | `fault`, `diagnostic`, `line`, `suggest` | what can be wrong, and how it is shown |
//! | `format` | the canonical text of a configuration |
//! | `dump`, `json` | what a configuration means as JSON, and JSON itself, for vmctl too |
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_possible_wrap
    )
)]

mod diagnostic;
pub mod dump;
mod environment;
mod fault;
mod format;
mod globals;
mod input;
pub mod instance;
pub mod json;
mod keyword;
mod lexer;
mod line;
mod macros;
mod parser;
pub mod prefix;
pub mod register;
pub mod request;
pub mod size;
mod suggest;
mod switches;

pub use diagnostic::{Diagnostic, Errors, Severity};
pub use environment::{Sources, Users};
pub use fault::{Fault, Slip};
pub use format::{AccountNames, Unwritable, canonical};
pub use globals::{AgentX, Config, Globals, LocalInet6, Staggered};
pub use keyword::Keyword;
pub use macros::{MacroSyntax, Macros};
pub use suggest::closest;

/// What a file said, when nothing in it was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What the file asks for, in its order.
    pub config: Config,
    /// What is legal but has no effect or not the expected one, in the order of the file.
    pub warnings: Vec<Diagnostic>,
    /// What keeps single VMs from being started, if the file was read with patience; they are in `config`.
    pub troubles: Vec<(model::VmName, Diagnostic)>,
}

/// Reads a whole file: its grammar, all checks of values and names, and the rules that a VM must keep.
///
/// `file_name` is what messages call it. All errors of the file are returned, in its order.
pub fn parse(
    file_name: &str,
    text: &[u8],
    macros: &Macros,
    sources: &dyn Sources,
    users: &dyn Users,
) -> Result<Parsed, Errors> {
    parser::Parser::new(file_name, text, macros, sources, users, &Config::default(), false).run()
}

/// As [`parse`], for a service that starts: what concerns one VM alone, a file that is missing or an account that is not
/// known, costs that VM. Its paths are kept as they were given.
pub fn parse_with_patience(
    file_name: &str,
    text: &[u8],
    macros: &Macros,
    sources: &dyn Sources,
    users: &dyn Users,
) -> Result<Parsed, Errors> {
    parser::Parser::new(file_name, text, macros, sources, users, &Config::default(), false).patient().run()
}

/// As [`parse`], for a file that is loaded beside what is `known` already: its VMs may be named as templates, its
/// switches by interfaces, and a VM of a known name is skipped without a word. What is for the whole daemon is an error.
pub fn parse_onto(
    file_name: &str,
    text: &[u8],
    macros: &Macros,
    sources: &dyn Sources,
    users: &dyn Users,
    known: &Config,
) -> Result<Parsed, Errors> {
    parser::Parser::new(file_name, text, macros, sources, users, known, true).run()
}
