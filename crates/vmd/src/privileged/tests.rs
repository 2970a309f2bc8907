//! One test per rule: the decisions by themselves, then priv's edge before the kernel, in a network namespace of the
//! test's own (needs root).
#![allow(deprecated)] // rustix's safe `unshare`: CLONE_NEWNET alone shares no descriptors anew

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::privileged::{Alias, ToParent, ToPriv};
use proto::{Channel, Code, Failure, IfName, MacAddr, Received, RequestId};
use rustix::thread::{UnshareFlags, unshare};
use sys::netlink::{Link, LinkKind, Route};

use super::edge::Edge;
use super::switches::{self, GROUP, Make, Step, Switches, Undo};

fn name(name: &str) -> IfName {
    IfName::new(name).unwrap()
}

mod decisions {
    use super::*;

    fn link(index: u32, name: &str, kind: LinkKind) -> Link {
        let mac = Some([2, 0, 0, 0, 0, u8::try_from(index).unwrap()]);
        let alias = String::new();
        Link { index, name: name.into(), kind, mac, master: None, alias, group: 0, mtu: 1500, up: false }
    }

    fn bridge(index: u32, name: &str) -> Link {
        link(index, name, LinkKind::Bridge)
    }

    fn our_bridge(index: u32, name: &str) -> Link {
        Link { group: GROUP, alias: "switch1-lan".into(), ..bridge(index, name) }
    }

    fn our_tap(index: u32, master: u32) -> Link {
        let tap = link(index, &format!("tap{index}"), LinkKind::Tun);
        Link { group: GROUP, alias: "vm1-if0-web".into(), master: Some(master), ..tap }
    }

    fn make(switches: &mut Switches, up: bool, found: Option<&Link>) -> Result<Make, Failure> {
        switches.make(&name("br0"), "switch1-lan", up, found)
    }

    fn steps(made: Make) -> Vec<Step> {
        match made {
            Make::Set { steps, .. } => steps,
            Make::Create => panic!("nothing to create"),
        }
    }

    #[test]
    fn a_free_name_is_created_and_what_was_created_is_ours() {
        let mut switches = Switches::default();
        assert_eq!(make(&mut switches, true, None).unwrap(), Make::Create);
        let created = Link { group: GROUP, ..bridge(7, "br0") };
        let mark = Step::Mark("switch1-lan".into());
        let steps = vec![mark, Step::Mac([2, 0, 0, 0, 0, 7]), Step::Up(true)];
        assert_eq!(make(&mut switches, true, Some(&created)).unwrap(), Make::Set { index: 7, steps, ours: true });
    }

    #[test]
    fn anothers_bridge_is_joined_and_keeps_its_description_and_address() {
        let mut switches = Switches::default();
        let found = Link { alias: "the office".into(), up: true, ..bridge(7, "br0") };
        let joined = Make::Set { index: 7, steps: vec![], ours: false };
        assert_eq!(make(&mut switches, true, Some(&found)).unwrap(), joined);
        assert_eq!(switches.remove(&name("br0"), std::slice::from_ref(&found)), None);
        assert_eq!(switches.remove_all(&[found]), []);
    }

    #[test]
    fn anothers_bridge_with_a_description_like_ours_is_not_ours() {
        let found = Link { alias: "switch1-lan".into(), ..bridge(7, "br0") };
        assert!(matches!(make(&mut Switches::default(), true, Some(&found)), Ok(Make::Set { ours: false, .. })));
        assert_eq!(Switches::default().remove_all(&[found]), []);
    }

    #[test]
    fn our_group_with_a_description_of_anothers_is_not_ours() {
        let found = Link { alias: "the office".into(), ..our_bridge(7, "br0") };
        assert_eq!(Switches::default().remove_all(&[found]), []);
    }

    #[test]
    fn up_and_down_are_given_to_the_bridge_and_taken_back_from_anothers() {
        for up in [true, false] {
            let mut switches = Switches::default();
            let before = Link { up: !up, ..bridge(7, "br0") };
            let after = Link { up, ..before.clone() };
            assert_eq!(steps(make(&mut switches, up, Some(&before)).unwrap()), [Step::Up(up)]);
            assert_eq!(steps(make(&mut switches, up, Some(&after)).unwrap()), [], "a second time");
            let restore = Undo::Restore { index: 7, name: "br0".into(), up: !up };
            assert_eq!(switches.remove(&name("br0"), std::slice::from_ref(&after)), Some(restore));
            assert_eq!(switches.remove_all(&[after]), [], "once");
        }
    }

