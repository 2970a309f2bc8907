//! Guests of a switch that are kept from each other: played with frames on their taps.

use super::*;

/// Broadcast, so that the bridge sends it wherever it may go; the experimental EtherType, and what tells frames apart.
fn frame(number: u8) -> Vec<u8> {
    [&[0; 12][..], &[0xff; 6], &[2, 0, 0, 0, 0, 9], &[0x88, 0xb5, number], &[0; 45]].concat()
}

struct Port(OwnedFd);

impl Port {
    fn new(privileged: &mut Priv, isolated: bool) -> Self {
        let bridge = Some(name("br0"));
        let tap = TapSpec { bridge, isolated, ..tap_of("vm1-if0-web") };
        match privileged.ask(|request| ToPriv::MakeTap { request, tap, filtered: false }, vec![control_device()]) {
            (ToParent::TapMade { .. }, mut fds) => Self(fds.pop().unwrap()),
            (other, _) => panic!("no tap: {other:?}"),
        }
    }

    fn send(&self, number: u8) {
        rustix::io::write(&self.0, &frame(number)).unwrap();
    }

    /// Those of our frames that came, in their order, until that of this number.
    fn heard_until(&self, last: u8) -> Vec<u8> {
        let mut numbers = vec![];
        let mut bytes = [0; 2048];
        while numbers.last() != Some(&last) {
            let length = rustix::io::read(&self.0, &mut bytes).unwrap();
            let ours = bytes.get(24..26) == Some(&[0x88, 0xb5]) && length > 26;
            numbers.extend(ours.then(|| bytes[26]));
        }
        numbers
    }
}

#[test]
fn guests_of_an_isolated_switch_reach_the_others_of_their_bridge_and_not_each_other() {
    own_namespace();
    let mut privileged = Priv::start();
    privileged.switch("br0", true);
    let ports = [true, true, false].map(|isolated| Port::new(&mut privileged, isolated));
    for (number, port) in (0..).zip(&ports) {
        port.send(number);
    }
    let [one, two, uplink] = &ports;
    uplink.send(9);
    assert_eq!((one.heard_until(9), two.heard_until(9)), (vec![2, 9], vec![2, 9]), "only what the third sent");
    one.send(8);
    assert_eq!(uplink.heard_until(8), [0, 1, 8]);
}
