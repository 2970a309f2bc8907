//! Disks with bases: what is opened when, with whose rights, and what vmm is given.

use proto::probe::Base;

use super::*;

/// A VM of vm.conf with a qcow2 disk.
fn with_image(name: &str, path: &str) -> Definition {
    changed(name, |vm| vm.disks = vec![Disk::new(UserPath::new(path).unwrap(), Some(DiskFormat::Qcow2))])
}

fn based_on(name: &str) -> Found {
    let base = Base { name: UserPath::new(name).unwrap(), format: Some(DiskFormat::Qcow2) };
    Found::Qcow2 { size: 1 << 20, base: Some(base) }
}

const ALONE: Found = Found::Qcow2 { size: 1 << 20, base: None };

fn open(inode: u64) -> OpenFile {
    OpenFile { id: FileId { device: 1, inode }, ..opened(File::Kernel) }
}

/// A start in which everything is there but the disk.
fn begun(f: &mut Fixture, name: &str) -> Run {
    let mut actions = f.start(name);
    let run = actions.iter().find_map(|a| if let Action::Open { run, .. } = a { Some(*run) } else { None }).unwrap();
    while !actions.is_empty() {
        let events: Vec<Event> = actions.iter().flat_map(answers).collect();
        let of_disk = |event: &Event| matches!(event, Event::Opened(_, File::Disk(_), _));
        actions = events.into_iter().filter(|event| !of_disk(event)).flat_map(|event| f.on(event)).collect();
    }
    run
}

/// What is opened next, and as whom.
fn next(actions: &[Action]) -> Vec<(Who, File, String)> {
    let opens = actions.iter().filter_map(|action| match action {
        Action::Open { who, files, .. } => Some((who.clone(), files.clone())),
        _ => None,
    });
    opens
        .flat_map(|(who, files)| {
            files.into_iter().map(move |(file, what, path)| {
                assert_eq!(what, What::Base);
                (who.clone(), file, path.to_string())
            })
        })
        .collect()
}

