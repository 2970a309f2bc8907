//! Rules of `switches.rs`: no kernel is asked.

use proto::privileged::TapSpec;
use proto::{Code, Failure};
use sys::netlink::{Link, LinkKind};

use super::{name, tap_of};
use crate::privileged::switches::{self, GROUP, Make, Step, Switches, Undo};

fn link(index: u32, name: &str, kind: LinkKind) -> Link {
    let mac = Some([2, 0, 0, 0, 0, u8::try_from(index).unwrap()]);
    let alias = String::new();
    let (name, names) = (name.to_owned(), vec![]);
    let isolated = false;
    Link { index, name, kind, mac, master: None, isolated, names, alias, group: 0, mtu: 1500, up: false }
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
    switches.make(&name("br0"), "switch1-lan", false, up, None, found)
}

/// A tap of this group, up.
fn tap_spec(alias: &str, group: Option<u32>) -> TapSpec {
    TapSpec { group, ..tap_of(alias) }
}

fn steps(made: Make) -> Vec<Step> {
    match made {
        Make::Set { steps, .. } => steps,
        Make::Create => panic!("nothing to create"),
    }
}

#[test]
fn a_bridge_that_others_make_is_joined_and_never_made() {
    let mut switches = Switches::default();
    let mut make = |found| switches.make(&name("br0"), "switch1-lan", true, true, None, found);
    let absent = make(None).unwrap_err();
    assert_eq!((absent.code, absent.text.as_str()), (Code::NotFound, "bridge \"br0\" is not there"));
    let there = link(7, "br0", LinkKind::Bridge);
    assert!(matches!(make(Some(&there)), Ok(Make::Set { index: 7, ours: false, .. })));
}

#[test]
fn a_free_name_is_created_and_what_was_created_is_ours() {
    let mut switches = Switches::default();
    assert_eq!(make(&mut switches, true, None).unwrap(), Make::Create);
    let created = Link { group: GROUP, ..bridge(7, "br0") };
    let mark = Step::Mark("switch1-lan".into(), GROUP);
    let steps = vec![Step::Name("vmd-br0".into()), mark.clone(), Step::Mac([2, 0, 0, 0, 0, 7]), Step::Up(true)];
    assert_eq!(make(&mut switches, true, Some(&created)).unwrap(), Make::Set { index: 7, steps, ours: true });
    let named = Link { names: vec!["vmd-br0".into()], up: true, ..created };
    let steps = vec![mark, Step::Mac([2, 0, 0, 0, 0, 7])];
    assert_eq!(make(&mut switches, true, Some(&named)).unwrap(), Make::Set { index: 7, steps, ours: true });
}

#[test]
fn anothers_bridge_is_joined_and_keeps_its_description_and_address() {
    let mut switches = Switches::default();
    let found = Link { alias: "the office".into(), up: true, ..bridge(7, "br0") };
    let joined = Make::Set { index: 7, steps: vec![], ours: false };
    assert_eq!(make(&mut switches, true, Some(&found)).unwrap(), joined);
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
        assert_eq!(switches.remove_all(std::slice::from_ref(&after)), [restore]);
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
        let refused = Switches::default().make(&name("br0"), alias, false, true, None, None).unwrap_err();
        assert_eq!(refused.code, Code::Invalid, "{alias:?}");
    }
    for alias in ["", "web", "vm", "vm1", "vm1-if", "vm1-if0", "vm-if0-web", "vm1-ifx-web", "switch1-lan"] {
        let refused = switches::tap_steps(&tap_spec(alias, None), &link(3, "tap0", LinkKind::Tun), None).unwrap_err();
        assert_eq!(refused.code, Code::Invalid, "{alias:?}");
    }
}

#[test]
fn a_tap_gets_description_then_bridge_then_state() {
    let tap = link(3, "tap0", LinkKind::Tun);
    let [name, mark] = [Step::Name("vmd-tap0".into()), Step::Mark("vm1-if0-web".into(), GROUP)];
    let web = tap_spec("vm1-if0-web", None);
    let steps = switches::tap_steps(&TapSpec { up: false, ..web.clone() }, &tap, Some(&bridge(7, "br0"))).unwrap();
    assert_eq!(steps, [name.clone(), mark.clone(), Step::Master(7), Step::Up(false)]);
    let apart = TapSpec { isolated: true, ..web.clone() };
    let steps = switches::tap_steps(&apart, &tap, Some(&bridge(7, "br0"))).unwrap();
    let isolated = [name.clone(), mark.clone(), Step::Master(7), Step::Isolated, Step::Up(true)];
    assert_eq!(steps, isolated, "before the first frame");
    assert_eq!(switches::tap_steps(&web, &tap, None).unwrap(), [name, mark, Step::Up(true)]);
}

#[test]
fn a_tap_takes_its_bridges_frame_length_first() {
    let jumbo = Link { mtu: 9000, ..bridge(7, "br0") };
    let steps =
        switches::tap_steps(&tap_spec("vm1-if0-web", None), &link(3, "tap0", LinkKind::Tun), Some(&jumbo)).unwrap();
    assert_eq!(steps.get(2..4), Some(&[Step::Mtu(9000), Step::Master(7)][..]));
}

