//! `allow instance { }`: what users may change in instances of a VM, and who may make them (openbsd/vm.conf.md, 11.2).

use model::{Allow, Right};

use super::{Parser, Read};
use crate::keyword::{Block, Keyword};
use crate::lexer::Kind;

impl Parser<'_> {
    /// After `allow`. Several statements add up; the last owner counts.
    pub(super) fn allow(&mut self, allow: &mut Allow) -> Read<()> {
        self.keyword(Keyword::Instance)?;
        if self.token.kind == Kind::Sign(b'{') {
            self.block(Block::Allow, allow, Self::rights)?;
            return Ok(());
        }
        self.right(allow)
    }

    /// The rights of one line, between commas. A comma may end the line when more follow.
    fn rights(&mut self, allow: &mut Allow) -> Read<()> {
        loop {
            self.right(allow)?;
            match self.token.kind {
                Kind::Newline | Kind::Sign(b'}') => return Ok(()),
                Kind::Sign(b',') => self.advance(),
                _ => return self.unexpected("a comma or a new line between rights".to_owned()),
            }
            while self.token.kind == Kind::Newline {
                self.advance();
            }
        }
    }

    fn right(&mut self, allow: &mut Allow) -> Read<()> {
        let right = match self.token.kind {
            Kind::Word(Keyword::Boot) => Right::Boot,
            Kind::Word(Keyword::Cdrom) => Right::Cdrom,
            Kind::Word(Keyword::Cpus) => Right::Cpus,
            Kind::Word(Keyword::Disk) => Right::Disk,
            Kind::Word(Keyword::Instance) => Right::Instance,
            Kind::Word(Keyword::Interface) => Right::Interface,
            Kind::Word(Keyword::Memory) => Right::Memory,
            Kind::Word(Keyword::Owner) => {
                self.advance();
                allow.owner = Some(self.owner()?);
                return Ok(());
            }
            _ => return self.misplaced(Block::Allow),
        };
        self.advance();
        allow.rights.insert(right);
        Ok(())
    }
}
