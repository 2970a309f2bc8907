//! One test per rule: the decisions by themselves, then priv's edge before the kernel, in a network namespace of the
//! test's own (needs root).
#![allow(deprecated)] // rustix's safe `unshare`: CLONE_NEWNET alone shares no descriptors anew

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model::{IfName, MacAddr};
use proto::privileged::{Alias, LocalEnd, TapSpec, ToParent, ToPriv};
use proto::{Channel, Code, Received, RequestId};
use rustix::thread::{UnshareFlags, unshare};
use sys::ipv6::Settings;
use sys::netlink::{Link, LinkKind, Route};

use super::edge::Edge;
use super::switches::GROUP;

fn name(name: &str) -> IfName {
    IfName::new(name).unwrap()
}

/// What is asked for a card's tap, at no bridge.
fn tap_of(alias: &str) -> TapSpec {
    TapSpec {
        name: None,
        alias: Alias::new(alias).unwrap(),
        bridge: None,
        isolated: false,
        up: true,
        rdomain: None,
        group: None,
        local: None,
    }
}

mod decisions;
mod inet6;
mod isolated;
mod neighbours;
mod others;
mod outside;

/// A priv in a network namespace of its own, and this end of its channel.
struct Priv {
    channel: Channel<ToPriv, ToParent>,
    thread: std::thread::JoinHandle<()>,
    killed: Arc<AtomicBool>,
    route: Route,
    next: u32,
}

const SOON: Duration = Duration::from_secs(30);

thread_local! {
    /// What a parent would hold in the namespace of this thread, and give to each priv.
    static TABLES: std::cell::RefCell<Option<OwnedFd>> = const { std::cell::RefCell::new(None) };
}

/// Puts the calling thread, and those that it starts, into an empty network namespace.
fn own_namespace() {
    unshare(UnshareFlags::NEWNET).expect("a network namespace, as root");
    TABLES.replace(Some(sys::netlink::nft::socket().unwrap()));
}

fn tables() -> Option<OwnedFd> {
    TABLES.with_borrow(|tables| tables.as_ref().map(|tables| tables.try_clone().unwrap()))
}

fn control_device() -> OwnedFd {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap().into()
}

impl Priv {
    fn start() -> Self {
        Self::with(Settings::open().unwrap())
    }

    fn with(settings: Settings) -> Self {
        let (channel, theirs) = proto::channel::pair::<ToPriv, ToParent>().unwrap();
        Self::of(channel, Edge::new(theirs.into_socket(), Some(settings), tables()).unwrap())
    }

    fn of(channel: Channel<ToPriv, ToParent>, mut edge: Edge) -> Self {
        let killed = Arc::new(AtomicBool::new(false));
        let is_killed = killed.clone();
        let thread = std::thread::spawn(move || {
            edge.attend().unwrap();
            if !is_killed.load(Ordering::Acquire) {
                edge.end();
            }
        });
        Self { channel, thread, killed, route: Route::open(SOON).unwrap(), next: 0 }
    }

    fn ask(&mut self, message: impl FnOnce(RequestId) -> ToPriv, fds: Vec<OwnedFd>) -> (ToParent, Vec<OwnedFd>) {
        self.next += 1;
        self.channel.send(&message(RequestId(self.next)), fds).unwrap();
        match self.channel.recv_within(SOON).unwrap() {
            Received::Message(answer, fds) => (answer, fds),
            other => panic!("no answer: {other:?}"),
        }
    }

    fn switch(&mut self, bridge: &str, up: bool) -> ToParent {
        let alias = Alias::new("switch1-lan").unwrap();
        self.ask(
            |request| ToPriv::MakeSwitch { request, bridge: name(bridge), alias, external: false, up, rdomain: None },
            vec![],
        )
        .0
    }

