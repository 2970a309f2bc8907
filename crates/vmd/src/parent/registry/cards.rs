//! What a VM's network cards are here: with the settings of the switch that each is on, and an address where none was given.

use model::{MacAddr, Nic};
use proto::{Code, Failure};

use crate::parent::accounts::names::Names;

/// What a network card is beside what was said of it: with its switch's settings, and an address where none was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The guest's address, kept for the life of the definition.
    pub mac: MacAddr,
    /// Frames from or to other addresses are dropped.
    pub locked: bool,
    /// Its routing domain, where it is on no switch.
    pub rdomain: Option<u8>,
    /// Number of its interface group: its own, else its switch's.
    pub group: Option<u32>,
}

/// `fe:e1:bb:d<N>:xx:yy` (openbsd/daemon.md, 3.13) from two random bytes.
fn generated_mac(index: usize, random: [u8; 2]) -> MacAddr {
    let low = u8::try_from((index + 1) & 15).unwrap_or(0);
    MacAddr([0xfe, 0xe1, 0xbb, 0xd0 + low, random[0], random[1]])
}

/// The card of this index, beside these switches; or what of it can't be carried out.
pub(super) fn card_of(
    index: usize,
    nic: &Nic,
    config: &config::Config,
    names: &mut dyn Names,
) -> Result<Card, Failure> {
    let switch = nic.switch.as_ref().and_then(|name| config.switch(name));
    let rdomain = rdomain_of(nic, switch)?;
    let groups = [nic.group.as_ref(), switch.and_then(|switch| switch.group.as_ref())];
    Ok(Card {
        mac: nic.lladdr.unwrap_or_else(|| generated_mac(index, names.random())),
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
    fn generated_addresses_are_the_specs() {
        assert_eq!(generated_mac(0, [1, 2]).to_string(), "fe:e1:bb:d1:01:02");
        assert_eq!(generated_mac(15, [1, 2]).to_string(), "fe:e1:bb:d0:01:02");
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
                group: switchs.and_then(group),
                rdomain: None,
                up: true,
            };
            let nic =
                model::Nic { switch: Some(switch.name.clone()), group: own.and_then(group), ..model::Nic::default() };
            let config = config::Config { switches: std::iter::once(switch).collect(), ..config::Config::default() };
            card_of(0, &nic, &config, &mut crate::parent::accounts::HostAccounts).unwrap().group
        };
        let (one, two, unknown) = (Some(Some(1)), Some(Some(2)), Some(None));
        assert_eq!((of(None, None), of(one, None), of(None, two)), (None, Some(1), Some(2)));
        assert_eq!((of(one, two), of(unknown, two), of(unknown, None)), (Some(1), Some(2), None));
    }
}
