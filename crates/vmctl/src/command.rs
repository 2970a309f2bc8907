//! The commands and their grammar (openbsd/vmctl.md, 1 and 3): arguments to a [`Command`], or the words and the
//! usage that tell why not. Pure.

use std::ffi::{OsStr, OsString};

use model::{MAX_DISKS, MemorySize, UserPath, VmName, lookalike};
use proto::client::{DiskOperation, Order, VmRef};

use crate::create::{self, Create, Source};
use crate::getopt::{self, OptionError};
use crate::start::{self, Start};
use crate::words::{self, WordError, Wrong};

/// What a user asks for.
#[derive(Debug, PartialEq)]
pub struct Invocation {
    /// `-v`.
    pub verbose: bool,
    /// The command.
    pub command: Command,
}

/// A command with its arguments.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Attach to a VM's console.
    Console(VmRef),
    /// Make a disk image.
    Create(Create),
    /// Let a disk's requests fail from one on.
    DiskFail {
        /// The VM.
        vm: VmRef,
        /// Its disk, from 0.
        disk: u8,
        /// What fails.
        operation: DiskOperation,
        /// The first that does, from 1.
        count: u32,
    },
    /// Look at the host.
    Doctor {
        /// `--json`: not as text.
        json: bool,
    },
    /// Pause a VM at a disk's flush.
    FlushStop {
        /// The VM.
        vm: VmRef,
        /// Its disk, from 0.
        disk: u8,
        /// The flush, from 1.
        count: u32,
    },
    /// Say what there is: all commands, or how one is used.
    Help(Option<&'static str>),
    /// Look at a disk image.
    Image {
        /// Whether to look at all of it, for what is wrong; else to say what it is.
        check: bool,
        /// `-r`: and to put right what can be.
        repair: bool,
        /// `--json`: not as text.
        json: bool,
        /// The image.
        image: Source,
    },
    /// Make a disk image larger.
    ImageResize {
        /// The image.
        image: Source,
        /// Bytes, whole MiB.
        size: u64,
        /// What is to be said first.
        warning: Option<String>,
    },
    /// Let the daemon read one more file.
    Load(UserPath),
    /// Set how much the daemon logs.
    Log {
        /// Debug lines too.
        verbose: bool,
    },
    /// Change what is in a CD-ROM drive.
    Cdrom {
        /// The VM.
        vm: VmRef,
        /// What is put in; nothing is only taken out.
        medium: Option<OsString>,
        /// `-f`.
        force: bool,
    },
    /// Ask a guest to get along with less of its memory, or with more.
    Memory {
        /// The VM.
        vm: VmRef,
        /// So much.
        size: MemorySize,
        /// What is to be said first.
        warning: Option<String>,
    },
    /// Have a VM that runs do something.
    Order(Order, VmRef),
    /// Start a VM from a stream.
    Receive(VmName),
    /// Let the daemon read its file again.
    Reload,
    /// Let the daemon forget.
    Reset {
        /// VMs.
        vms: bool,
        /// Switches.
        switches: bool,
    },
    /// Write a VM to a stream.
    Send(VmRef),
    /// Start a VM.
    Start(Box<Start>),
    /// Show VMs.
    Status {
        /// `--json`: not as a table.
        json: bool,
        /// `-r`: running ones only.
        running: bool,
        /// Only this one.
        vm: Option<VmRef>,
    },
    /// Stop VMs.
    Stop {
        /// Which; `None` is all that run.
        vm: Option<VmRef>,
        /// `-f`.
        force: bool,
        /// `-w`.
        wait: bool,
    },
    /// Say which release this is.
    Version,
    /// Wait for a VM's end.
    Wait(VmRef),
}

/// A command's name, what it does, and the arguments that its usage shows.
struct Entry {
    name: &'static str,
    about: &'static str,
    syntax: &'static str,
    parse: fn(&[OsString]) -> Result<Command, Wrong>,
}

