//! Starts: openbsd/daemon.md, 2.3, 2.5, 2.11, and what is global.

use model::DiskFormat;
use proto::device::MAX_DEVICES;

use super::*;

#[test]
fn row_2_3_start_vm_request_is_taken_without_a_reply() {
    let mut vmm = machine();
    let actions = vmm.parent(ToVmm::StartVm(Box::new(start_of(3, "web", 0))));
    assert_eq!(actions, [Action::Hold(Run(0), vec![Slot::Log, Slot::Memory, Slot::Kernel])]);
}

#[test]
fn row_2_3_start_vm_request_holds_what_comes_along_in_its_order() {
    let mut vmm = machine();
    let start = StartVm { initrd: true, cgroup: true, ..start_of(3, "web", 0) };
    let actions = vmm.parent(ToVmm::StartVm(Box::new(start)));
    assert_eq!(
        actions,
        [Action::Hold(Run(0), vec![Slot::Log, Slot::Memory, Slot::Kernel, Slot::Initrd, Slot::Cgroup])]
    );
}

#[test]
fn row_2_3_start_of_a_known_id_or_name_is_ealready_and_the_existing_vm_stays() {
    let mut vmm = machine();
    vmm.up(3, "web", 0);
    for start in [start_of(3, "other", 1), start_of(4, "web", 1)] {
        let id = start.vm.0;
        assert_eq!(refused(&vmm.parent(ToVmm::StartVm(Box::new(start))), id), Code::Already);
        assert_eq!(vmm.parent(disk(id, 0)), [], "the rest of it is dropped, its descriptors closed");
        assert_eq!(vmm.parent(end(id)), []);
        assert_eq!(vmm.told(), [3]);
    }
}

#[test]
fn row_2_3_start_beyond_a_limit_is_einval() {
    let base = || start_of(3, "web", 0);
    let wrong = [
        StartVm { cpus: 0, ..base() },
        StartVm { cpus: 65, ..base() },
        StartVm { memory: mebibytes(63), ..base() },
        StartVm { devices: MAX_DEVICES + 1, ..base() },
    ];
    for start in wrong {
        let mut vmm = machine();
        let actions = vmm.parent(ToVmm::StartVm(Box::new(start)));
        assert_eq!(refused(&actions, 3), Code::Invalid);
        assert!(!holds_something(&actions));
    }
}

#[test]
fn row_2_3_device_of_an_unknown_vm_is_enoent_and_its_descriptor_is_closed() {
    let actions = machine().parent(nic(8, 0));
    assert_eq!(refused(&actions, 8), Code::NotFound);
    assert!(!holds_something(&actions));
}

#[test]
fn row_2_3_device_beyond_the_number_or_twice_is_einval_and_its_descriptor_is_closed() {
    for message in [disk(3, 1), nic(3, 1), disk(3, 0), nic(3, 0)] {
        let mut vmm = machine();
        let run = vmm.describe(start_of(3, "web", 1));
        let actions = vmm.parent(message);
        assert_eq!(refused(&actions, 3), Code::Invalid);
        assert!(!holds_something(&actions) && actions.contains(&Action::Release(run)));
    }
}

#[test]
fn row_2_3_start_vm_end_of_an_unknown_vm_is_enoent_and_nothing_else_is_done() {
    let actions = machine().parent(end(8));
    assert_eq!(refused(&actions, 8), Code::NotFound);
    assert_eq!(actions.len(), 1);
}

#[test]
fn row_2_3_start_vm_end_answers_once_the_guest_runs_with_its_pid_and_vmid() {
    let mut vmm = machine();
    let (run, _) = vmm.spawn(start_of(3, "web", 2));
    assert_eq!(vmm.ready(run, Member::Device(0)), []);
    assert_eq!(said_to_vm(&vmm.ready(run, Member::Device(1))), [ToVm::Begin]);
    let done = ToParent::StartDone { vm: VmId(3), result: Ok(102) };
    assert_eq!(vmm.vm(run, FromVm::Started), [Action::Reply(done)]);
}

#[test]
fn a_start_whose_parts_did_not_all_come_is_einval() {
    let mut vmm = machine();
    vmm.parent(ToVmm::StartVm(Box::new(start_of(3, "web", 2))));
    vmm.parent(disk(3, 1));
    assert_eq!(refused(&vmm.parent(end(3)), 3), Code::Invalid);
    assert!(vmm.told().is_empty());
}

#[test]
fn a_start_without_dev_kvm_is_enodev() {
    let mut vmm = Machine { running: Running::new(65536, false), now: Moment::now() };
    vmm.describe(start_of(3, "web", 0));
    assert_eq!(refused(&vmm.parent(end(3)), 3), Code::NoDevice);
}

