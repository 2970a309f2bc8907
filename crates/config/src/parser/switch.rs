//! `switch NAME { }` (openbsd/vm.conf.md, 9).

use std::collections::HashSet;

use model::{GroupName, IfName, InterfaceGroup, MAX_RDOMAIN, NameError, Switch, SwitchName};

use super::{Parser, Read, SwitchUse, Text};
use crate::fault::Fault;
use crate::input::Span;
use crate::keyword::{Block, EXTERNAL, GUARDED, ISOLATED, Keyword};
use crate::lexer::Kind;

/// What a block has said so far.
struct Draft {
    enabled: bool,
    /// Whether `interface` was given, right or wrong.
    attached: bool,
    interface: Option<IfName>,
    locked_lladdr: bool,
    guarded: bool,
    isolated: bool,
    external: bool,
    group: Option<InterfaceGroup>,
    rdomain: Option<u8>,
    up: bool,
}

impl Parser<'_> {
    pub(super) fn switch(&mut self) -> Read<()> {
        self.advance();
        let name = self.texts("a switch name")?;
        let checked = self.switch_name(&name);
        let mut draft = Draft {
            enabled: true,
            attached: false,
            interface: None,
            locked_lladdr: false,
            guarded: false,
            isolated: false,
            external: false,
            group: None,
            rdomain: None,
            up: true,
        };
        let closed = self.block(Block::Switch, &mut draft, Self::switch_option)?;
        if !draft.attached {
            self.error(Fault::SwitchWithoutInterface { switch: name.shown() }, closed);
        }
        if let (Some(switch), Some(interface)) = (checked, draft.interface) {
            let Draft { enabled, locked_lladdr, guarded, isolated, external, group, rdomain, up, .. } = draft;
            let switch = Switch {
                name: switch,
                enabled,
                interface,
                locked_lladdr,
                guarded,
                isolated,
                external,
                group,
                rdomain,
                up,
            };
            self.add_switch(switch, name.span);
        }
        Ok(())
    }

    fn switch_option(&mut self, draft: &mut Draft) -> Read<()> {
        let Kind::Word(keyword) = self.token.kind else {
            // The options that OpenBSD does not have; their words are not reserved.
            match self.plain_word() {
                Some(word) if word == GUARDED.as_bytes() => draft.guarded = true,
                Some(word) if word == ISOLATED.as_bytes() => draft.isolated = true,
                Some(word) if word == EXTERNAL.as_bytes() => draft.external = true,
                _ => return self.misplaced(Block::Switch),
            }
            self.advance();
            return Ok(());
        };
        match keyword {
            Keyword::Enable => draft.enabled = true,
            Keyword::Disable => draft.enabled = false,
            Keyword::Up => draft.up = true,
            Keyword::Down => draft.up = false,
            Keyword::Locked => {
                self.advance();
                self.keyword(Keyword::Lladdr)?;
                draft.locked_lladdr = true;
                return Ok(());
            }
            Keyword::Interface => {
                self.advance();
                draft.attached = true;
                let text = self.texts("a bridge")?;
                draft.interface = self.bridge(&text);
                return Ok(());
            }
            Keyword::Group => return self.group(&mut draft.group),
            Keyword::Rdomain => return self.rdomain(&mut draft.rdomain),
            _ => return self.misplaced(Block::Switch),
        }
        self.advance();
        Ok(())
    }

    /// The name of a switch that a block defines or an interface names.
    pub(super) fn switch_name(&mut self, text: &Text) -> Option<SwitchName> {
        self.checked(text, SwitchName::new(&text.bytes), |why, name| match why {
            NameError::TooLong(_) => Fault::SwitchNameTooLong { name },
            _ => Fault::SwitchNameInvalid { name },
        })
    }

    fn bridge(&mut self, text: &Text) -> Option<IfName> {
        self.checked(text, IfName::new(&text.bytes), |why, name| match why {
            NameError::TooLong(_) => Fault::SwitchInterfaceTooLong { name },
            _ => Fault::SwitchInterfaceInvalid { name },
        })
    }

    /// `group NAME`, of a switch or an interface. An empty name means no group.
    pub(super) fn group(&mut self, group: &mut Option<InterfaceGroup>) -> Read<()> {
        self.advance();
        let text = self.texts("a group name")?;
        *group = match GroupName::new(&text.bytes) {
            Ok(name) => Some(self.interface_group(name, &text)),
            Err(_) if text.bytes.is_empty() => None,
            Err(error) => {
                let too_long = matches!(error, NameError::TooLong(_));
                self.error(Fault::GroupNameInvalid { name: text.shown(), too_long }, text.span);
                None
            }
        };
        Ok(())
    }

    /// What the host has for the name. Without a number the group is as none, and a warning says so.
    fn interface_group(&mut self, name: GroupName, text: &Text) -> InterfaceGroup {
        let (number, reason) = match self.users.interface_group(name.as_str()) {
            Ok(number) => (number, None),
            Err(error) => (None, Some(Fault::reason(&error))),
        };
        if number.is_none() {
            let fault = Fault::GroupUnknown { name: name.to_string(), reason };
            self.lexer.report.warn(fault, Some(text.span));
        }
        InterfaceGroup { name, number }
    }

    /// `rdomain N`, of a switch or an interface.
    pub(super) fn rdomain(&mut self, rdomain: &mut Option<u8>) -> Read<()> {
        self.advance();
        let (number, span) = self.number("a routing domain (0 to 255)")?;
        *rdomain = u8::try_from(number).ok();
        if rdomain.is_none() {
            self.error(Fault::RdomainInvalid { number, limit: MAX_RDOMAIN }, span);
        }
        Ok(())
    }

    fn add_switch(&mut self, switch: Switch, span: Span) {
        if let Some(first) = self.switches.get(&switch.name).copied().filter(|_| switch.enabled) {
            let first_line = self.line(first);
            let name = switch.name.to_string();
            self.lexer.report.warn(Fault::SwitchDefinedTwice { name, first_line }, Some(span));
        } else if switch.enabled {
            self.switches.insert(switch.name.clone(), span);
        }
        self.config.switches.push(switch);
    }

    /// A switch's lock holds for the cards of all VMs. In the original only VMs below it are locked, which the manual
    /// does not say.
    pub(super) fn lock_cards(&mut self) {
        let switches = &self.config.switches;
        for nic in self.config.vms.iter_mut().flat_map(|vm| &mut vm.nics) {
            let switch = nic.switch.as_ref().and_then(|name| switches.named(name));
            nic.locked |= switch.is_some_and(|switch| switch.locked_lladdr);
        }
    }

    pub(super) fn note_switch_use(&mut self, name: SwitchName, span: Span) {
        let step = self.lexer.report.now();
        self.uses.push(SwitchUse { name, span, step });
    }

    /// Warns of names that no switch has: such interfaces will be attached to nothing.
    pub(super) fn check_switch_uses(&mut self) {
        let names: HashSet<&SwitchName> = self.config.switches.iter().map(|switch| &switch.name).collect();
        for used in std::mem::take(&mut self.uses) {
            let known = self.switches.contains_key(&used.name) || self.known.switch(&used.name).is_some();
            if known {
                continue;
            }
            let disabled = names.contains(&used.name);
            let named = self.switches.keys().map(SwitchName::as_str);
            let near = self.lexer.suggestions.closest(used.name.as_str(), self.switches.len(), named);
            let near = near.map(str::to_owned);
            let fault = Fault::SwitchNotFound { name: used.name.to_string(), disabled, near };
            self.lexer.report.warn_at(used.step, fault, Some(used.span));
        }
    }
}