const COMMANDS: &[Entry] = &[
    Entry {
        name: "cdrom",
        about: "change what is in a CD-ROM drive",
        syntax: "[-f] id eject | insert path",
        parse: cdrom,
    },
    Entry {
        name: "console",
        about: "attach to the console of a running VM",
        syntax: "id",
        parse: |arguments| one_vm(arguments).map(Command::Console),
    },
    Entry {
        name: "create",
        about: "make a disk image",
        syntax: "[-b base | -i disk] [-s size] disk",
        parse: |arguments| create::parse(arguments).map(Command::Create),
    },
    Entry {
        name: "disk-fail",
        about: "let requests of a disk fail",
        syntax: "id disk read|write|flush count",
        parse: disk_fail,
    },
    Entry { name: "doctor", about: "look at the host, and say what VMs lack", syntax: "[--json]", parse: doctor },
    Entry { name: "flush-stop", about: "pause a VM at a flush of a disk", syntax: "id disk count", parse: flush_stop },
    Entry { name: "help", about: "list the commands, or show the usage of one", syntax: "[command]", parse: help },
    Entry {
        name: "image",
        about: "say what a disk image is or what is wrong with it, or make it larger",
        syntax: "[-r] [--json] info | check disk | resize disk size",
        parse: image,
    },
    Entry { name: "load", about: "read one more configuration file", syntax: "filename", parse: load },
    Entry { name: "log", about: "log less or more", syntax: "[brief | verbose]", parse: log },
    Entry {
        name: "memory",
        about: "ask a guest to get along with less memory, or more",
        syntax: "id size",
        parse: memory,
    },
    Entry {
        name: "nmi",
        about: "send an NMI to a guest that hangs",
        syntax: "id",
        parse: |arguments| order(Order::Nmi, arguments),
    },
    Entry {
        name: "pause",
        about: "have a VM stand still",
        syntax: "id",
        parse: |arguments| order(Order::Pause, arguments),
    },
    Entry { name: "receive", about: "start a VM from a stream", syntax: "name", parse: receive },
    Entry { name: "reload", about: "read the configuration file again", syntax: "", parse: reload },
    Entry { name: "reset", about: "end VMs, forget switches, or both", syntax: "[all | switches | vms]", parse: reset },
    Entry {
        name: "send",
        about: "write the state of a VM to a stream",
        syntax: "id",
        parse: |arguments| one_vm(arguments).map(Command::Send),
    },
    Entry { name: "show", about: "show VMs", syntax: "[--json] [id]", parse: status },
    Entry {
        name: "start",
        about: "start a VM",
        syntax: start::SYNTAX,
        parse: |arguments| start::parse(arguments).map(Box::new).map(Command::Start),
    },
    Entry { name: "status", about: "show VMs", syntax: "[--json] [-r] [id]", parse: status },
    Entry { name: "stop", about: "end VMs", syntax: "[-fw] [id | -a]", parse: stop },
    Entry {
        name: "unpause",
        about: "let a paused VM go on",
        syntax: "id",
        parse: |arguments| order(Order::Unpause, arguments),
    },
    Entry {
        name: "wait",
        about: "wait until a VM ends",
        syntax: "id",
        parse: |arguments| one_vm(arguments).map(Command::Wait),
    },
];

/// Each command's name, arguments, and what it does.
pub fn commands() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    COMMANDS.iter().map(|entry| (entry.name, entry.syntax, entry.about))
}

/// What `help` prints: all commands, or the usage of one.
pub(crate) fn help_text(command: Option<&str>) -> String {
    match command.and_then(|name| COMMANDS.iter().find(|entry| entry.name == name)) {
        Some(Entry { name, about, syntax, .. }) => {
            format!("{}\n{name}: {about}; vmctl(8) says more\n", usage(name, syntax))
        }
        None => COMMANDS.iter().fold(format!("{GENERAL}\ncommands, which may be shortened:\n"), |text, entry| {
            format!("{text}  {:<12}{}\n", entry.name, entry.about)
        }),
    }
}

fn usage(name: &str, syntax: &str) -> String {
    let space = if syntax.is_empty() { "" } else { " " };
    format!("usage:\tvmctl [-v] {name}{space}{syntax}")
}

