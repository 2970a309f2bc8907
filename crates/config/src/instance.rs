//! Instances: VMs made from another as template, by root's file or by users whom it allows (openbsd/vm.conf.md, 11;
//! openbsd/daemon.md, 3.2). The defects that the two mark there are mended here.

use model::{Allow, Disk, Nic, Owner, Right, Vm};

use crate::request::{Refusal, VmRequest};

/// Who asks for a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requester<'a> {
    /// The user; 0 may do all.
    pub uid: u32,
    /// The user's groups, primary and supplementary.
    pub gids: &'a [u32],
}

impl Requester<'_> {
    /// Root, and the configuration file.
    pub const ROOT: Self = Self { uid: 0, gids: &[] };

    /// Whether the user is the one named, or in the group named.
    fn is(&self, owner: Owner) -> bool {
        self.uid == owner.uid || owner.gid.is_some_and(|gid| self.gids.contains(&gid))
    }
}

/// Whether the requester may make instances of the template at all.
pub fn may_create(template: &Vm, requester: Requester<'_>) -> Result<(), Refusal> {
    match requester.uid == 0 || template.allow.owner.is_some_and(|owner| requester.is(owner)) {
        true => Ok(()),
        false => Err(Refusal::MayNotCreate),
    }
}

/// Checks what an instance wants against what its template allows, and fills in what it inherits.
pub fn derive(request: &mut VmRequest, template: &Vm, requester: Requester<'_>) -> Result<(), Refusal> {
    may_create(template, requester)?;
    let root = requester.uid == 0;
    let may = |right, differs: bool| match !differs || root || template.allow.rights.contains(&right) {
        true => Ok(()),
        false => Err(Refusal::MayNotSet(right)),
    };
    may(Right::Cpus, request.cpus.is_some_and(|cpus| cpus != template.cpus))?;
    may(Right::Memory, request.memory.is_some_and(|memory| memory != template.memory))?;
    let vm = &mut request.vm;
    may(Right::Disk, !vm.disks.is_empty())?;
    let reused = vm.disks.iter().find(|disk| template.disks.iter().any(|theirs| theirs.path == disk.path));
    if let Some(disk) = reused {
        return Err(Refusal::DiskReused(disk.path.clone()));
    }
    may(Right::Interface, !vm.nics.is_empty())?;
    check_nics(&vm.nics, &template.nics)?;
    if !root {
        vm.nics.iter_mut().try_for_each(|nic| resemble(nic, &template.nics))?;
        limit(&mut vm.disks, &template.disks);
    }
    may(Right::Boot, vm.boot.is_some() || vm.initrd.is_some() || vm.cmdline.is_some())?;
    may(Right::Cdrom, vm.cdrom.is_some())?;
    vm.owner = owner(vm.owner, template.owner, requester)?;
    if vm.allow != Allow::default() {
        return Err(Refusal::MayNotAllow);
    }
    vm.inherit(template);
    request.cpus = request.cpus.or(Some(template.cpus));
    request.memory = request.memory.or(Some(template.memory));
    Ok(())
}

/// No address and no tap of the template may be given a second time.
fn check_nics(wanted: &[Nic], theirs: &[Nic]) -> Result<(), Refusal> {
    for nic in wanted {
        if nic.lladdr.is_some() && theirs.iter().any(|their| their.lladdr == nic.lladdr) {
            return Err(Refusal::LladdrReused);
        }
        if nic.tap.is_some() && theirs.iter().any(|their| their.tap == nic.tap) {
            return Err(Refusal::TapReused);
        }
    }
    Ok(())
}

/// A user's card is on nothing, or it is as one of the template's: on the same switch, as locked, in the same group and
/// routing domain. Which of the host's networks a guest sees is not for users to choose.
fn resemble(nic: &mut Nic, theirs: &[Nic]) -> Result<(), Refusal> {
    let lladdr = nic.lladdr;
    let like = match theirs.iter().find(|their| their.switch == nic.switch && their.local == nic.local) {
        Some(their) => their.clone(),
        None if nic.switch.is_none() && !nic.local => Nic::default(),
        None => return Err(Refusal::NetworkForeign),
    };
    *nic = Nic { lladdr, tap: None, ..like };
    Ok(())
}