#[test]
fn a_start_given_up_before_its_end_is_forgotten_without_a_reply() {
    let mut vmm = machine();
    let run = vmm.describe(start_of(3, "web", 0));
    assert_eq!(vmm.parent(ToVmm::StartCancel { vm: VmId(3) }), [Action::Release(run)]);
    vmm.up(3, "web", 0);
}

#[test]
fn a_start_for_which_no_descriptors_are_left_is_refused_before_it_can_lose_any() {
    let mut vmm = Machine { running: Running::new(SPARE_DESCRIPTORS + 22, false), now: Moment::now() };
    vmm.parent(ToVmm::Kvm);
    vmm.up(1, "one", 0);
    vmm.up(2, "two", 0);
    let third = start_of(3, "three", 0);
    assert_eq!(refused(&vmm.parent(ToVmm::StartVm(Box::new(third))), 3), Code::NoDescriptors);
}

#[test]
fn row_2_5_a_refused_start_is_removed_and_answered_once() {
    let mut vmm = machine();
    vmm.parent(ToVmm::StartVm(Box::new(start_of(3, "web", 2))));
    assert_eq!(refused(&vmm.parent(disk(3, 5)), 3), Code::Invalid);
    for message in [disk(3, 0), nic(3, 0), end(3)] {
        assert_eq!(vmm.parent(message), [], "what still comes of it is dropped");
    }
    vmm.up(3, "web", 2);
}

#[test]
fn the_files_of_a_disk_are_held_in_the_order_of_its_bases() {
    let mut vmm = machine();
    vmm.parent(ToVmm::StartVm(Box::new(StartVm { bases: 2, ..start_of(3, "web", 1) })));
    let ToVmm::StartDevice { mut spec, .. } = disk(3, 0) else { panic!("a disk") };
    let Told::Blk(blk) = &mut spec.told else { panic!("a disk") };
    blk.bases = vec![DiskFormat::Qcow2, DiskFormat::Raw].try_into().expect("few");
    let held = vmm.parent(ToVmm::StartDevice { vm: VmId(3), device: 0, spec });
    let slots = (0..3).map(|file| Slot::Device(0, file)).collect();
    assert_eq!(held, [Action::Hold(Run(0), slots)]);
}

#[test]
fn row_2_11_devices_then_the_vm_are_started_and_told_what_they_are() {
    let mut vmm = machine();
    vmm.parent(ToVmm::StartVm(Box::new(start_of(3, "web", 2))));
    let run = Run(0);
    let specs: Vec<Spec> = [disk(3, 1), nic(3, 0)] // in any order
        .into_iter()
        .map(|message| {
            let ToVmm::StartDevice { device, spec, .. } = message.clone() else { panic!("{message:?}") };
            assert_eq!(vmm.parent(message), [Action::Hold(run, vec![Slot::Device(device, 0)])]);
            *spec
        })
        .collect();
    let actions = vmm.launch(3);
    let titles: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Spawn(_, title) => Some((title.title.as_str(), title.role)),
            _ => None,
        })
        .collect();
    let want = [("vmd: vionet0 web", "vionet"), ("vmd: vioblk1 web", "vioblk"), ("vmd: vm web", "vm")];
    assert_eq!(titles, want, "in order of their index");
    let told: Vec<_> = actions
        .iter()
        .filter_map(|action| match action {
            Action::TellDevice(process, ToDevice::Start { vm, spec, .. }) => Some((process.member, vm.as_str(), spec)),
            _ => None,
        })
        .map(|(member, vm, spec)| (member, vm, spec.as_ref()))
        .collect();
    assert_eq!(told, [(Member::Device(0), "web", &specs[1]), (Member::Device(1), "web", &specs[0])]);
    let said = said_to_vm(&actions);
    assert!(matches!(said.first(), Some(ToVm::Describe(what)) if what.devices == 2 && what.memory == mebibytes(256)));
    let fronts = [specs[1].kind().front, specs[0].kind().front];
    let devices: Vec<ToVm> = (0..).zip(fronts).map(|(device, front)| ToVm::Device { device, front }).collect();
    assert_eq!(said.get(1..), Some(devices.as_slice()));
    assert!(!actions.contains(&Action::Release(run)), "what its devices serve is for their next processes too");
}

