//! Tokens to statements (openbsd/vm.conf.md, 5 and 6). A mistake is noted and reading goes on at the next line of
//! the block that it stands in, so that one run shows all errors of a file.
//!
//! Layout is freer than OpenBSD's where nothing can be misread: a block may be empty, options may share a line, and
//! the closing brace may follow one. What OpenBSD accepts means the same here.

mod allow;
mod disk;
mod global;
mod nic;
mod owner;
mod reading;
mod switch;
mod vm;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use model::{SwitchName, UserPath, Vm, VmName};

use crate::Parsed;
use crate::diagnostic::{Errors, Step};
use crate::environment::{Sources, Users};
use crate::fault::Fault;
use crate::globals::Config;
use crate::input::{Input, Span};
use crate::keyword::{Block, Keyword};
use crate::lexer::{Kind, Lexer, Token};
use crate::macros::Macros;

/// Include files around one another. Deeper ones include each other in a circle by different names.
const MAX_INCLUDE_DEPTH: usize = 64;

/// Files of one parse: two files that each include two, and so on, would never come to an end.
const MAX_FILES: usize = 4096;

/// Bytes of all files of one parse: what is a limit of one file must not be had again by each that it includes.
const MAX_SIZE: usize = 64 << 20;

/// Something was noted; where reading goes on.
pub(crate) enum Stop {
    /// After this line, and after the blocks that it opens.
    SkipLine,
    /// At this token: it begins something new.
    Here,
}

type Read<T> = Result<T, Stop>;

/// One or more strings, as a value.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub bytes: Vec<u8>,
    pub span: Span,
    /// Part of it could not be read, and that has been noted: it must not be checked.
    pub bad: bool,
}

impl Text {
    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The path that it is, to be looked for.
    fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.bytes))
    }

    /// The path that it is, to be kept; none where an error has been noted.
    fn path(&self) -> Option<UserPath> {
        UserPath::new(std::str::from_utf8(&self.bytes).ok()?).ok()
    }
}

/// A use of a switch's name, looked at when all switches are known.
struct SwitchUse {
    name: SwitchName,
    span: Span,
    step: Step,
}

/// A routing domain of an interface, looked at when all switches are known.
struct RdomainUse {
    rdomain: u8,
    local: bool,
    switch: Option<SwitchName>,
    span: Span,
    step: Step,
}

/// The state of one parse.
pub(crate) struct Parser<'a> {
    lexer: Lexer,
    token: Token,
    /// The token before was a newline or an opening brace: here a statement or option begins.
    fresh: bool,
    /// Where the last token ended.
    last: Span,
    sources: &'a dyn Sources,
    users: &'a dyn Users,
    known: &'a Config,
    /// The file comes beside what is known: what is for the whole daemon has no place in it.
    loaded: bool,
    known_vms: HashMap<&'a VmName, &'a Vm>,
    config: Config,
    /// Where each VM was defined, and its place in `config`.
    vms: HashMap<VmName, (Span, usize)>,
    /// VMs whose blocks are wrong: their instances are not blamed for it.
    broken: HashSet<VmName>,
    switches: HashMap<SwitchName, Span>,
    uses: Vec<SwitchUse>,
    /// Where the interface that is being read names a routing domain.
    rdomain_at: Option<(Step, Span)>,
    rdomains: Vec<RdomainUse>,
}

impl<'a> Parser<'a> {
    pub fn new(
        name: &str,
        text: &[u8],
        macros: &Macros,
        sources: &'a dyn Sources,
        users: &'a dyn Users,
        known: &'a Config,
        loaded: bool,
    ) -> Self {
        let mut lexer = Lexer::new(Input::new(name, text), macros);
        let token = lexer.next();
        Self {
            lexer,
            token,
            fresh: true,
            last: Span::default(),
            sources,
            users,
            known,
            loaded,
            known_vms: known.vms.iter().map(|vm| (&vm.name, vm)).collect(),
            config: Config::default(),
            vms: HashMap::new(),
            broken: HashSet::new(),
            switches: HashMap::new(),
            uses: Vec::new(),
            rdomain_at: None,
            rdomains: Vec::new(),
        }
    }

