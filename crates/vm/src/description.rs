//! What vmm says before the VM exists: the description, its devices one by one, `Begin`. Nothing is made before the last.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use boot::Entry;
use proto::device::Front;
use proto::vm::{Description, ToVm, ToVmm};
use proto::{Channel, Received};

use crate::error::Error;

/// How long vmm may take for its next message: it has all of them ready, so a silent one is broken.
const MAX_SILENCE: Duration = Duration::from_secs(30);

/// A whole VM, as vmm described it.
#[derive(Debug)]
pub struct Plan {
    /// Sizes and names.
    pub description: Description,
    /// /dev/kvm.
    pub kvm: OwnedFd,
    /// Master of the console's pty.
    pub console: OwnedFd,
    /// Guest memory, all zeros.
    pub memory: OwnedFd,
    /// What the guest is entered by.
    pub entry: Entry<File>,
    /// Devices with a process of their own, in the order in which the guest sees them.
    pub devices: Vec<Device>,
}

/// A device with a process of its own.
#[derive(Debug)]
pub struct Device {
    /// What the guest sees of it.
    pub front: Front,
    /// The front end's side of its vhost-user socket.
    pub socket: OwnedFd,
}

/// How far the description has come.
#[derive(Debug)]
enum Progress {
    Nothing,
    Described(Plan),
    Whole(Plan),
}

/// Receives a whole description, waiting for each message.
pub fn receive(channel: &mut Channel<ToVmm, ToVm>) -> Result<Plan, Error> {
    let mut progress = Progress::Nothing;
    loop {
        let (message, fds) = match channel.recv_within(MAX_SILENCE) {
            Ok(Received::Message(message, fds)) => (message, fds),
            Ok(Received::Empty | Received::Closed) => return Err(Error::Description("it has ended".into())),
            Err(error) => return Err(Error::Description(error.to_string())),
        };
        progress = progress.take(message, fds)?;
        if let Progress::Whole(plan) = progress {
            return Ok(plan);
        }
    }
}

impl Progress {
    /// Takes the next message, whose descriptors are as many as it says.
    fn take(self, message: ToVm, fds: Vec<OwnedFd>) -> Result<Self, Error> {
        match (self, message) {
            (Self::Nothing, ToVm::Describe(description)) => Self::described(*description, fds),
            (Self::Described(mut plan), ToVm::Device { device, front }) => {
                if plan.devices.len() >= usize::from(plan.description.devices) {
                    return Err(Error::Description("more devices than described".into()));
                }
                if plan.devices.len() != usize::from(device) {
                    return Err(Error::Description(format!("device {device} out of turn")));
                }
                plan.devices.extend(fds.into_iter().map(|socket| Device { front, socket }));
                Ok(Self::Described(plan))
            }
            (Self::Described(plan), ToVm::Begin) => match usize::from(plan.description.devices) {
                want if want == plan.devices.len() => Ok(Self::Whole(plan)),
                want => Err(Error::Description(format!("{} devices instead of {want}", plan.devices.len()))),
            },
            (progress, ToVm::Verbose { debug }) => {
                crate::set_debug(debug);
                Ok(progress)
            }
            (_, ToVm::Describe(_)) => Err(Error::Description("a second description".into())),
            (_, ToVm::Device { .. }) => {
                Err(Error::Description("a device before the description, or after the last".into()))
            }
            (_, ToVm::Begin) => Err(Error::Description("the start before the description, or twice".into())),
            (_, ToVm::AskToStop | ToVm::Order(..) | ToVm::ConfigChanged { .. }) => {
                Err(Error::Description("an order before the start".into()))
            }
        }
    }