fn refusal(actions: &[Action]) -> String {
    match replies(actions).as_slice() {
        [Reply::Failed(failure)] => failure.text.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_base_is_opened_when_the_image_that_names_it_was_read() {
    let mut f = Fixture::new(vec![with_image("web", "/srv/a")]);
    let run = begun(&mut f, "web");
    let probe = |file, write| Action::Probe(run, file, ToProbe::Qcow2 { len: 1 << 20, write });
    assert_eq!(f.on(Event::Opened(run, File::Disk(0), Ok(open(1)))), [probe(File::Disk(0), true)]);
    let opens = f.on(Event::Probed(run, File::Disk(0), Ok(based_on("b"))));
    assert_eq!(next(&opens), [(root(), File::Base(0, 1), "/srv/b".to_owned())]);
    assert_eq!(f.on(Event::Opened(run, File::Base(0, 1), Ok(open(2)))), [probe(File::Base(0, 1), false)]);
    let opens = f.on(Event::Probed(run, File::Base(0, 1), Ok(based_on("/home/ann/c"))));
    assert_eq!(next(&opens), [(Who::nobody(), File::Base(0, 2), "/home/ann/c".to_owned())], "not root's word");
    f.on(Event::Opened(run, File::Base(0, 2), Ok(open(3))));
    let opens = f.on(Event::Probed(run, File::Base(0, 2), Ok(based_on("d"))));
    assert_eq!(next(&opens), [(Who::nobody(), File::Base(0, 3), "/home/ann/d".to_owned())]);
    f.on(Event::Opened(run, File::Base(0, 3), Ok(open(4))));
    let last = f.on(Event::Probed(run, File::Base(0, 3), Ok(ALONE)));
    let [Action::Launch(_, launch)] = last.as_slice() else { panic!("{last:?}") };
    let proto::device::Told::Blk(blk) = &launch.devices[0].spec.told else { panic!("{launch:?}") };
    assert_eq!((blk.format, blk.bases.to_vec()), (DiskFormat::Qcow2, vec![DiskFormat::Qcow2; 3]));
}

#[test]
fn what_vmm_gets_has_the_formats_of_all_files_and_what_an_image_may_grow_by() {
    let mut f = Fixture::new(vec![with_image("web", "/srv/a")]);
    let run = begun(&mut f, "web");
    let vm = f.registry.of_run(run).unwrap();
    let chain = vm.chains.get_mut(&0).unwrap();
    chain.opened(open(1)).unwrap();
    chain.found(based_on("b")).unwrap();
    let launch = super::super::starting::launch_of(vm, KernelKind::Pvh, None);
    let proto::device::Told::Blk(blk) = &launch.devices[0].spec.told else { panic!("{launch:?}") };
    assert_eq!((blk.format, blk.bases.to_vec()), (DiskFormat::Qcow2, vec![DiskFormat::Qcow2]));
    assert_eq!((launch.vm.bases, launch.devices[0].spec.fds()), (1, 2));
    assert!(launch.growth[&0] > 1 << 20, "{:?}", launch.growth);
}

#[test]
fn a_base_that_can_not_be_had_is_told_with_the_disk_that_needs_it() {
    let mut f = Fixture::new(vec![with_image("web", "/srv/a")]);
    let run = begun(&mut f, "web");
    f.on(Event::Opened(run, File::Disk(0), Ok(open(1))));
    f.on(Event::Probed(run, File::Disk(0), Ok(based_on("b"))));
    let missing = Failure::new(Code::DiskMissing, "base \"/srv/b\": no such file");
    let refused = f.on(Event::Opened(run, File::Base(0, 1), Err(missing)));
    assert_eq!(refusal(&refused), "disk \"/srv/a\": its base \"/srv/b\": no such file");
    let run = begun(&mut f, "web");
    f.on(Event::Opened(run, File::Disk(0), Ok(open(1))));
    f.on(Event::Probed(run, File::Disk(0), Ok(based_on("b"))));
    f.on(Event::Opened(run, File::Base(0, 1), Ok(open(2))));
    let refused = f.on(Event::Probed(run, File::Base(0, 1), Err(Failure::new(Code::Invalid, "it is encrypted"))));
    assert_eq!(refusal(&refused), "disk \"/srv/a\": its base \"/srv/b\": it is encrypted");
}

#[test]
fn a_base_that_another_vm_writes_is_told_with_that_vms_name_whatever_it_is_called() {
    let mut f = Fixture::new(vec![definition("writer"), with_image("web", "/srv/a")]);
    f.running("writer");
    let run = begun(&mut f, "web");
    f.on(Event::Opened(run, File::Disk(0), Ok(open(1))));
    f.on(Event::Probed(run, File::Disk(0), Ok(based_on("link"))));
    let unnamed = || Failure::new(Code::DiskMissing, "base \"/srv/link\": already in use by another program");
    let written = opened(File::Disk(0)).id;
    let refused = f.on(Event::Locked(run, File::Base(0, 1), written, unnamed()));
    let text =
        "disk \"/srv/a\": its base \"/srv/link\": already in use by vm \"writer\"; stop it, or name another image";
    assert_eq!((code(&refused), refusal(&refused).as_str()), (Some(Code::DiskMissing), text));
    let run = begun(&mut f, "web");
    let refused = f.on(Event::Locked(run, File::Disk(0), open(77).id, unnamed()));
    assert!(refusal(&refused).contains("another program"), "nobody of ours has it");
}

#[test]
fn an_image_that_is_its_own_base_is_told_so() {
    let mut f = Fixture::new(vec![with_image("web", "/srv/a")]);
    let run = begun(&mut f, "web");
    f.on(Event::Opened(run, File::Disk(0), Ok(open(1))));
    f.on(Event::Probed(run, File::Disk(0), Ok(based_on("a"))));
    let locked = Failure::new(Code::DiskMissing, "locked");
    let refused = f.on(Event::Locked(run, File::Base(0, 1), open(1).id, locked));
    assert!(refusal(&refused).contains("can't be based on itself"), "{refused:?}");
}

#[test]
fn a_base_of_a_users_disk_is_opened_as_that_user_wherever_it_lies() {
    let ann = Who { uid: 1000, gid: 1000, groups: vec![] };
    let mut f = Fixture::new(vec![Definition { user: Some(ann.clone()), ..with_image("web", "/home/ann/a") }]);
    let run = begun(&mut f, "web");
    f.on(Event::Opened(run, File::Disk(0), Ok(open(1))));
    let opens = f.on(Event::Probed(run, File::Disk(0), Ok(based_on("/srv/b"))));
    assert_eq!(next(&opens), [(ann, File::Base(0, 1), "/srv/b".to_owned())]);
}