    /// What concerns one VM alone costs that VM.
    pub fn patient(mut self) -> Self {
        self.lexer.report.patient = true;
        self
    }

    pub fn run(mut self) -> Result<Parsed, Errors> {
        while self.token.kind != Kind::End {
            let read = self.statement();
            self.recover(read, false);
        }
        self.lock_cards();
        self.check_switch_uses();
        self.check_rdomains();
        self.lexer.warn_of_unused_macros();
        let (errors, warnings, troubles) = self.lexer.report.finish(&self.lexer.input);
        match errors.is_empty() {
            true => Ok(Parsed { config: self.config, warnings, troubles }),
            false => Err(Errors { errors, warnings }),
        }
    }

    /// An interface has one master: on a switch that is the bridge, whose routing domain it has. Elsewhere a local one gets no
    /// NAT, though others do.
    fn check_rdomains(&mut self) {
        for used in std::mem::take(&mut self.rdomains) {
            let switch = used.switch.and_then(|name| self.config.switch(&name).or_else(|| self.known.switch(&name)));
            let of_switch = switch.map(|switch| (switch.name.to_string(), switch.rdomain.unwrap_or(0)));
            match of_switch.filter(|(_, rdomain)| *rdomain != used.rdomain) {
                Some((switch, rdomain)) => {
                    let fault = Fault::RdomainOfSwitch { number: used.rdomain, switch, rdomain };
                    self.lexer.report.error_at(used.step, fault, used.span);
                }
                None if used.local && used.rdomain != 0 && self.config.globals.local_nat => {
                    self.lexer.report.warn_at(used.step, Fault::LocalInRdomain, Some(used.span));
                }
                None => {}
            }
        }
    }

    fn statement(&mut self) -> Read<()> {
        match &self.token.kind {
            Kind::Newline | Kind::End => {
                self.advance();
                return Ok(());
            }
            Kind::Word(Keyword::Include) => return self.include(),
            Kind::Word(Keyword::Switch) => self.switch()?,
            Kind::Word(Keyword::Vm) => self.vm()?,
            Kind::Word(word) if self.loaded && is_for_the_daemon(*word) => return self.not_loaded(*word),
            Kind::Word(Keyword::Local) => self.local()?,
            Kind::Word(Keyword::Socket) => self.socket()?,
            Kind::Word(Keyword::AgentX) => self.agentx()?,
            Kind::Word(Keyword::Staggered) => self.staggered()?,
            Kind::Text { .. } => self.definition()?,
            Kind::Word(keyword) => return self.not_a_name(*keyword),
            _ => return self.misplaced(Block::File),
        }
        self.end_of_line()
    }

    /// `NAME = VALUE`
    fn definition(&mut self) -> Read<()> {
        let first = self.token.clone();
        let name = self.text("a macro name")?;
        if self.token.kind != Kind::Sign(b'=') {
            return self.misplaced_token(&first, Block::File);
        }
        self.advance();
        if name.bytes.iter().skip(1).any(|byte| matches!(byte, b' ' | b'\t'..=b'\r')) {
            self.error(Fault::MacroNameBlank, name.span);
        }
        let value = self.text("a macro value in quotes")?;
        if !value.bad {
            self.lexer.define(name.bytes, value.bytes, name.span);
        }
        Ok(())
    }

    fn not_loaded(&mut self, keyword: Keyword) -> Read<()> {
        self.error(Fault::NotLoaded { word: keyword.text() }, self.token.span);
        Err(Stop::SkipLine)
    }

    /// A keyword that begins no statement: perhaps it was to name a macro.
    fn not_a_name(&mut self, keyword: Keyword) -> Read<()> {
        let token = self.take();
        if self.token.kind != Kind::Sign(b'=') {
            return self.misplaced_token(&token, Block::File);
        }
        self.error(Fault::ReservedName { word: keyword.text() }, token.span);
        Err(Stop::SkipLine)
    }

