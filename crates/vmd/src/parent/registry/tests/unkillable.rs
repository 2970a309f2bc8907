//! What was killed and is not gone.

use super::super::unkillable::MAX_OF_USER;
use super::*;

fn left(pid: u32) -> Unkillable {
    Unkillable { what: Text::cut("opener"), pid, since: 1000, uid: 0 }
}

/// What the list of VMs ends with.
fn listed(f: &mut Fixture) -> Vec<(u32, u32)> {
    let told = replies(&f.ask(Request::List)).into_iter().filter_map(|reply| match reply {
        Reply::Unkillable(some) => Some(some.iter().map(|left| (left.pid, left.uid)).collect::<Vec<_>>()),
        _ => None,
    });
    told.flatten().collect()
}

fn warned(actions: &[Action]) -> usize {
    let is = |action: &&Action| matches!(action, Action::Log(weight, _) | Action::LogOf(.., weight, _) if *weight == log::Level::Warn.into());
    actions.iter().filter(is).count()
}

#[test]
fn what_can_not_be_killed_is_listed_with_its_user_and_told_to_the_log_once() {
    let mut f = Fixture::new(vec![
        changed("ann", |vm| vm.owner = Owner { uid: 1000, gid: None }),
        changed("web", |vm| vm.owner = Owner::default()),
    ]);
    assert_eq!(listed(&mut f), []);
    let vms = ["ann", "web"].map(|name| f.line(name).expect("it is there").id);
    let told = |pids: &[u32]| pids.iter().map(|pid| (vms.get(*pid as usize).copied().map(VmId), left(*pid))).collect();
    assert_eq!(warned(&f.on(Event::Unkillable(told(&[0, 1, 7])))), 3);
    assert_eq!(listed(&mut f), [(0, 1000), (1, 0), (7, 0)]);
    assert_eq!(warned(&f.on(Event::Unkillable(told(&[0, 1, 7, 8])))), 1);
    assert_eq!(warned(&f.on(Event::Unkillable(told(&[0])))), 0);
    assert_eq!(listed(&mut f), [(0, 1000)]);
    let many: Vec<u32> = (100..200).collect();
    f.on(Event::Unkillable(told(&many)));
    assert_eq!(listed(&mut f).len(), 100);
}

#[test]
fn a_user_with_too_many_starts_no_more_vms_until_they_are_gone() {
    let owner = |uid| move |vm: &mut model::Vm| vm.owner = Owner { uid, gid: None };
    let mut f = Fixture::new(vec![
        changed("ann", owner(1000)),
        changed("bob", owner(1001)),
        changed("web", |vm| vm.owner = Owner::default()),
    ]);
    let ids = ["ann", "bob", "web"].map(|name| VmId(f.line(name).expect("it is there").id));
    let many = |id: VmId, count: usize| (0..count).map(|pid| (Some(id), left(pid as u32))).collect();
    let begins = |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Open { .. }));
    f.on(Event::Unkillable(many(ids[0], MAX_OF_USER)));
    let actions = f.start("ann");
    assert!(!begins(&actions));
    assert!(replies(&actions).iter().any(|reply| matches!(reply, Reply::Failed(why)
        if why.code == Code::NotPermitted && why.text.contains("8 processes of VMs of uid 1000 can't be killed"))));
    assert!(begins(&f.start("bob")), "another user's are not counted");
    f.on(Event::Unkillable(many(ids[0], MAX_OF_USER - 1)));
    assert!(begins(&f.start("ann")));
    f.on(Event::Unkillable(many(ids[2], 100)));
    assert!(begins(&f.start("web")), "root has the host anyway");
}