#[test]
fn row_2_11_fork_or_exec_failure_at_any_process_fails_that_start_alone_and_leaves_no_process() {
    for failing in 0..4 {
        let mut vmm = machine();
        let other = vmm.up(1, "other", 0);
        vmm.describe(start_of(3, "web", 3));
        let mut actions = vmm.parent(end(3));
        let mut alive = Vec::new();
        for pid in 0..failing {
            let process = spawned(&actions).expect("the next process");
            alive.push(process.member);
            actions = vmm.event(Event::Spawned(process, pid));
        }
        let process = spawned(&actions).expect("the failing process");
        let failure = Failure::new(Code::Io, "clone: Resource temporarily unavailable");
        let mut actions = vmm.event(Event::SpawnFailed(process, failure));
        assert_eq!(kills(&actions), alive.iter().map(|member| (*member, Signal::KILL)).collect::<Vec<_>>());
        for member in alive {
            assert_eq!(answers(&actions), [], "answered when nothing is left");
            actions = vmm.exit(process.run, member, Exit::Signal(9));
        }
        assert_eq!(refused(&actions, 3), Code::Io);
        assert!(actions.contains(&Action::Release(process.run)));
        assert_eq!(vmm.told(), [1]);
        assert_eq!(said_to_vm(&vmm.stop(1, GRACEFUL)), [ToVm::AskToStop], "{other:?} is served");
    }
}

#[test]
fn row_2_11_a_vm_that_dies_before_it_answers_is_eio() {
    let mut vmm = machine();
    let (run, _) = vmm.spawn(start_of(3, "web", 0));
    assert_eq!(refused(&vmm.exit(run, Member::Vm, Exit::Code(5)), 3), Code::Io);
}

#[test]
fn row_2_11_what_a_vm_says_of_its_failure_is_the_answer() {
    let mut vmm = machine();
    let (run, _) = vmm.spawn(start_of(3, "web", 0));
    let failure = Failure::new(Code::NoMemory, "could not allocate guest memory\x1b[2J");
    assert_eq!(kills(&vmm.vm(run, FromVm::Failed(failure))), [(Member::Vm, Signal::KILL)]);
    let actions = vmm.exit(run, Member::Vm, Exit::Code(5));
    let text = Failure::new(Code::NoMemory, "could not allocate guest memory\\u{1b}[2J");
    assert_eq!(answers(&actions), [ToParent::StartDone { vm: VmId(3), result: Err(text) }]);
}

#[test]
fn row_1_8_a_device_that_fails_or_dies_before_it_is_ready_fails_the_start_and_is_named() {
    let failed = |process| Event::Device(process, FromDevice::Failed(Failure::new(Code::Busy, "tap is taken")));
    let died = |process| Event::Exited(process, Exit::Signal(11));
    for (event, code) in [(failed as fn(Process) -> Event, Code::Busy), (died, Code::Io)] {
        let mut vmm = machine();
        let (run, _) = vmm.spawn(start_of(3, "web", 2));
        let process = Process { run, member: Member::Device(1) };
        let actions = vmm.event(event(process));
        assert!(log(&actions).contains("vioblk1"), "{}", log(&actions));
        assert!(kills(&actions).contains(&(Member::Vm, Signal::KILL)));
        vmm.exit(run, Member::Device(1), Exit::Code(1));
        vmm.exit(run, Member::Device(0), Exit::Signal(9));
        assert_eq!(refused(&vmm.exit(run, Member::Vm, Exit::Signal(9)), 3), code);
    }
}

#[test]
fn row_2_11_waiting_for_a_device_or_the_vm_has_a_deadline() {
    let mut vmm = machine();
    let (run, _) = vmm.spawn(start_of(3, "web", 1));
    assert_eq!(vmm.running.next_deadline(), Some(vmm.now + READY_LIMIT));
    let actions = vmm.pass(READY_LIMIT);
    assert!(log(&actions).contains("vioblk0 not ready within 30 s"));
    vmm.exit(run, Member::Device(0), Exit::Signal(9));
    assert_eq!(refused(&vmm.exit(run, Member::Vm, Exit::Signal(9)), 3), Code::TimedOut);

    let (run, _) = vmm.spawn(start_of(4, "mail", 0));
    assert_eq!(vmm.pass(BEGIN_LIMIT - Duration::from_secs(1)), []);
    vmm.pass(Duration::from_secs(1));
    assert_eq!(refused(&vmm.exit(run, Member::Vm, Exit::Signal(9)), 4), Code::TimedOut);
}

#[test]
fn row_2_11_other_vms_are_served_while_one_starts() {
    let mut vmm = machine();
    vmm.up(1, "other", 0);
    vmm.spawn(start_of(3, "web", 0));
    assert_eq!(stopped(&vmm.stop(1, GRACEFUL)), Ok(()));
    assert_eq!(vmm.told(), [1, 3]);
}

#[test]
fn row_2_3_config_replaces_the_settings_that_later_starts_get() {
    let mut vmm = machine();
    vmm.parent(ToVmm::Config(Config { debug: true }));
    vmm.parent(ToVmm::Config(Config { debug: false }));
    let actions = vmm.parent(ToVmm::Config(Config { debug: true }));
    assert_eq!(actions, [Action::Verbose(true)], "and no reply");
    let (_, actions) = vmm.spawn(start_of(3, "web", 0));
    assert!(matches!(said_to_vm(&actions).first(), Some(ToVm::Describe(what)) if what.debug));
}