/// A user's disks are as fast as the template's at the same place, and those beyond its last as fast as that: how much of the
/// host's storage a guest may use is not for users to choose.
fn limit(disks: &mut [Disk], theirs: &[Disk]) {
    let last = theirs.last().map(|disk| disk.limits).unwrap_or_default();
    let limits = theirs.iter().map(|disk| disk.limits).chain(std::iter::repeat(last));
    disks.iter_mut().zip(limits).for_each(|(disk, limits)| disk.limits = limits);
}

/// The user: the template's if none is given, else the requester or the template's; the group alike. Root gives an
/// instance to whom it likes.
fn owner(wanted: Owner, template: Owner, requester: Requester<'_>) -> Result<Owner, Refusal> {
    let uid = match wanted.uid {
        0 => template.uid,
        uid if requester.uid == 0 || uid == requester.uid || uid == template.uid => uid,
        _ => return Err(Refusal::UserMismatch),
    };
    let gid = match wanted.gid {
        None => template.gid,
        gid if requester.uid == 0 || gid == template.gid => gid,
        _ => return Err(Refusal::GroupMismatch),
    };
    Ok(Owner { uid, gid })
}

#[cfg(test)]
mod tests {

    use model::{CommandLine, DiskLimits, IfName, MacAddr, MemorySize, Rate, UserPath, VmName};

    use super::*;
    use crate::register::register;

    const ANN: Requester<'_> = Requester { uid: 1000, gids: &[1000, 44] };

    fn name(text: &str) -> VmName {
        VmName::new(text.as_bytes()).expect("a legal name")
    }

    fn nic(lladdr: &str, tap: &str) -> Nic {
        Nic { lladdr: MacAddr::parse(lladdr.as_bytes()), tap: IfName::new(tap.as_bytes()).ok(), ..Nic::default() }
    }

    /// A VM that lets Ann make instances and change `rights`.
    fn template(rights: &[Right]) -> Vm {
        let disk = Disk::new(UserPath::new("/base.img").expect("a path"), None);
        let vm = Vm {
            boot: UserPath::new("/vmlinuz").ok(),
            initrd: UserPath::new("/initrd").ok(),
            cmdline: CommandLine::new(b"quiet").ok(),
            cdrom: UserPath::new("/cd.iso").ok(),
            disks: vec![disk],
            nics: vec![nic("2:0:0:0:0:1", "tap3"), Nic { local: true, ..Nic::default() }],
            owner: Owner { uid: 7, gid: Some(8) },
            allow: Allow { rights: rights.iter().copied().collect(), owner: Some(Owner { uid: 1000, gid: None }) },
            ..Vm::new(name("base"))
        };
        let request = VmRequest { vm, cpus: Some(2), memory: None, least_nics: 0 };
        register(request, None, Requester::ROOT, |_| None).expect("a vm")
    }

    fn request() -> VmRequest {
        let mut request = VmRequest::new(name("mine"));
        request.vm.template = Some(name("base"));
        request
    }

    fn saying(say: impl FnOnce(&mut Vm)) -> VmRequest {
        let mut request = request();
        say(&mut request.vm);
        request
    }

    fn made(request: VmRequest, rights: &[Right], requester: Requester<'_>) -> Result<Vm, Refusal> {
        register(request, Some(&template(rights)), requester, |_| None)
    }

    #[test]
    fn template_that_does_not_exist_is_refused() {
        let refused = register(request(), None, ANN, |_| None);
        assert_eq!(refused, Err(Refusal::TemplateUnknown(name("base"))));
    }

