//! `vmctl doctor`: looks at the host, and says what keeps VMs from running and what to do. It needs no daemon, no right, and
//! changes nothing.
//!
//! | room | holds |
//! |---|---|
//! | `host` | what was seen, as data |
//! | `look` | reads files, below any directory |
//! | `ask` | asks the kernel, the network, vmd's program and the daemon |
//! | `judge/` | decides what it means: pure |
//! | `print` | findings as a table, as lines, as JSON: pure |

mod ask;
mod host;
mod judge;
mod look;
mod print;

use std::path::Path;

pub use print::Form;

/// What was found, as text in that form, and whether VMs can run.
pub fn examine(socket: &Path, form: Form) -> (String, bool) {
    let host = ask::host(socket);
    let findings = judge::findings(&host);
    (print::text(form, &host.caller, &findings), print::can_run(&findings))
}
