//! The probe guest: whether a KVM runs what every stock kernel does first. That /dev/kvm is there says little: some hosts
//! offer a KVM in software that runs guests of a few instructions and fails on the first CMPXCHG16B.
//!
//! `guest.bin` is `guest.s` assembled (a test does so again). It is told from no file, and has no device but the chips that
//! KVM itself gives it.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use boot::layout;
use boot::registers::Registers;
use sys::memory::Pool;
use vm_memory::{Bytes, GuestAddress};

use crate::kvm::{Exit, Host, Vcpu};
use crate::memory::GuestMemory;
use crate::{entry_state, memory};

const GUEST: &[u8] = include_bytes!("probe_guest/guest.bin");
/// Where it is linked to.
const LOAD: u32 = 0x8000;
/// The port that it tells its steps to.
const STEPS: u16 = 0xF4;
/// Its steps, by the words for what works with each.
const WORKS: [&str; 6] = ["instructions", "long mode", "CPUID", "CMPXCHG16B", "vector registers", "timer interrupts"];
/// The first page table; the two below it follow (Intel SDM 3A, 4.5: four levels, and one page of 2 MiB).
const PAGE_TABLES: u64 = 0x1000;
const PRESENT_WRITABLE: u64 = 3;
const LARGE_PAGE: u64 = 0x80;

/// What it needs is done in milliseconds by hardware, and in a second by an emulated machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happened, as the thread that runs the guest tells it.
enum Told {
    Step(u8),
    Ended(String),
}

/// Runs the guest on the KVM of this descriptor. The error says what does not work, and how that was seen. A guest that
/// hangs is left to hang: the caller's process ends soon.
pub fn run(kvm: OwnedFd) -> Result<(), String> {
    let vcpu = prepare(kvm).map_err(|error| error.to_string())?;
    let (teller, told) = mpsc::channel();
    std::thread::spawn(move || turn(vcpu, &teller));
    let mut done = 0;
    loop {
        let lacking = WORKS.get(done).copied().unwrap_or("nothing");
        match told.recv_timeout(PATIENCE) {
            Ok(Told::Step(step)) if usize::from(step) == done.saturating_add(1) => {
                done = usize::from(step);
                if done == WORKS.len() {
                    return Ok(());
                }
            }
            Ok(Told::Step(step)) => return Err(format!("{lacking}: the guest saw a wrong result ({step})")),
            Ok(Told::Ended(why)) => return Err(format!("{lacking}: {why}")),
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("{lacking}: no result within {} s", PATIENCE.as_secs()));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(format!("{lacking}: the vCPU ended")),
        }
    }
}

/// A VM of one vCPU, about to enter the guest. It lives as long as the process.
fn prepare(kvm: OwnedFd) -> Result<Vcpu, crate::Error> {
    let host = Host::new(kvm)?;
    let ram = layout::ram(layout::MIN_MEMORY).map_err(crate::Error::Size)?;
    let object = Pool::SmallPages.take(layout::MIN_MEMORY).map_err(crate::Error::Memory)?;
    let memory = memory::map(&ram, object)?;
    load(&memory).map_err(|error| crate::Error::Memory(std::io::Error::other(error)))?;
    let vm = Box::leak(Box::new(host.make_vm(&memory)?));
    let vcpu = host.make_vcpu(vm, 0, 1)?;
    entry_state::set_first(vcpu.fd(), &Registers::pvh(LOAD))?;
    Ok(vcpu)
}

fn load(memory: &GuestMemory) -> Result<(), vm_memory::GuestMemoryError> {
    memory.write_slice(GUEST, GuestAddress(LOAD.into()))?;
    let [first, second, third] = [PAGE_TABLES, PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000];
    for (table, entry) in [(first, second), (second, third), (third, LARGE_PAGE)] {
        memory.write_obj(entry | PRESENT_WRITABLE, GuestAddress(table))?;
    }
    Ok(())
}

/// Runs the vCPU until it can't go on, or nobody listens.
fn turn(mut vcpu: Vcpu, teller: &Sender<Told>) {
    let nothing = Mutex::new(());
    loop {
        let told = match vcpu.run(&nothing, &|_, _| {}) {
            Exit::Out { port: STEPS, data: [step], .. } => Told::Step(*step),
            Exit::Out { .. } | Exit::Write { .. } | Exit::Interrupted => continue,
            Exit::In { data, .. } | Exit::Read { data, .. } => {
                data.fill(u8::MAX); // nobody answers: the bus floats
                continue;
            }
            Exit::Shutdown => Told::Ended("a triple fault".to_owned()),
            Exit::Failed(why) => Told::Ended(why),
        };
        let ended = matches!(told, Told::Ended(_));
        if teller.send(told).is_err() || ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    #[test]
    fn the_guest_is_what_its_source_says() {
        let folder = tempfile::tempdir().unwrap();
        let object = folder.path().join("guest.o");
        let binary = folder.path().join("guest.bin");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/probe_guest/guest.s");
        let run = |command: &mut Command| assert!(command.status().expect("binutils").success(), "{command:?}");
        // Other versions choose other bytes for the same instructions.
        let version = Command::new("as").arg("--version").output().expect("binutils").stdout;
        if !String::from_utf8_lossy(&version).contains("2.40") {
            return println!("guest.bin is compared with what binutils 2.40 makes, which made it");
        }
        run(Command::new("as").arg("--64").arg(source).arg("-o").arg(&object));
        run(Command::new("ld").args(["-Ttext=0x8000", "--oformat", "binary"]).arg(&object).arg("-o").arg(&binary));
        assert_eq!(std::fs::read(binary).unwrap(), GUEST);
    }

    #[test]
    fn what_is_no_kvm_is_told() {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let said = run(null.into()).unwrap_err();
        assert_eq!(said, "/dev/kvm: is not KVM; load kvm_intel or kvm_amd, which create it");
    }

    #[test]
    #[ignore = "needs a KVM that runs stock kernels"]
    fn a_kvm_that_runs_stock_kernels_runs_the_probe_guest() {
        let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm").unwrap();
        assert_eq!(run(kvm.into()), Ok(()));
    }
}
