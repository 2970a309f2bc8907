//! What Linux counts by user: a process of one VM that takes all of it takes it from that VM alone.
//!
//! Threads of this test become the user of a VM, as whoever took over one of its processes is it, and take what there is.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};

use e2e::idle::{Does, kernel_file, vm};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Uid};
use testkit::daemon::Daemon;
use testkit::machine::on_kvm;
use testkit::process::Process;

/// Limits of this machine for the test, small enough to be reached soon and large enough for a daemon with three VMs.
const LIMITS: [(&str, &str); 3] = [
    ("/proc/sys/fs/epoll/max_user_watches", "2000"),
    ("/proc/sys/fs/pipe-user-pages-soft", "0"),
    ("/proc/sys/fs/pipe-user-pages-hard", "4096"),
];

/// More than each of the limits.
const MANY: usize = 20_000;

#[test]
fn what_one_vm_takes_of_what_is_counted_by_user_is_its_own() {
    on_kvm("what_one_vm_takes_of_what_is_counted_by_user_is_its_own", || {
        for (path, value) in LIMITS {
            fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let kernel = kernel_file(dir.path(), Does::Nothing);
        let disk = dir.path().join("disk.img");
        fs::File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("an image can be made");
        let disk = format!("disk \"{}\" format raw", disk.display());
        let options: [&[&str]; 3] = [&[], &[], &[&disk]];
        let vms = ["taken", "other", "later"].into_iter().zip(options);
        let daemon = Daemon::start(&vms.map(|(name, options)| vm(name, &kernel, options)).collect::<String>());
        daemon.vmctl(&["start", "taken"]).success();
        daemon.vmctl(&["start", "other"]).success();
        let pid = daemon.row("taken").pid.expect("it runs");
        let user = Process { pid }.status("Uid").and_then(|ids| ids.split('\t').next()?.parse().ok()).expect("an id");
        for (name, take) in TAKERS {
            let taken = as_user(user, take);
            println!("{name}: {} taken", taken.len());
            assert!(taken.len() > 100 && taken.len() < MANY, "{name}: the limit is met");
            // New watches, pipes, descriptors in flight and processes, of the daemon's own user and of another VM.
            assert_eq!(daemon.vmctl(&["status"]).status, Some(0), "{name}");
            daemon.vmctl(&["start", "later"]).success();
            daemon.vmctl(&["pause", "other"]).success();
            daemon.vmctl(&["unpause", "other"]).success();
            daemon.vmctl(&["stop", "-f", "-w", "later"]).success();
        }
        daemon.vmctl(&["stop", "-f", "-w", "-a"]).success();
        assert!(daemon.stop().success(), "vmd ends well");
    });
}

/// Takes until it can't any more; what it gives holds what was taken.
type Take = fn() -> Vec<Vec<OwnedFd>>;

const TAKERS: [(&str, Take); 3] =
    [("watches of epoll", watches), ("pages of pipes", pipes), ("descriptors in flight", in_flight)];

/// A thread has ids of its own.
fn as_user(id: u32, take: Take) -> Vec<Vec<OwnedFd>> {
    let thread = std::thread::spawn(move || {
        sys::limits::raise_descriptors(u64::try_from(MANY).expect("it fits") * 3);
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        rustix::thread::set_thread_groups(&[]).expect("root may");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may");
        take()
    });
    thread.join().expect("it ends")
}

fn watches() -> Vec<Vec<OwnedFd>> {
    let mut taken = vec![];
    while taken.len() < MANY {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a set");
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("an eventfd");
        if let Err(error) = epoll::add(&set, &event, epoll::EventData::new_u64(0), epoll::EventFlags::IN) {
            assert_eq!(error, Errno::NOSPC);
            break;
        }
        taken.push(vec![set, event]);
    }
    taken
}

fn pipes() -> Vec<Vec<OwnedFd>> {
    let make = || match rustix::pipe::pipe_with(PipeFlags::CLOEXEC) {
        Ok((read, write)) => Some(vec![read, write]),
        Err(error) => {
            assert_eq!(error, Errno::NFILE);
            None
        }
    };
    std::iter::from_fn(make).take(MANY).collect()
}

/// As many as one process may have open.
fn in_flight() -> Vec<Vec<OwnedFd>> {
    sys::limits::set(sys::limits::Resource::Nofile, 8192).expect("a limit can be lowered");
    let mut taken = vec![];
    while taken.len() < MANY {
        let kind = (AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC);
        let (ours, theirs) = rustix::net::socketpair(kind.0, kind.1, kind.2, None).expect("a pair");
        let passed = [theirs.as_fd(); 200];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&passed)));
        let sent = rustix::net::sendmsg(&ours, &[std::io::IoSlice::new(b"x")], &mut ancillary, SendFlags::empty());
        if let Err(error) = sent {
            assert_eq!(error, Errno::TOOMANYREFS);
            break;
        }
        taken.push(vec![ours, theirs]);
    }
    // Each holds 200.
    taken.into_iter().flat_map(|pair| std::iter::once(pair).chain((1..200).map(|_| vec![]))).collect()
}
