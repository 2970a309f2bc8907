//! From the command line to a daemon that serves, in the order that users see (openbsd/daemon.md, 1.2 and 1.3).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use config::Parsed;
use proto::vmm::{self, ToVmm};
use rustix::fs::OFlags;
use sys::event::{Interest, Loop};
use sys::exe::Executable;
use sys::log::Form;
use sys::memory::Pool;
use sys::signals::{Signal, Signals};

use super::notify;
use super::options::{HELP, Options, Show, USAGE};
use super::pid_file::PidFile;
use super::pulse::Pulse;
use super::socket::Socket;
use super::sole::Sole;
use crate::parent::Fatal;
use crate::parent::conf::source::{Source, settings_here};
use crate::parent::edge::{Edge, Token};
use crate::parent::graves::Graves;
use crate::parent::network::wishes::Wishes;
use crate::parent::peers::reserve::Reserve;
use crate::parent::peers::restarts::Restarts;
use crate::parent::peers::{Peer, Starter};
use crate::parent::registry::{Event, Registry};
use crate::parent::start::host::{Host, open_device};

/// Descriptors that the parent may need: a console, disks and taps of hundreds of VMs.
const DESCRIPTORS: u64 = 65536;
/// Owner of every process that needs no root.
const USER: &str = "_vmd";

/// The daemon, or a check of its configuration.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let Some(options) = Options::parse(arguments) else {
        super::say::all(&USAGE);
        return ExitCode::FAILURE;
    };
    match options.show {
        Some(Show::Help) => return end(super::say::print(format!("{USAGE}\n{HELP}\n").as_bytes())),
        Some(Show::Version) => {
            return end(super::say::print(concat!("vmd ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()));
        }
        None => {}
    }
    let journal = !options.check && notify::stderr_is_the_journal();
    sys::log::set_form(if journal { Form::Syslog } else { Form::Plain });
    if journal {
        to_journal();
    }
    sys::log::init("vmd", sys::log::level_of(options.verbose));
    end(match (options.check, options.foreground) {
        (true, _) => crate::parent::conf::check::check(&options),
        (false, true) => daemon(&options, &mut None),
        (false, false) => fit(&options).and_then(|_| super::background::start(arguments)),
    })
}

/// The daemon in the background: `main` has started it, and waits on `ready` for it to serve, or for why it does not.
pub fn background(arguments: &[OsString], ready: OwnedFd) -> ExitCode {
    let Some(options) = Options::parse(arguments) else { return ExitCode::FAILURE };
    sys::log::set_form(Form::Syslog);
    to_journal();
    sys::log::init("vmd", sys::log::level_of(options.verbose));
    let mut ready = Some(ready);
    let result = at_root(options).and_then(|options| daemon(&options, &mut ready));
    if let (Err(fatal), Some(waiting)) = (&result, ready) {
        let _ = rustix::io::write(&waiting, fatal.to_string().as_bytes()); // it is in the log too
    }
    end(result)
}

/// Where there is no journal, lines go where they went before: standard error, or the system's logger in its place.
fn to_journal() {
    if let Ok(journal) = sys::log::Journal::connect() {
        sys::log::set_journal(journal);
    }
}

/// Leaves the directory that the daemon was started in, which may be to be unmounted; names keep their meaning.
fn at_root(options: Options) -> Result<Options, Fatal> {
    let directory = std::env::current_dir()?;
    rustix::process::chdir("/")?;
    Ok(Options { directory, ..options })
}

fn end(result: Result<(), Fatal>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Fatal::Told) => ExitCode::FAILURE,
        Err(fatal) => {
            log::error!("{fatal}");
            ExitCode::FAILURE
        }
    }
}

/// What can be told before anything is changed: the daemon's user and its configuration.
fn fit(options: &Options) -> Result<(sys::users::User, Source, Parsed), Fatal> {
    if !rustix::process::geteuid().is_root() {
        return Err(Fatal::NotRoot);
    }
    let user = sys::users::user_in_files(USER)?.ok_or(Fatal::NoUser)?;
    let source = Source::new(options);
    let parsed = source.read_with_patience()?;
    Ok((user, source, parsed))
}