    fn try_tap(&mut self, tap: Option<&str>, bridge: Option<&str>) -> (ToParent, Vec<OwnedFd>) {
        let (tap, bridge) = (tap.map(name), bridge.map(name));
        let message = |request| ToPriv::MakeTap {
            request,
            filtered: false,
            tap: TapSpec { name: tap, bridge, ..tap_of("vm1-if0-web") },
        };
        self.ask(message, vec![control_device()])
    }

    fn tap(&mut self, tap: Option<&str>, bridge: Option<&str>) -> (String, MacAddr, OwnedFd) {
        match self.try_tap(tap, bridge) {
            (ToParent::TapMade { name, mac, .. }, mut fds) => (name.to_string(), mac, fds.pop().unwrap()),
            (other, _) => panic!("no tap: {other:?}"),
        }
    }

    fn link(&mut self, name: &str) -> Option<Link> {
        self.route.link(name).unwrap()
    }

    fn links(&mut self) -> usize {
        self.route.links().unwrap().len()
    }

    /// priv answers before it closes its copies of what it sent: once the next answer is there they are closed.
    fn settle(&mut self) {
        let alias = Alias::new("none of ours").unwrap();
        let refused = |request| ToPriv::MakeSwitch {
            request,
            bridge: name("none"),
            alias,
            external: false,
            up: true,
            rdomain: None,
        };
        assert_eq!(code(&self.ask(refused, vec![]).0), Code::Invalid);
    }

    /// A tap goes with the last copy of its descriptor. A child that another test starts has one until it executes its program.
    fn gone(&mut self, tap: &str) {
        self.settle();
        let until = Instant::now() + SOON;
        while self.link(tap).is_some() {
            assert!(Instant::now() < until, "\"{tap}\" is still there");
            std::thread::yield_now();
        }
    }

    /// Ends it as a signal does: it removes nothing.
    fn kill(self) {
        self.killed.store(true, Ordering::Release);
        self.end();
    }

    /// Closes the channel and waits for the end.
    fn end(self) -> Route {
        drop(self.channel);
        self.thread.join().unwrap();
        self.route
    }
}

fn code(answer: &ToParent) -> Code {
    match answer {
        ToParent::Failed { failure, .. } => failure.code,
        other => panic!("no failure: {other:?}"),
    }
}

fn created(answer: &ToParent) -> bool {
    matches!(answer, ToParent::SwitchMade { created: true, .. })
}

#[test]
fn a_switch_without_bridge_gets_one_that_goes_at_the_end() {
    own_namespace();
    let mut privileged = Priv::start();
    assert!(created(&privileged.switch("br0", true)));
    let bridge = privileged.link("br0").unwrap();
    assert_eq!((bridge.kind, bridge.up, bridge.alias.as_str()), (LinkKind::Bridge, true, "switch1-lan"));
    assert_eq!(privileged.end().link("br0").unwrap(), None);
}

#[test]
fn a_bridge_that_exists_is_joined_and_left_as_it_was() {
    own_namespace();
    let mut privileged = Priv::start();
    let before = privileged.route.create_bridge("br0", 0).unwrap();
    assert!(matches!(privileged.switch("br0", true), ToParent::SwitchMade { created: false, .. }));
    assert!(privileged.link("br0").unwrap().up);
    assert_eq!(privileged.end().link("br0").unwrap(), Some(before));
}

#[test]
fn a_tap_is_the_first_free_one_described_on_its_bridge_and_up() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let (first, _, _fd) = privileged.tap(None, Some("br0"));
    let (second, mac, _fd) = privileged.tap(None, Some("br0"));
    assert_eq!((first.as_str(), second.as_str()), ("tap0", "tap1"));
    let (tap, bridge) = (privileged.link("tap1").unwrap(), privileged.link("br0").unwrap());
    assert_eq!((tap.alias.as_str(), tap.master, tap.up), ("vm1-if0-web", Some(bridge.index), true));
    assert_eq!(tap.mac, Some(mac.0));
}