#[test]
fn row_2_3_verbose_is_set_here_sent_to_all_processes_and_given_to_later_ones() {
    let mut vmm = machine();
    let run = vmm.up(1, "web", 1);
    let actions = vmm.parent(ToVmm::Verbose { debug: true });
    let device = Process { run, member: Member::Device(0) };
    let want = [
        Action::Verbose(true),
        Action::TellDevice(device, ToDevice::Verbose { debug: true }),
        Action::TellVm(run, ToVm::Verbose { debug: true }),
    ];
    assert_eq!(actions, want);
    let (_, actions) = vmm.spawn(start_of(2, "mail", 0));
    assert!(actions.iter().any(|action| matches!(action, Action::Spawn(_, title) if title.debug)));
}

#[test]
fn row_2_3_kvm_descriptor_is_held_and_a_second_one_refused_while_vmm_lives() {
    let mut vmm = Machine { running: Running::new(65536, false), now: Moment::now() };
    assert_eq!(vmm.parent(ToVmm::Kvm), [Action::HoldHost(HostFd::Kvm)]);
    let actions = vmm.parent(ToVmm::Kvm);
    assert_eq!(log(&actions), "already received kvm fd");
    assert!(!holds_something(&actions), "it is closed");
    vmm.up(1, "web", 0);
}

#[test]
fn row_2_3_psp_descriptor_is_held_and_a_second_one_refused_while_vmm_lives() {
    let mut vmm = machine();
    assert_eq!(vmm.parent(ToVmm::Psp), [Action::HoldHost(HostFd::Psp)]);
    let actions = vmm.parent(ToVmm::Psp);
    assert_eq!(log(&actions), "already received psp fd");
    assert!(!holds_something(&actions));
    vmm.up(1, "web", 0);
}

#[test]
fn row_2_3_a_message_that_cannot_be_read_fails_the_starts_it_may_have_been_of_and_no_vm() {
    let mut vmm = machine();
    vmm.up(1, "other", 0);
    let run = vmm.describe(start_of(3, "web", 0));
    let actions = vmm.event(Event::Lost("malformed message".to_owned()));
    assert!(actions.contains(&Action::Release(run)));
    assert_eq!(refused(&actions, 3), Code::Io);
    assert_eq!(vmm.parent(end(3)), []);
    assert_eq!(vmm.told(), [1]);
}

#[test]
fn row_2_12_info_tells_each_vm_with_a_process_then_the_end() {
    let mut vmm = machine();
    vmm.up(2, "mail", 0);
    vmm.up(1, "web", 1);
    vmm.describe(start_of(5, "no-process-yet", 0));
    let info = |vm, pid| ToParent::Info { request: REQUEST, vm: VmId(vm), pid, cpus: 1, memory: mebibytes(256) };
    let want = [info(1, 101), info(2, 100), ToParent::InfoEnd { request: REQUEST }];
    assert_eq!(answers(&vmm.parent(ToVmm::Info { request: REQUEST })), want);
}

#[test]
fn row_2_12_info_of_no_vm_is_the_end_alone() {
    let actions = machine().parent(ToVmm::Info { request: REQUEST });
    assert_eq!(actions, [Action::Reply(ToParent::InfoEnd { request: REQUEST })]);
}

#[test]
fn row_2_11_a_message_that_finds_no_descriptor_free_fails_its_start_alone_and_at_once() {
    let messages: [fn() -> ToVmm; 4] =
        [|| ToVmm::StartVm(Box::new(start_of(3, "web", 2))), || disk(3, 0), || nic(3, 1), || end(3)];
    for lost in 0..messages.len() {
        let mut vmm = machine();
        vmm.up(1, "other", 0);
        let waiting = vmm.describe(start_of(4, "waiting", 0));
        for message in messages.iter().take(lost) {
            assert_eq!(answers(&vmm.parent(message())), []);
        }
        let actions = vmm.event(Event::WithoutDescriptors(Box::new(messages[lost]())));
        assert_eq!(refused(&actions, 3), Code::NoDescriptors, "message {lost}");
        for message in messages.iter().skip(lost + 1) {
            assert_eq!(answers(&vmm.parent(message())), [], "it is answered once");
        }
        assert_eq!(vmm.told(), [1]);
        assert!(vmm.parent(end(4)).contains(&Action::Hold(waiting, vec![Slot::Console])), "the other start goes on");
        vmm.up(3, "web", 2);
    }
}
