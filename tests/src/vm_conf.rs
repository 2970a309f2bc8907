//! A `vm` block of vm.conf for a test's guest, option by option.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use testkit::artefacts::{self, Kernel};

/// The kernel's arguments: notices and worse on the console, so that the banner is seen and little else is waited for.
const CMDLINE: &str = "console=ttyS0 loglevel=6 panic=-1";

/// One VM, not started with the daemon.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// What it boots.
    pub kernel: PathBuf,
    /// Its RAM disk.
    pub initrd: PathBuf,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Memory, as vm.conf has it.
    pub memory: String,
    /// Raw disks.
    pub disks: Vec<PathBuf>,
    /// Switch and address of each network card.
    pub cards: Vec<(String, String)>,
    /// Further arguments of the kernel.
    pub arguments: String,
    /// Further options.
    pub options: Vec<String>,
}

impl Vm {
    /// A guest with one vCPU, 256 MiB and no device.
    pub fn new(name: &str, kernel: Kernel) -> Self {
        Self {
            name: name.to_owned(),
            kernel: artefacts::kernel(kernel),
            initrd: artefacts::initrd(),
            vcpus: 1,
            memory: "256M".to_owned(),
            disks: Vec::new(),
            cards: Vec::new(),
            arguments: String::new(),
            options: Vec::new(),
        }
    }

    /// With these processors and this memory.
    #[must_use]
    pub fn size(mut self, vcpus: u32, memory: &str) -> Self {
        self.vcpus = vcpus;
        memory.clone_into(&mut self.memory);
        self
    }

    /// With one more disk.
    #[must_use]
    pub fn disk(mut self, image: &Path) -> Self {
        self.disks.push(image.to_path_buf());
        self
    }

    /// With one more network card, on a switch.
    #[must_use]
    pub fn card(mut self, switch: &str, lladdr: &str) -> Self {
        self.cards.push((switch.to_owned(), lladdr.to_owned()));
        self
    }

    /// With further arguments for the kernel.
    #[must_use]
    pub fn arguments(mut self, words: &str) -> Self {
        words.clone_into(&mut self.arguments);
        self
    }

    /// With one more option, as vm.conf has it.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// The block as text.
    pub fn text(&self) -> String {
        let mut text = format!("vm \"{}\" {{\n\tdisable\n\tmemory {}\n", self.name, self.memory);
        let mut option = |line: String| writeln!(text, "\t{line}").expect("a string can be written to");
        option(format!("cpus {}", self.vcpus));
        option(format!("boot \"{}\"", self.kernel.display()));
        option(format!("initrd \"{}\"", self.initrd.display()));
        option(format!("cmdline \"{CMDLINE} {}\"", self.arguments));
        for given in &self.options {
            option(given.clone());
        }
        for disk in &self.disks {
            option(format!("disk \"{}\" format raw", disk.display()));
        }
        for (switch, lladdr) in &self.cards {
            option(format!("interface {{ switch \"{switch}\" lladdr {lladdr} }}"));
        }
        text.push_str("}\n");
        text
    }
}

/// A `switch` block.
pub fn switch(name: &str, bridge: &str) -> String {
    format!("switch \"{name}\" {{\n\tinterface {bridge}\n}}\n")
}