#[test]
fn a_tap_has_the_name_that_is_wanted_and_frames_go_through() {
    own_namespace();
    let mut privileged = Priv::start();
    let (tap, _, fd) = privileged.tap(Some("web0"), None);
    assert_eq!(tap, "web0");
    let frame = [&[0u8; 12][..], &[0xff; 6], &[2, 0, 0, 0, 0, 9], &[0x08, 0x06], &[0; 46]].concat();
    assert_eq!(rustix::io::write(&fd, &frame).unwrap(), frame.len(), "12 bytes of header before the frame");
    assert_eq!(rustix::io::write(&fd, &frame[..11]), Err(rustix::io::Errno::INVAL), "a cut header");
}

#[test]
fn a_tap_ends_with_its_descriptor_and_its_name_is_free_again() {
    own_namespace();
    let mut privileged = Priv::start();
    let (_, _, fd) = privileged.tap(None, None);
    drop(fd);
    privileged.gone("tap0");
    assert_eq!(privileged.tap(None, None).0, "tap0");
}

#[test]
fn a_wanted_name_that_is_taken_is_busy() {
    own_namespace();
    let mut privileged = Priv::start();
    let (_, _, _fd) = privileged.tap(Some("tap3"), None);
    for taken in ["tap3", "lo"] {
        let (answer, fds) = privileged.try_tap(Some(taken), None);
        assert_eq!((code(&answer), fds.len()), (Code::Busy, 0), "{taken}");
    }
}

#[test]
fn with_256_taps_busy_the_next_is_refused_and_one_that_goes_makes_room() {
    own_namespace();
    let mut privileged = Priv::start();
    let mut taps: Vec<_> = (0..256).map(|_| privileged.tap(None, None)).collect();
    assert_eq!(code(&privileged.try_tap(None, None).0), Code::Busy);
    drop(taps.remove(77));
    privileged.gone("tap77");
    assert_eq!(privileged.tap(None, None).0, "tap77");
    drop(taps);
    let mut route = privileged.end();
    assert_eq!(route.links().unwrap().len(), 1, "only lo");
}

#[test]
fn a_missing_bridge_fails_the_request_leaves_nothing_and_priv_lives() {
    own_namespace();
    let mut privileged = Priv::start();
    assert_eq!(code(&privileged.try_tap(None, Some("br0")).0), Code::NotFound);
    assert_eq!(code(&privileged.try_tap(None, Some("lo")).0), Code::Invalid);
    assert_eq!(code(&privileged.switch("lo", true)), Code::Invalid);
    assert_eq!(privileged.links(), 1, "only lo");
    assert!(created(&privileged.switch("br0", true)));
}

#[test]
fn a_descriptor_that_is_no_tun_fails_the_request() {
    own_namespace();
    let mut privileged = Priv::start();
    let null = File::open("/dev/null").unwrap().into();
    let message = |request| ToPriv::MakeTap { request, filtered: false, tap: tap_of("vm1-if0-web") };
    let (answer, fds) = privileged.ask(message, vec![null]);
    assert!(matches!(answer, ToParent::Failed { .. }));
    assert_eq!((fds.len(), privileged.links()), (0, 1));
}

#[test]
fn a_step_that_fails_takes_the_tap_with_it_even_if_another_holds_its_descriptor() {
    own_namespace();
    let mut privileged = Priv::start();
    let device = control_device();
    let held = device.try_clone().unwrap();
    let message = |request| ToPriv::MakeTap { request, filtered: false, tap: tap_of("no description of ours") };
    let (answer, _) = privileged.ask(message, vec![device]);
    assert_eq!((code(&answer), privileged.links()), (Code::Invalid, 1));
    drop(held);
}