    #[test]
    fn silent_instance_inherits_all_but_disks_addresses_and_taps() {
        let vm = made(request(), &[], ANN).expect("an instance");
        let base = template(&[]);
        assert_eq!((vm.cpus, vm.memory, vm.owner), (base.cpus, base.memory, base.owner));
        assert_eq!((vm.boot, vm.initrd, vm.cmdline, vm.cdrom), (base.boot, base.initrd, base.cmdline, base.cdrom));
        assert_eq!(vm.disks, []);
        assert_eq!(vm.nics, [Nic::default(), Nic { local: true, ..Nic::default() }]);
        assert_eq!(vm.allow, Allow::default());
    }

    #[test]
    fn stranger_may_make_no_instance_and_a_group_member_may() {
        let stranger = Requester { uid: 2000, gids: &[0] };
        assert_eq!(made(request(), &[], stranger), Err(Refusal::MayNotCreate));
        let mut base = template(&[]);
        base.allow.owner = Some(Owner { uid: 0, gid: Some(44) });
        let member = Requester { uid: 2000, gids: &[44] };
        assert!(register(request(), Some(&base), member, |_| None).is_ok());
        base.allow.owner = None;
        assert_eq!(register(request(), Some(&base), member, |_| None), Err(Refusal::MayNotCreate));
    }

    #[test]
    fn each_setting_needs_its_right_and_root_needs_none() {
        let disk = Disk::new(UserPath::new("/own.img").expect("a path"), None);
        let disks = vec![disk];
        let cases = [
            (Right::Cpus, VmRequest { cpus: Some(1), ..request() }),
            (Right::Memory, VmRequest { memory: MemorySize::from_bytes(1 << 30).ok(), ..request() }),
            (Right::Disk, saying(|vm| vm.disks = disks)),
            (Right::Interface, saying(|vm| vm.nics = vec![Nic::default(), Nic::default()])),
            (Right::Interface, VmRequest { least_nics: 1, ..request() }),
            (Right::Boot, saying(|vm| vm.boot = UserPath::new("/other").ok())),
            (Right::Boot, saying(|vm| vm.cmdline = CommandLine::new(b"single").ok())),
            (Right::Cdrom, saying(|vm| vm.cdrom = UserPath::new("/other").ok())),
        ];
        for (right, request) in cases {
            assert_eq!(made(request.clone(), &[], ANN), Err(Refusal::MayNotSet(right)));
            assert!(made(request.clone(), &[right], ANN).is_ok(), "{right:?}");
            assert!(made(request, &[], Requester::ROOT).is_ok(), "{right:?}");
        }
    }

    #[test]
    fn a_users_cards_are_on_the_templates_networks_and_as_locked() {
        let on = |switch: &str| Nic { switch: model::SwitchName::new(switch.as_bytes()).ok(), ..Nic::default() };
        let mut base = template(&[Right::Interface]);
        base.nics = vec![Nic { locked: true, rdomain: Some(3), tap: IfName::new(b"tap7").ok(), ..on("lan") }];
        let made = |nics, requester| register(saying(|vm| vm.nics = nics), Some(&base), requester, |_| None);
        let nics = made(vec![on("lan"), Nic::default()], ANN).expect("an instance").nics;
        assert_eq!(nics, [Nic { locked: true, rdomain: Some(3), ..on("lan") }, Nic::default()]);
        for foreign in [on("dmz"), Nic { local: true, ..Nic::default() }, Nic { local: true, ..on("lan") }] {
            assert_eq!(made(vec![foreign.clone()], ANN), Err(Refusal::NetworkForeign));
            assert!(made(vec![foreign], Requester::ROOT).is_ok());
        }
    }

