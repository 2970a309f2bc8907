//! The real program in namespaces of the test's own: mounts, network, its own /run, /etc/passwd and /dev.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{UnshareFlags, unshare};

/// What a run ended with.
pub struct Ended {
    /// Exit status.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Mounts of the calling thread and its children alone: an empty /run, and a passwd with or without vmd's user.
pub fn own_world(with_user: bool) -> tempfile::TempDir {
    unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET).expect("namespaces, as root");
    let dir = tempfile::tempdir().expect("directory");
    let host = std::fs::read_to_string("/etc/passwd").expect("passwd");
    let mut users: String =
        host.lines().filter(|line| !line.starts_with("_vmd:")).map(|line| format!("{line}\n")).collect();
    if with_user {
        users += "_vmd:x:990:990::/nonexistent:/usr/sbin/nologin\n";
    }
    let passwd = dir.path().join("passwd");
    std::fs::write(&passwd, users).expect("write");
    mount(&["--make-rprivate", "/"]);
    mount(&["--bind", passwd.to_str().expect("UTF-8"), "/etc/passwd"]);
    mount(&["-t", "tmpfs", "tmpfs", "/run"]);
    mount(&["-t", "tmpfs", "tmpfs", "/var/lib"]);
    dir
}

pub fn mount(arguments: &[&str]) {
    let done = Command::new("mount").arg("-n").args(arguments).status().expect("mount(8)");
    assert!(done.success(), "mount {arguments:?}");
}

pub fn vmd(arguments: &[&str], uid: u32) -> Ended {
    // By descriptor: a user may not reach every directory that this was built in.
    let program = File::open(env!("CARGO_BIN_EXE_vmd")).expect("vmd");
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    let output = command.arg0("vmd").args(arguments).uid(uid).output().expect("vmd");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ended { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub fn configuration(dir: &Path, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join("vm.conf");
    std::fs::write(&file, text).expect("write");
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("readable by all");
    file.to_str().expect("UTF-8").to_owned()
}

impl Ended {
    /// One line on standard error with all these words, and status 1.
    pub fn says(&self, words: &[&str]) {
        assert_eq!(self.status, Some(1), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "one line: {}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {:?}", self.stderr);
        }
        assert_eq!(self.stdout, "");
    }
}

/// Nothing in /run, and no interface but loopback.
pub fn nothing_is_left() {
    let left: Vec<_> = std::fs::read_dir("/run").expect("/run").map(|entry| entry.expect("entry").path()).collect();
    assert!(left.is_empty(), "left in /run: {left:?}");
    let links = sys::netlink::Route::open(Duration::from_secs(5)).expect("netlink").links().expect("links");
    assert_eq!(links.len(), 1, "{links:?}");
}

/// A /dev that has only these: names, and the files of the host that they are.
pub fn own_dev(dir: &Path, devices: &[(&str, &str)]) {
    let dev = dir.join("dev");
    for (name, host) in devices {
        let file = dev.join(name);
        std::fs::create_dir_all(file.parent().expect("a directory")).expect("directory");
        File::create(&file).expect("file");
        mount(&["--bind", host, file.to_str().expect("UTF-8")]);
    }
    mount(&["--rbind", dev.to_str().expect("UTF-8"), "/dev"]);
}