#[test]
fn a_malformed_message_costs_only_itself() {
    own_namespace();
    let mut privileged = Priv::start();
    let socket = privileged.channel.as_fd();
    sys::seqpacket::send(socket, &[0xff; 9], &[]).unwrap();
    sys::seqpacket::send(socket, &[0xff; 70_000], &[]).unwrap();
    // A name longer than an interface's, which the type can't say: MakeSwitch by hand.
    for (bridge, good) in [("fifteen-bytes-x", true), ("sixteen-bytes-xx", false), ("a/b", false), ("", false)] {
        let by_hand = postcard::to_stdvec(&(1u32, 1u32, bridge, "switch1-lan", false, true, None::<u8>)).unwrap();
        assert_eq!(postcard::from_bytes::<ToPriv>(&by_hand).is_ok(), good, "{bridge:?}");
        if !good {
            sys::seqpacket::send(socket, &by_hand, &[]).unwrap();
        }
    }
    // One descriptor too many.
    let sweep = postcard::to_stdvec(&ToPriv::Sweep { request: RequestId(1) }).unwrap();
    sys::seqpacket::send(socket, &sweep, &[socket]).unwrap();
    assert!(created(&privileged.switch("br0", true)), "the next request is served");
}

#[test]
fn the_end_removes_taps_that_are_still_held() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let (_, _, _held) = privileged.tap(None, Some("br0"));
    assert_eq!(privileged.end().links().unwrap().len(), 1, "only lo");
}

#[test]
fn leftovers_of_a_killed_daemon_go_with_a_sweep_and_nothing_else() {
    own_namespace();
    let mut privileged = Priv::start();
    let left = privileged.route.create_bridge("br0", GROUP).unwrap();
    privileged.route.set_mark(left.index, "switch1-lan", GROUP).unwrap();
    let device = control_device();
    sys::tun::attach(device.as_fd(), "tap0").unwrap();
    let tap = privileged.link("tap0").unwrap();
    privileged.route.set_mark(tap.index, "vm1-if0-web", GROUP).unwrap();
    privileged.route.set_master(tap.index, Some(left.index)).unwrap();
    privileged.route.create_bridge("virbr0", 0).unwrap();
    let swept = privileged.ask(|request| ToPriv::Sweep { request }, vec![]).0;
    assert!(matches!(swept, ToParent::Removed { .. }));
    assert_eq!((privileged.link("br0"), privileged.link("tap0")), (None, None));
    assert!(privileged.link("virbr0").is_some());
}

#[test]
fn a_bridge_of_ours_with_anothers_port_is_kept() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let device = control_device();
    sys::tun::attach(device.as_fd(), "other0").unwrap();
    let (other, bridge) = (privileged.link("other0").unwrap(), privileged.link("br0").unwrap());
    privileged.route.set_master(other.index, Some(bridge.index)).unwrap();
    let mut route = privileged.end();
    assert_eq!(route.link("other0").unwrap().unwrap().master, Some(bridge.index));
}

#[test]
fn a_priv_that_is_started_again_takes_over_what_the_first_made() {
    own_namespace();
    let mut first = Priv::start();
    first.switch("br0", true);
    let (_, _, _fd) = first.tap(None, Some("br0"));
    first.kill();
    let mut second = Priv::start();
    assert!(created(&second.switch("br0", true)));
    assert_eq!(second.tap(None, Some("br0")).0, "tap1");
    assert_eq!(second.end().links().unwrap().len(), 1, "only lo");
}

#[test]
fn another_program_that_makes_and_removes_the_bridge_meanwhile_is_survived() {
    own_namespace();
    let mut privileged = Priv::start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut route = Route::open(SOON).unwrap();
            while !over.load(Ordering::Relaxed) {
                if let Ok(bridge) = route.create_bridge("br0", 0) {
                    let _ = route.delete(bridge.index);
                }
            }
        });
        for _ in 0..100 {
            let answer = privileged.switch("br0", true);
            let busy = matches!(&answer, ToParent::Failed { failure, .. } if failure.code == Code::Busy);
            assert!(busy || matches!(answer, ToParent::SwitchMade { .. }), "{answer:?}");
            privileged.ask(|request| ToPriv::Sweep { request }, vec![]);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(privileged.end().links().unwrap().len(), 1, "only lo");
}