    #[test]
    fn an_interface_that_is_no_bridge_is_refused() {
        let failure = make(&mut Switches::default(), true, Some(&link(2, "br0", LinkKind::Other))).unwrap_err();
        assert_eq!(failure.code, Code::Invalid);
        assert!(switches::master(&name("br0"), Some(&link(2, "br0", LinkKind::Tun))).is_err());
    }

    #[test]
    fn a_bridge_to_join_that_is_missing_is_not_found() {
        let failure = switches::master(&name("br0"), None).unwrap_err();
        assert_eq!((failure.code, failure.to_string().as_str()), (Code::NotFound, "bridge \"br0\" does not exist"));
    }

    #[test]
    fn a_description_by_which_we_would_not_know_our_own_is_refused() {
        for alias in ["", "lan", "switch", "switch1", "switch-lan", "switchx-lan", "vm1-if0-web"] {
            let refused = Switches::default().make(&name("br0"), alias, true, None).unwrap_err();
            assert_eq!(refused.code, Code::Invalid, "{alias:?}");
        }
        for alias in ["", "web", "vm", "vm1", "vm1-if", "vm1-if0", "vm-if0-web", "vm1-ifx-web", "switch1-lan"] {
            let refused = switches::tap_steps(alias, &link(3, "tap0", LinkKind::Tun), None, true).unwrap_err();
            assert_eq!(refused.code, Code::Invalid, "{alias:?}");
        }
    }

    #[test]
    fn a_tap_gets_description_then_bridge_then_state() {
        let tap = link(3, "tap0", LinkKind::Tun);
        let mark = Step::Mark("vm1-if0-web".into());
        let steps = switches::tap_steps("vm1-if0-web", &tap, Some(&bridge(7, "br0")), false).unwrap();
        assert_eq!(steps, [mark.clone(), Step::Master(7), Step::Up(false)]);
        assert_eq!(switches::tap_steps("vm1-if0-web", &tap, None, true).unwrap(), [mark, Step::Up(true)]);
    }

    #[test]
    fn a_tap_takes_its_bridges_frame_length_first() {
        let jumbo = Link { mtu: 9000, ..bridge(7, "br0") };
        let steps = switches::tap_steps("vm1-if0-web", &link(3, "tap0", LinkKind::Tun), Some(&jumbo), true).unwrap();
        assert_eq!(steps.get(1..3), Some(&[Step::Mtu(9000), Step::Master(7)][..]));
    }

    #[test]
    fn tap_names_are_the_wanted_one_or_tap0_to_tap255() {
        assert_eq!(switches::tap_names(Some(&name("web0"))), [name("web0")]);
        let all = switches::tap_names(None);
        assert_eq!((all.len(), all.first(), all.last()), (256, Some(&name("tap0")), Some(&name("tap255"))));
    }

    #[test]
    fn one_switch_ends_and_its_bridge_goes() {
        let links = [bridge(1, "br1"), our_bridge(7, "br0")];
        let gone = Undo::Delete { index: 7, name: "br0".into() };
        assert_eq!(Switches::default().remove(&name("br0"), &links), Some(gone));
        assert_eq!(Switches::default().remove(&name("br1"), &links), None);
        assert_eq!(Switches::default().remove(&name("br2"), &links), None);
    }

    #[test]
    fn a_bridge_that_someone_still_uses_is_kept() {
        let foreign = Link { master: Some(7), ..link(9, "eth1", LinkKind::Other) };
        let keep = |port: &str| Undo::Keep { name: "br0".into(), port: port.into() };
        let links = [our_bridge(7, "br0"), our_tap(8, 7)];
        assert_eq!(Switches::default().remove(&name("br0"), &links), Some(keep("tap8")), "a VM of ours");
        let links = [our_bridge(7, "br0"), foreign];
        assert_eq!(Switches::default().remove(&name("br0"), &links), Some(keep("eth1")));
        assert_eq!(Switches::default().remove_all(&links), [keep("eth1")]);
    }

