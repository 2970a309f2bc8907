//! The switches of a configuration, by their order and by their names: of thousands each is found at once.

use std::collections::HashMap;
use std::ops::Deref;

use model::{Switch, SwitchName};

/// Switches in the order of the file; disabled ones too. The first of a name counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switches {
    list: Vec<Switch>,
    /// Where the first enabled one of each name stands.
    named: HashMap<SwitchName, usize>,
}

impl Switches {
    /// Takes one more.
    pub fn push(&mut self, switch: Switch) {
        if switch.enabled {
            self.named.entry(switch.name.clone()).or_insert(self.list.len());
        }
        self.list.push(switch);
    }

    /// The one that an interface means by a name. A disabled one counts as missing.
    pub fn named(&self, name: &SwitchName) -> Option<&Switch> {
        self.list.get(*self.named.get(name)?)
    }
}

impl Deref for Switches {
    type Target = [Switch];

    fn deref(&self) -> &[Switch] {
        &self.list
    }
}

impl FromIterator<Switch> for Switches {
    fn from_iter<I: IntoIterator<Item = Switch>>(list: I) -> Self {
        let mut switches = Self::default();
        list.into_iter().for_each(|switch| switches.push(switch));
        switches
    }
}

#[cfg(test)]
mod tests {
    use model::IfName;

    use super::*;

    fn switch(name: &str, bridge: &str, enabled: bool) -> Switch {
        Switch {
            name: SwitchName::new(name.as_bytes()).expect("a name"),
            enabled,
            interface: IfName::new(bridge.as_bytes()).expect("a name"),
            locked_lladdr: false,
            guarded: false,
            isolated: false,
            external: false,
            group: None,
            rdomain: None,
            up: true,
        }
    }

    #[test]
    fn switches_stand_in_their_order_and_the_first_enabled_one_of_a_name_is_meant() {
        let all =
            [switch("a", "br0", false), switch("a", "br1", true), switch("b", "br2", true), switch("a", "br3", true)];
        let switches: Switches = all.iter().cloned().collect();
        assert_eq!(&switches[..], &all[..]);
        let named = |name: &str| switches.named(&SwitchName::new(name.as_bytes()).expect("a name")).cloned();
        assert_eq!((named("a"), named("b"), named("c")), (Some(all[1].clone()), Some(all[2].clone()), None));
    }
}
