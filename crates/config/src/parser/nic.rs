//! `interface` of a VM, with its options in braces or on its line (openbsd/vm.conf.md, 5 and 10.1).

use model::{IfName, MAX_IF_NAME, MacAddr, Nic};

use super::{Parser, RdomainUse, Read, Text};
use crate::fault::Fault;
use crate::keyword::{Block, Keyword};
use crate::lexer::Kind;

impl Parser<'_> {
    /// After `interface`: a tap's name or none, then options or none.
    pub(super) fn nic(&mut self, local: bool) -> Read<Nic> {
        let mut nic = Nic { local, ..Nic::default() };
        self.rdomain_at = None;
        if matches!(self.token.kind, Kind::Text { .. } | Kind::Bad) {
            let text = self.text("a tap")?;
            nic.tap = self.tap(&text);
        }
        match self.token.kind {
            Kind::Sign(b'{') => {
                self.block(Block::Interface, &mut nic, Self::nic_option)?;
            }
            _ => self.nic_line(&mut nic)?,
        }
        if let (Some((step, span)), Some(rdomain)) = (self.rdomain_at.take(), nic.rdomain) {
            self.rdomains.push(RdomainUse { rdomain, local, switch: nic.switch.clone(), span, step });
        }
        Ok(nic)
    }

    /// Options on the line of `interface`. OpenBSD takes a comma after the second and each later one, but not
    /// after the first, and so do we: a file that is right here is right there.
    fn nic_line(&mut self, nic: &mut Nic) -> Read<()> {
        let mut read = 0_usize;
        while begins_option(&self.token.kind) {
            self.nic_option(nic)?;
            read = read.saturating_add(1);
            if self.token.kind == Kind::Sign(b',') {
                if read < 2 {
                    self.error(Fault::CommaAfterFirst, self.token.span);
                }
                self.advance();
            }
        }
        match &self.token.kind {
            Kind::Text { bytes, quoted: true } if Block::Interface.has(bytes) => self.misplaced(Block::Interface),
            _ => Ok(()),
        }
    }

    fn nic_option(&mut self, nic: &mut Nic) -> Read<()> {
        let Kind::Word(keyword) = self.token.kind else {
            if self.token.kind == Kind::Sign(b',') {
                return self.unexpected("an interface option; in braces they are not separated by commas".to_owned());
            }
            return self.misplaced(Block::Interface);
        };
        match keyword {
            Keyword::Up => nic.up = true,
            Keyword::Down => nic.up = false,
            Keyword::Group => return self.group(&mut nic.group),
            Keyword::Rdomain => {
                self.rdomain_at = Some((self.lexer.report.now(), self.token.span));
                return self.rdomain(&mut nic.rdomain);
            }
            Keyword::Switch => {
                self.advance();
                let text = self.texts("a switch name")?;
                // An empty name means no name.
                nic.switch = if text.bytes.is_empty() { None } else { self.switch_name(&text) };
                if let Some(name) = nic.switch.clone() {
                    if nic.local {
                        self.error(Fault::LocalOnSwitch, text.span);
                    }
                    self.note_switch_use(name, text.span);
                }
                return Ok(());
            }
            Keyword::Locked => {
                self.advance();
                self.keyword(Keyword::Lladdr)?;
                nic.locked = true;
                return self.lladdr(nic);
            }
            Keyword::Lladdr => {
                self.advance();
                return self.lladdr(nic);
            }
            _ => return self.misplaced(Block::Interface),
        }
        self.advance();
        Ok(())
    }

    /// The address after `lladdr`; none, or all zero, is a random one.
    fn lladdr(&mut self, nic: &mut Nic) -> Read<()> {
        nic.lladdr = None;
        if !matches!(self.token.kind, Kind::Text { .. } | Kind::Bad) {
            return Ok(());
        }
        let text = self.text("an address")?;
        match MacAddr::parse(&text.bytes) {
            _ if text.bad => {}
            Some(address) => {
                nic.lladdr = Some(address).filter(|address| !address.is_zero());
                if address.is_multicast() {
                    self.lexer.report.warn(Fault::LladdrMulticast { text: text.shown() }, Some(text.span));
                }
            }
            None => self.error(Fault::LladdrInvalid { text: text.shown() }, text.span),
        }
        Ok(())
    }

    /// `tap` is any free one, `tap3` that one.
    fn tap(&mut self, text: &Text) -> Option<IfName> {
        if text.bad || text.bytes == b"tap" {
            return None;
        }
        let name = text.shown();
        let tap = IfName::new(&text.bytes).ok().filter(IfName::is_tap);
        if tap.is_none() {
            let too_long = text.bytes.len() > MAX_IF_NAME;
            let fault = if too_long { Fault::InterfaceTooLong { name } } else { Fault::InterfaceInvalid { name } };
            self.error(fault, text.span);
        }
        tap
    }
}

fn begins_option(kind: &Kind) -> bool {
    use Keyword::{Down, Group, Lladdr, Locked, Rdomain, Switch, Up};
    matches!(kind, Kind::Word(Down | Group | Lladdr | Locked | Rdomain | Switch | Up))
}
