//! The canonical text of a configuration: what it means, with all defaults, macros, includes and templates resolved.
//! Parsed again, it means the same; what vm.conf has no words for is refused. VMs stand before switches.

use std::io::Write as _;

use model::{Allow, Disk, Nic, Owner, Sev, Switch, Vm};

use crate::globals::{Config, Globals, LocalInet6};

/// How accounts are written: vm.conf names a group only by its name.
pub trait AccountNames {
    /// The name of a user, if it has one.
    fn user(&self, uid: u32) -> Option<String>;
    /// The name of a group, if it has one.
    fn group(&self, gid: u32) -> Option<String>;
}

/// Why a configuration has no canonical text: written down, it would mean something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// A string that no file can hold. Only a file that a link leads to can have such a name.
    #[error("{option} {value:?}: a string in vm.conf can't contain a newline or NUL; rename the file")]
    Newline {
        /// The option, and which VM it belongs to.
        option: String,
        /// What it was to say.
        value: String,
    },
    /// An owner of which only a number is known, where vm.conf takes a name.
    #[error("{option} {owner}: vm.conf takes user and group by name, and {account} has none")]
    Nameless {
        /// The option, and which VM it belongs to.
        option: String,
        /// Who it was to name.
        owner: String,
        /// The account that has no name.
        account: String,
    },
}

/// The text of vm.conf(5) that means `config`, or the first of its values that no text can express.
pub fn canonical(config: &Config, names: &dyn AccountNames) -> Result<Vec<u8>, Unwritable> {
    let mut out = Writer { out: Vec::new(), names, of: String::new(), refused: None };
    out.globals(&config.globals);
    config.vms.iter().for_each(|vm| out.vm(vm));
    config.switches.iter().for_each(|switch| out.switch(switch));
    out.refused.map_or(Ok(out.out), Err)
}

struct Writer<'a> {
    out: Vec<u8>,
    names: &'a dyn AccountNames,
    /// The VM that is being written, for messages.
    of: String,
    refused: Option<Unwritable>,
}

