//! Instances that users make from a VM: what they may set, as whom their disks are opened, how much they may take.

use model::{Allow, Nic, Right};
use proto::client::NicArg;

use super::super::definition::definition_of;
use super::*;
use crate::parent::accounts::names::Names;

const ANN: u32 = 1000;

struct Nobody;

impl Names for Nobody {
    fn owner(&mut self, _: Owner) -> String {
        "owner".to_owned()
    }
}

fn ann() -> Who {
    Who { uid: ANN, gid: 100, groups: vec![44] }
}

/// A VM of root's with a kernel, a disk and a card on the switch `lan`, of which Ann may make instances.
fn base(rights: &[Right]) -> Definition {
    let switch = SwitchName::new("lan").ok();
    let model = model::Vm {
        enabled: false,
        boot: UserPath::new("/vmlinuz").ok(),
        disks: vec![Disk::new(UserPath::new("/base.raw").unwrap(), None)],
        nics: vec![Nic { switch, locked: true, ..Nic::default() }],
        owner: Owner { uid: 0, gid: Some(9) },
        allow: Allow { rights: rights.iter().copied().collect(), owner: Some(Owner { uid: ANN, gid: None }) },
        ..model::Vm::new(VmName::new(b"base").unwrap())
    };
    definition_of(&model, &config::Config::default(), &mut Nobody).unwrap()
}

fn of_base(rights: &[Right]) -> Fixture {
    let mut f = Fixture::new(vec![]);
    let lan = switch("lan", "br0");
    let settings = Settings { switches: vec![lan], ..settings(vec![base(rights)]) };
    f.on(Event::ConfigRead(Reading { asked: None, load: None }, Ok(Box::new(settings))));
    f.on(Event::SwitchMade(SwitchName::new("lan").unwrap(), Ok(())));
    f
}

fn instance(name: &str) -> Start {
    Start { instance_of: Some(VmName::new("base").unwrap()), ..start_of(by_name(name)) }
}

fn with_disk(name: &str, path: &str) -> Start {
    let mut start = instance(name);
    start.disks.push(DiskArg { path: UserPath::new(path).unwrap(), format: Some(DiskFormat::Raw) }).unwrap();
    start
}

impl Fixture {
    fn start_as(&mut self, who: Who, start: Start) -> Vec<Action> {
        self.ask_as(who, Request::Start(Box::new(start))).1
    }

    /// An instance of Ann's that runs.
    fn ann_runs(&mut self, start: Start) -> VmId {
        let actions = self.start_as(ann(), start);
        assert_eq!(code(&actions), None, "{actions:?}");
        let actions = self.prepare(actions);
        let id = launched(&actions).expect("no launch");
        self.on(Event::StartDone(id, Ok(42)));
        id
    }
}

#[test]
fn an_instance_belongs_to_who_made_it_and_inherits_the_rest() {
    let mut f = of_base(&[]);
    let actions = f.start_as(ann(), instance("mine"));
    let owner = Owner { uid: ANN, gid: Some(9) };
    assert!(actions.contains(&Action::NameOwner(VmId(2), owner)), "{actions:?}");
    f.on(Event::OwnerNamed(VmId(2), Text::cut("ann:staff")));
    let line = f.line("mine").unwrap();
    assert_eq!((line.id, line.uid, line.gid, &*line.owner), (2, ANN, Some(9), "ann:staff"));
    assert_eq!((line.memory, line.cpus, line.macs.len()), (MemorySize::DEFAULT, 1, 1));
    let tap = actions.iter().find_map(|action| match action {
        Action::MakeTap { tap, .. } => tap.bridge.clone(),
        _ => None,
    });
    assert_eq!(tap.unwrap().as_str(), "br0");
    let all = f.prepare(actions);
    let launch = all.iter().find_map(|a| if let Action::Launch(_, launch) = a { Some(launch) } else { None });
    let launch = launch.expect("a launch");
    assert_eq!(nics_of(launch).len(), 1);
    assert_eq!(launch.vm.maker, Some(ANN), "whose lines of the log it writes");
    assert_ne!(f.line("base").unwrap().macs, f.line("mine").unwrap().macs, "an address of its own");
}

#[test]
fn an_instance_is_forgotten_at_its_end_and_its_id_comes_back_to_its_owner_alone() {
    let mut f = of_base(&[]);
    let id = f.ann_runs(instance("mine"));
    f.on(Event::Ended(id, End::PoweredOff));
    assert_eq!(f.state("mine"), None);
    f.now += Duration::from_secs(60);
    assert_eq!(f.ann_runs(instance("mine")), id);
    f.on(Event::Ended(id, End::PoweredOff));
    f.start_as(root(), instance("mine"));
    assert_ne!(f.line("mine").unwrap().id, id.0, "the name is another's now");
}

