//! A bridge and addresses on the machine's side, by busybox's `ip`: only in the throw-away machine of a test.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs `ip` with these words; it must succeed.
pub fn ip(words: &str) {
    let output = Command::new("busybox").arg("ip").args(words.split_whitespace()).output();
    let output = output.expect("busybox can be run");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The interfaces that are members of a bridge.
pub fn members(bridge: &str) -> Vec<String> {
    let dir = Path::new("/sys/class/net").join(bridge).join("brif");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Is there an interface of this name?
pub fn exists(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

/// Sends pings to an address; true when at least one was answered.
pub fn ping(address: &str) -> bool {
    let output = Command::new("busybox").args(["ping", "-c", "3", "-W", "10", address]).output();
    output.expect("busybox can be run").status.success()
}
