//! What a VM is to be, whoever said so: a block of vm.conf, or a client's start request.

use std::ops::Deref;
use std::sync::Arc;

use config::instance::Requester;
use config::register::register;
use config::request::{Refusal, VmRequest};
use model::{Disk, MAX_CPUS, MemorySize, Nic, Text, VmName};
use proto::client::{NicArg, Start};
use proto::{Code, Failure};

use super::Action;
use super::access::Who;
use super::cards::{Card, card_of};
use crate::parent::accounts::names::Names;

/// A VM as defined: what vm.conf or a client said, and what was resolved of that.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// What was said.
    pub vm: Arc<model::Vm>,
    /// What its network cards are here, in their order.
    pub cards: Vec<Card>,
    /// `user[:group]`, as its names are known.
    pub owner_name: Text<80>,
    /// From vm.conf: it stays listed when it stops.
    pub from_config: bool,
    /// The user who made it, and whose rights open its disks; nobody where root did.
    pub user: Option<Who>,
}

impl Definition {
    /// Makes lines of the log that are of it.
    pub fn logger(&self) -> impl Fn(log::Level, String) -> Action + use<> {
        let (name, user) = (self.vm.name.clone(), self.user.as_ref().map(|who| who.uid));
        move |level, text| Action::LogOf(name.clone(), user, level.into(), text)
    }
}

impl Deref for Definition {
    type Target = model::Vm;

    fn deref(&self) -> &model::Vm {
        &self.vm
    }
}

/// What a VM of the model is here, as if from vm.conf; or what of it can't be carried out.
pub fn definition_of(vm: &model::Vm, config: &config::Config, names: &mut dyn Names) -> Result<Definition, Failure> {
    let cards = vm.nics.iter().map(|nic| card_of(nic, config)).collect::<Result<_, _>>()?;
    Ok(Definition {
        vm: Arc::new(vm.clone()),
        cards,
        owner_name: Text::cut(&names.owner(vm.owner)),
        from_config: true,
        user: None,
    })
}

/// The definition that a client's request makes beside these switches (openbsd/vmctl.md, 5), of a template as an instance
/// for who asks; that it may be made was asked before (openbsd/daemon.md, 3.2). Its own limits are checked again, as a client
/// may say anything.
pub fn of_request(
    start: &Start,
    name: &VmName,
    template: Option<(&model::Vm, &Who)>,
    known: &config::Config,
    names: &mut dyn Names,
) -> Result<Definition, Failure> {
    let mut request = request_of(start, name)?;
    let gids = template.map(|(_, who)| who.gids()).unwrap_or_default();
    let mut requester = Requester::ROOT;
    if let Some((template, who)) = template {
        request.vm.template = Some(template.name.clone());
        request.vm.owner = model::Owner { uid: who.uid, gid: None };
        requester = Requester { uid: who.uid, gids: &gids };
    }
    let vm = register(request, template.map(|(template, _)| template), requester, |name| known.switch(name));
    let refused = |why: Refusal| Failure::new(code_of(&why), format!("vm \"{name}\": {why}"));
    let mut vm = vm.map_err(refused)?;
    // A kernel came open with the request, for its first boot alone: its path is of no use afterwards, nor to others.
    vm.boot = vm.boot.filter(|_| start.kernel.is_none());
    if let Some(failure) = obstacle(&vm) {
        return Err(failure); // it would be forgotten right away
    }
    let user = template.map(|(_, who)| who.clone()).filter(|who| !who.is_root());
    Ok(Definition { from_config: false, user, ..definition_of(&vm, known, names)? })
}

/// A request in the words of vm.conf; what to boot from is for that boot alone, and no part of the definition.
fn request_of(start: &Start, name: &VmName) -> Result<VmRequest, Failure> {
    let nic = |nic: &NicArg| match nic {
        NicArg::Plain => Nic::default(),
        NicArg::Local => Nic { local: true, ..Nic::default() },
        NicArg::Switch(name) => Nic { switch: Some(name.clone()), ..Nic::default() },
    };
    let vm = model::Vm {
        enabled: false,
        boot: start.kernel.clone(),
        cdrom: start.cdrom.clone(),
        disks: start.disks.iter().map(|disk| Disk::new(disk.path.clone(), disk.format)).collect(),
        nics: start.nics.iter().map(nic).collect(),
        ..model::Vm::new(name.clone())
    };
    Ok(VmRequest {
        vm,
        memory: start.memory.map(checked_memory).transpose()?,
        cpus: start.cpus.map(checked_cpus).transpose()?,
        least_nics: 0,
    })
}