    #[test]
    fn the_end_removes_taps_before_bridges_and_nothing_of_others() {
        let others_tap = link(5, "tap5", LinkKind::Tun);
        let links = [our_bridge(7, "br0"), others_tap, our_tap(8, 7), bridge(4, "virbr0")];
        let undo = Switches::default().remove_all(&links);
        let delete = |index, name: &str| Undo::Delete { index, name: name.into() };
        assert_eq!(undo, [delete(8, "tap8"), delete(7, "br0")]);
    }

    #[test]
    fn the_end_removes_what_was_made_but_not_yet_described() {
        let links = [Link { group: GROUP, ..bridge(7, "br0") }];
        assert_eq!(Switches::default().remove_all(&links), [Undo::Delete { index: 7, name: "br0".into() }]);
    }
}

/// A priv in a network namespace of its own, and this end of its channel.
struct Priv {
    channel: Channel<ToPriv, ToParent>,
    thread: std::thread::JoinHandle<()>,
    route: Route,
    next: u32,
}

const SOON: Duration = Duration::from_secs(30);

/// Puts the calling thread, and those that it starts, into an empty network namespace.
fn own_namespace() {
    unshare(UnshareFlags::NEWNET).expect("a network namespace, as root");
}

fn control_device() -> OwnedFd {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap().into()
}

impl Priv {
    fn start() -> Self {
        let (channel, theirs) = proto::channel::pair::<ToPriv, ToParent>().unwrap();
        let edge = Edge::new(theirs.into_socket()).unwrap();
        let thread = std::thread::spawn(move || edge.serve().unwrap());
        Self { channel, thread, route: Route::open(SOON).unwrap(), next: 0 }
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
        self.ask(|request| ToPriv::MakeSwitch { request, bridge: name(bridge), alias, up }, vec![]).0
    }

    fn try_tap(&mut self, tap: Option<&str>, bridge: Option<&str>) -> (ToParent, Vec<OwnedFd>) {
        let alias = Alias::new("vm1-if0-web").unwrap();
        let (tap, bridge) = (tap.map(name), bridge.map(name));
        let message = |request| ToPriv::MakeTap { request, name: tap, alias, bridge, up: true };
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
        let nothing = |request| ToPriv::RemoveSwitch { request, bridge: name("none") };
        self.ask(nothing, vec![]);
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
    privileged.settle();
    assert_eq!(privileged.link("tap0"), None);
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
    privileged.settle();
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
    let alias = Alias::new("vm1-if0-web").unwrap();
    let message = |request| ToPriv::MakeTap { request, name: None, alias, bridge: None, up: true };
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
    let alias = Alias::new("no description of ours").unwrap();
    let message = |request| ToPriv::MakeTap { request, name: None, alias, bridge: None, up: true };
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
        let by_hand = postcard::to_stdvec(&(1u32, 1u32, bridge, "switch1-lan", true)).unwrap();
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
    let remove = |request| ToPriv::RemoveSwitch { request, bridge: name("br0") };
    assert!(matches!(privileged.ask(remove, vec![]).0, ToParent::Removed { .. }));
    let mut route = privileged.end();
    assert_eq!(route.link("other0").unwrap().unwrap().master, Some(bridge.index));
}

#[test]
fn a_switch_that_ends_takes_its_bridge() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let remove = |request| ToPriv::RemoveSwitch { request, bridge: name("br0") };
    assert!(matches!(privileged.ask(remove, vec![]).0, ToParent::Removed { .. }));
    assert_eq!(privileged.links(), 1, "only lo");
}

#[test]
fn a_priv_that_is_started_again_takes_over_what_the_first_made() {
    own_namespace();
    let mut first = Priv::start();
    first.switch("br0", true);
    let (_, _, _fd) = first.tap(None, Some("br0"));
    // Not ended: as if it had been killed, it removes nothing.
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
            privileged.ask(|request| ToPriv::RemoveSwitch { request, bridge: name("br0") }, vec![]);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(privileged.end().links().unwrap().len(), 1, "only lo");
}
