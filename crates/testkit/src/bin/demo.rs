//! `make demo`: the daemon's main job, with the commands that a user would type. Runs where `scripts/on-kvm` puts it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use testkit::artefacts::{self, Kernel};
use testkit::console::Console;
use testkit::daemon;
use testkit::deadline::{self, DAEMON, GUEST};

/// The prompt of the small root file system's shell.
const PROMPT: &str = "small# ";

/// What busybox's line editing asks its terminal: nobody answers here, so it is not shown.
const CURSOR_QUERY: &str = "\u{1b}[6n";

fn main() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = dir.path().join("small.img");
    fs::copy(artefacts::root_file_system(), &disk).expect("the root file system can be copied");
    let arguments = vmd_arguments(&disk);

    say("The configuration", &format!("cat {}", example()));
    print!("{}", fs::read_to_string(example()).expect("the example is there"));
    say("It is checked", "vmd -n -f examples/vm.conf");
    let check = vmd().arg("-n").args(&arguments).status().expect("vmd can be run");
    assert!(check.success(), "vmd -n refused its own example");

    say("The daemon starts", "vmd -d -f examples/vm.conf &");
    let mut vmd = Running(vmd().arg("-d").args(&arguments).stdin(Stdio::null()).spawn().expect("vmd can be run"));
    deadline::until("the daemon to answer", DAEMON, || {
        daemon::vmctl(&["status"]).stdout.contains("small").then_some(())
    });
    run(&["status"]);

    say("A stock kernel boots", "vmctl start -c small");
    let mut console = Console::of_program(Command::new(artefacts::vmctl()).args(["start", "-c", "small"]));
    show(&console.expect(PROMPT, GUEST));
    type_in(&mut console, "uname -srvm; nproc; df -h /");
    leave(&mut console);
    run(&["status"]);

    say("The console is there again", "vmctl console small");
    let mut console = Console::of_program(Command::new(artefacts::vmctl()).args(["console", "small"]));
    console.send("\r");
    console.expect(PROMPT, GUEST);
    show(PROMPT);
    type_in(&mut console, "echo written by the guest > /root/note; sync; cat /root/note");
    leave(&mut console);

    say("The guest is asked to stop, by its power button", "vmctl stop -w small");
    let stopped = daemon::vmctl(&["stop", "-w", "small"]).success();
    print!("{}{}", stopped.stdout, stopped.stderr);
    let table = run(&["status"]);
    assert!(table.contains("stopped small"), "the VM should be stopped");

    say("The daemon ends", "kill %1");
    vmd.end();
    println!("\nThe demo is done: a stock Debian kernel booted, ran, and stopped under vmd.");
}

fn example() -> String {
    artefacts::project().join("examples/vm.conf").display().to_string()
}

fn vmd() -> Command {
    Command::new(artefacts::vmd())
}

/// The example, with its macros set to the files that `scripts/lab setup` prepared.
fn vmd_arguments(disk: &Path) -> Vec<String> {
    let macros = [
        ("kernel", artefacts::kernel(Kernel::BzImage)),
        ("initrd", artefacts::initrd()),
        ("image", disk.to_path_buf()),
    ];
    let given = macros.into_iter().flat_map(|(name, path)| ["-D".to_owned(), format!("{name}={}", path.display())]);
    given.chain(["-f".to_owned(), example()]).collect()
}

fn say(what: &str, command: &str) {
    println!("\n=== {what}\n$ {command}");
}

/// Prints what came from a terminal, at once.
fn show(text: &str) {
    print!("{}", text.replace(CURSOR_QUERY, "").replace("\r\n", "\n"));
    std::io::stdout().flush().expect("standard output can be written");
}

/// Runs vmctl, shows it, and returns what it printed.
fn run(arguments: &[&str]) -> String {
    println!("\n$ vmctl {}", arguments.join(" "));
    let reply = daemon::vmctl(arguments);
    print!("{}{}", reply.stdout, reply.stderr);
    reply.stdout
}

/// Types a command at the guest's prompt and shows what comes until the next one.
fn type_in(console: &mut Console, command: &str) {
    console.send(&format!("{command}\r"));
    show(&console.expect(PROMPT, GUEST));
}

/// Leaves vmctl's console as a user does: the escape counts at the beginning of a line only.
fn leave(console: &mut Console) {
    console.send("\r");
    show(&console.expect(PROMPT, GUEST));
    console.send("~.");
    let status = console.finish(DAEMON);
    println!("\n(left the console with ~.)");
    assert_eq!(status, Some(0), "vmctl's exit status");
}

/// A daemon that ends with the demo, however that ends.
struct Running(Child);

impl Running {
    fn end(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, Signal::TERM).expect("the daemon is ours");
        let child = &mut self.0;
        let status = deadline::until("the daemon to end", DAEMON, || child.try_wait().expect("it was started here"));
        assert!(status.success(), "vmd ended with {status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