#[test]
fn a_tap_of_another_group_is_named_before_it_is_in_it() {
    let tap = link(3, "tap0", LinkKind::Tun);
    let steps = |group| switches::tap_steps(&tap_spec("vm1-if0-web", group), &tap, None).unwrap();
    let mark = |group| Step::Mark("vm1-if0-web".into(), group);
    assert_eq!(steps(Some(1000)), [Step::NameFor("vmd-tap0".into()), mark(1000), Step::Up(true)]);
    for ours in [GROUP, switches::LOCAL_GROUP] {
        let expected = [Step::Name("vmd-tap0".into()), mark(GROUP), Step::Up(true)];
        assert_eq!(steps(Some(ours)), expected, "vmd's groups are what they are");
    }
}

#[test]
fn a_tap_of_another_group_is_ours_by_its_other_name_alone() {
    let tap =
        |names: &[&str]| Link { group: 1000, names: names.iter().map(|n| (*n).into()).collect(), ..our_tap(8, 7) };
    let undone = |tap| Switches::default().remove_all(&[tap]).len();
    assert_eq!((undone(tap(&["vmd-tap8"])), undone(tap(&["tap-of-vmd", "x"])), undone(tap(&[]))), (1, 0, 0));
    let bridge = Link { group: 1000, names: vec!["vmd-br0".into()], ..our_bridge(7, "br0") };
    assert_eq!(undone(bridge), 0, "bridges stay in our group");
    let described = Link { alias: "mine".into(), ..tap(&["vmd-tap8"]) };
    assert_eq!(undone(described), 0);
}

#[test]
fn tap_names_are_the_wanted_one_or_tap0_to_tap255() {
    assert_eq!(switches::tap_names(Some(&name("web0"))), [name("web0")]);
    let all = switches::tap_names(None);
    assert_eq!((all.len(), all.first(), all.last()), (256, Some(&name("tap0")), Some(&name("tap255"))));
}

#[test]
fn a_bridge_that_someone_still_uses_is_kept() {
    let foreign = Link { master: Some(7), ..link(9, "eth1", LinkKind::Other) };
    let keep = Undo::Keep { name: "br0".into(), port: "eth1".into() };
    assert_eq!(Switches::default().remove_all(&[our_bridge(7, "br0"), foreign]), [keep]);
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

fn domain(number: u8) -> Link {
    let (name, _) = switches::vrf(Some(number)).unwrap();
    Link { group: GROUP, alias: name.clone(), ..link(40 + u32::from(number), &name, LinkKind::Vrf) }
}

#[test]
fn a_routing_domain_is_a_vrf_of_its_number_and_0_is_none() {
    assert_eq!((switches::vrf(None), switches::vrf(Some(0))), (None, None));
    assert_eq!(switches::vrf(Some(3)), Some(("rdomain3".to_owned(), 0x766d_0003)));
    assert_eq!(switches::vrf(Some(255)).map(|(name, _)| name.len()), Some(10));
}

#[test]
fn a_tap_without_a_bridge_joins_the_vrf_and_keeps_its_frame_length() {
    let vrf = Link { mtu: 65575, ..domain(3) };
    let steps =
        switches::tap_steps(&tap_spec("vm1-if0-web", None), &link(3, "tap0", LinkKind::Tun), Some(&vrf)).unwrap();
    let [name, mark] = [Step::Name("vmd-tap0".into()), Step::Mark("vm1-if0-web".into(), GROUP)];
    assert_eq!(steps, [name, mark, Step::Master(vrf.index), Step::Up(true)]);
}

#[test]
fn a_bridge_of_ours_joins_its_vrf_and_anothers_has_to_be_there() {
    let vrf = domain(3);
    let make =
        |found: Link| Switches::default().make(&name("br0"), "switch1-lan", false, true, Some(&vrf), Some(&found));
    let steps = |make| match make {
        Ok(Make::Set { steps, .. }) => steps,
        other => panic!("{other:?}"),
    };
    assert!(steps(make(our_bridge(7, "br0"))).contains(&Step::Master(vrf.index)));
    let inside = |bridge| Link { master: Some(vrf.index), ..bridge };
    assert!(!steps(make(inside(our_bridge(7, "br0")))).contains(&Step::Master(vrf.index)));
    assert_eq!(steps(make(inside(bridge(7, "br0")))), [Step::Up(true)]);
    assert_eq!(make(bridge(7, "br0")).unwrap_err().code, Code::Invalid);
}

#[test]
fn vrfs_go_last_and_stay_for_a_port_of_somebody() {
    let left = |other: Option<Link>| {
        let vrf = domain(3);
        let ours = Link { master: Some(vrf.index), ..our_bridge(7, "br0") };
        let not_ours = Link { group: 0, ..domain(4) };
        let links: Vec<_> = [vrf, ours, not_ours].into_iter().chain(other).collect();
        Switches::default().remove_all(&links)
    };
    let delete = |index, name: &str| Undo::Delete { index, name: name.into() };
    assert_eq!(left(None), [delete(7, "br0"), delete(43, "rdomain3")]);
    let port = Link { master: Some(43), ..link(9, "eth1", LinkKind::Other) };
    let keep = Undo::Keep { name: "rdomain3".into(), port: "eth1".into() };
    assert_eq!(left(Some(port)), [delete(7, "br0"), keep]);
}