/// Why the arguments are no command, as it is shown.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// No command.
    #[error("{GENERAL}")]
    General,
    /// An option before the command that there is not.
    #[error("vmctl: {0}\n{GENERAL}")]
    Option(OptionError),
    /// A beginning of several commands.
    #[error("ambiguous argument: {0}: {1}\n{GENERAL}")]
    Ambiguous(String, String),
    /// The beginning of none.
    #[error("unknown argument: {0}{1}\n{GENERAL}")]
    Unknown(String, String),
    /// Wrong arguments of a command; its usage, and before it what is wrong when that needs words.
    #[error("{message}{}", usage(.name, .syntax))]
    Command {
        /// Empty, or lines with their ends.
        message: String,
        /// The command.
        name: &'static str,
        /// Its arguments.
        syntax: &'static str,
    },
    /// A value that is wrong.
    #[error("vmctl: {0}")]
    Value(String),
}

/// The usage where no command is known.
const GENERAL: &str = "usage:\tvmctl [-v] command [arg ...]\n\tvmctl help [command]";

/// The invocation that the arguments (without the program's name) are.
pub fn parse(arguments: &[OsString]) -> Result<Invocation, Misuse> {
    let (mine, rest) = getopt::leading("hv", &["help", "version"], arguments).map_err(Misuse::Option)?;
    let has = |letter| mine.options.iter().any(|(given, _)| *given == letter);
    let verbose = has('v');
    if mine.words.contains(&"version") {
        return Ok(Invocation { verbose, command: Command::Version });
    }
    if has('h') || mine.words.contains(&"help") {
        let command = rest.first().map(|word| entry(word).map(|entry| entry.name)).transpose()?;
        return Ok(Invocation { verbose, command: Command::Help(command) });
    }
    let Some((word, rest)) = rest.split_first() else { return Err(Misuse::General) };
    let entry = entry(word)?;
    let command = (entry.parse)(rest).or_else(|wrong| {
        let usage = |message: String| {
            let message = odd_option(rest).unwrap_or_default() + &message;
            Err(Misuse::Command { message, name: entry.name, syntax: entry.syntax })
        };
        match wrong {
            // No command has these two for itself.
            Wrong::Option(error) if error.asks_for_help() => Ok(Command::Help(Some(entry.name))),
            Wrong::Usage => usage(String::new()),
            Wrong::Option(error) => usage(format!("vmctl: {error}\n")),
            Wrong::SaidAndUsage(text) => usage(format!("{text}\n")),
            Wrong::Said(text) => match odd_option(rest) {
                Some(_) => usage(String::new()),
                None => Err(Misuse::Value(text)),
            },
        }
    })?;
    Ok(Invocation { verbose, command })
}

/// An argument that was to be an option, and begins with another character than `-`: it was taken for an operand.
fn odd_option(arguments: &[OsString]) -> Option<String> {
    let odd =
        |word: &OsString| word.to_str()?.chars().next().and_then(lookalike).map(|told| (words::shown(word), told));
    let (word, told) = arguments.iter().find_map(odd)?;
    Some(format!("vmctl: \"{word}\" begins with {told}\n"))
}

/// Commands that the original does not have: a word that is short for one of its own stays that.
const OURS: [&str; 5] = ["cdrom", "doctor", "help", "image", "nmi"];

/// The one command whose name begins with the word.
fn entry(word: &OsStr) -> Result<&'static Entry, Misuse> {
    let text = words::shown(word);
    meant(&text, COMMANDS, &OURS)
}

