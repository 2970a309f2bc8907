//! One test per promise. Those that make cgroups run on the machine of the end-to-end tests (`scripts/run-tests`), where
//! they can always be made.

use super::*;
use crate::alone::alone;
use crate::child::{Child, Exit};
use crate::exe::Executable;
use crate::spawn::Spawn;

const LIMIT: Duration = Duration::from_secs(10);

const MANY: Limits = Limits { threads: 100, memory: 1 << 30, swap: 1 << 30 };

/// A tree of this test's own.
fn tree(name: &str, uid: u32) -> Tree {
    let mount = MOUNTS.iter().map(Path::new).find(|path| place::is_version_2(path)).expect("cgroups of version 2");
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("own cgroups");
    let home = mount.join(place::own_path(&own).expect("a place in them").trim_start_matches('/'));
    let base = home.join(format!("vmd-test-{name}-{}", std::process::id()));
    Tree::make(Place { home, base }, uid, uid).expect("root may make cgroups")
}

fn endless(cgroup: Option<BorrowedFd<'_>>) -> Child {
    let exe = Executable::open(Path::new("/bin/sh")).expect("open the shell");
    Spawn::new(&exe, &["sh", "-c", "while :; do :; done"]).cgroup(cgroup).spawn().expect("spawn")
}

fn where_is(child: &Child) -> String {
    std::fs::read_to_string(format!("/proc/{}/cgroup", child.pid())).expect("its cgroups")
}

#[test]
#[ignore = "needs cgroups of its own"]
fn child_is_born_in_the_vms_cgroup_and_kill_ends_it() {
    alone("cgroup::tests::child_is_born_in_the_vms_cgroup_and_kill_ends_it", || {
        let tree = tree("kill", 0);
        let vm = tree.vm(7, MANY).expect("the VM's cgroup");
        let mut child = endless(Some(vm.as_fd()));
        assert!(where_is(&child).contains("/vms/vm-7"), "{}", where_is(&child));
        assert!(!vm.try_remove().expect("busy"));
        vm.kill().expect("kill");
        assert_eq!(child.wait().expect("wait"), Exit::Signal(9));
        vm.remove_within(LIMIT).expect("remove");
        assert!(!vm.path.exists());
        assert!(vm.try_remove().expect("gone is removed"));
        tree.remove(LIMIT).expect("remove all");
    });
}

#[test]
#[ignore = "needs cgroups of its own"]
fn vmms_user_may_clone_from_its_leaf_into_a_vms() {
    alone("cgroup::tests::vmms_user_may_clone_from_its_leaf_into_a_vms", || {
        const NOBODY: u32 = 65534;
        let tree = tree("user", NOBODY);
        let vm = tree.vm(1, MANY).expect("the VM's cgroup");
        let foreign = Cgroup::make(tree.base.join("foreign"), 0, 0).expect("a cgroup that is root's");
        std::fs::write(tree.vmm().path.join("cgroup.procs"), "0").expect("move into vmm's leaf");
        // SAFETY: changes this thread's effective user, and back, in a process that runs only this test.
        #[allow(unsafe_code)]
        let become_user = |uid: u32| unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
        assert_eq!(become_user(NOBODY), 0);
        let (mut inside, mut outside) = (endless(Some(vm.as_fd())), endless(Some(foreign.as_fd())));
        assert_eq!(become_user(0), 0);
        assert!(where_is(&inside).contains("/vms/vm-1"));
        assert!(where_is(&outside).contains("/vms/vmm"), "it started all the same");
        for child in [&mut inside, &mut outside] {
            child.kill(rustix::process::Signal::KILL).expect("kill");
            child.wait().expect("wait");
        }
        std::fs::write(tree.base.join("parent/cgroup.procs"), "0").expect("move back");
        foreign.remove_within(LIMIT).expect("remove");
        tree.remove(LIMIT).expect("remove all");
    });
}

#[test]
#[ignore = "needs cgroups of its own"]
fn a_daemon_finds_and_kills_what_an_earlier_one_left() {
    alone("cgroup::tests::a_daemon_finds_and_kills_what_an_earlier_one_left", || {
        let earlier = tree("left", 0);
        let vm = earlier.vm(1, MANY).expect("the VM's cgroup");
        let mut child = endless(Some(vm.as_fd()));
        // The test's process is in the earlier daemon's leaf; a real one is started where that was.
        let again = Tree::make(Place { home: earlier.home.clone(), base: earlier.base.clone() }, 0, 0)
            .expect("the next daemon");
        assert_eq!(child.wait().expect("wait"), Exit::Signal(9));
        assert!(!vm.path.exists());
        again.remove(LIMIT).expect("remove all");
        assert!(!earlier.base.exists());
    });
}

