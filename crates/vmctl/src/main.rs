//! The command `vmctl`: see vmctl(8). All of it is in the library, which tests reach without a process.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use vmctl::Screen;

fn main() -> ExitCode {
    // An image that may not get so large is an error, told and cleaned up, rather than the end of this process.
    sys::signals::outlive_the_file_size_limit();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    // A terminal that can do nothing says so by its name, and a user who wants no colours by NO_COLOR.
    let plain = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
    let colours = !dumb && !plain("NO_COLOR");
    let (lively, coloured) = (err.is_terminal() && colours, out.is_terminal() && colours);
    let screen = Screen { out: &mut out, err: &mut err, lively, coloured };
    vmctl::run(&arguments, Path::new(proto::client::SOCKET_PATH), screen)
}
