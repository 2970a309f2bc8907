//! What a VM's network cards are here: with the settings of the switch that each is on, and an address where none was given.

use model::{MacAddr, Nic};
use proto::{Code, Failure, VmId};

use super::life::Vm;

/// What a network card is beside what was said of it: its switch's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// Frames from or to other addresses are dropped.
    pub locked: bool,
    /// Its routing domain, where it is on no switch.
    pub rdomain: Option<u8>,
    /// Number of its interface group: its own, else its switch's.
    pub group: Option<u32>,
}

/// Two bytes that this host draws once and keeps, so that its VMs have other addresses than the next host's.
pub type HostBytes = [u8; 2];

/// `fe:e1:bb:d<N>:xx:yy` (openbsd/daemon.md, 3.13). The last two bytes are the VM's number, which no other VM of this host has
/// and which its name keeps, and the host's bytes: a guest's address, and so its lease, is always the same.
fn generated_mac(index: u8, id: VmId, host: HostBytes) -> MacAddr {
    let [.., a, b] = id.0.to_be_bytes();
    MacAddr([0xfe, 0xe1, 0xbb, 0xd0 | (index.wrapping_add(1) & 15), a ^ host[0], b ^ host[1]])
}

impl Vm {
    /// The address of a card: its own, else one made for it.
    pub(super) fn mac(&self, index: u8) -> MacAddr {
        let given = self.definition.nics.get(usize::from(index)).and_then(|nic| nic.lladdr);
        given.unwrap_or_else(|| generated_mac(index, self.id, self.host))
    }
}

/// The card beside these switches; or what of it can't be carried out.
pub(super) fn card_of(nic: &Nic, config: &config::Config) -> Result<Card, Failure> {
    let switch = nic.switch.as_ref().and_then(|name| config.switch(name));
    let rdomain = rdomain_of(nic, switch)?;
    let groups = [nic.group.as_ref(), switch.and_then(|switch| switch.group.as_ref())];
    Ok(Card {
        locked: nic.locked || switch.is_some_and(|switch| switch.locked_lladdr),
        rdomain,
        group: groups.into_iter().flatten().find_map(|group| group.number),
    })
}

/// An interface has one master on Linux: on a switch that is the bridge, whose routing domain it then has
/// (openbsd/daemon.md, 3.14).
fn rdomain_of(nic: &Nic, switch: Option<&model::Switch>) -> Result<Option<u8>, Failure> {
    let Some(switch) = switch else { return Ok(nic.rdomain) };
    match nic.rdomain {
        Some(own) if own != switch.rdomain.unwrap_or(0) => {
            let text = format!(
                "an interface in rdomain {own} can't be on switch \"{}\" in rdomain {}: an interface has one master",
                switch.name.as_str(),
                switch.rdomain.unwrap_or(0)
            );
            Err(Failure::new(Code::Invalid, text))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_addresses_are_the_specs_and_no_two_cards_of_a_host_have_one() {
        let of = |index, id, host| generated_mac(index, VmId(id), host).to_string();
        assert_eq!(of(0, 1, [1, 2]), "fe:e1:bb:d1:01:03");
        assert_eq!(of(15, 0x0203, [0xff, 0]), "fe:e1:bb:d0:fd:03");
        let all = (0..16).flat_map(|index| (1..=16_383).map(move |id| (index, id)));
        let macs: std::collections::HashSet<_> =
            all.map(|(index, id)| generated_mac(index, VmId(id), [0x80, 7]).0).collect();
        assert_eq!(macs.len(), 16 * 16_383, "as many as there are numbers (ids.rs) and cards");
    }

    #[test]
    fn an_interface_on_a_switch_has_the_switchs_routing_domain_and_no_other() {
        let switch = |rdomain| model::Switch {
            name: model::SwitchName::new(b"lan").unwrap(),
            enabled: true,
            interface: model::IfName::new(b"br0").unwrap(),
            locked_lladdr: false,
            guarded: false,
            isolated: false,
            external: false,
            group: None,
            rdomain,
            up: true,
        };
        let of = |own, switch: Option<model::Switch>| {
            rdomain_of(&model::Nic { rdomain: own, ..model::Nic::default() }, switch.as_ref())
                .map_err(|failure| failure.code)
        };
        assert_eq!((of(None, None), of(Some(4), None)), (Ok(None), Ok(Some(4))));
        for (own, switchs, good) in [
            (None, Some(3), true),
            (Some(3), Some(3), true),
            (Some(0), None, true),
            (Some(4), Some(3), false),
            (Some(0), Some(3), false),
            (Some(4), None, false),
        ] {
            let expected = if good { Ok(None) } else { Err(Code::Invalid) };
            assert_eq!(of(own, Some(switch(switchs))), expected, "{own:?} on {switchs:?}: the bridge is the master");
        }
    }

    #[test]
    fn a_card_is_in_its_own_group_else_in_its_switchs_as_far_as_the_host_has_them() {
        let group = |number| model::GroupName::new(b"dmz").ok().map(|name| model::InterfaceGroup { name, number });
        let of = |own: Option<Option<u32>>, switchs: Option<Option<u32>>| {
            let switch = model::Switch {
                name: model::SwitchName::new(b"lan").unwrap(),
                enabled: true,
                interface: model::IfName::new(b"br0").unwrap(),
                locked_lladdr: false,
                guarded: false,
                isolated: false,
                external: false,
                group: switchs.and_then(group),
                rdomain: None,
                up: true,
            };
            let nic =
                model::Nic { switch: Some(switch.name.clone()), group: own.and_then(group), ..model::Nic::default() };
            let config = config::Config { switches: std::iter::once(switch).collect(), ..config::Config::default() };
            card_of(&nic, &config).unwrap().group
        };
        let (one, two, unknown) = (Some(Some(1)), Some(Some(2)), Some(None));
        assert_eq!((of(None, None), of(one, None), of(None, two)), (None, Some(1), Some(2)));
        assert_eq!((of(one, two), of(unknown, two), of(unknown, None)), (Some(1), Some(2), None));
    }
}
