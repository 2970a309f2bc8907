//! `owner`, wherever it stands (openbsd/vm.conf.md, 8.3).

use std::io;

use model::Owner;

use super::{Parser, Read};
use crate::fault::Fault;
use crate::input::Span;
use crate::lexer::Kind;

impl Parser<'_> {
    /// `OWNER`: a uid, or a user, a group or both by name (openbsd/vm.conf.md, 8.3).
    pub(super) fn owner(&mut self) -> Read<Owner> {
        if let Kind::Number(number) = self.token.kind {
            let span = self.take().span;
            let uid = u32::try_from(number).ok().filter(|uid| *uid != u32::MAX);
            if uid.is_none() {
                self.error(Fault::UidRange { number }, span);
            }
            return Ok(Owner { uid: uid.unwrap_or(0), gid: None });
        }
        let text = self.text("a user, \":group\" or \"user:group\"")?;
        if text.bad {
            return Ok(Owner::default());
        }
        let name = text.shown();
        let (user, group) = name.split_once(':').unwrap_or((&name, ""));
        let alone = user == name;
        let mut owner = Owner::default();
        if !user.is_empty() {
            let answer = self.users.uid(user);
            owner.uid = self.account(answer, "user", user, alone, text.span).unwrap_or(0);
        }
        if !group.is_empty() {
            let answer = self.users.gid(group);
            owner.gid = self.account(answer, "group", group, false, text.span);
        }
        Ok(owner)
    }

    fn account(
        &mut self,
        answer: io::Result<Option<u32>>,
        kind: &'static str,
        name: &str,
        alone: bool,
        span: Span,
    ) -> Option<u32> {
        let reason = match answer {
            Ok(Some(id)) => return Some(id),
            Ok(None) => None,
            Err(error) => Some(Fault::reason(&error)),
        };
        self.error(Fault::UnknownAccount { kind, name: name.to_owned(), reason, alone }, span);
        None
    }
}
