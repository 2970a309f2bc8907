//! The canonical text of a configuration: what it means, with all defaults, macros, includes and templates resolved.
//! Parsed again, it means the same. VMs stand before switches, since a switch changes the VMs that come after it.

use std::io::Write as _;

use crate::model::{Allow, BootDevice, Config, Disk, Globals, LocalInet6, Nic, Owner, Sev, Switch, Vm, path_bytes};

/// How accounts are written: vm.conf names a group only by its name.
pub trait AccountNames {
    /// The name of a user, if it has one.
    fn user(&self, uid: u32) -> Option<String>;
    /// The name of a group, if it has one.
    fn group(&self, gid: u32) -> Option<String>;
}

/// The text of vm.conf(5) that means `config`. Not always UTF-8: paths need not be.
pub fn canonical(config: &Config, names: &dyn AccountNames) -> Vec<u8> {
    let mut out = Writer { out: Vec::new(), names };
    out.globals(&config.globals);
    config.vms.iter().for_each(|vm| out.vm(vm));
    config.switches.iter().for_each(|switch| out.switch(switch));
    out.out
}

struct Writer<'a> {
    out: Vec<u8>,
    names: &'a dyn AccountNames,
}

impl Writer<'_> {
    /// One line. Writing to memory cannot fail.
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }

    /// One line: a word and a string.
    fn string(&mut self, word: &str, value: &[u8]) {
        let _ = write!(self.out, "{word} ");
        self.out.extend(quoted(value));
        self.out.push(b'\n');
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
        self.owner("socket owner", globals.socket_owner);
        if let Some(agentx) = &globals.agentx {
            self.out.extend(b"agentx");
            let path = agentx.path.as_deref().map(path_bytes);
            for (word, value) in [("context", agentx.context.as_deref()), ("path", path)] {
                if let Some(value) = value {
                    let _ = write!(self.out, " {word} ");
                    self.out.extend(quoted(value));
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
        self.line(if vm.enabled { "\tenable" } else { "\tdisable" });
        self.line(&format!("\tmemory {}\n\tcpus {}", vm.memory.bytes(), vm.cpus));
        let cmdline = vm.cmdline.as_ref().map(|line| line.as_bytes());
        let path = |path: &'_ Option<std::path::PathBuf>| path.as_deref().map(|path| path_bytes(path).to_vec());
        let strings = [
            ("\tboot", path(&vm.boot)),
            ("\tinitrd", path(&vm.initrd)),
            ("\tcmdline", cmdline.map(<[u8]>::to_vec)),
            ("\tcdrom", path(&vm.cdrom)),
        ];
        for (word, value) in strings {
            if let Some(value) = value {
                self.string(word, &value);
            }
        }
        match vm.boot_device {
            Some(BootDevice::Cdrom) => self.line("\tboot device cdrom"),
            Some(BootDevice::Disk) => self.line("\tboot device disk"),
            Some(BootDevice::Net) => self.line("\tboot device net"),
            None => {}
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
    }

    fn allow(&mut self, allow: &Allow) {
        for right in &allow.rights {
            self.line(&format!("\tallow instance {}", right.word()));
        }
        if let Some(owner) = allow.owner {
            self.owner("\tallow instance owner", owner);
        }
    }

    /// By number where that says all, else by name. An account without a name is written by its number all the
    /// same, for a reader to see.
    fn owner(&mut self, word: &str, owner: Owner) {
        let Some(gid) = owner.gid else { return self.line(&format!("{word} {}", owner.uid)) };
        let user = self.names.user(owner.uid).unwrap_or_else(|| owner.uid.to_string());
        let group = self.names.group(gid).unwrap_or_else(|| gid.to_string());
        self.string(word, format!("{user}:{group}").as_bytes());
    }

    fn switch(&mut self, switch: &Switch) {
        self.out.push(b'\n');
        self.out.extend(b"switch ");
        self.out.extend(quoted(switch.name.as_str().as_bytes()));
        self.line(" {");
        self.line(if switch.enabled { "\tenable" } else { "\tdisable" });
        self.string("\tinterface", switch.interface.as_str().as_bytes());
        if switch.locked_lladdr {
            self.line("\tlocked lladdr");
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
        self.out.extend(b"\tdisk ");
        self.out.extend(quoted(path_bytes(&disk.path)));
        let format = if disk.format.named { format!(" format {}", disk.format.kind.word()) } else { String::new() };
        self.line(&format);
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

/// A string as vm.conf reads it: in double quotes, those in it hidden, and a backslash before a blank doubled. A
/// string in quotes cannot end in a backslash, so such an end is written as a word behind them.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    let word = if bytes.ends_with(b"\\") { bytes.iter().rposition(|byte| byte.is_ascii_alphanumeric()) } else { None };
    let (inside, outside) = bytes.split_at_checked(word.unwrap_or(bytes.len())).unwrap_or((bytes, &[]));
    let mut out = vec![b'"'];
    let mut letters = inside.iter().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            b'"' => out.extend(b"\\\""),
            b'\\' if matches!(letters.peek(), Some(b' ' | b'\t')) => out.extend(b"\\\\"),
            other => out.push(*other),
        }
    }
    out.push(b'"');
    if !outside.is_empty() {
        out.push(b' ');
    }
    for letter in outside {
        match letter {
            b'\\' => out.extend(b"\\\\"),
            other => out.push(*other),
        }
    }
    out
}