#[test]
fn a_tap_in_a_group_of_the_administrators_is_found_by_it_and_goes_all_the_same() {
    own_namespace();
    let mut privileged = Priv::start();
    let in_group = |privileged: &mut Priv, group| {
        let message =
            |request| ToPriv::MakeTap { request, filtered: false, tap: TapSpec { group, ..tap_of("vm1-if0-web") } };
        privileged.ask(message, vec![control_device()])
    };
    let mut held: Vec<_> =
        [Some(1000), Some(0), None, Some(GROUP)].map(|group| in_group(&mut privileged, group)).into();
    let groups = ["tap0", "tap1", "tap2", "tap3"].map(|tap| privileged.link(tap).unwrap().group);
    assert_eq!(groups, [1000, 0, GROUP, GROUP]);
    let shown = std::process::Command::new("ip").args(["-o", "link", "show", "group", "1000"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("tap0") && shown.lines().count() == 1, "{shown}");
    let free = std::process::Command::new("ip").args(["link", "show", "vmd-tap1"]).status().unwrap();
    assert!(free.success(), "its other name");

    drop(held.remove(1));
    privileged.gone("tap1");
    held.push(in_group(&mut privileged, Some(0)));
    assert!(matches!(held.last(), Some((ToParent::TapMade { .. }, _))), "the other name is free again with the first");
    let device = control_device();
    sys::tun::attach(device.as_fd(), "other0").unwrap();
    let other = privileged.link("other0").unwrap();
    privileged.route.set_mark(other.index, "vm1-if0-web", 1000).unwrap();
    let links = privileged.end().links().unwrap();
    let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["lo", "other0"], "what is not vmd's stays, however it describes itself");
}

/// A tap with the host's end of a local interface.
fn local_tap(privileged: &mut Priv, bridge: Option<&str>) -> (ToParent, Vec<OwnedFd>) {
    let local = LocalEnd {
        inet: [100, 64, 1, 2].into(),
        inet6: Some([0xfd00, 0, 0, 1, 0x6440, 0x103, 0, 1].into()),
        nat: false,
    };
    let bridge = bridge.map(name);
    let message = |request| ToPriv::MakeTap {
        request,
        filtered: false,
        tap: TapSpec { bridge, local: Some(local), ..tap_of("vm1-if0-web") },
    };
    privileged.ask(message, vec![control_device()])
}

#[test]
fn a_local_tap_has_the_hosts_addresses_and_they_go_with_it() {
    own_namespace();
    let mut privileged = Priv::start();
    let addresses = [("100.64.1.2", "100.64.1.3"), ("fd00:0:0:1:6440:103:0:1", "fd00:0:0:1:6440:103:0:2")];
    // Routed, not only bound: from the pair's one end to its other.
    let route = |from: &str, to: &str| {
        let socket = std::net::UdpSocket::bind((from, 0)).map_err(|error| error.kind())?;
        socket.connect((to, 9)).map_err(|error| error.kind())
    };
    let (answer, fds) = local_tap(&mut privileged, None);
    assert!(matches!(answer, ToParent::TapMade { .. }), "{answer:?}");
    let until = Instant::now() + SOON;
    for (from, to) in addresses {
        // An IPv6 address is bound once its uniqueness was found out.
        while let Err(why) = route(from, to) {
            assert!(Instant::now() < until, "{from} to {to}: {why}");
            std::thread::yield_now();
        }
    }
    drop(fds);
    privileged.gone("tap0");
    for (from, to) in addresses {
        assert!(route(from, to).is_err(), "{from} is gone with its tap");
    }
}

#[test]
fn a_port_of_a_bridge_can_not_be_local() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    assert_eq!(code(&local_tap(&mut privileged, Some("br0")).0), Code::Invalid);
    assert_eq!(privileged.link("tap0"), None, "nothing is left");
}