fn meant<'a>(text: &str, commands: &'a [Entry], ours: &[&str]) -> Result<&'a Entry, Misuse> {
    let begins = |entry: &&Entry| entry.name.starts_with(text);
    let mut theirs = commands.iter().filter(begins).filter(|entry| !ours.contains(&entry.name));
    if let (Some(entry), None) = (theirs.next(), theirs.next()) {
        return Ok(entry);
    }
    let mut found = commands.iter().filter(begins);
    match (found.next(), found.next()) {
        (Some(entry), None) => Ok(entry),
        (None, _) => {
            let near = config::closest(text, commands.iter().map(|entry| entry.name));
            let near = near.map(|near| format!(" (did you mean \"{near}\"?)")).unwrap_or_default();
            Err(Misuse::Unknown(text.to_owned(), near))
        }
        (Some(first), Some(second)) => {
            let names: Vec<&str> = [first, second].into_iter().chain(found).map(|entry| entry.name).collect();
            Err(Misuse::Ambiguous(text.to_owned(), names.join(", ")))
        }
    }
}

/// The operands of a command without options, as many as it has.
fn operands<const N: usize>(arguments: &[OsString]) -> Result<[OsString; N], Wrong> {
    let parsed = getopt::parse("", arguments)?;
    parsed.operands.try_into().map_err(|_| Wrong::Usage)
}

fn one_vm(arguments: &[OsString]) -> Result<VmRef, Wrong> {
    let [word] = operands(arguments)?;
    Ok(words::vm_ref(&word)?)
}

fn order(order: Order, arguments: &[OsString]) -> Result<Command, Wrong> {
    Ok(Command::Order(order, one_vm(arguments)?))
}

fn disk_fail(arguments: &[OsString]) -> Result<Command, Wrong> {
    let [vm, disk, operation, count] = operands(arguments)?;
    let (vm, disk) = (words::vm_ref(&vm)?, disk_index(&disk)?);
    let operation = match operation.to_str() {
        Some("read") => DiskOperation::Read,
        Some("write") => DiskOperation::Write,
        Some("flush") => DiskOperation::Flush,
        _ => {
            let operation = words::shown(&operation);
            return Err(Wrong::Said(format!("invalid disk operation: {operation}; expected read, write or flush")));
        }
    };
    Ok(Command::DiskFail { vm, disk, operation, count: nth("operation count", &count)? })
}

fn flush_stop(arguments: &[OsString]) -> Result<Command, Wrong> {
    let [vm, disk, count] = operands(arguments)?;
    Ok(Command::FlushStop { vm: words::vm_ref(&vm)?, disk: disk_index(&disk)?, count: nth("flush count", &count)? })
}

fn disk_index(word: &OsStr) -> Result<u8, WordError> {
    let last = i64::try_from(MAX_DISKS.saturating_sub(1)).unwrap_or(i64::MAX);
    words::count("disk index", word, 0, last).map(|index| u8::try_from(index).unwrap_or(u8::MAX))
}