impl Writer<'_> {
    /// One line. Writing to memory cannot fail.
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }

    /// One line: a word and a string.
    fn string(&mut self, word: &str, value: &[u8]) {
        self.word(word, value);
        self.out.push(b'\n');
    }

    /// A word and a string.
    fn word(&mut self, word: &str, value: &[u8]) {
        if value.iter().any(|byte| matches!(byte, b'\n' | 0)) {
            let value = String::from_utf8_lossy(value).into_owned();
            let option = self.option(word);
            self.refused.get_or_insert(Unwritable::Newline { option, value });
        }
        let _ = write!(self.out, "{word} ");
        self.out.extend(quoted(value));
    }

    /// How messages call an option.
    fn option(&self, word: &str) -> String {
        format!("{}{}", self.of, word.trim_start())
    }

    fn globals(&mut self, globals: &Globals) {
        self.line(&format!("local prefix \"{}\"", globals.local_prefix));
        match globals.local_inet6 {
            Some(LocalInet6::Random) => self.line("local inet6"),
            Some(LocalInet6::Prefix(prefix)) => self.line(&format!("local inet6 prefix \"{prefix}\"")),
            None => {}
        }
        if !globals.local_nat {
            self.line("local nat no");
        }
        // Its group is 0 where none is said.
        let gid = globals.socket_owner.gid.filter(|gid| *gid != 0);
        self.owner("socket owner", Owner { gid, ..globals.socket_owner });
        if let Some(agentx) = &globals.agentx {
            self.out.extend(b"agentx");
            let path = agentx.path.as_deref().map(str::as_bytes);
            for (word, value) in [(" context", agentx.context.as_deref()), (" path", path)] {
                if let Some(value) = value {
                    self.word(word, value);
                }
            }
            self.out.push(b'\n');
        }
        if let Some(start) = globals.staggered {
            self.line(&format!("staggered start parallel {} delay {}", start.parallel, start.delay_s));
        }
    }

    fn vm(&mut self, vm: &Vm) {
        self.line(&format!("\nvm \"{}\" {{", vm.name));
        self.of = format!("vm \"{}\": ", vm.name);
        self.line(if vm.enabled { "\tenable" } else { "\tdisable" });
        self.line(&format!("\tmemory {}\n\tcpus {}", vm.memory.bytes(), vm.cpus));
        for (word, value) in vm.texts() {
            if let Some(value) = value {
                self.string(&format!("\t{word}"), value.as_bytes());
            }
        }
        if let Some(least) = vm.balloon {
            self.line(&format!("\tballoon {}", least.bytes()));
        }
        if vm.vmmci {
            self.line("\tvmmci");
        }
        if let Some(restarts) = vm.device_restarts {
            self.line(&format!("\tdevice restarts {restarts}"));
        }
        if let Some(device) = vm.boot_device {
            self.line(&format!("\tboot device {}", device.word()));
        }
        vm.disks.iter().for_each(|disk| self.disk(disk));
        vm.nics.iter().for_each(|nic| self.nic(nic));
        self.owner("\towner", vm.owner);
        self.allow(&vm.allow);
        match vm.sev {
            Some(Sev::Memory) => self.line("\tsev"),
            Some(Sev::State) => self.line("\tseves"),
            None => {}
        }
        self.line("}");
        self.of.clear();
    }

    fn allow(&mut self, allow: &Allow) {
        for right in &allow.rights {
            self.line(&format!("\tallow instance {}", right.word()));
        }
        if let Some(owner) = allow.owner {
            self.owner("\tallow instance owner", owner);
        }
    }

    /// By number where that says all, else by name; root is whom nothing names.
    fn owner(&mut self, word: &str, owner: Owner) {
        let Some(gid) = owner.gid else { return self.line(&format!("{word} {}", owner.uid)) };
        let user = self.names.user(owner.uid).filter(|user| !user.is_empty() && !user.contains(':'));
        let user = if owner.uid == 0 { Some(String::new()) } else { user };
        let group = self.names.group(gid).filter(|group| !group.is_empty());
        let (user, group) = match (user, group) {
            (Some(user), Some(group)) => (user, group),
            (user, _) => {
                let account = if user.is_some() { format!("group {gid}") } else { format!("user {}", owner.uid) };
                let option = self.option(word);
                let owner = format!("{}:{gid}", owner.uid);
                self.refused.get_or_insert(Unwritable::Nameless { option, owner, account });
                return;
            }
        };
        self.string(word, format!("{user}:{group}").as_bytes());
    }

    fn switch(&mut self, switch: &Switch) {
        self.out.push(b'\n');
        self.word("switch", switch.name.as_str().as_bytes());
        self.line(" {");
        self.line(if switch.enabled { "\tenable" } else { "\tdisable" });
        self.string("\tinterface", switch.interface.as_str().as_bytes());
        if switch.locked_lladdr {
            self.line("\tlocked lladdr");
        }
        if switch.guarded {
            self.line("\tguarded");
        }
        if switch.isolated {
            self.line("\tisolated");
        }
        if switch.external {
            self.line("\texternal");
        }
        if let Some(group) = &switch.group {
            self.string("\tgroup", group.name.as_str().as_bytes());
        }
        if let Some(rdomain) = switch.rdomain {
            self.line(&format!("\trdomain {rdomain}"));
        }
        self.line(if switch.up { "\tup\n}" } else { "\tdown\n}" });
    }

    /// A format that was only guessed from the extension is left to be guessed again.
    fn disk(&mut self, disk: &Disk) {
        self.word("\tdisk", disk.path.as_bytes());
        let format = if disk.format.named { format!(" format {}", disk.format.kind.word()) } else { String::new() };
        let limits: Vec<String> = disk.limits.words().collect();
        let options = if limits.is_empty() { String::new() } else { format!(" {{ {} }}", limits.join(" ")) };
        self.line(&format!("{format}{options}"));
    }

    fn nic(&mut self, nic: &Nic) {
        let local = if nic.local { "local " } else { "" };
        let tap = nic.tap.as_ref().map_or("tap", |tap| tap.as_str());
        self.line(&format!("\t{local}interface {tap} {{"));
        if let Some(switch) = &nic.switch {
            self.string("\t\tswitch", switch.as_str().as_bytes());
        }
        if let Some(group) = &nic.group {
            self.string("\t\tgroup", group.name.as_str().as_bytes());
        }
        let locked = if nic.locked { "locked " } else { "" };
        match nic.lladdr {
            Some(address) => self.line(&format!("\t\t{locked}lladdr {address}")),
            None if nic.locked => self.line("\t\tlocked lladdr"),
            None => {}
        }
        if let Some(rdomain) = nic.rdomain {
            self.line(&format!("\t\trdomain {rdomain}"));
        }
        self.line(if nic.up { "\t\tup\n\t}" } else { "\t\tdown\n\t}" });
    }
}

/// A string as vm.conf reads it: in double quotes, those in it hidden, and a backslash before a blank doubled. One at
/// the end would hide the quote, so the end of a line is put between them, which vanishes with a backslash of its
/// own.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![b'"'];
    let mut letters = bytes.iter().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek()) {
            (b'"', _) => out.extend(b"\\\""),
            (b'\\', Some(b' ' | b'\t')) => out.extend(b"\\\\"),
            (b'\\', None) => out.extend(b"\\\\\n"),
            (other, _) => out.push(*other),
        }
    }
    out.push(b'"');
    out
}