#[test]
fn a_users_disks_are_opened_by_that_user_and_the_templates_kernel_by_root() {
    let mut f = of_base(&[Right::Disk]);
    let actions = f.start_as(ann(), with_disk("mine", "/home/ann/d"));
    let opens: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Open { who, files, .. } => Some((who.clone(), files.iter().map(|(file, ..)| *file).collect())),
            _ => None,
        })
        .collect::<Vec<(Who, Vec<File>)>>();
    assert_eq!(opens, [(Who::default(), vec![File::Kernel]), (ann(), vec![File::Disk(0)])]);
    let by_root = f.start_as(root(), with_disk("roots", "/d"));
    let opens = by_root.iter().filter(|action| matches!(action, Action::Open { who, .. } if who.is_root()));
    assert_eq!(opens.count(), 1, "one opener does for root");
}

#[test]
fn each_thing_that_a_user_sets_needs_its_right() {
    let nic = |nic| {
        let mut start = instance("mine");
        start.nics.push(nic).unwrap();
        start
    };
    let cases = [
        (Right::Disk, with_disk("mine", "/d")),
        (Right::Cpus, Start { cpus: Some(2), ..instance("mine") }),
        (Right::Memory, Start { memory: MemorySize::from_bytes(1 << 30).ok(), ..instance("mine") }),
        (Right::Interface, nic(NicArg::Plain)),
        (Right::Interface, nic(NicArg::Switch(SwitchName::new("lan").unwrap()))),
        (Right::Boot, Start { kernel: Some(UserPath::new("/k").unwrap()), ..instance("mine") }),
    ];
    for (right, start) in cases {
        let refused = of_base(&[]).start_as(ann(), start.clone());
        assert_eq!(code(&refused), Some(Code::NotPermitted), "{right:?}");
        assert!(format!("{refused:?}").contains("no permission to set"), "{refused:?}");
        assert_eq!(code(&of_base(&[right]).start_as(ann(), start.clone())), None, "{right:?}");
        assert_eq!(code(&of_base(&[]).start_as(root(), start)), None, "{right:?}");
    }
    let mut cdrom = instance("mine");
    cdrom.cdrom = UserPath::new("/cd").ok();
    assert_eq!(code(&of_base(&[]).start_as(ann(), cdrom)), Some(Code::NotPermitted));
}

#[test]
fn a_user_chooses_no_network_that_the_template_is_not_on() {
    for nic in [NicArg::Switch(SwitchName::new("dmz").unwrap()), NicArg::Local] {
        let mut start = instance("mine");
        start.nics.push(nic).unwrap();
        let refused = of_base(&[Right::Interface]).start_as(ann(), start);
        assert_eq!(code(&refused), Some(Code::NotPermitted), "{refused:?}");
    }
    let mut f = of_base(&[Right::Interface]);
    let mut start = instance("mine");
    start.nics.push(NicArg::Switch(SwitchName::new("lan").unwrap())).unwrap();
    f.ann_runs(start);
    let vm = f.registry.vms.iter().find(|vm| vm.definition.name.as_str() == "mine").unwrap();
    assert!(vm.definition.nics[0].locked, "as the template's");
}

#[test]
fn strangers_unknown_templates_and_names_in_use_are_refused() {
    let mut f = of_base(&[]);
    let stranger = Who { uid: 2000, gid: 0, groups: vec![0, 9] };
    let actions = f.start_as(stranger.clone(), instance("mine"));
    let Some(Reply::Failed(refused)) = replies(&actions).pop() else { panic!("{actions:?}") };
    let text = "vm \"mine\": uid 2000 may make no instance of \"base\"; \"allow instance { owner ... }\" of that vm in vm.conf \
                says who may";
    assert_eq!((refused.code, refused.text.as_str()), (Code::NotPermitted, text));
    assert_eq!(code(&f.start_as(stranger, instance("base"))), Some(Code::NotPermitted), "not told what exists");
    assert_eq!(code(&f.start_as(ann(), instance("base"))), Some(Code::Exists));
    let other = Start { instance_of: Some(VmName::new("ghost").unwrap()), ..start_of(by_name("mine")) };
    assert_eq!(code(&f.start_as(ann(), other)), Some(Code::ParentInvalid));
    let number = Start { vm: VmRef::Id(7), ..instance("mine") };
    assert_eq!(code(&f.start_as(ann(), number)), Some(Code::Invalid));
    assert_eq!(code(&f.start_as(ann(), with_disk("mine", "/base.raw"))), Some(Code::NotPermitted));
    let mut f = of_base(&[Right::Disk]);
    assert_eq!(code(&f.start_as(ann(), with_disk("mine", "/base.raw"))), Some(Code::Busy), "the template's disk");
    assert_eq!(f.state("mine"), None, "a refused one is not listed");
}

