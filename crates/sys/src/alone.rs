//! Tests that change what a whole process has (limits, descriptors, signals) run in a process of their own.

use std::process::Command;

/// Runs `body` in a fresh process that executes only the calling test; `name` is that test's full path.
pub fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os("SYS_TEST_ALONE").is_some_and(|value| value == name) {
        return body();
    }
    let output = Command::new(std::env::current_exe().expect("the test's own path"))
        .args(["--exact", name, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env("SYS_TEST_ALONE", name)
        .output()
        .expect("run the test again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} alone: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Leaves the process with room for exactly `left` more descriptors, and holds the rest.
pub fn fill_descriptors(left: usize) -> Vec<std::fs::File> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = 64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }).expect("lower the limit of descriptors");
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    held.truncate(held.len() - left);
    held
}
