//! The command `vmctl`: see vmctl(8). All of it is in the library, which tests reach without a process.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    vmctl::run(&arguments, Path::new(proto::client::SOCKET_PATH), &mut out, &mut err)
}