#[test]
#[ignore = "needs cgroups of its own"]
fn who_takes_more_than_its_memory_is_ended_with_all_beside_it() {
    alone("cgroup::tests::who_takes_more_than_its_memory_is_ended_with_all_beside_it", || {
        let tree = tree("memory", 0);
        assert_eq!(tree.missing(), [""; 0], "the machine of the tests has all controllers");
        let limits = Limits { threads: 3, memory: 32 << 20, swap: 16 << 20 };
        let (vm, other) = (tree.vm(1, limits).expect("a cgroup"), tree.vm(2, limits).expect("another"));
        let read = |file: &str| std::fs::read_to_string(vm.path.join(file)).expect("the controller's file");
        assert_eq!(
            (&*read("pids.max"), &*read("memory.max"), &*read("memory.oom.group")),
            ("3\n", "33554432\n", "1\n")
        );
        let (mut idle, mut spared) = (endless(Some(vm.as_fd())), endless(Some(other.as_fd())));
        let exe = Executable::open(Path::new("/bin/sh")).expect("open the shell");
        let greedy = ["sh", "-c", "all=x; while :; do all=$all$all; done"];
        let mut greedy = Spawn::new(&exe, &greedy).cgroup(Some(vm.as_fd())).spawn().expect("spawn");
        assert_eq!(greedy.wait().expect("wait"), Exit::Signal(9));
        assert_eq!(idle.wait().expect("wait"), Exit::Signal(9));
        assert_eq!((vm.shortage(), other.shortage()), (Some(Shortage::Limit(32 << 20)), None));
        assert_eq!(spared.try_wait().expect("it runs"), None);
        spared.kill(rustix::process::Signal::KILL).expect("kill");
        spared.wait().expect("wait");
        tree.remove(LIMIT).expect("remove all");
    });
}

#[test]
#[ignore = "needs cgroups of its own"]
fn a_process_that_will_not_go_is_an_error_at_the_deadline() {
    alone("cgroup::tests::a_process_that_will_not_go_is_an_error_at_the_deadline", || {
        let tree = tree("late", 0);
        let vm = tree.vm(1, MANY).expect("the VM's cgroup");
        let mut child = endless(Some(vm.as_fd()));
        let late = vm.wait_empty(Duration::from_millis(20)).expect_err("it runs");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        vm.kill_each().expect("kill the old way");
        child.wait().expect("wait");
        tree.remove(LIMIT).expect("remove all");
    });
}

#[test]
fn where_nothing_can_be_made_it_is_an_error() {
    let nowhere = PathBuf::from("/proc/nowhere");
    let place = Place { base: nowhere.join("vmd"), home: nowhere };
    assert_eq!(place.owner(), None);
    assert!(Tree::make(place, 0, 0).is_err());
}

#[test]
#[ignore = "needs cgroups of its own"]
fn controllers_that_a_service_manager_turned_on_hold_up_no_end() {
    alone("cgroup::tests::controllers_that_a_service_manager_turned_on_hold_up_no_end", || {
        // As in a unit with delegation: the daemon goes back to where it was started, which is no root.
        let outside = tree("manager", 0);
        let home = outside.base.join("unit");
        make_dir(&home).expect("a cgroup");
        let unit = Tree::make(Place { home: home.clone(), base: home.clone() }, 0, 0).expect("root may make cgroups");
        let on = |dir: &Path| {
            let all = std::fs::read_to_string(dir.join("cgroup.controllers")).expect("its controllers");
            all.split_whitespace()
                .filter(|name| set(&dir.join("cgroup.subtree_control"), &format!("+{name}")).is_ok())
                .count()
        };
        on(&outside.home);
        assert!(on(&outside.base) > 2 && on(&home) > 2, "more than our own");
        unit.remove(LIMIT).expect("remove all");
        assert!(!home.join("parent").exists());
        std::fs::write(outside.base.join("parent/cgroup.procs"), "0").expect("move back");
        std::fs::remove_dir(&home).expect("remove");
        outside.remove(LIMIT).expect("remove all");
    });
}