    fn described(description: Description, fds: Vec<OwnedFd>) -> Result<Self, Error> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next();
        let (Some(kvm), Some(console), Some(memory), Some(kernel)) = (next(), next(), next(), next()) else {
            return Err(Error::Description("descriptors are missing".into()));
        };
        let (kernel, initrd) = (File::from(kernel), fds.next().map(File::from));
        let command_line = description.cmdline.as_str().into();
        let entry = Entry::Kernel { kernel, initrd, command_line };
        Ok(Self::Described(Plan { description, kvm, console, memory, entry, devices: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{CommandLine, MemorySize, VmName};
    use proto::client::Order;
    use proto::probe::KernelKind;

    fn description(devices: u8, initrd: bool) -> ToVm {
        ToVm::Describe(Box::new(Description {
            name: VmName::new("web").unwrap(),
            memory: MemorySize::LEAST_BOOTABLE,
            cpus: 1,
            kernel: KernelKind::Pvh,
            cmdline: CommandLine::default(),
            initrd,
            vmmci: false,
            devices,
            debug: false,
        }))
    }

    fn fds(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect()
    }

    fn device(device: u8) -> ToVm {
        ToVm::Device { device, front: Front { virtio_id: 2, queues: 1, queue_size: 256, config_len: 60 } }
    }

    fn take(messages: Vec<(ToVm, usize)>) -> Result<Progress, Error> {
        messages
            .into_iter()
            .try_fold(Progress::Nothing, |progress, (message, count)| progress.take(message, fds(count)))
    }

    #[test]
    fn description_devices_and_begin_make_a_plan() {
        let plan = take(vec![(description(2, true), 5), (device(0), 1), (device(1), 1), (ToVm::Begin, 0)]);
        let Ok(Progress::Whole(plan)) = plan else { panic!("{plan:?}") };
        let Entry::Kernel { initrd, .. } = plan.entry;
        assert_eq!((plan.devices.len(), initrd.is_some()), (2, true));
    }

    #[test]
    fn a_vm_without_initrd_has_none() {
        let Ok(Progress::Whole(plan)) = take(vec![(description(0, false), 4), (ToVm::Begin, 0)]) else { panic!() };
        assert!(matches!(plan.entry, Entry::Kernel { initrd: None, .. }));
    }

    #[test]
    fn nothing_but_a_description_comes_first() {
        for message in [ToVm::Begin, device(0), ToVm::AskToStop, ToVm::Order(Order::Pause)] {
            assert!(take(vec![(message, 1)]).is_err());
        }
        assert!(take(vec![(description(0, false), 4), (description(0, false), 4)]).is_err());
    }

    #[test]
    fn the_number_of_devices_is_as_described() {
        assert!(take(vec![(description(1, false), 4), (ToVm::Begin, 0)]).is_err());
        assert!(take(vec![(description(1, false), 4), (device(0), 1), (device(1), 1)]).is_err());
    }

    #[test]
    fn devices_come_in_order() {
        for (first, second, taken) in [(0, 1, true), (0, 0, false), (1, 0, false)] {
            let devices = vec![(description(2, false), 4), (device(first), 1), (device(second), 1)];
            assert_eq!(take(devices).is_ok(), taken, "{first}, {second}");
        }
    }

    #[test]
    fn a_vmm_of_another_version_is_told_by_both_numbers() {
        let (vmm, vm) = sys::seqpacket::pair().unwrap();
        sys::seqpacket::send(std::os::fd::AsFd::as_fd(&vmm), &[0xFF; 40], &[]).unwrap();
        let Err(Error::Description(why)) = receive(&mut Channel::new(vm)) else { panic!("it was taken") };
        let ours = proto::VERSION_OF_A_VM;
        assert_eq!(
            why,
            format!("the peer speaks version {} of this conversation, and this process version {ours}", u32::MAX)
        );
    }

    #[test]
    fn vmm_that_ends_in_between_is_an_error() {
        let (mut vmm, mut vm) = proto::channel::pair::<ToVm, ToVmm>().unwrap();
        vmm.send(&description(0, false), fds(4)).unwrap();
        drop(vmm);
        assert!(matches!(receive(&mut vm), Err(Error::Description(_))));
    }
}