    #[test]
    fn a_users_disks_have_the_limits_of_the_templates() {
        let disk = |path: &str, iops: Option<u64>| {
            let iops = iops.and_then(|iops| Rate::new(iops, iops));
            let limits = DiskLimits { iops, bandwidth: None };
            Disk { limits, ..Disk::new(UserPath::new(path).expect("a path"), None) }
        };
        let made = |own: Vec<Disk>, theirs: Vec<Disk>, requester| {
            let base = Vm { disks: theirs, ..template(&[Right::Disk]) };
            let vm = register(saying(|vm| vm.disks = own), Some(&base), requester, |_| None).expect("an instance");
            let iops = vm.disks.iter().map(|disk| disk.limits.iops.map(Rate::per_second));
            iops.collect::<Vec<_>>()
        };
        let own = || vec![disk("/a", Some(9)), disk("/b", None), disk("/c", None)];
        let theirs = || vec![disk("/x", None), disk("/y", Some(5))];
        assert_eq!(made(own(), theirs(), ANN), [None, Some(5), Some(5)]);
        assert_eq!(made(own(), theirs(), Requester::ROOT), [Some(9), None, None], "root chooses");
        assert_eq!(made(own(), vec![], ANN), [None; 3]);
    }

    #[test]
    fn a_users_card_keeps_the_address_that_was_asked_for() {
        let nics = vec![Nic { tap: None, ..nic("2:0:0:0:0:9", "") }];
        let made = made(saying(|vm| vm.nics.clone_from(&nics)), &[Right::Interface], ANN).expect("an instance");
        assert_eq!(made.nics.first(), nics.first());
    }

    #[test]
    fn equal_settings_need_no_right() {
        let same = VmRequest { cpus: Some(2), memory: Some(MemorySize::DEFAULT), ..request() };
        assert!(made(same, &[], ANN).is_ok());
    }

    #[test]
    fn own_kernel_takes_no_initrd_and_command_line_of_the_template() {
        let vm = made(saying(|vm| vm.boot = UserPath::new("/bsd").ok()), &[], Requester::ROOT).expect("a vm");
        assert_eq!((vm.boot, vm.initrd, vm.cmdline), (UserPath::new("/bsd").ok(), None, None));
    }

    #[test]
    fn disk_address_and_tap_of_the_template_are_refused_even_to_root() {
        let disks = template(&[]).disks;
        let disk = saying(|vm| vm.disks = disks);
        assert_eq!(made(disk, &[], Requester::ROOT), Err(Refusal::DiskReused(template(&[]).disks[0].path.clone())));
        let address = saying(|vm| vm.nics = vec![Nic::default(), nic("2:0:0:0:0:1", "")]);
        assert_eq!(made(address, &[], Requester::ROOT), Err(Refusal::LladdrReused));
        let tap = saying(|vm| vm.nics = vec![nic("2:0:0:0:0:2", "tap3")]);
        assert_eq!(made(tap, &[], Requester::ROOT), Err(Refusal::TapReused));
        let other = saying(|vm| vm.nics = vec![nic("2:0:0:0:0:2", "tap4")]);
        assert!(made(other, &[], Requester::ROOT).is_ok());
    }

    #[test]
    fn owner_is_the_requester_or_the_templates() {
        let owned = |uid, gid| saying(|vm| vm.owner = Owner { uid, gid });
        let result = |uid, gid| made(owned(uid, gid), &[], ANN).map(|vm| vm.owner);
        assert_eq!(result(1000, None), Ok(Owner { uid: 1000, gid: Some(8) }));
        assert_eq!(result(7, Some(8)), Ok(Owner { uid: 7, gid: Some(8) }));
        assert_eq!(result(2000, None), Err(Refusal::UserMismatch));
        assert_eq!(result(1000, Some(9)), Err(Refusal::GroupMismatch));
        let by_root = made(owned(2000, Some(9)), &[], Requester::ROOT).map(|vm| vm.owner);
        assert_eq!(by_root, Ok(Owner { uid: 2000, gid: Some(9) }));
    }

    #[test]
    fn rights_are_passed_on_only_where_the_template_says_instance() {
        let vm = made(request(), &[Right::Instance, Right::Disk], ANN).expect("a vm");
        assert_eq!(vm.allow, template(&[Right::Instance, Right::Disk]).allow);
        let own = saying(|vm| vm.allow = template(&[Right::Disk]).allow);
        assert_eq!(made(own, &[], Requester::ROOT), Err(Refusal::MayNotAllow));
    }
}