    /// `include FILE`: the lexer reads on there, and comes back at its end.
    fn include(&mut self) -> Read<()> {
        self.advance();
        let name = self.texts("a file name")?;
        self.end_of_line()?;
        if name.bad {
            return Ok(());
        }
        let file = name.shown();
        let input = &self.lexer.input;
        let circle = input.is_open(&file) || input.depth() >= MAX_INCLUDE_DEPTH || input.count() >= MAX_FILES;
        if circle {
            self.error(Fault::IncludeCircle { file }, name.span);
            return Ok(());
        }
        if input.size() > MAX_SIZE {
            self.error(Fault::IncludeTooLarge { file, limit: MAX_SIZE }, name.span);
            return Ok(());
        }
        match self.sources.include(name.as_path()) {
            Ok(text) => {
                self.lexer.input.add_size(text.len());
                match self.lexer.input.size() > MAX_SIZE {
                    true => self.error(Fault::IncludeTooLarge { file, limit: MAX_SIZE }, name.span),
                    false => self.lexer.input.push(&file, text),
                }
            }
            Err(error) => self.error(Fault::IncludeFailed { file, reason: Fault::reason(&error) }, name.span),
        }
        Ok(())
    }

    /// The options of a block, one after the other, from its opening brace to its closing one.
    fn block<D>(&mut self, block: Block, draft: &mut D, option: fn(&mut Self, &mut D) -> Read<()>) -> Read<Span> {
        let opened = self.token.span;
        let step = self.lexer.report.now();
        self.open()?;
        loop {
            match &self.token.kind {
                Kind::Newline => self.advance(),
                Kind::Sign(b'}') => return Ok(self.take().span),
                kind if begins_statement(kind) => {
                    self.lexer.report.error_at(step, Fault::NotClosed { noun: block.noun() }, opened);
                    return Err(Stop::Here);
                }
                _ => {
                    let read = option(self, draft);
                    if self.recover(read, true) {
                        return Err(Stop::Here);
                    }
                }
            }
        }
    }

    /// The opening brace. One that stands on a later line is an error, but opens its block all the same.
    fn open(&mut self) -> Read<()> {
        let expected = "\"{\" on the same line";
        if self.token.kind != Kind::Newline {
            return self.sign(b'{', expected);
        }
        let _: Read<()> = self.unexpected(expected.to_owned());
        while self.token.kind == Kind::Newline {
            self.advance();
        }
        if self.token.kind == Kind::Sign(b'{') {
            self.advance();
            return Ok(());
        }
        Err(Stop::Here)
    }

    /// Goes on after a mistake: skips the rest of the line and every block opened in it. Says whether the block
    /// around it is given up.
    fn recover(&mut self, read: Read<()>, in_block: bool) -> bool {
        match read {
            Ok(()) => return false,
            Err(Stop::Here) => return in_block,
            Err(Stop::SkipLine) => {}
        }
        let mut depth = 0_usize;
        loop {
            match self.token.kind {
                Kind::End => return false,
                Kind::Newline if depth == 0 => return false,
                Kind::Sign(b'{') => depth = depth.saturating_add(1),
                Kind::Sign(b'}') if depth == 0 && in_block => return false,
                Kind::Sign(b'}') => depth = depth.saturating_sub(1),
                Kind::Word(Keyword::Vm) if self.fresh => return false,
                _ => {}
            }
            self.advance();
        }
    }
}

/// Statements that hold for all VMs.
fn is_for_the_daemon(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::Local | Keyword::Socket | Keyword::AgentX | Keyword::Staggered)
}

/// Whether a token shows that the block before it was never closed: no option begins so.
fn begins_statement(kind: &Kind) -> bool {
    matches!(kind, Kind::End | Kind::Word(Keyword::Vm))
}
