//! Control groups, version 2: one for each VM, so that all its processes can be limited, counted and killed at once.
//!
//! ```text
//! the daemon's own cgroup, or /vmd where it was started in the root
//! ├── parent          the parent, priv, control and all short-lived helpers
//! └── vms             its cgroup.procs belongs to _vmd, so that vmm may clone from one leaf into another
//!     ├── vmm
//!     └── vm-1, ...   one for each VM
//! ```
//!
//! Only the parent calls this, and no start fails for lack of it: where it cannot be had, a VM's processes are known by
//! their pidfds alone.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

mod place;
mod shortage;

pub use shortage::Shortage;

/// Those that limit what a VM takes. The kernel has each in one hierarchy alone, which may be version 1's.
pub const CONTROLLERS: [&str; 2] = ["pids", "memory"];

/// Where cgroups of version 2 may be: alone, or beside version 1 (systemd's hybrid layout).
pub const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// Where a daemon's cgroups are, or are to be.
#[derive(Clone, Debug)]
pub struct Place {
    home: PathBuf,
    base: PathBuf,
}

/// The daemon's cgroups.
#[derive(Debug)]
pub struct Tree {
    home: PathBuf,
    /// `home`, or what was made in it and goes at the end.
    base: PathBuf,
    vmm: Cgroup,
    missing: Vec<&'static str>,
    uid: u32,
    gid: u32,
}

/// What all processes of a VM may have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads.
    pub threads: u32,
    /// Bytes of memory, page cache and the kernel's included. Who needs more is ended with all others of the VM.
    pub memory: u64,
    /// Bytes beside it that may be swapped out.
    pub swap: u64,
}

/// One cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: OwnedFd,
}

impl Place {
    /// Finds it. An error says why there are no cgroups here; the caller goes on without.
    pub fn find() -> io::Result<Self> {
        let mount = MOUNTS.iter().map(Path::new).find(|path| place::is_version_2(path)).ok_or(Errno::NOENT)?;
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let own = place::own_path(&own).ok_or(Errno::NOENT)?;
        let home = mount.join(own.trim_start_matches('/'));
        let base = if own == "/" { home.join("vmd") } else { home.clone() };
        Ok(Self { home, base })
    }

    /// The daemon that lives here, or whose leaf we were started in; 0 where it is in another name space. Other processes
    /// of one that was killed end by themselves, and get some time for it. It may have been killed a moment ago ([`DYING`]).
    pub fn owner(&self) -> Option<u32> {
        // Who was started by one of a daemon's processes is in its leaf.
        let leaf = if self.base.ends_with("parent") { self.base.clone() } else { self.base.join("parent") };
        let begun = Instant::now();
        loop {
            match place::inside(&leaf) {
                place::Inside::Nobody => return None,
                place::Inside::Daemon(pid) => return Some(pid),
                place::Inside::Others if begun.elapsed() > LEFTOVER => return None,
                place::Inside::Others => std::thread::sleep(STEP),
            }
        }
    }
}

impl Tree {
    /// Makes the layout for vmm's user, moves the caller into the parent's leaf, and kills what an earlier daemon left:
    /// nobody must own the place.
    pub fn make(place: Place, uid: u32, gid: u32) -> io::Result<Self> {
        let Place { home, base } = place;
        let leaf = base.join("parent");
        let vms = base.join("vms");
        if base != home {
            make_dir(&base)?;
        }
        make_dir(&leaf)?;
        std::fs::write(leaf.join("cgroup.procs"), "0")?;
        make_dir(&vms)?;
        clear(&vms, LEFTOVER)?;
        give(&vms.join("cgroup.procs"), uid, gid)?;
        // Without a controller (it is version 1's, or others sit beside us) a VM has not its limits, and runs.
        let enable = |dir: &Path, name: &str| set(&dir.join("cgroup.subtree_control"), &format!("+{name}"));
        let missing = |name: &&str| enable(&base, name).and_then(|()| enable(&vms, name)).is_err();
        let missing = CONTROLLERS.into_iter().filter(missing).collect();
        let vmm = Cgroup::make(vms.join("vmm"), uid, gid)?;
        Ok(Self { home, base, vmm, missing, uid, gid })
    }

    /// Controllers that can't be had here: their limits do not hold.
    pub fn missing(&self) -> &[&'static str] {
        &self.missing
    }

    /// The cgroup that vmm is started in.
    pub fn vmm(&self) -> &Cgroup {
        &self.vmm
    }

    /// Makes a VM's cgroup, with these limits as far as there are controllers. Beside one of the same name in which
    /// something can't be killed, it gets another.
    pub fn vm(&self, id: u32, limits: Limits) -> io::Result<Cgroup> {
        let mut names = std::iter::once(format!("vm-{id}")).chain((2..MAX_NAMES).map(|nth| format!("vm-{id}.{nth}")));
        let free = |name: &String| {
            let path = self.base.join("vms").join(name);
            !path.exists()
                || Cgroup::open(path).is_ok_and(|left| left.kill().is_ok() && left.try_remove().is_ok_and(|gone| gone))
        };
        let name = names.find(free).ok_or(Errno::BUSY)?;
        let cgroup = Cgroup::make(self.base.join("vms").join(name), self.uid, self.gid)?;
        cgroup.limit(limits).inspect_err(|_| drop(cgroup.try_remove()))?;
        Ok(cgroup)
    }

