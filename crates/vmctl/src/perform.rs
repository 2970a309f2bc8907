//! Does a command: asks the daemon, prints what it says, decides the exit status (openbsd/vmctl.md, 3 to 9).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use config::size;
use model::{DiskFormat, lookalike_in};
use proto::client::{
    Detail, DiskArg, DiskOperation, Order, Reply, Request, Start as StartRequest, VmLine, VmRef, VmState,
};
use proto::failure::plain;
use proto::{Code, Failure};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::command::{Command, help_text};
use crate::console::{self, ConsoleError};
use crate::conversation::{Conversation, Listed, TalkError};
use crate::create::Source;
use crate::doctor::{self, Form};
use crate::image::{self, ImageError};
use crate::progress::{Watch, shown};
use crate::start::Start;
use crate::status;
use crate::words::{self, WordError};

/// Where a command talks and prints.
pub struct Run<'a> {
    pub socket: &'a Path,
    pub verbose: bool,
    pub lively: bool,
    pub coloured: bool,
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
}

/// Why a command failed; the whole message, without the program's name.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The daemon could not be asked.
    #[error(transparent)]
    Talk(#[from] TalkError),
    /// The daemon refused.
    #[error("{what}: {failure}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The daemon's words.
        failure: Failure,
    },
    /// A file that the command names.
    #[error("{what}: {}: {}{}", .path.display(), plain(.error), file_hint(.path, .error))]
    File {
        /// The original's words for what is wrong.
        what: &'static str,
        /// As given.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A kernel that is no regular file.
    #[error("kernel must be a regular file: {}", .0.display())]
    KernelKind(PathBuf),
    /// A word that cannot be sent.
    #[error(transparent)]
    Word(#[from] WordError),
    /// `create`.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No console.
    #[error("console not found: {0}")]
    NoConsole(String),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A stream on a terminal.
    #[error("{0}")]
    Terminal(&'static str),
    /// What was asked for could not be written.
    #[error("standard output: {}", plain(.0))]
    Output(io::Error),
    /// The stream to read can't be had.
    #[error("standard input: {}", plain(.0))]
    Input(io::Error),
}

/// What the daemon answers from what it knows, or after a word with a VM, which it gives up after 60 s.
const ANSWER: Duration = Duration::from_secs(90);

/// What takes files, interfaces and a guest: the daemon gives a start up after 150 s.
const START: Duration = Duration::from_secs(180);

/// How long an answer may take; `None` where it comes when something ends, or as a disk does.
fn limit(request: &Request) -> Option<Duration> {
    match request {
        Request::Wait { .. }
        | Request::Stop { wait: true, .. }
        | Request::Order { order: Order::Pause, .. }
        | Request::DiskFail { .. }
        | Request::FlushStop { .. } => None,
        Request::Start(_) | Request::Receive { .. } | Request::Send { .. } | Request::Cdrom { .. } => Some(START),
        Request::Reload | Request::Load { .. } | Request::Reset { .. } => Some(START),
        Request::List
        | Request::Detail { .. }
        | Request::Stop { wait: false, .. }
        | Request::Order { order: Order::Unpause | Order::Nmi, .. }
        | Request::Memory { .. }
        | Request::Log { .. } => Some(ANSWER),
    }
}

/// What is behind a file that can't be had, where that can be told.
fn file_hint(path: &Path, error: &io::Error) -> String {
    let text = path.to_string_lossy();
    match Errno::from_io_error(error) {
        Some(Errno::ACCESS) => {
            let barrier = sys::reach::barrier(path);
            barrier.map(|barrier| format!(": {}", barrier.told(&text, "you"))).unwrap_or_default()
        }
        Some(Errno::NOENT) if text.starts_with("~") => {
            "; a shell takes \"~\" for a home only where a word begins with it, and without quotes".to_owned()
        }
        Some(Errno::NOENT) => lookalike_in(&text).map(|told| format!("; it has {told}")).unwrap_or_default(),
        Some(Errno::NAMETOOLONG) => ": a name in it may have at most 255 bytes".to_owned(),
        _ => String::new(),
    }
}

/// A VM as messages call it.
fn called(vm: &VmRef) -> String {
    match vm {
        VmRef::Id(id) => format!("vm {id}"),
        VmRef::Name(name) => format!("\"{name}\""),
    }
}

impl Run<'_> {
    /// Does the command; an error is not printed yet.
    pub fn perform(&mut self, command: Command) -> Result<ExitCode, RunError> {
        match command {
            Command::Create(create) => {
                self.warn(create.warning.as_deref());
                let made = image::make(&create, self.lively, self.err)?;
                made.iter().for_each(|said| self.say(said));
            }
            Command::Doctor { json } => return self.doctor(json),
            Command::Start(start) => return self.start(*start),
            Command::Status { json, running, vm } => return self.status(json, running, vm.as_ref()),
            Command::Stop { vm: Some(vm), force, wait } => {
                let request = Request::Stop { vm: vm.clone(), force, wait };
                let mut conversation = self.open()?;
                return self.end(&mut conversation, "stopping", &vm, request);
            }
            Command::Stop { vm: None, force, wait } => self.stop_all(force, wait)?,
            Command::Wait(vm) => {
                let request = Request::Wait { vm: vm.clone() };
                let mut conversation = self.open()?;
                return self.end(&mut conversation, "waiting for", &vm, request);
            }
            Command::Order(order, vm) => self.order(order, &vm)?,
            Command::Memory { vm, size, warning } => {
                self.warn(warning.as_deref());
                let what = format!("memory {}", called(&vm));
                let reply = self.call(&what, Request::Memory { vm, size })?;
                let Reply::Accepted { id } = reply else { return Err(instead(what, reply)) };
                self.say(&format!("asked vm {id} to get along with {}", size::format(size.bytes())));
            }
            Command::Cdrom { vm, medium, force } => {
                let path = medium.map(|path| resolved("invalid iso image path", &path)).transpose()?;
                let medium = path.as_ref().map(|path| words::path(path.as_os_str())).transpose()?;
                let what = format!("cdrom {}", called(&vm));
                let said = medium.as_ref().map(|path| format!("put \"{path}\" into the CD-ROM drive of vm"));
                let reply = self.call(&what, Request::Cdrom { vm, medium, force })?;
                let Reply::Accepted { id } = reply else { return Err(instead(what, reply)) };
                let said = said.unwrap_or_else(|| "emptied the CD-ROM drive of vm".to_owned());
                self.say(&format!("{said} {id}"));
            }
            Command::DiskFail { vm, disk, operation, count } => {
                let at = format!("disk {disk} at {} {count}", word_of(operation));
                let request = Request::DiskFail { vm: vm.clone(), disk, operation, count };
                self.fault(format!("disk-fail {}", called(&vm)), request, &at, "failed", &at)?;
            }
            Command::FlushStop { vm, disk, count } => {
                let (armed, paused) =
                    (format!("disk {disk} at flush {count}"), format!("at disk {disk} flush {count}"));
                let request = Request::FlushStop { vm: vm.clone(), disk, count };
                self.fault(format!("flush-stop {}", called(&vm)), request, &armed, "paused", &paused)?;
            }
            Command::Console(vm) => return self.console(&vm),
            Command::Send(vm) => self.send(&vm)?,
            Command::Receive(name) => {
                let input = io::stdin();
                if input.is_terminal() {
                    return Err(RunError::Terminal("receive: standard input is a terminal; redirect it from a file"));
                }
                let stream = input.as_fd().try_clone_to_owned().map_err(RunError::Input)?;
                let what = format!("receive \"{name}\"");
                let (id, tty) = self.started(what, Request::Receive { name }, Some(stream), None)?;
                self.say(&format!("started vm {id} successfully, tty {tty}"));
            }
            Command::Help(command) => self.print(&help_text(command))?,
            Command::Version => self.print(concat!("vmctl ", env!("CARGO_PKG_VERSION"), "\n"))?,
            Command::Image { check, repair, json, image } => return self.image(check, repair, json, &image),
            Command::ImageResize { image, size, warning } => {
                self.warn(warning.as_deref());
                image::resize(&image, size)?;
                self.say(&format!("image resized to {}", size::format(size)));
            }
            Command::Load(path) => self.settle(&format!("load \"{path}\""), Request::Load { path })?,
            Command::Log { verbose } => self.settle("log", Request::Log { verbose })?,
            Command::Reload => self.settle("reload", Request::Reload)?,
            Command::Reset { vms, switches } => self.settle("reset", Request::Reset { vms, switches })?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Text on standard error. That nobody reads it fails no command that did its work.
    fn tell(&mut self, text: &str) {
        let _ = write!(self.err, "{}", shown(text)).and_then(|()| self.err.flush());
    }

    fn say(&mut self, text: &str) {
        self.tell(&format!("vmctl: {text}\n"));
    }

    fn warn<'w>(&mut self, warnings: impl IntoIterator<Item = &'w str>) {
        warnings.into_iter().for_each(|warning| self.say(warning));
    }

    /// Text on standard output: what was asked for, so that a failure is the command's. Who closes a pipe has read enough.
    fn print(&mut self, text: &str) -> Result<(), RunError> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(RunError::Output(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A connection; who waits for it is told.
    fn open(&mut self) -> Result<Conversation, TalkError> {
        let (socket, err) = (self.socket, &mut *self.err);
        Conversation::open(socket, || {
            let _ = writeln!(err, "vmctl: waiting for vmd to take the connection to {}", socket.display());
        })
    }

    /// The next answer to the request of a command that is called so.
    fn reply(
        &mut self,
        conversation: &mut Conversation,
        line: &str,
        limit: Option<Duration>,
    ) -> Result<Reply, TalkError> {
        Watch { lively: self.lively, err: self.err, line, told: false, limit }.reply(conversation)
    }

    /// A request that has one answer.
    fn call(&mut self, line: &str, request: Request) -> Result<Reply, TalkError> {
        let limit = limit(&request);
        let mut conversation = self.open()?;
        conversation.ask(request, Vec::new())?;
        self.reply(&mut conversation, line, limit)
    }

    /// A request that is answered by `Done`; errors of a configuration, and notes, are shown as they come.
    fn settle(&mut self, what: &str, request: Request) -> Result<(), RunError> {
        let limit = limit(&request);
        let mut conversation = self.open()?;
        conversation.ask(request, Vec::new())?;
        let mut reply = self.reply(&mut conversation, what, limit)?;
        while let Reply::Wrong(text) | Reply::Note(text) = &reply {
            let who = if matches!(reply, Reply::Note(_)) { "vmctl: " } else { "" };
            self.tell(&format!("{who}{text}\n"));
            reply = self.reply(&mut conversation, what, limit)?;
        }
        if reply == Reply::Done { Ok(()) } else { Err(instead(what.to_owned(), reply)) }
    }

    fn order(&mut self, order: Order, vm: &VmRef) -> Result<(), RunError> {
        let what = format!("{} {}", order.word(), called(vm));
        let reply = self.call(&what, Request::Order { vm: vm.clone(), order })?;
        let Reply::Accepted { id } = reply else { return Err(instead(what, reply)) };
        self.say(&format!("{} vm {id} successfully", order.done()));
        Ok(())
    }

    /// A fault that is armed, and that happens when the guest comes to it.
    fn fault(
        &mut self,
        what: String,
        request: Request,
        armed: &str,
        happened: &str,
        where_to: &str,
    ) -> Result<(), RunError> {
        let mut conversation = self.open()?;
        conversation.ask(request, Vec::new())?;
        let reply = self.reply(&mut conversation, &what, Some(ANSWER))?;
        let Reply::Accepted { id } = reply else { return Err(instead(what, reply)) };
        self.say(&format!("armed vm {id} {armed}"));
        let reply = self.reply(&mut conversation, &what, None)?;
        if reply != Reply::Done {
            return Err(instead(what, reply));
        }
        self.say(&format!("{happened} vm {id} {where_to}"));
        Ok(())
    }

    fn status(&mut self, json: bool, running: bool, wanted: Option<&VmRef>) -> Result<ExitCode, RunError> {
        let mut conversation = self.open()?;
        let (vms, unkillable) = self.list(&mut conversation)?;
        let detail = wanted.map(|vm| self.detail(&mut conversation, vm)).transpose()?.unwrap_or_default();
        let vms: Vec<&VmLine> = vms.iter().filter(|vm| !running || status::runs(vm)).collect();
        let text = match json {
            true => format!("{}\n", status::json(&vms, wanted, &detail, &unkillable)),
            false => shown(&status::table(&vms, wanted, &detail)),
        };
        self.print(&text)?;
        let unfit = vms.iter().filter(|vm| vm.state == VmState::NotStartable && !json);
        for vm in unfit.filter(|vm| wanted.is_none_or(|wanted| status::is_meant(vm, wanted))) {
            let why = self.detail(&mut conversation, &VmRef::Name(vm.name.clone()))?.failure;
            let why = why.map(|why| format!(": {}", why.reason)).unwrap_or_default();
            self.say(&format!("vm \"{}\" is not startable{why}", vm.name));
        }
        if !json {
            unkillable.iter().for_each(|left| self.tell(&format!("vmctl: {}\n", status::unkillable(left))));
        }
        // That there is a VM decides, not that the one asked for is among them: scripts rely on both.
        Ok(ExitCode::from(u8::from(vms.is_empty())))
    }

    fn doctor(&mut self, json: bool) -> Result<ExitCode, RunError> {
        let form = match (json, self.coloured) {
            (true, _) => Form::Json,
            (false, true) => Form::Table,
            (false, false) => Form::Lines,
        };
        let (text, can_run) = doctor::examine(self.socket, form);
        self.print(&text)?;
        Ok(ExitCode::from(u8::from(!can_run)))
    }

    fn image(&mut self, check: bool, repair: bool, json: bool, image: &Source) -> Result<ExitCode, RunError> {
        let (text, right) = match check {
            true => image::check(image, repair, json, self.lively, self.err)?,
            false => (image::info(image, json)?, true),
        };
        self.print(&if json { text } else { shown(&text) })?;
        Ok(ExitCode::from(u8::from(!right)))
    }

    fn vms(&mut self, conversation: &mut Conversation) -> Result<Vec<VmLine>, RunError> {
        Ok(self.list(conversation)?.0)
    }

    fn list(&mut self, conversation: &mut Conversation) -> Result<Listed, RunError> {
        let mut watch = Watch { lively: self.lively, err: self.err, line: "status", told: false, limit: Some(ANSWER) };
        let listed = conversation.list(|conversation| watch.reply(conversation))?;
        listed.map_err(|failure| RunError::Refused { what: "status".to_owned(), failure })
    }

    /// What is told of one VM beside its line of the list.
    fn detail(&mut self, conversation: &mut Conversation, vm: &VmRef) -> Result<Detail, RunError> {
        conversation.ask(Request::Detail { vm: vm.clone() }, Vec::new())?;
        let reply = self.reply(conversation, "status", Some(ANSWER))?;
        let Reply::Detail(detail) = reply else { return Err(instead("status".to_owned(), reply)) };
        Ok(detail)
    }

    /// `stop` and `wait`: one line that begins with what is done and ends with how it went.
    fn end(
        &mut self,
        conversation: &mut Conversation,
        doing: &str,
        vm: &VmRef,
        request: Request,
    ) -> Result<ExitCode, RunError> {
        let line = match vm {
            VmRef::Id(_) => format!("{doing} vm"),
            VmRef::Name(name) => format!("{doing} vm {name}"),
        };
        self.tell(&format!("{line}: "));
        let limit = limit(&request);
        let asked = conversation.ask(request, Vec::new());
        let mut watch = Watch { lively: self.lively, err: self.err, line: &line, told: true, limit };
        let reply = asked.and_then(|()| watch.reply(conversation));
        if self.lively {
            self.tell(&format!("{line}: ")); // it was taken away with the seconds
        }
        let (text, code) = match reply {
            Ok(Reply::Accepted { id }) => (format!("requested to shutdown vm {id}"), ExitCode::SUCCESS),
            Ok(Reply::Ended { id }) => (format!("terminated vm {id}"), ExitCode::SUCCESS),
            Ok(Reply::Failed(failure)) => (how_it_failed(&failure), ExitCode::FAILURE),
            Ok(
                Reply::Vms(_)
                | Reply::Unkillable(_)
                | Reply::Detail(_)
                | Reply::Done
                | Reply::Started { .. }
                | Reply::Wrong(_)
                | Reply::Note(_),
            ) => (format!("failed: {}", TalkError::Unexpected), ExitCode::FAILURE),
            Err(error) => {
                self.tell("\n");
                return Err(error.into());
            }
        };
        self.tell(&format!("{text}\n"));
        Ok(code)
    }

    /// Each VM that runs now, one after the other. One that cannot be stopped does not change the exit status.
    fn stop_all(&mut self, force: bool, wait: bool) -> Result<(), RunError> {
        let mut conversation = self.open()?;
        for vm in self.vms(&mut conversation)?.into_iter().filter(status::runs) {
            let vm = VmRef::Name(vm.name);
            self.end(&mut conversation, "stopping", &vm, Request::Stop { vm: vm.clone(), force, wait })?;
        }
        Ok(())
    }

    fn send(&mut self, vm: &VmRef) -> Result<(), RunError> {
        let output = io::stdout();
        if output.is_terminal() {
            return Err(RunError::Terminal("send: standard output is a terminal; redirect it to a file"));
        }
        let stream = output.as_fd().try_clone_to_owned().map_err(RunError::Output)?;
        let mut conversation = self.open()?;
        conversation.ask(Request::Send { vm: vm.clone() }, vec![stream])?;
        let who = match vm {
            VmRef::Id(id) => id.to_string(),
            VmRef::Name(name) => name.to_string(),
        };
        let what = format!("send {}", called(vm));
        let reply = self.reply(&mut conversation, &what, Some(START))?;
        if !matches!(reply, Reply::Accepted { .. } | Reply::Ended { .. }) {
            return Err(instead(what, reply));
        }
        self.say(&format!("sent vm {who} successfully"));
        Ok(())
    }

    fn start(&mut self, start: Start) -> Result<ExitCode, RunError> {
        self.warn(start.warnings.iter().map(String::as_str));
        let (what, vm) = (format!("start {}", called(&start.vm)), start.vm.clone());
        let attach = start.console;
        let after = start.wait.then(|| start.vm.clone());
        let (request, kernel) = request(start)?;
        let (id, tty) = self.started(what, Request::Start(Box::new(request)), kernel, after)?;
        if attach {
            return self.attach(&tty, &vm);
        }
        self.say(&format!("started vm {id} successfully, tty {tty}"));
        Ok(ExitCode::SUCCESS)
    }

    /// A request that starts a VM: its id and its console. Of one that is `after` its own end this is waited for first.
    fn started(
        &mut self,
        what: String,
        request: Request,
        fd: Option<OwnedFd>,
        after: Option<VmRef>,
    ) -> Result<(u32, String), RunError> {
        let mut conversation = self.open()?;
        if self.verbose {
            self.say(&format!("connected to {}", self.socket.display()));
        }
        loop {
            let again = fd.as_ref().map(OwnedFd::try_clone).transpose().map_err(RunError::Input)?;
            conversation.ask(request.clone(), again.into_iter().collect())?;
            let reply = self.reply(&mut conversation, &what, Some(START))?;
            match (reply, &after) {
                (Reply::Started { id, tty }, _) => return Ok((id, tty.to_string())),
                (Reply::Failed(failure), Some(vm)) if failure.code == Code::InProgress => {
                    self.has_stopped(&mut conversation, vm)?;
                }
                (reply, _) => return Err(instead(what, reply)),
            }
        }
    }

    /// Waits until a VM that is being stopped has; one that has meanwhile does not run, or is not known any more.
    fn has_stopped(&mut self, conversation: &mut Conversation, vm: &VmRef) -> Result<(), RunError> {
        let what = format!("waiting for {} to stop", called(vm));
        conversation.ask(Request::Wait { vm: vm.clone() }, Vec::new())?;
        let reply = self.reply(conversation, &what, None)?;
        let gone = |code| matches!(code, Code::Invalid | Code::NotFound);
        let over =
            matches!(&reply, Reply::Ended { .. }) || matches!(&reply, Reply::Failed(failure) if gone(failure.code));
        if over { Ok(()) } else { Err(instead(what, reply)) }
    }

    fn console(&mut self, vm: &VmRef) -> Result<ExitCode, RunError> {
        let mut conversation = self.open()?;
        let vms = self.vms(&mut conversation)?;
        let meant: Vec<&VmLine> = vms.iter().filter(|line| status::is_meant(line, vm)).collect();
        let tty = meant.iter().filter(|line| status::runs(line)).find_map(|line| line.tty.as_ref());
        match (tty, meant.is_empty()) {
            (Some(tty), _) => self.attach(tty, vm),
            (None, true) => Err(RunError::NoConsole(format!("there is no {}", called(vm)))),
            (None, false) => Err(RunError::NoConsole(format!("{} does not run", called(vm)))),
        }
    }

    /// On the console, until the user leaves it or the VM ends: then with why, if it failed.
    fn attach(&mut self, tty: &str, vm: &VmRef) -> Result<ExitCode, RunError> {
        if console::attach(Path::new(tty))? == console::End::Closed {
            // The console has worked; that the daemon can't be asked any more is no failure of it.
            let detail = self.open().map_err(RunError::from);
            let detail = detail.and_then(|mut conversation| self.detail(&mut conversation, vm));
            if let Some(failure) = detail.ok().and_then(|detail| detail.failure) {
                self.say(&format!("{} failed: {}", called(vm), failure.reason));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What failed, where this reply came instead of the one that the request has.
fn instead(what: String, reply: Reply) -> RunError {
    match reply {
        Reply::Failed(failure) => RunError::Refused { what, failure },
        Reply::Vms(_)
        | Reply::Unkillable(_)
        | Reply::Detail(_)
        | Reply::Done
        | Reply::Started { .. }
        | Reply::Accepted { .. }
        | Reply::Ended { .. }
        | Reply::Wrong(_)
        | Reply::Note(_) => TalkError::Unexpected.into(),
    }
}

/// An operation's word.
fn word_of(operation: DiskOperation) -> &'static str {
    match operation {
        DiskOperation::Read => "read",
        DiskOperation::Write => "write",
        DiskOperation::Flush => "flush",
    }
}

/// What stands behind `stopping vm ...:` when it was not.
fn how_it_failed(failure: &Failure) -> String {
    if failure.code == Code::NotFound {
        "vm not found".to_owned()
    } else if failure.code == Code::StopInvalid {
        "cannot stop vm that is not running".to_owned()
    } else {
        format!("failed: {failure}")
    }
}

/// The request, with paths as the daemon needs them, and the kernel, opened with our own rights.
fn request(start: Start) -> Result<(StartRequest, Option<OwnedFd>), RunError> {
    let kernel_path = start.kernel.as_deref().map(|path| resolved("invalid boot image path", path)).transpose()?;
    let kernel = kernel_path.as_deref().map(open_kernel).transpose()?;
    let disk = |(path, format): (OsString, Option<DiskFormat>)| {
        let path = words::path(resolved("invalid disk path", &path)?.as_os_str())?;
        Ok(DiskArg { path, format })
    };
    let disks: Vec<DiskArg> = start.disks.into_iter().map(disk).collect::<Result<_, RunError>>()?;
    // "none" is no file: the drive is empty.
    let image = |path: OsString| match path.as_bytes() {
        b"none" => Ok(PathBuf::new()),
        _ => resolved("invalid iso image path", &path),
    };
    let cdrom = start.cdrom.map(image).transpose()?;
    let path = |path: PathBuf| words::path(path.as_os_str());
    let request = StartRequest {
        vm: start.vm,
        instance_of: start.template,
        memory: start.memory,
        cpus: start.cpus,
        kernel: kernel_path.map(path).transpose()?,
        disks: disks.try_into().unwrap_or_default(),
        cdrom: cdrom.map(path).transpose()?,
        nics: start.nics.try_into().unwrap_or_default(),
        boot_device: start.boot_device,
    };
    Ok((request, kernel))
}

/// A file's absolute path. The extension that may tell its format is that of what it leads to.
fn resolved(what: &'static str, path: &OsStr) -> Result<PathBuf, RunError> {
    std::fs::canonicalize(path).map_err(|error| RunError::File { what, path: path.into(), error })
}

/// Opens a kernel without waiting for a fifo's other end.
fn open_kernel(path: &Path) -> Result<OwnedFd, RunError> {
    let failed = |error| RunError::File { what: "cannot open kernel", path: path.to_owned(), error };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let file = File::from(file);
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(file.into()),
        false => Err(RunError::KernelKind(path.to_owned())),
    }
}