fn nth(what: &'static str, word: &OsStr) -> Result<u32, WordError> {
    words::count(what, word, 1, u32::MAX.into()).map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

fn doctor(arguments: &[OsString]) -> Result<Command, Wrong> {
    let parsed = getopt::parse_with("", &["json"], arguments)?;
    if parsed.operands.is_empty() { Ok(Command::Doctor { json: !parsed.words.is_empty() }) } else { Err(Wrong::Usage) }
}

fn help(arguments: &[OsString]) -> Result<Command, Wrong> {
    let parsed = getopt::parse("", arguments)?;
    match parsed.operands.as_slice() {
        [] => Ok(Command::Help(None)),
        [word] => match entry(word) {
            Ok(entry) => Ok(Command::Help(Some(entry.name))),
            Err(misuse) => Err(Wrong::Said(misuse.to_string())),
        },
        _ => Err(Wrong::Usage),
    }
}

fn image(arguments: &[OsString]) -> Result<Command, Wrong> {
    let parsed = getopt::parse_with("r", &["json"], arguments)?;
    let repair = !parsed.options.is_empty();
    if let [what, disk, size] = parsed.operands.as_slice() {
        if what != "resize" || repair || !parsed.words.is_empty() {
            return Err(Wrong::Usage);
        }
        let (size, warning) = words::disk(size)?;
        return Ok(Command::ImageResize { image: Source::as_it_is(disk), size, warning });
    }
    let [what, disk] = <[OsString; 2]>::try_from(parsed.operands).map_err(|_| Wrong::Usage)?;
    let check = match what.to_str() {
        Some("info") if !repair => false,
        Some("check") => true,
        _ => return Err(Wrong::Usage),
    };
    Ok(Command::Image { check, repair, json: !parsed.words.is_empty(), image: Source::as_it_is(&disk) })
}

fn load(arguments: &[OsString]) -> Result<Command, Wrong> {
    let [file] = operands(arguments)?;
    if file.is_empty() {
        return Err(Wrong::Said("load: the file's name is empty".to_owned()));
    }
    Ok(Command::Load(words::path(&file)?))
}

/// `brief` or `verbose`, any beginning of them in any case; the empty word is brief (openbsd/vmctl.md, 3).
fn log(arguments: &[OsString]) -> Result<Command, Wrong> {
    let [word] = operands(arguments)?;
    let word = words::shown(&word).to_ascii_lowercase();
    match word {
        word if "brief".starts_with(&word) => Ok(Command::Log { verbose: false }),
        word if "verbose".starts_with(&word) => Ok(Command::Log { verbose: true }),
        _ => Err(Wrong::Usage),
    }
}

fn cdrom(arguments: &[OsString]) -> Result<Command, Wrong> {
    let parsed = getopt::parse("f", arguments)?;
    let (vm, medium) = match parsed.operands.as_slice() {
        [vm, word] if word == "eject" => (vm, None),
        [vm, word, path] if word == "insert" => (vm, Some(path.clone())),
        _ => return Err(Wrong::Usage),
    };
    Ok(Command::Cdrom { vm: words::vm_ref(vm)?, medium, force: !parsed.options.is_empty() })
}

fn memory(arguments: &[OsString]) -> Result<Command, Wrong> {
    let [vm, size] = operands(arguments)?;
    let (vm, (size, warning)) = (words::vm_ref(&vm)?, words::memory(&size)?);
    Ok(Command::Memory { vm, size, warning })
}

fn receive(arguments: &[OsString]) -> Result<Command, Wrong> {
    let [word] = operands(arguments)?;
    if words::number(&word).is_some() {
        return Err(Wrong::Said(format!("invalid vm name\nvmctl: invalid id: {}", words::shown(&word))));
    }
    Ok(Command::Receive(words::name(&word)?))
}

fn reload(arguments: &[OsString]) -> Result<Command, Wrong> {
    let [] = operands(arguments)?;
    Ok(Command::Reload)
}

fn reset(arguments: &[OsString]) -> Result<Command, Wrong> {
    let parsed = getopt::parse("", arguments)?;
    let word = match parsed.operands.as_slice() {
        [] => "all".to_owned(),
        [word] => words::shown(word).to_ascii_lowercase(),
        _ => return Err(Wrong::Usage),
    };
    match word.as_str() {
        "all" => Ok(Command::Reset { vms: true, switches: true }),
        "vms" => Ok(Command::Reset { vms: true, switches: false }),
        "switches" => Ok(Command::Reset { vms: false, switches: true }),
        _ => Err(Wrong::Usage),
    }
}

fn status(arguments: &[OsString]) -> Result<Command, Wrong> {
    let parsed = getopt::parse_with("r", &["json"], arguments)?;
    let vm = match parsed.operands.as_slice() {
        [] => None,
        [word] => Some(words::vm_ref(word)?).filter(|vm| *vm != VmRef::Id(0)),
        _ => return Err(Wrong::Usage),
    };
    Ok(Command::Status { json: !parsed.words.is_empty(), running: !parsed.options.is_empty(), vm })
}

fn stop(arguments: &[OsString]) -> Result<Command, Wrong> {
    let parsed = getopt::parse("afw", arguments)?;
    let has = |letter| parsed.options.iter().any(|(given, _)| *given == letter);
    let vm = match (parsed.operands.as_slice(), has('a')) {
        ([], true) => None,
        ([word], false) => Some(words::vm_ref(word)?),
        _ => return Err(Wrong::Usage),
    };
    Ok(Command::Stop { vm, force: has('f'), wait: has('w') })
}

#[cfg(test)]
mod tests;
