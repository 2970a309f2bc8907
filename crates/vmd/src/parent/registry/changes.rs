//! What a vm.conf that was read again says otherwise of a VM that runs: it stays as it was until it has stopped.

use model::{Disk, MemorySize, Vm as Model};

use super::definition::Definition;
use super::life::{Life, Vm};
use super::{Action, Registry};

impl Registry {
    /// A VM that runs is what the file says from its next start on, be that another or the same: with a number of its own
    /// again, if a reset has made its old one free.
    pub(super) fn run_later(vm: &mut Vm, definition: Definition) {
        vm.next = Some(Box::new(definition));
    }

    /// What is said of a VM that runs and is to be another, for people.
    pub(super) fn word_of_next(vm: &Vm) -> Option<String> {
        let words = changes(&vm.definition, vm.next.as_ref()?);
        (!words.is_empty()).then(|| format!("{} after the next start", words.join(", ")))
    }

    /// A VM that has stopped is what the file said when it was last read; with another owner it has another number.
    pub(super) fn become_next(&mut self, id: proto::VmId, out: &mut Vec<Action>) {
        let Some(at) = self.vms.iter().position(|vm| vm.id == id) else { return };
        let Some(next) = self.vms.get_mut(at).and_then(|vm| vm.next.take()) else { return };
        let old = self.vms.remove(at);
        match self.claim(next.name.as_str(), next.owner.uid) {
            Ok(id) => self.vms.insert(at, Vm { rate: old.rate, ..Vm::new(id, self.host, *next, Life::Stopped) }),
            Err(failure) => {
                out.push(old.definition.logger()(log::Level::Error, format!("{failure}; it stays as it was")));
                self.vms.insert(at, old);
            }
        }
    }
}

/// In the words of vm.conf. Whether it starts with the daemon is no change of a VM that runs.
fn changes(now: &Definition, next: &Definition) -> Vec<String> {
    let (before, after): (&Model, &Model) = (&now.vm, &next.vm);
    let mut words = Vec::new();
    let mut word = |differs: bool, text: String| words.extend(differs.then_some(text));
    word(before.memory != after.memory, format!("memory {}", size(after.memory)));
    word(before.cpus != after.cpus, format!("cpus {}", after.cpus));
    for ((name, before), (_, after)) in before.texts().into_iter().zip(after.texts()) {
        let text = after.map_or_else(|| format!("no {name}"), |text| format!("{name} \"{text}\""));
        word(before != after, text);
    }
    let device =
        after.boot_device.map_or_else(|| "no boot device".to_owned(), |of| format!("boot device {}", of.word()));
    word(before.boot_device != after.boot_device, device);
    let disks: Vec<String> = after.disks.iter().map(disk).collect();
    let disks = if disks.is_empty() { "no disk".to_owned() } else { disks.join(", ") };
    word(before.disks != after.disks, disks);
    let interfaces = match (before.nics.len(), after.nics.len()) {
        (some, others) if some == others => "its interfaces as the file says now".to_owned(),
        (_, others) => format!("interfaces {others}"),
    };
    word((&before.nics, &now.cards) != (&after.nics, &next.cards), interfaces);
    let owner = next.owner_name.to_string();
    word(before.owner != after.owner, format!("owner {owner}"));
    word(before.allow != after.allow, "what instances may set as the file says now".to_owned());
    word(before.sev != after.sev, "memory encryption as the file says now".to_owned());
    let balloon = after.balloon.map_or_else(|| "no balloon".to_owned(), |least| format!("balloon {}", size(least)));
    word(before.balloon != after.balloon, balloon);
    let restarts = after.device_restarts.unwrap_or(model::DEVICE_RESTARTS);
    word(before.device_restarts != after.device_restarts, format!("device restarts {restarts}"));
    word(before.vmmci != after.vmmci, if after.vmmci { "vmmci" } else { "no vmmci" }.to_owned());
    words
}

fn disk(disk: &Disk) -> String {
    let limits: Vec<String> = disk.limits.words().collect();
    let options = if limits.is_empty() { String::new() } else { format!(" {{ {} }}", limits.join(" ")) };
    format!("disk \"{}\"{options}", disk.path)
}

fn size(memory: MemorySize) -> String {
    format!("{}M", memory.mib())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{BootDevice, DiskLimits, Nic, Rate, Sev, VmName};

    use super::*;

    fn of(change: impl FnOnce(&mut Model)) -> Vec<String> {
        let define = |vm: Model| Definition {
            vm: Arc::new(vm),
            cards: vec![],
            owner_name: model::Text::cut("ann"),
            from_config: true,
            user: None,
        };
        let plain = Model { initrd: Some(path("/i")), ..Model::new(VmName::new("web").expect("a name")) };
        let mut other = plain.clone();
        change(&mut other);
        changes(&define(plain), &define(other))
    }

    fn path(text: &str) -> model::UserPath {
        model::UserPath::cut(text)
    }

    #[test]
    fn each_thing_that_a_block_says_is_told_when_it_differs() {
        assert_eq!(of(|_| ()), [""; 0]);
        assert_eq!(of(|vm| vm.enabled = false), [""; 0]);
        let two = |vm: &mut Model| (vm.memory, vm.cpus) = (MemorySize::LEAST_BOOTABLE, 2);
        assert_eq!(of(two), ["memory 64M", "cpus 2"]);
        assert_eq!(of(|vm| vm.boot = Some(path("/k"))), ["boot \"/k\""]);
        assert_eq!(of(|vm| vm.initrd = None), ["no initrd"]);
        assert_eq!(of(|vm| vm.boot_device = Some(BootDevice::Net)), ["boot device net"]);
        let disk = |name| Disk::new(path(name), None);
        assert_eq!(of(|vm| vm.disks = vec![disk("/a"), disk("/b")]), ["disk \"/a\", disk \"/b\""]);
        let limits = DiskLimits { iops: Rate::new(100, 200), bandwidth: None };
        let limited = |vm: &mut Model| vm.disks = vec![Disk { limits, ..disk("/a") }, disk("/b")];
        assert_eq!(of(limited), ["disk \"/a\" { iops 100 burst 200 }, disk \"/b\""]);
        assert_eq!(of(|vm| vm.nics = vec![Nic::default(); 2]), ["interfaces 2"]);
        assert_eq!(of(|vm| vm.owner.uid = 1000), ["owner ann"]);
        assert_eq!(of(|vm| vm.vmmci = true), ["vmmci"]);
        assert_eq!(of(|vm| vm.device_restarts = Some(0)), ["device restarts 0"]);
        assert_eq!(of(|vm| vm.balloon = Some(vm.memory)), ["balloon 512M"]);
        assert_eq!(of(|vm| vm.sev = Some(Sev::Memory)), ["memory encryption as the file says now"]);
        let allowed = of(|vm| vm.allow.owner = Some(model::Owner::default()));
        assert_eq!(allowed, ["what instances may set as the file says now"]);
    }
}
