//! Whether KVM runs guests here, and what is lacking where it does not: kernel, processor, driver, device, rights, and the
//! probe guest, which alone proves it.

use proto::doctor;

use super::{Judged, fault, has_driver, hidden, known, module_of, note, ok, other_device, rights, unknown, warning};
use crate::doctor::ask::KVM;
use crate::doctor::host::{Cpu, Host, Module, Ran, Unseen};

/// The oldest kernel with all that vmd calls: epoll_pwait2 (README).
const OLDEST: (u32, u32) = (5, 11);

/// Version and machine.
pub fn kernel(host: &Host) -> Judged {
    let seen = format!("Linux {} on {}", host.release, host.machine);
    if host.machine != "x86_64" {
        return fault(seen, "use an x86-64 host: vmd runs on no other");
    }
    let mut numbers = host.release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => ok(seen),
        (Some(Ok(_)), Some(Ok(_))) => fault(seen, format!("boot a kernel from {}.{} on", OLDEST.0, OLDEST.1)),
        _ => note(seen, format!("its number can't be read: it must be {}.{} or later", OLDEST.0, OLDEST.1)),
    }
}

/// Whether the processor shows that it can run guests. Some KVMs do without.
pub fn cpu(host: &Host) -> Judged {
    let cpu = known(host, "/proc/cpuinfo", &host.cpu)?;
    let guest = if cpu.is_guest { ", itself a guest" } else { "" };
    if let Some(flag) = cpu.virtualization {
        return ok(format!("{} with {flag}{guest}", cpu.vendor));
    }
    let seen = format!("{} with neither vmx nor svm{guest}", cpu.vendor);
    let advice = if cpu.is_guest {
        "have this machine's own hypervisor give it nested virtualization"
    } else {
        "switch virtualization (VT-x, AMD-V or SVM) on in the firmware's setup"
    };
    match has_driver(host, "kvm") {
        Some(true) => note(format!("{seen}: a KVM that is there works in software"), advice),
        Some(false) | None => fault(seen, advice),
    }
}

/// The driver behind /dev/kvm.
pub fn module(host: &Host) -> Judged {
    let module = wanted(host.cpu.as_ref().ok());
    let present: Vec<&str> =
        ["kvm_intel", "kvm_amd"].into_iter().filter(|name| module_of(host, name) == Module::Present).collect();
    let by = if present.is_empty() { String::new() } else { format!(" ({})", present.join(", ")) };
    if known(host, "/proc/misc", &host.drivers)?.iter().any(|driver| driver == "kvm") {
        return ok(format!("the kernel has kvm{by}"));
    }
    let seen = "the kernel has no driver kvm";
    match module_of(host, module) {
        Module::Loadable => fault(format!("{seen} yet"), format!("\"modprobe {module}\"; dmesg says why if it fails")),
        Module::Present | Module::BuiltIn => fault(
            format!("{seen}, though {module} is there"),
            "switch virtualization on in the firmware's setup; dmesg says what KVM lacks",
        ),
        Module::Absent => fault(format!("{seen} and no module {module}"), "install a kernel with CONFIG_KVM"),
        Module::Unknown => {
            fault(seen, format!("\"modprobe {module}\", or a kernel with CONFIG_KVM; a container needs its host's"))
        }
    }
}

/// The module for this processor.
fn wanted(cpu: Option<&Cpu>) -> &'static str {
    match cpu {
        Some(cpu) if cpu.virtualization == Some("svm") || cpu.vendor.contains("AMD") => "kvm_amd",
        _ => "kvm_intel",
    }
}

/// The file /dev/kvm.
pub fn device(host: &Host) -> Judged {
    let make = "\"mknod /dev/kvm c 10 232\", or restart udev; a container must be given the device";
    match &host.kvm {
        Err(Unseen::Missing) if has_driver(host, "kvm") == Some(true) => {
            fault("/dev/kvm: not there, though the kernel has kvm", make)
        }
        Err(Unseen::Missing) => fault("/dev/kvm: not there", "load KVM (see kvm-module); udev then makes it"),
        Err(unseen) => unknown(host, "/dev/kvm", unseen),
        Ok(node) => match other_device(node, KVM) {
            Some(wrong) => fault(format!("/dev/kvm: {wrong}"), format!("remove it, then {make}")),
            None => ok(format!("/dev/kvm: device 10:232, {}", rights(node))),
        },
    }
}

/// Whether the caller can open it. vmd does so as root, so a user's own rights decide nothing.
pub fn access(host: &Host) -> Judged {
    let name = &host.caller.name;
    let Some(node) = host.kvm.as_ref().ok().filter(|node| other_device(node, KVM).is_none()) else {
        return note("not tried", "see kvm-device");
    };
    let is_root = host.caller.uid == 0;
    match &node.opens {
        Ok(()) => ok(format!("user \"{name}\" can open /dev/kvm")),
        Err(Unseen::Denied) if is_root => fault(
            "root may not open /dev/kvm",
            "let the container's or the service's rules for devices have \"c 10:232 rw\"",
        ),
        Err(Unseen::Denied) => note(
            format!("user \"{name}\" may not open /dev/kvm ({})", rights(node)),
            "nothing: vmd opens it as root. Only other programs of this user would need rights on it (group kvm)",
        ),
        Err(Unseen::Missing) => fault("/dev/kvm: no driver behind it", "see kvm-module"),
        Err(Unseen::Failed(why)) => fault(format!("/dev/kvm: {why}"), "see kvm-module"),
    }
}

/// Whether a guest ran that does what every stock kernel does first.
pub fn guest(host: &Host) -> Judged {
    let Ok(program) = &host.program else { return note("not tried: no vmd to run it", "see vmd") };
    let opens = host.kvm.as_ref().ok().filter(|node| other_device(node, KVM).is_none()).map(|node| &node.opens);
    match opens {
        Some(Ok(())) => {}
        Some(Err(Unseen::Denied)) if host.caller.uid != 0 => return hidden(host, "the probe guest"),
        _ => return note("not tried: /dev/kvm can't be opened", "see kvm-device and kvm-access"),
    }
    let elsewhere = "use hardware whose KVM runs stock kernels, or another machine; a KVM in software often can't";
    match &program.probe {
        Ran::NotStarted(why) => note(format!("not tried: {}: {why}", program.path), "see vmd"),
        Ran::Late(seconds) => fault(format!("the probe guest did not end within {seconds} s"), elsewhere),
        Ran::Ended { out, .. } => match doctor::read(out).map(|said| said.guest) {
            Some(Ok(())) => ok("the probe guest ran: KVM does what stock kernels need"),
            Some(Err(why)) => fault(format!("the probe guest failed: {why}"), elsewhere),
            None => warning("not tried: this vmd has no probe guest", "see vmd"),
        },
    }
}