/// The kind of a refusal (openbsd/daemon.md, 3.2; the odd codes of the original mended).
fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::TemplateUnknown(_) => Code::ParentInvalid,
        Refusal::MayNotCreate
        | Refusal::MayNotSet(_)
        | Refusal::NetworkForeign
        | Refusal::UserMismatch
        | Refusal::GroupMismatch
        | Refusal::MayNotAllow => Code::NotPermitted,
        Refusal::DiskReused(_) | Refusal::LladdrReused | Refusal::TapReused => Code::Busy,
        Refusal::NoDevices => Code::DiskMissing,
        Refusal::Balloon(..) | Refusal::NothingToBoot | Refusal::TooManyDisks(_) | Refusal::TooManyInterfaces(_) => {
            Code::Invalid
        }
    }
}

fn checked_memory(asked: MemorySize) -> Result<MemorySize, Failure> {
    if asked < MemorySize::LEAST_BOOTABLE {
        return Err(Failure::new(Code::Invalid, format!("memory of {} MiB is not between 64M and 128G", asked.mib())));
    }
    Ok(asked)
}

/// The CPU count of a request.
pub fn checked_cpus(asked: u8) -> Result<u8, Failure> {
    match asked {
        1..=MAX_CPUS => Ok(asked),
        other => Err(Failure::new(Code::Invalid, format!("{other} cpus are not between 1 and {MAX_CPUS}"))),
    }
}

/// The word for what this release does not do.
pub fn unsupported(what: &str) -> Failure {
    Failure::new(Code::Unsupported, format!("{what} is not supported by this release"))
}

/// What keeps a VM from starting, whoever asks: this release does not carry it out, or no kernel fits. The original's
/// definition stands too where the host lacks what it asks for.
pub fn obstacle(vm: &model::Vm) -> Option<Failure> {
    if vm.sev.is_some() {
        return Some(unsupported("memory encryption"));
    }
    let small = || format!("memory of {} MiB is less than the 64 MiB that a kernel needs", vm.memory.mib());
    (vm.memory < MemorySize::LEAST_BOOTABLE).then(|| Failure::new(Code::Invalid, small()))
}

#[cfg(test)]
mod tests {
    use model::{BootDevice, Owner, UserPath};
    use proto::client::DiskArg;

    use super::*;

    #[test]
    fn a_client_asks_for_memory_and_cpus_within_their_bounds() {
        let memory = |mib: i64| checked_memory(MemorySize::from_bytes(mib << 20).unwrap()).map(MemorySize::mib);
        assert_eq!((memory(64), memory(100)), (Ok(64), Ok(100)));
        let refused = memory(63).unwrap_err();
        assert_eq!(refused.text.as_str(), "memory of 63 MiB is not between 64M and 128G");
        assert!(checked_cpus(0).is_err() && checked_cpus(65).is_err() && checked_cpus(64).is_ok());
    }

    struct Nobody;

    impl Names for Nobody {
        fn owner(&mut self, _: Owner) -> String {
            String::new()
        }
    }

    #[test]
    fn a_vm_that_a_client_defines_starts_with_no_daemon_and_boots_from_a_device_once() {
        let start = Start {
            vm: proto::client::VmRef::Id(1),
            instance_of: None,
            memory: None,
            cpus: None,
            kernel: None,
            disks: model::List::try_from(vec![DiskArg { path: UserPath::new("/d").unwrap(), format: None }]).unwrap(),
            cdrom: None,
            nics: model::List::default(),
            boot_device: Some(BootDevice::Net),
        };
        let name = VmName::new("new").unwrap();
        let made = of_request(&start, &name, None, &config::Config::default(), &mut Nobody).unwrap();
        assert_eq!((made.enabled, made.boot_device, made.from_config), (false, None, false));
    }
}