fn daemon(options: &Options, ready: &mut Option<OwnedFd>) -> Result<(), Fatal> {
    let (user, source, parsed) = fit(options)?;
    let kvm = Host::open_kvm().map_err(Fatal::Kvm)?;
    let cgroups = sys::cgroup::Place::find();
    let _sole = Sole::take(cgroups.as_ref().ok())?;
    super::state::clean();
    let _pid_file = PidFile::take()?;
    sys::limits::raise_descriptors(DESCRIPTORS);
    let signals = [Signal::Terminate, Signal::Interrupt, Signal::Hangup, Signal::Child, Signal::Pipe, Signal::User1];
    let signals = Signals::block(&signals)?;
    let socket = Socket::listen(parsed.config.globals.socket_owner)?;
    let tree = cgroups.and_then(|place| sys::cgroup::Tree::make(place, user.uid, user.gid));
    if let Err(error) = &tree {
        log::info!("no cgroups of version 2 ({error}); processes of VMs are tracked by their pidfds alone");
    }
    for controller in tree.iter().flat_map(sys::cgroup::Tree::missing) {
        log::info!(
            "no controller \"{controller}\" for the cgroups of VMs: their {} is not limited",
            limited(controller)
        );
    }
    let tty_gid = sys::users::group_in_files("tty")?.map(|group| group.gid);
    let memory = Pool::huge_pages().unwrap_or_else(|error| {
        log::info!("no huge pages for guests ({error}): they run with small ones");
        Pool::SmallPages
    });
    let users = sys::vm_users::namespace((user.uid, user.gid));
    if let Err(error) = &users {
        log::info!("no users of their own for VMs ({error}): they share {USER}'s limits");
    }
    // It is never read or written here, and needs no system call beside its opening.
    let tables = sys::netlink::nft::socket();
    if let Err(error) = &tables {
        log::info!(
            "no socket of nftables ({error}): without it guests are neither limited nor reach the outside by NAT"
        );
    }
    let (tree, users, tables) = (tree.ok(), users.ok(), tables.ok());
    let host = Host { memory, tree, vms: BTreeMap::new(), users, tty_gid, tables };
    let starter = Starter {
        exe: Executable::own()?,
        null: open_device("/dev/null", OFlags::empty())?,
        debug: options.verbose > 1,
    };
    sandbox::enter(&sandbox::promise::PARENT)?;
    let mut edge = Edge::new(source, host, starter, signals, socket)?;
    let result = edge.start(kvm, &parsed).and_then(|()| {
        tell_ready(ready)?;
        edge.serve()
    });
    edge.end();
    result
}

/// What a controller limits.
fn limited(controller: &str) -> &'static str {
    if controller == "memory" { "memory beyond their guests'" } else { "number of threads" }
}

/// Who started us may go on.
fn tell_ready(waiting: &mut Option<OwnedFd>) -> Result<(), Fatal> {
    log::info!("startup");
    notify::tell("READY=1");
    if let Some(waiting) = waiting.take() {
        rustix::io::write(&waiting, super::background::READY)?;
    }
    Ok(())
}

impl Edge {
    fn new(source: Source, host: Host, starter: Starter, signals: Signals, socket: Socket) -> io::Result<Self> {
        let mut events = Loop::new()?;
        events.add(&signals, Token::Signals, Interest::Read)?;
        let reserve = Reserve::new(open_device("/dev/null", OFlags::empty())?)?;
        Ok(Self {
            registry: Registry::knowing(super::state::ids(), super::state::host_bytes()),
            source,
            events,
            host,
            starter,
            socket,
            signals,
            control: None,
            privileged: None,
            vmm: None,
            agentx: None,
            snmp: None,
            restarts: Restarts::default(),
            openers: BTreeMap::new(),
            probes: BTreeMap::new(),
            graves: Graves::default(),
            holdings: BTreeMap::new(),
            clients: BTreeMap::new(),
            wishes: Wishes::default(),
            logs: BTreeMap::new(),
            next_log: 0,
            pulse: Pulse::new(Instant::now()),
            watchdog: notify::Watchdog::of_environment(Instant::now()),
            reserve,
            quit: None,
        })
    }

