//! Taps and bridges that can't be had are named, and what to do; nothing of the attempt is left.

use std::fs::File;
use std::os::fd::AsFd as _;

use e2e::idle::{self, Does};
use e2e::vm_conf::switch;
use sys::netlink::Route;
use testkit::apart::{apart, mount};
use testkit::bridge::exists;
use testkit::daemon::Daemon;
use testkit::deadline::{self, DAEMON};

use crate::world::{NO_KVM, Quiet, ends, refused};

/// An interface that another program has: a tap, which ends with the descriptor.
fn others_tap(name: &str) -> File {
    let tun = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    sys::tun::attach(tun.as_fd(), name).expect("a tap");
    tun
}

#[test]
fn a_tap_or_bridge_that_can_not_be_had_is_named() {
    apart("nics::a_tap_or_bridge_that_can_not_be_had_is_named", || {
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = idle::kernel_file(dir.path(), Does::Nothing);
        let conf = [
            switch("lan", "bridge0"),
            switch("odd", "nobridge"),
            idle::vm("taken", &kernel, &["interface tap7 { switch \"lan\" }"]),
            idle::vm("odd", &kernel, &["interface { switch \"odd\" }"]),
            idle::vm("gone", &kernel, &["interface { switch \"lan\" }"]),
            idle::vm("good", &kernel, &["interface { switch \"lan\" }"]),
            idle::vm("tun", &kernel, &["interface { switch \"lan\" }"]),
            idle::vm("none", &kernel, &["interface { switch \"nosuch\" }"]),
        ];
        let (tap, _odd) = (others_tap("tap7"), others_tap("nobridge"));
        let daemon = Daemon::start_quietly(&conf.concat());
        deadline::until("the bridge", DAEMON, || exists("bridge0").then_some(()));
        let quiet = Quiet::of(&daemon);
        let said =
            |name: &str, why: &str| refused(&daemon, &["start", name], &format!("vmctl: start \"{name}\": {why}"));
        said("taken", "tap \"tap7\" is taken; name another, or leave the name out for the first free one");
        let not_made = "could not be set up; the log says why, and a reload tries again";
        said("odd", &format!("switch \"odd\" of vm \"odd\" {not_made}"));
        said("none", NO_KVM);
        let warned = "vm \"none\": switch \"nosuch\" not found: interface 0 is not attached to a switch";
        assert!(daemon.log().contains(warned), "{}", daemon.log());
        said("good", NO_KVM);
        let refusal = "\"nobridge\" is an interface, but not a bridge; name a bridge, or a name that is not in use";
        assert!(daemon.log().contains(refusal), "told at the start too: {}", daemon.log());
        quiet.again();

        let mut route = Route::open(DAEMON).expect("netlink");
        let bridge = route.link("bridge0").expect("netlink").expect("it is there");
        route.delete(bridge.index).expect("it is ours");
        let quiet = Quiet::of(&daemon);
        said("gone", "bridge \"bridge0\" does not exist");
        mount("-t tmpfs tmpfs /dev/net");
        said("tun", "/dev/net/tun (is the module tun loaded?): No such file or directory");
        quiet.again();
        assert!(exists("tap7") && exists("nobridge"), "what others have stays");
        ends(daemon);
        drop(tap);
    });
}
