//! `vm NAME [instance NAME] { }` (openbsd/vm.conf.md, 10 and 11).

use std::collections::BTreeMap;

use model::{
    BootDevice, CommandLine, Description, MAX_CPUS, MAX_DEVICE_RESTARTS, MAX_NICS, MAX_PATH, MemorySize, NameError,
    Sev, UserPath, VmName,
};

use super::disk::Size;
use super::{Parser, Read, Stop, Text};
use crate::diagnostic::Step;
use crate::fault::Fault;
use crate::input::Span;
use crate::instance::Requester;
use crate::keyword::{BALLOON, Block, CMDLINE, DESCRIPTION, INITRD, Keyword, RESTARTS, VMMCI};
use crate::lexer::Kind;
use crate::register::register;
use crate::request::{Refusal, VmRequest};

/// A block being read.
struct Draft {
    request: VmRequest,
    /// Where what may be given once was given.
    given: BTreeMap<&'static str, Span>,
    disks: usize,
    nics: usize,
}

impl Parser<'_> {
    pub(super) fn vm(&mut self) -> Read<()> {
        self.advance();
        let step = self.lexer.report.now();
        let errors = self.lexer.report.errors();
        let first = self.texts("a vm name")?;
        let mut template = None;
        let mut name_text = first.clone();
        if self.taken(Keyword::Instance) {
            name_text = self.texts("the instance's name")?;
            template = self.vm_name(&first, true);
        }
        let name = self.vm_name(&name_text, false);
        // A block with a bad name is read all the same, for the errors in it.
        let stand_in = name.clone().or_else(|| VmName::new(b"x").ok()).ok_or(Stop::SkipLine)?;
        let mut request = VmRequest::new(stand_in);
        request.vm.template = template;
        let mut draft = Draft { request, given: BTreeMap::new(), disks: 0, nics: 0 };
        self.lexer.report.vm.clone_from(&name);
        let closed = self.block(Block::Vm, &mut draft, Self::vm_option);
        self.lexer.report.vm = None;
        let right = closed.is_ok() && self.lexer.report.errors() == errors;
        match name {
            Some(_) if right => self.add_vm(draft, name_text.span, first.span, step),
            Some(name) => {
                self.broken.insert(name);
            }
            None => {}
        }
        closed.map(|_| ())
    }

    fn vm_name(&mut self, text: &Text, template: bool) -> Option<VmName> {
        self.checked(text, VmName::new(&text.bytes), |why, name| match why {
            NameError::TooLong(_) => Fault::VmNameTooLong { name, template },
            _ => Fault::VmNameInvalid { name },
        })
    }

    fn vm_option(&mut self, draft: &mut Draft) -> Read<()> {
        let Kind::Word(keyword) = self.token.kind else { return self.our_option(draft) };
        let option = self.token.span;
        match keyword {
            Keyword::Switch if self.fresh => {
                self.error(Fault::SwitchInVm, option);
                return Err(Stop::SkipLine);
            }
            word if Block::Vm.has(word.text().as_bytes()) => self.advance(),
            _ => return self.misplaced(Block::Vm),
        }
        let vm = &mut draft.request.vm;
        match keyword {
            Keyword::Enable => vm.enabled = true,
            Keyword::Disable => vm.enabled = false,
            Keyword::Sev => vm.sev = vm.sev.max(Some(Sev::Memory)),
            Keyword::SevEs => vm.sev = Some(Sev::State),
            Keyword::Disk => return self.disk(&mut draft.disks, &mut draft.request.vm.disks),
            Keyword::Local => {
                self.keyword(Keyword::Interface)?;
                return self.interface(draft, true, option);
            }
            Keyword::Interface => return self.interface(draft, false, option),
            Keyword::Boot => return self.boot(draft, option),
            Keyword::Cdrom => return self.cdrom(draft, option),
            Keyword::Device => return self.device_restarts(draft, option),
            Keyword::Interfaces => return self.interfaces(draft, option),
            Keyword::Cpus => return self.cpus(draft, option),
            Keyword::Memory => return self.memory(draft, option),
            Keyword::Owner => vm.owner = self.owner()?,
            Keyword::Allow => return self.allow(&mut draft.request.vm.allow),
            _ => {}
        }
        Ok(())
    }

    /// The options that OpenBSD does not have; their words are not reserved.
    fn our_option(&mut self, draft: &mut Draft) -> Read<()> {
        let option = self.token.span;
        let ours = [INITRD, BALLOON, CMDLINE, DESCRIPTION, VMMCI];
        let word = ours.into_iter().find(|word| self.plain_word() == Some(word.as_bytes()));
        let Some(word) = word else { return self.misplaced(Block::Vm) };
        self.advance();
        match word {
            INITRD => {
                let text = self.texts("an initial RAM disk's path")?;
                self.once(draft, INITRD, option);
                draft.request.vm.initrd = self.existing(&text, "initrd");
            }
            BALLOON => {
                self.once(draft, BALLOON, option);
                draft.request.vm.balloon = Some(MemorySize::LEAST_BOOTABLE);
                if self.is_size() {
                    draft.request.vm.balloon = self.memory_size()?;
                }
            }
            VMMCI => draft.request.vm.vmmci = true,
            CMDLINE => {
                let text = self.texts("a kernel command line")?;
                self.once(draft, CMDLINE, option);
                let line = CommandLine::new(&text.bytes);
                draft.request.vm.cmdline = self.checked_text(&text, "kernel command line", line);
            }
            _ => {
                let text = self.texts("a description")?;
                self.once(draft, DESCRIPTION, option);
                let description = Description::new(&text.bytes);
                draft.request.vm.description = self.checked_text(&text, "description", description);
            }
        }
        Ok(())
    }

    fn checked_text<T>(&mut self, text: &Text, what: &'static str, read: Result<T, NameError>) -> Option<T> {
        let length = text.bytes.len();
        self.checked(text, read, |reason, text| match reason {
            NameError::NotUtf8 => Fault::NotUtf8 { what: what.to_owned(), text },
            reason => Fault::TextRefused { what, length, reason },
        })
    }

    /// Notes a second use of what may be given once.
    fn once(&mut self, draft: &mut Draft, what: &'static str, span: Span) {
        if let Some(first) = draft.given.get(what) {
            let first_line = self.line(*first);
            return self.error(Fault::Repeated { what, first_line }, span);
        }
        draft.given.insert(what, span);
    }

    fn memory(&mut self, draft: &mut Draft, option: Span) -> Read<()> {
        self.once(draft, "memory", option);
        draft.request.memory = self.memory_size()?.or(draft.request.memory);
        Ok(())
    }

    /// Whether a size follows: a balloon's may, and what begins with no digit is the next option.
    fn is_size(&self) -> bool {
        match &self.token.kind {
            Kind::Number(_) => true,
            Kind::Text { bytes, .. } => bytes.first().is_some_and(u8::is_ascii_digit),
            _ => false,
        }
    }

    fn memory_size(&mut self) -> Read<Option<MemorySize>> {
        let Some(Size { bytes, text, span }) = self.size("a size such as 512M")? else { return Ok(None) };
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        match bytes.map(MemorySize::from_bytes) {
            Ok(Ok(memory)) => return Ok(Some(memory)),
            Ok(Err(reason)) => self.error(Fault::MemorySize { text, reason, plain }, span),
            Err(reason) => self.error(Fault::MemorySyntax { text, reason }, span),
        }
        Ok(None)
    }

    fn cpus(&mut self, draft: &mut Draft, option: Span) -> Read<()> {
        self.once(draft, "cpus", option);
        let (number, span) = self.number("a number of CPUs (1 to 64)")?;
        draft.request.cpus = u8::try_from(number).ok().filter(|cpus| (1..=MAX_CPUS).contains(cpus));
        if draft.request.cpus.is_none() {
            self.error(Fault::CpusInvalid { number, limit: MAX_CPUS }, span);
        }
        Ok(())
    }

    /// `device restarts N`
    fn device_restarts(&mut self, draft: &mut Draft, option: Span) -> Read<()> {
        if self.plain_word() != Some(RESTARTS.as_bytes()) {
            return self.unexpected("\"restarts\"".to_owned());
        }
        self.advance();
        self.once(draft, "device restarts", option);
        let (number, span) = self.number("a number of restarts (0 to 100)")?;
        let restarts = u8::try_from(number).ok().filter(|restarts| *restarts <= MAX_DEVICE_RESTARTS);
        draft.request.vm.device_restarts = restarts;
        if restarts.is_none() {
            self.error(Fault::DeviceRestarts { number, limit: MAX_DEVICE_RESTARTS }, span);
        }
        Ok(())
    }

    /// `boot device DEVICE`, or `boot PATH`
    fn boot(&mut self, draft: &mut Draft, option: Span) -> Read<()> {
        if self.taken(Keyword::Device) {
            let word = if let Kind::Word(keyword) = self.token.kind { keyword.text() } else { "" };
            let Some(device) = BootDevice::of_word(word.as_bytes()) else { return self.bad_boot_device() };
            draft.request.vm.boot_device = Some(device);
            self.advance();
            return Ok(());
        }
        let text = self.texts("a kernel's path or \"device\"")?;
        self.once(draft, "boot", option);
        draft.request.vm.boot = self.existing(&text, "kernel");
        Ok(())
    }

    fn bad_boot_device(&mut self) -> Read<()> {
        let device = match &self.token.kind {
            Kind::Text { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
            Kind::Word(keyword) => keyword.text().to_owned(),
            _ => return self.unexpected("\"cdrom\", \"disk\" or \"net\"".to_owned()),
        };
        let span = self.take().span;
        self.error(Fault::BootDevice { device }, span);
        Ok(())
    }

    fn cdrom(&mut self, draft: &mut Draft, option: Span) -> Read<()> {
        let text = self.texts("an ISO image's path")?;
        self.once(draft, "cdrom", option);
        if text.bytes.len() > MAX_PATH {
            self.error(Fault::PathTooLong { what: "cdrom", limit: MAX_PATH }, text.span);
        } else if self.is_utf8(&text, "cdrom path") {
            draft.request.vm.cdrom = if text.bytes == b"none" { Some(UserPath::default()) } else { text.path() };
        }
        Ok(())
    }

    /// The resolved path of a file that must exist now.
    pub(super) fn existing(&mut self, text: &Text, what: &'static str) -> Option<UserPath> {
        if text.bad {
            return None;
        }
        if text.bytes.len() > MAX_PATH {
            self.error(Fault::PathTooLong { what, limit: MAX_PATH }, text.span);
            return None;
        }
        if !self.is_utf8(text, &format!("{what} path")) {
            return None;
        }
        let fault = match self.sources.resolve(text.as_path()) {
            Ok(path) => match path.to_str().map(UserPath::new) {
                Some(Ok(path)) => return Some(path),
                Some(Err(_)) => Fault::PathTooLong { what, limit: MAX_PATH },
                None => Fault::LeadsToNotUtf8 { what, path: path.to_string_lossy().into_owned() },
            },
            Err(error) => Fault::PathNotFound { what, path: text.shown(), reason: Fault::reason(&error) },
        };
        let absent = matches!(fault, Fault::PathNotFound { .. }) && self.lexer.report.patient;
        self.error(fault, text.span);
        let path = absent.then(|| self.sources.absolute(text.as_path()))?;
        UserPath::new(path.to_str()?).ok() // the opener says of it what is wrong when the VM starts
    }

    fn interface(&mut self, draft: &mut Draft, local: bool, option: Span) -> Read<()> {
        let nic = self.nic(local)?;
        draft.nics = draft.nics.saturating_add(1);
        if draft.nics > MAX_NICS {
            let number = i64::try_from(draft.nics).unwrap_or(i64::MAX);
            self.error(Fault::TooManyInterfaces { number, limit: MAX_NICS }, option);
            return Ok(());
        }
        draft.request.vm.nics.push(nic);
        Ok(())
    }

    fn interfaces(&mut self, draft: &mut Draft, option: Span) -> Read<()> {
        let (number, span) = self.number("a number of interfaces")?;
        if draft.request.least_nics > 0 {
            self.once(draft, "interfaces", option);
        }
        match usize::try_from(number).ok().filter(|number| *number <= MAX_NICS) {
            Some(least) => {
                draft.request.least_nics = least;
                draft.given.entry("interfaces").or_insert(option);
            }
            None => self.error(Fault::TooManyInterfaces { number, limit: MAX_NICS }, span),
        }
        Ok(())
    }

    /// The registration checks, where the block itself is right.
    fn add_vm(&mut self, draft: Draft, span: Span, template_span: Span, step: Step) {
        let name = draft.request.vm.name.clone();
        if let Some((first, _)) = self.vms.get(&name) {
            let first_line = self.line(*first);
            let fault = Fault::VmDefinedTwice { name: name.to_string(), first_line };
            return self.lexer.report.warn_at(step, fault, Some(span));
        }
        if self.known_vms.contains_key(&name) {
            return;
        }
        let template_name = draft.request.vm.template.clone();
        if template_name.as_ref().is_some_and(|template| self.broken.contains(template)) {
            self.broken.insert(name);
            return;
        }
        let lonely = draft.request.vm.boot.is_none() && draft.request.vm.template.is_none();
        for what in [INITRD, CMDLINE] {
            if let (true, Some(span)) = (lonely, draft.given.get(what).copied()) {
                self.lexer.report.warn_at(step, Fault::NoKernelFor { what }, Some(span));
            }
        }
        let template = template_name.and_then(|name| {
            let here = self.vms.get(&name).and_then(|(_, at)| self.config.vms.get(*at));
            here.or_else(|| self.known_vms.get(&name).copied())
        });
        let known = self.known;
        let switches = |name: &_| self.config.switch(name).or_else(|| known.switch(name));
        match register(draft.request, template, Requester::ROOT, switches) {
            Ok(vm) => {
                self.vms.insert(name, (span, self.config.vms.len()));
                self.config.vms.push(vm);
            }
            Err(reason) => {
                let span = if matches!(reason, Refusal::TemplateUnknown(_)) { template_span } else { span };
                self.lexer.report.error_at(step, Fault::VmRefused { name: name.to_string(), reason }, span);
                self.broken.insert(name);
            }
        }
    }
}
