//! Who may do what (openbsd/daemon.md, 5.1 and 5.2): every command of every caller on every kind of VM.

use model::{Allow, Owner};

use super::*;

/// Who asks: uid, primary group and the others. 50 is an owner group, 60 one that may make instances.
const CALLERS: [(&str, u32, u32, &[u32]); 11] = [
    ("root", 0, 0, &[]),
    ("owner", 1000, 100, &[]),
    ("primary", 2001, 50, &[]),
    ("secondary", 2002, 100, &[7, 50]),
    ("gid 0", 2003, 0, &[0]),
    ("no account", 3_999_999_999, 3_999_999_999, &[]),
    ("maker", 3000, 100, &[]),
    ("makers 1st", 2004, 60, &[]),
    ("makers 2nd", 2005, 100, &[7, 60]),
    ("uid is gid", 50, 100, &[60_000]),
    ("other", 2006, 100, &[7, 1000]),
];

/// A kind of VM and, for each caller above, whether it may use it (`u`: start, stop, wait, pause, unpause) and make
/// instances of it (`i`).
const KINDS: [(&str, [&str; 11]); 8] = [
    //           root  owner prim  sec   gid 0 none  maker mk1   mk2   50    other
    ("roots", ["ui", "", "", "", "", "", "", "", "", "", ""]),
    ("anns", ["ui", "u", "", "", "", "", "", "", "", "", ""]),
    ("teams", ["ui", "u", "u", "u", "", "", "", "", "", "", ""]),
    ("groups", ["ui", "", "u", "u", "", "", "", "", "", "", ""]),
    ("wheels", ["ui", "", "", "", "u", "", "", "", "", "", ""]),
    ("template", ["ui", "", "", "", "", "", "i", "i", "i", "", ""]),
    ("made", ["ui", "", "", "", "", "", "u", "", "", "", ""]),
    ("clients", ["ui", "", "", "", "", "", "", "", "", "", ""]),
];

fn caller(at: usize) -> Who {
    let (_, uid, gid, groups) = CALLERS[at];
    Who { uid, gid, groups: groups.to_vec() }
}

fn owned(name: &str, uid: u32, gid: Option<u32>, allow: Option<Owner>) -> Definition {
    changed(name, |vm| {
        vm.owner = Owner { uid, gid };
        vm.allow = Allow { owner: allow, ..Allow::default() };
        vm.disks.clear();
    })
}

/// All kinds; those of vm.conf run or not, the instance and the client's VM run.
fn world(running: bool) -> Fixture {
    let makers = Some(Owner { uid: 3000, gid: Some(60) });
    let vms = vec![
        owned("roots", 0, None, None),
        owned("anns", 1000, None, None),
        owned("teams", 1000, Some(50), None),
        owned("groups", 0, Some(50), None),
        owned("wheels", 0, Some(0), None),
        owned("template", 0, None, makers),
    ];
    let names: Vec<String> = vms.iter().map(|vm| vm.name.to_string()).collect();
    let mut f = Fixture::new(vms);
    let of = VmName::new("template").unwrap();
    let made = Start { instance_of: Some(of), ..start_of(by_name("made")) };
    let new = Start { kernel: UserPath::new("/k").ok(), ..start_of(by_name("clients")) };
    for (who, start) in [(caller(6), made), (root(), new)] {
        let actions = f.ask_as(who, Request::Start(Box::new(start))).1;
        let id = launched(&f.prepare(actions)).expect("no launch");
        f.on(Event::StartDone(id, Ok(42)));
    }
    if running {
        for name in names {
            f.running(&name);
        }
    }
    f
}

/// The request of a caller is refused for want of permission, and nothing else happens; or it is not.
#[track_caller]
fn check(running: bool, who: usize, request: &Request, may: bool) {
    let mut f = world(running);
    let before = replies(&f.ask(Request::List));
    let (_, actions) = f.ask_as(caller(who), request.clone());
    let what = format!("{} asks for {request:?}, which {}", CALLERS[who].0, if running { "runs" } else { "does not" });
    assert_eq!(code(&actions) != Some(Code::NotPermitted), may, "{what}: {actions:?}");
    if !may {
        assert_eq!(actions.len(), 1, "{what}: {actions:?}");
        assert_eq!(replies(&f.ask(Request::List)), before, "{what}");
    }
}

