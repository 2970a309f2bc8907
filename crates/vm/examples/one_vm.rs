//! Runs one VM without a daemon, playing vmm's part: for trying kernels and for measuring the process alone.
//!
//! `one_vm KERNEL [INITRD] [-m MIB] [-c CPUS] [-a CMDLINE] [-p SECONDS] [-u MARKER] [-s]`. The console goes to standard output;
//! `-p` presses the power button after so many seconds; `-u` prints the private memory of the process, when the marker has
//! come, on standard error; `-s` has it enter its sandbox, as the daemon's does (for root, who gives it the ids of nobody). The
//! VM's process is this program again, with its channel as standard input.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use model::{CommandLine, MemorySize, VmName};
use proto::probe::KernelKind;
use proto::vm::{Description, ToVm, ToVmm};
use proto::{Channel, Received};
use sys::memory::Pool;

const USAGE: &str = "one_vm KERNEL [INITRD] [-m MIB] [-c CPUS] [-a CMDLINE] [-p SECONDS] [-u MARKER] [-s]";
/// A user who may nothing, as _vmd may.
const NOBODY: u32 = 65534;
/// Longest time without a message at the start, and with the exit status at the end.
const PATIENCE: Duration = Duration::from_secs(30);

struct Arguments {
    files: Vec<String>,
    memory_mib: u64,
    cpus: u8,
    cmdline: String,
    press_after: Option<Duration>,
    marker: Option<String>,
    sandboxed: bool,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let role = words.next();
    if let Some(role @ ("--vm" | "--sandboxed-vm")) = role.as_deref() {
        sys::log::init("vm", sys::log::level_of(1));
        let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned()?;
        let status = if role == "--vm" { vm::serve(socket, || Ok(())) } else { vm::run(socket, 1) };
        return Ok(ExitCode::from(status));
    }
    let arguments = parse(std::env::args().skip(1))?;
    watch(start(&arguments)?, &arguments)
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, Box<dyn Error>> {
    let mut arguments = Arguments {
        files: Vec::new(),
        memory_mib: 256,
        cpus: 1,
        cmdline: "console=ttyS0 quiet panic=-1".into(),
        press_after: None,
        marker: None,
        sandboxed: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(USAGE);
        match word.as_str() {
            "-m" => arguments.memory_mib = value()?.parse()?,
            "-c" => arguments.cpus = value()?.parse()?,
            "-a" => arguments.cmdline = value()?,
            "-p" => arguments.press_after = Some(Duration::from_secs(value()?.parse()?)),
            "-u" => arguments.marker = Some(value()?),
            "-s" => arguments.sandboxed = true,
            _ => arguments.files.push(word),
        }
    }
    if arguments.files.is_empty() { Err(USAGE.into()) } else { Ok(arguments) }
}

/// A VM that runs.
struct Started {
    channel: Channel<ToVm, ToVmm>,
    process: Child,
    console: OwnedFd,
}

/// Starts the process and describes the VM to it.
fn start(arguments: &Arguments) -> Result<Started, Box<dyn Error>> {
    let (ours, theirs) = sys::seqpacket::pair()?;
    let role = if arguments.sandboxed { "--sandboxed-vm" } else { "--vm" };
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role).stdin(theirs);
    if arguments.sandboxed {
        command.uid(NOBODY).gid(NOBODY);
    }
    let process = command.spawn()?;
    let mut channel: Channel<ToVm, ToVmm> = Channel::new(ours);
    let pty = sys::pty::Pty::open()?;
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    let mut fds: Vec<OwnedFd> = vec![kvm.into(), pty.master, Pool::huge_pages()?.take(arguments.memory_mib << 20)?];
    for path in &arguments.files {
        fds.push(File::open(path)?.into());
    }
    let description = Description {
        name: VmName::new("one")?,
        memory: MemorySize::from_bytes(i64::try_from(arguments.memory_mib << 20)?)?,
        cpus: arguments.cpus,
        kernel: KernelKind::Pvh,
        cmdline: CommandLine::new(&arguments.cmdline)?,
        initrd: arguments.files.len() > 1,
        vmmci: false,
        devices: 0,
        debug: true,
    };
    channel.send(&ToVm::Describe(Box::new(description)), fds)?;
    channel.send(&ToVm::Begin, Vec::new())?;
    match channel.recv_within(PATIENCE)? {
        Received::Message(ToVmm::Started, _) => Ok(Started { channel, process, console: pty.slave }),
        other => Err(format!("not started: {other:?}").into()),
    }
}

/// Copies the console until the process ends, and exits with its status.
fn watch(running: Started, arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let Started { mut channel, process: mut child, console } = running;
    let started = Instant::now();
    let marker = arguments.marker.clone();
    let pid = child.id();
    std::thread::spawn(move || copy_console(console, marker, pid, started));
    if let Some(after) = arguments.press_after {
        std::thread::sleep(after);
        channel.send(&ToVm::AskToStop, Vec::new())?;
    }
    let status = child.wait()?;
    while let Ok(Received::Message(message, _)) = channel.recv() {
        eprintln!("one_vm: {message:?}");
    }
    eprintln!("one_vm: {status} after {:?}", started.elapsed());
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn copy_console(slave: OwnedFd, marker: Option<String>, pid: u32, started: Instant) {
    let (mut slave, mut seen) = (File::from(slave), String::new());
    let mut piece = [0; 4096];
    let mut measured = false;
    while let Ok(count) = slave.read(&mut piece) {
        let bytes = piece.get(..count).unwrap_or(&[]);
        let _ = std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush());
        seen.push_str(&String::from_utf8_lossy(bytes));
        if let Some(marker) = marker.as_ref().filter(|marker| !measured && seen.contains(marker.as_str())) {
            measured = true;
            eprintln!("one_vm: {marker:?} after {:?}, {} KiB private", started.elapsed(), private_kib(pid));
        }
    }
}

/// Private_Clean and Private_Dirty of all mappings but guest memory's.
fn private_kib(pid: u32) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut total, mut guest) = (0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Private_Clean:" | "Private_Dirty:"), Some(kib)) if !guest => total += kib.parse().unwrap_or(0),
            (Some(range), Some(_)) if range.contains('-') => guest = line.contains("guest memory"),
            _ => {}
        }
    }
    total
}