    /// Kills what is left, goes back to where the daemon was started, and removes all. What the kernel does not let go
    /// within this time is left behind, and an error.
    pub fn remove(self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        let left = || end.saturating_duration_since(Instant::now());
        let vms = Cgroup::open(self.base.join("vms"))?;
        clear(&vms.path, limit)?;
        vms.remove_within(left())?;
        // A cgroup that gives controllers to those below has no process of its own: also not those that a service manager has
        // turned on in what it delegated.
        let control = self.base.join("cgroup.subtree_control");
        for name in std::fs::read_to_string(&control)?.split_whitespace() {
            let _ = set(&control, &format!("-{name}"));
        }
        std::fs::write(self.home.join("cgroup.procs"), "0")?;
        Cgroup::open(self.base.join("parent"))?.wait_empty(left())?;
        std::fs::remove_dir(self.base.join("parent"))?;
        if self.base != self.home {
            std::fs::remove_dir(&self.base)?;
        }
        Ok(())
    }
}

/// Names that one VM's cgroup may have: more of them with something in it that can't be killed are too many.
const MAX_NAMES: u32 = 64;
/// How long what an earlier daemon left may take to die.
const LEFTOVER: Duration = Duration::from_secs(5);
/// How long one that was just killed may look alive: between the signal and the end of its memory.
pub const DYING: Duration = Duration::from_millis(200);
/// How often that is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Whether a process lives: one that ended and is still to be reaped does not, nor one that has SIGKILL to heed.
pub fn lives(pid: u32) -> bool {
    place::title(pid).is_some()
}

impl Cgroup {
    fn make(path: PathBuf, uid: u32, gid: u32) -> io::Result<Self> {
        make_dir(&path)?;
        give(&path.join("cgroup.procs"), uid, gid)?;
        Self::open(path)
    }

    /// What has no file has no controller.
    fn limit(&self, Limits { threads, memory, swap }: Limits) -> io::Result<()> {
        let limits = [
            ("pids.max", threads.to_string()),
            ("memory.max", memory.to_string()),
            ("memory.swap.max", swap.to_string()),
            ("memory.oom.group", "1".to_owned()),
        ];
        for (file, limit) in limits {
            match set(&self.path.join(file), &limit) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the kernel ended processes in it for want of memory, and whose.
    pub fn shortage(&self) -> Option<Shortage> {
        let read = |file| std::fs::read_to_string(self.path.join(file)).ok();
        Shortage::of(&read("memory.events")?, &read("memory.max")?)
    }

    /// O_PATH is enough to clone into it, and good for nothing else once its holder has no paths.
    fn open(path: PathBuf) -> io::Result<Self> {
        let dir = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path, dir })
    }

    /// Sends SIGKILL to all in it and below, also those that are being cloned now.
    pub fn kill(&self) -> io::Result<()> {
        match std::fs::write(self.path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.kill_each(), // before Linux 5.14
            other => other,
        }
    }

    fn kill_each(&self) -> io::Result<()> {
        let text = std::fs::read_to_string(self.path.join("cgroup.procs"))?;
        for pid in text.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL); // it may be gone already
        }
        Ok(())
    }

    /// A process in it.
    pub fn first(&self) -> Option<u32> {
        std::fs::read_to_string(self.path.join("cgroup.procs")).ok()?.lines().next()?.parse().ok()
    }

    /// Removes it if nobody is in it. False while somebody is; one that is gone is removed.
    pub fn try_remove(&self) -> io::Result<bool> {
        match rustix::fs::rmdir(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::BUSY) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills all in it and removes it, waiting for their end at most `limit`.
    pub fn remove_within(&self, limit: Duration) -> io::Result<()> {
        if self.try_remove()? {
            return Ok(());
        }
        self.kill()?;
        self.wait_empty(limit)?;
        if self.try_remove()? { Ok(()) } else { Err(Errno::BUSY.into()) }
    }

    fn wait_empty(&self, limit: Duration) -> io::Result<()> {
        let events = std::fs::File::open(self.path.join("cgroup.events"))?;
        let end = Instant::now() + limit;
        // Read first: only a change after the last read is told.
        while place::populated(&std::io::read_to_string(&events)?) {
            let left = crate::clock::until(end, Instant::now());
            if poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left))? == 0 {
                return Err(Errno::TIMEDOUT.into());
            }
            std::io::Seek::rewind(&mut &events)?;
        }
        Ok(())
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Kills all in every cgroup below `dir` and removes them. Those that are not empty within the limit stay: something in
/// them can't be killed, and is in nobody's way.
fn clear(dir: &Path, limit: Duration) -> io::Result<()> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            left.push(Cgroup::open(entry.path())?);
        }
    }
    left.iter().try_for_each(Cgroup::kill)?;
    let end = Instant::now() + limit;
    for cgroup in left {
        let waited = cgroup.remove_within(end.saturating_duration_since(Instant::now()));
        if waited.is_err() {
            log::warn!("{}: pid {} can't be killed", cgroup.path.display(), cgroup.first().unwrap_or(0));
        }
    }
    Ok(())
}

/// Writes to a file that the kernel has there; one that it does not have is not made.
fn set(path: &Path, text: &str) -> io::Result<()> {
    std::fs::File::options().write(true).open(path)?.write_all(text.as_bytes())
}

fn make_dir(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

#[cfg(test)]
mod tests;
