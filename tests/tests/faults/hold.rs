//! Holds a process where it opens or reads a file, until it is let go or killed: fanotify(7)'s permission events.
//!
//! So a process that lives for a moment is caught at a step of its own, and no test has to be quick.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use testkit::console::Console;
use testkit::deadline::DAEMON;
use testkit::process::Process;

/// Where a process is held.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// Its open(2); the value is FAN_OPEN_PERM (linux/fanotify.h).
    Open = 0x1_0000,
    /// Its first read(2); FAN_ACCESS_PERM.
    Read = 0x2_0000,
}

/// Armed, it holds the first process whose title begins so; all others go on. System calls by their numbers on x86-64:
/// 300 fanotify_init with FAN_CLASS_CONTENT | FAN_CLOEXEC, 301 fanotify_mark with FAN_MARK_ADD and AT_FDCWD.
const HELPER: &str = r#"
use strict;
$| = 1;
my ($path, $mask, $title) = @ARGV;
my $group = syscall(300, 5, 0);
$group >= 0 && syscall(301, $group, 1, $mask + 0, -100, $path) == 0 or die "fanotify: $!";
my ($armed, $held) = (0, undef);
sub allow { syscall(1, $group, pack("lL", shift, 1), 8) }
print "ready\n";
while (1) {
    my $bits = "";
    vec($bits, $_, 1) = 1 for 0, $group;
    select($bits, undef, undef, undef) > 0 or next;
    if (vec($bits, 0, 1)) {
        sysread(STDIN, my $word, 1) or exit 0;
        if ($word eq "a") { $armed = 1; print "armed\n" }
        if ($word eq "g") { allow($held) if defined $held; $held = undef; print "gone\n" }
        next;
    }
    my $event = "\0" x 24;
    next unless syscall(0, $group, $event, 24) == 24;
    my ($fd, $pid) = (unpack "LCCSQll", $event)[5, 6];
    my $command = do { local (@ARGV, $/) = "/proc/$pid/cmdline"; <> } // "";
    if ($armed && index($command, $title) == 0) {
        ($armed, $held) = (0, $fd);
        print "caught $pid\n";
    } else {
        allow($fd);
        syscall(3, $fd);
    }
}
"#;

/// The helper that holds.
pub struct Hold {
    helper: Child,
    orders: ChildStdin,
    says: Console,
}

impl Hold {
    /// For processes with this title, at this file.
    pub fn new(at: At, file: &Path, title: &str) -> Self {
        let mut command = Command::new("perl");
        command.args(["-e", HELPER]).arg(file).arg((at as u32).to_string()).arg(title);
        let mut helper =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("perl, which Debian always has");
        let orders = helper.stdin.take().expect("a pipe");
        let says = Console::over(File::from(OwnedFd::from(helper.stdout.take().expect("a pipe"))));
        let mut hold = Self { helper, orders, says };
        hold.says.expect("ready\n", DAEMON);
        hold
    }

    /// From here on one process is held.
    pub fn arm(&mut self) {
        self.order(b"a", "armed\n");
    }

    /// Waits for it.
    pub fn caught(&mut self) -> Process {
        self.says.expect("caught ", DAEMON);
        let line = self.says.expect("\n", DAEMON);
        Process { pid: line.trim().parse().expect("a pid") }
    }

    /// Lets it go on.
    pub fn let_go(&mut self) {
        self.order(b"g", "gone\n");
    }

    fn order(&mut self, word: &[u8], answer: &str) {
        self.orders.write_all(word).expect("the helper reads");
        self.says.expect(answer, DAEMON);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = self.helper.kill();
        let _ = self.helper.wait();
    }
}
