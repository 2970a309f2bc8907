//! Statements outside all blocks: `local`, `socket owner`, `agentx`, `staggered start` (openbsd/vm.conf.md, 8).
//! A repeated one replaces the earlier.

use super::{Parser, Read};
use crate::fault::Fault;
use crate::globals::{AgentX, LocalInet6, Staggered};
use crate::keyword::{INET, Keyword, NAT};
use crate::lexer::Kind;
use crate::prefix::{Prefix4, Prefix6};

/// Bytes of an AgentX context (openbsd/vm.conf.md, 8.4).
const MAX_CONTEXT: usize = 32;

/// Bytes of the AgentX master's socket path: what fits the original's sockaddr_un.
const MAX_SOCKET_PATH: usize = 103;

impl Parser<'_> {
    /// `local [inet] prefix P`, `local inet6 [prefix P]`, `local nat yes|no`
    pub(super) fn local(&mut self) -> Read<()> {
        self.advance();
        if self.taken(Keyword::Inet6) {
            return self.local_inet6();
        }
        match self.plain_word() {
            Some(word) if word == NAT.as_bytes() => {
                self.advance();
                return self.local_nat();
            }
            Some(word) if word == INET.as_bytes() => self.advance(),
            _ => {}
        }
        if !self.taken(Keyword::Prefix) {
            return self.unexpected("\"inet\", \"inet6\", \"nat\" or \"prefix\"".to_owned());
        }
        let text = self.text("an IPv4 network such as \"10.0.0.0/8\"")?;
        match Prefix4::parse(&text.bytes) {
            _ if text.bad => {}
            Ok(prefix) => self.config.globals.local_prefix = prefix,
            Err(reason) => self.error(Fault::LocalPrefix { reason }, text.span),
        }
        Ok(())
    }

    fn local_inet6(&mut self) -> Read<()> {
        if !self.taken(Keyword::Prefix) {
            self.config.globals.local_inet6 = Some(LocalInet6::Random);
            return Ok(());
        }
        let text = self.text("an IPv6 network such as \"fd00:1::/64\"")?;
        match Prefix6::parse(&text.bytes) {
            _ if text.bad => {}
            Ok(prefix) => self.config.globals.local_inet6 = Some(LocalInet6::Prefix(prefix)),
            Err(reason) => self.error(Fault::LocalInet6Prefix { reason }, text.span),
        }
        Ok(())
    }

    fn local_nat(&mut self) -> Read<()> {
        self.config.globals.local_nat = match self.plain_word() {
            Some(b"yes") => true,
            Some(b"no") => false,
            _ => return self.unexpected("\"yes\" or \"no\"".to_owned()),
        };
        self.advance();
        Ok(())
    }

    /// `socket owner OWNER`
    pub(super) fn socket(&mut self) -> Read<()> {
        self.advance();
        self.keyword(Keyword::Owner)?;
        let mut owner = self.owner()?;
        owner.gid = owner.gid.or(Some(0));
        self.config.globals.socket_owner = owner;
        Ok(())
    }

    /// `agentx [context C] [path P]`
    pub(super) fn agentx(&mut self) -> Read<()> {
        self.advance();
        let mut agentx = AgentX::default();
        loop {
            if self.taken(Keyword::Context) {
                let text = self.text("an SNMP context")?;
                if text.bytes.len() > MAX_CONTEXT {
                    self.error(Fault::AgentXContextTooLarge { limit: MAX_CONTEXT }, text.span);
                } else {
                    self.is_utf8(&text, "agentx context");
                }
                agentx.context = Some(text.bytes);
            } else if self.taken(Keyword::Path) {
                let text = self.text("a socket's path")?;
                if text.bytes.len() > MAX_SOCKET_PATH {
                    self.error(Fault::AgentXPathTooLarge { limit: MAX_SOCKET_PATH }, text.span);
                } else if self.is_utf8(&text, "agentx path") && !text.bytes.starts_with(b"/") {
                    self.error(Fault::AgentXPathNotAbsolute, text.span);
                }
                agentx.path = text.path();
            } else if matches!(self.token.kind, Kind::Text { .. }) {
                return self.unexpected("\"context\", \"path\" or the end of the line".to_owned());
            } else {
                break;
            }
        }
        self.config.globals.agentx = Some(agentx);
        Ok(())
    }

    /// `staggered start parallel N delay S`
    pub(super) fn staggered(&mut self) -> Read<()> {
        self.advance();
        self.keyword(Keyword::Start)?;
        self.keyword(Keyword::Parallel)?;
        let parallel = self.count("parallel", 1)?;
        self.keyword(Keyword::Delay)?;
        let delay_s = self.count("delay", 0)?;
        if let (Some(parallel), Some(delay_s)) = (parallel, delay_s) {
            self.config.globals.staggered = Some(Staggered { parallel, delay_s });
        }
        Ok(())
    }

    /// A number of at least `least` that fits the original's int.
    fn count(&mut self, what: &'static str, least: i64) -> Read<Option<u32>> {
        let (number, span) = self.number("a number")?;
        if (least..=i64::from(i32::MAX)).contains(&number) {
            return Ok(u32::try_from(number).ok());
        }
        self.error(Fault::CountRange { what, number, least }, span);
        Ok(None)
    }
}