    fn start(&mut self, kvm: OwnedFd, parsed: &Parsed) -> Result<(), Fatal> {
        self.keep_socket();
        self.start_privileged().map_err(|error| Fatal::Start("priv", error))?;
        self.start_control().map_err(|error| Fatal::Start("control", error))?;
        self.start_vmm().map_err(|error| Fatal::Start("vmm", error))?;
        self.give_vmm(&ToVmm::Kvm, vec![kvm]);
        match Host::open_psp() {
            Ok(Some(psp)) => drop(self.give_vmm(&ToVmm::Psp, vec![psp])),
            Ok(None) => {}
            Err(error) => {
                log::warn!("/dev/sev: {}; no vm can have its memory encrypted", proto::failure::plain(&error))
            }
        }
        self.tell_vmm(&ToVmm::Config(vmm::Config { debug: self.starter.debug }));
        let (settings, refused) = settings_here(parsed);
        for failure in refused {
            log::error!("{failure}");
        }
        self.event(Event::Configured(Box::new(settings)));
        Ok(())
    }

    /// Ends the children by their channels, in the order that leaves nothing: VMs, then their taps and bridges.
    fn end(&mut self) {
        for (vm, _) in std::mem::take(&mut self.holdings) {
            self.bury_vm(vm);
        }
        let (vmm, agentx, control) = (self.vmm.take(), self.agentx.take(), self.control.take());
        self.end_role(vmm, END_LIMIT);
        self.end_role(agentx, END_LIMIT);
        self.end_role(control, END_LIMIT);
        if !self.end_privileged() {
            // One that a signal ended, or that waits to be started again, has left all that it made to the next.
            self.reserve.give_all();
            match self.start_privileged() {
                Ok(()) => drop(self.end_privileged()),
                Err(error) => {
                    log::error!("start priv: {error}; bridges and NAT of VMs stay until vmd is started again")
                }
            }
        }
        let limit = self.wait_for_graves();
        if let Some(Err(error)) = self.host.tree.take().map(|tree| tree.remove(limit)) {
            log::warn!("cgroups: {}", proto::failure::plain(&error));
        }
    }

    /// Waits until what was killed is gone, or the time is up; what is left then, and how long to wait for others.
    fn wait_for_graves(&mut self) -> Duration {
        let end = Instant::now() + END_LIMIT;
        self.graves.look(true, Instant::now());
        while let Some(look) = self.graves.deadline().filter(|_| Instant::now() < end) {
            std::thread::sleep(look.saturating_duration_since(Instant::now()));
            self.graves.look(false, Instant::now());
        }
        for grave in self.graves.left() {
            log::warn!("{}, pid {}, can't be killed and is left behind", grave.what, grave.pid());
        }
        if self.graves.left().is_empty() { END_LIMIT } else { Duration::ZERO }
    }

    /// Whether it has removed what was made.
    fn end_privileged(&mut self) -> bool {
        let privileged = self.privileged.take();
        self.end_role(privileged, END_LIMIT + BRIDGE_LIMIT * self.wishes.bridges)
    }

    /// Whether it was there, and ended within this time as it was asked.
    fn end_role<Tx, Rx>(&mut self, peer: Option<Peer<Tx, Rx>>, limit: Duration) -> bool {
        let Some(Peer { name, mut child, channel, .. }) = peer else { return false };
        self.events.remove(&channel);
        drop(channel);
        let end = Instant::now() + limit;
        loop {
            match child.try_wait() {
                Ok(Some(exit)) => {
                    if !exit.is_success() {
                        log::warn!("lost child: {name} exited abnormally: {exit}");
                    }
                    self.drain_logs();
                    return exit.is_success();
                }
                Ok(None) if Instant::now() < end => self.wait_for(child.as_fd(), end),
                Ok(None) | Err(_) => {
                    log::warn!("{name} did not end, and was killed");
                    self.drain_logs();
                    self.bury(child, name, None);
                    return false;
                }
            }
        }
    }

    fn wait_for(&mut self, pidfd: BorrowedFd<'_>, end: Instant) {
        let left = end.saturating_duration_since(Instant::now()).min(Duration::from_millis(100));
        let left = rustix::event::Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(pidfd, rustix::event::PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Some(&left)); // only shortens the wait
        self.drain_logs();
    }
}

/// What a child of the parent has to end by itself.
const END_LIMIT: Duration = Duration::from_secs(10);
/// And priv for each bridge: the kernel waits for readers of its lists, one bridge after the other.
const BRIDGE_LIMIT: Duration = Duration::from_millis(100);