#[test]
fn a_kernel_of_a_users_own_is_for_one_boot_and_no_path_for_instances_of_the_instance() {
    let mut f = of_base(&[Right::Boot, Right::Instance]);
    let id = f.ann_runs(Start { kernel: Some(UserPath::new("/etc/shadow").unwrap()), ..instance("mine") });
    let child = Start { instance_of: Some(VmName::new("mine").unwrap()), ..start_of(by_name("child")) };
    let refused = f.start_as(ann(), child);
    assert!(!refused.iter().any(|action| matches!(action, Action::Open { .. })), "{refused:?}");
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(launched(&f.prepare(actions)), None, "not again: the kernel came with the request");
}

#[test]
fn an_instance_of_an_instance_needs_the_right_to_pass_rights_on() {
    let child = || Start { instance_of: Some(VmName::new("mine").unwrap()), ..start_of(by_name("child")) };
    let mut f = of_base(&[]);
    f.ann_runs(instance("mine"));
    assert_eq!(code(&f.start_as(ann(), child())), Some(Code::NotPermitted));
    let mut f = of_base(&[Right::Instance]);
    f.ann_runs(instance("mine"));
    assert_eq!(code(&f.start_as(ann(), child())), None);
}

#[test]
fn a_users_own_vms_take_no_more_than_the_limits() {
    let mut f = of_base(&[Right::Cpus, Right::Memory, Right::Interface]);
    f.ann_runs(Start { cpus: Some(3), ..instance("a") });
    let limit = |f: &mut Fixture, start: Start, what: &str| {
        let refused = f.start_as(ann(), start);
        assert_eq!(code(&refused), Some(Code::NotPermitted), "{refused:?}");
        assert!(format!("{refused:?}").contains(what), "{refused:?}");
        assert_eq!(f.state("b"), None, "it is gone again");
    };
    limit(
        &mut f,
        Start { cpus: Some(2), ..instance("b") },
        "uid 1000 has 3 cpus in VMs of its own and asks for 2 more",
    );
    limit(
        &mut f,
        Start { memory: MemorySize::from_bytes(1537 << 20).ok(), ..instance("b") },
        "512 MiB of memory in VMs of its own and asks for 1537 more",
    );
    let mut nics = instance("b");
    (0..8).for_each(|_| nics.nics.push(NicArg::Plain).unwrap());
    limit(&mut f, nics, "1 interfaces in VMs of its own and asks for 8 more");
    let b = f.ann_runs(Start { memory: MemorySize::from_bytes(1536 << 20).ok(), ..instance("b") });
    assert_eq!(code(&f.start_as(root(), instance("c"))), None, "root has no limit");
    f.on(Event::Ended(b, End::PoweredOff));
    f.ann_runs(instance("b"));
}

#[test]
fn what_vm_conf_defines_is_not_counted_and_a_reboot_is_not_one_more() {
    let mut f = of_base(&[Right::Cpus]);
    let mine = changed("conf", |vm| {
        vm.memory = MemorySize::from_bytes(8 << 30).unwrap();
        vm.owner.uid = ANN;
    });
    f.registry.register(mine).unwrap();
    f.running("conf");
    let id = f.ann_runs(Start { cpus: Some(4), ..instance("mine") });
    f.now += Duration::from_secs(60);
    let actions = f.on(Event::Ended(id, End::Rebooted));
    assert_eq!(launched(&f.prepare(actions)), Some(id));
}

#[test]
fn a_user_is_not_told_which_disks_others_have() {
    let mut f = of_base(&[Right::Disk]);
    f.registry.register(definition("web")).unwrap();
    f.running("web");
    let actions = f.start_as(ann(), with_disk("mine", "/web.raw"));
    assert!(actions.iter().any(|action| matches!(action, Action::Open { who, .. } if *who == ann())), "{actions:?}");
    let refused = f.start_as(ann(), with_disk("second", "/web.raw"));
    assert!(format!("{refused:?}").contains("already in use by vm \\\"mine\\\""), "{refused:?}");
}