#[test]
fn a_vm_whose_name_is_a_number_is_told_by_its_own_to_who_may_use_it() {
    let mut f = Fixture::new(vec![definition("web"), definition("100")]);
    let said = |f: &mut Fixture, who: Who, vm: u32, kernel: bool| {
        let mut start = start_of(VmRef::Id(vm));
        start.kernel = kernel.then(|| UserPath::new("/k").unwrap());
        let (_, actions) = f.ask_as(who, Request::Start(Box::new(start)));
        let Some(Reply::Failed(failure)) = replies(&actions).pop() else { panic!("{actions:?}") };
        failure.to_string()
    };
    let named = "vm 100 not found: digits are taken for a number, not a name; the vm named \"100\" has number 2";
    assert_eq!(said(&mut f, root(), 100, false), named);
    assert_eq!(said(&mut f, root(), 7, false), "vm 7 not found");
    assert_eq!(said(&mut f, root(), 7, true), "vm 7 not found, and a new vm needs a name that is no number");
    let (_, actions) = f.ask_as(Who { uid: 4711, gid: 4711, groups: vec![] }, Request::Wait { vm: VmRef::Id(100) });
    let Some(Reply::Failed(failure)) = replies(&actions).pop() else { panic!("{actions:?}") };
    assert_eq!(failure.to_string(), "vm 100 not found");
}

#[test]
fn each_caller_may_use_and_copy_what_the_table_says() {
    for (kind, rights) in KINDS {
        for (who, rights) in rights.iter().enumerate() {
            let vm = || by_name(kind);
            let id = world(false).line(kind).map(|line| VmRef::Id(line.id)).unwrap();
            let own_kernel = Start { kernel: UserPath::new("/k").ok(), ..start_of(vm()) };
            let uses = [
                Request::Start(Box::new(start_of(vm()))),
                Request::Start(Box::new(start_of(id))),
                Request::Start(Box::new(own_kernel)),
                Request::Stop { vm: vm(), force: false, wait: false },
                Request::Stop { vm: vm(), force: true, wait: true },
                Request::Wait { vm: vm() },
                Request::Order { vm: vm(), order: Order::Pause },
                Request::Order { vm: vm(), order: Order::Unpause },
                Request::DiskFail { vm: vm(), disk: 0, operation: DiskOperation::Read, count: 1 },
                Request::FlushStop { vm: vm(), disk: 0, count: 1 },
            ];
            let kernel = UserPath::new("/k").ok().filter(|_| kind == "clients"); // has none to inherit
            let copy = Start { instance_of: VmName::new(kind).ok(), kernel, ..start_of(by_name("copy")) };
            for running in [false, true] {
                uses.iter().for_each(|request| check(running, who, request, rights.contains('u')));
                check(running, who, &Request::Start(Box::new(copy.clone())), rights.contains('i'));
            }
        }
    }
}

#[test]
fn what_concerns_the_whole_daemon_is_roots_and_status_everybodys() {
    let new = Start { kernel: UserPath::new("/k").ok(), ..start_of(by_name("new")) };
    let requests = [
        Request::Start(Box::new(new)),
        Request::Send { vm: by_name("teams") },
        Request::Receive { name: VmName::new("new").unwrap() },
        Request::Log { verbose: true },
        Request::Reload,
        Request::Load { path: UserPath::new("/x").unwrap() },
        Request::Reset { vms: true, switches: false },
        Request::Reset { vms: false, switches: true },
    ];
    for (who, (name, ..)) in CALLERS.iter().enumerate() {
        for request in &requests {
            check(true, who, request, caller(who).is_root());
        }
        let (_, actions) = world(true).ask_as(caller(who), Request::List);
        assert_eq!(replies(&actions).last(), Some(&Reply::Done), "{name}");
    }
}

#[test]
fn the_rights_of_an_owner_are_those_of_the_definition_that_runs() {
    let mut f = Fixture::new(vec![owned("web", 1000, None, None)]);
    f.running("web");
    let changed = settings(vec![owned("web", 2000, None, None)]);
    f.on(Event::ConfigRead(Reading { asked: None, load: None }, Ok(Box::new(changed))));
    let mut stop = |uid| {
        let who = Who { uid, gid: 1, groups: vec![] };
        code(&f.ask_as(who, Request::Stop { vm: by_name("web"), force: true, wait: false }).1)
    };
    assert_eq!((stop(2000), stop(1000)), (Some(Code::NotPermitted), None));
}
