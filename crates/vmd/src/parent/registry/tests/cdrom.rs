//! The CD-ROM drive of a VM: who opens its image, and what of it a reboot keeps.

use proto::device::{Cdrom, Told};
use proto::opener::What;

use super::*;

fn with_cdrom(path: &str) -> Definition {
    changed("web", |vm| vm.cdrom = UserPath::new(path).ok())
}

/// The drive of a start, by what vmm is told.
fn drive(actions: &[Action]) -> Option<Cdrom> {
    let launch = actions.iter().find_map(|action| match action {
        Action::Launch(_, launch) => Some(launch.clone()),
        _ => None,
    })?;
    launch.devices.iter().find_map(|device| match &device.spec.told {
        Told::Cdrom(cdrom) => Some(cdrom.clone()),
        Told::Blk(_) | Told::Net(_) | Told::Balloon(_) => None,
    })
}

/// The images that are opened, and as whom.
fn opened(actions: &[Action]) -> Vec<(u32, String)> {
    let of = |action: &Action| match action {
        Action::Open { who, files, .. } => {
            let images = files.iter().filter(|(file, what, _)| (*file, *what) == (File::Cdrom, What::Cdrom));
            images.map(|(.., path)| (who.uid, path.to_string())).collect()
        }
        _ => vec![],
    };
    actions.iter().flat_map(of).collect()
}

#[test]
fn the_image_of_a_cdrom_is_opened_and_the_guest_gets_a_drive_with_it() {
    let mut f = Fixture::new(vec![with_cdrom("/srv/a.iso")]);
    let actions = f.start("web");
    let actions = f.prepare(actions);
    assert_eq!(opened(&actions), [(0, "/srv/a.iso".to_owned())]);
    let told = drive(&actions).expect("it has a drive");
    assert_eq!((told.medium, told.open, told.called.as_str()), (true, false, "/srv/a.iso"));
    assert_eq!(told.serial.as_str(), "cdrom0-web");
}

#[test]
fn an_empty_drive_opens_nothing_and_no_drive_is_none() {
    let mut f = Fixture::new(vec![with_cdrom("")]);
    let actions = f.start("web");
    let actions = f.prepare(actions);
    assert_eq!(opened(&actions), []);
    assert!(drive(&actions).is_some_and(|told| !told.medium));
    let mut f = Fixture::new(vec![definition("web")]);
    let actions = f.start("web");
    assert_eq!(drive(&f.prepare(actions)), None);
}

#[test]
fn a_reboot_keeps_what_is_in_the_drive() {
    let mut f = Fixture::new(vec![with_cdrom("/srv/a.iso")]);
    let id = f.running("web");
    let actions = f.on(Event::Ended(id, End::Rebooted));
    let actions = f.prepare(actions);
    assert_eq!(opened(&actions), [], "it is open");
    assert!(drive(&actions).is_some_and(|told| told.medium));
}
