//! The parent's loop: waits, turns what came into events of the registry, and carries its actions out (`perform`).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Instant, SystemTime};

use model::Text;
use proto::client::Unkillable;
use proto::{Code, ConnId, Failure, VmId, vmm};
use rustix::process::Signal as Signal9;
use sys::cgroup::Cgroup;
use sys::child::Child;
use sys::event::{Loop, Ready};
use sys::logpipe::LogPipe;
use sys::signals::{Signal, Signals};

use super::conf::source::Source;
use super::graves::{Body, Grave, Graves};
use super::network::wishes::Wishes;
use super::peers::reserve::Reserve;
use super::peers::restarts::Restarts;
use super::peers::turn::Hearer;
use super::peers::{AgentX, Control, Opener, Privileged, Probe, Starter, Vmm};
use super::registry::access::Who;
use super::registry::{Event, File, Registry, Run};
use super::service::notify::{self, Watchdog};
use super::service::pulse::{Beat, Pulse};
use super::service::snmp::Master;
use super::service::socket::Socket;
use super::start::Errand;
use super::start::holdings::Holdings;
use super::start::host::Host;

/// What the loop watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    Signals,
    Names,
    Control,
    Privileged,
    Vmm,
    AgentX,
    Opener(Errand),
    Probe(Run, File),
    Log(u64),
}

/// The parent with all that it holds.
pub(super) struct Edge {
    pub(super) registry: Registry,
    pub(super) source: Source,
    pub(super) events: Loop<Token>,
    pub(super) host: Host,
    pub(super) starter: Starter,
    pub(super) socket: Socket,
    pub(super) signals: Signals,
    pub(super) control: Option<Control>,
    pub(super) privileged: Option<Privileged>,
    pub(super) vmm: Option<Vmm>,
    pub(super) agentx: Option<AgentX>,
    pub(super) snmp: Option<Master>,
    pub(super) restarts: Restarts,
    pub(super) openers: BTreeMap<Errand, (Opener, Vec<Option<File>>)>,
    pub(super) probes: BTreeMap<(Run, File), Probe>,
    pub(super) graves: Graves<Dead>,
    pub(super) holdings: BTreeMap<VmId, Holdings>,
    pub(super) clients: BTreeMap<ConnId, Who>,
    pub(super) wishes: Wishes,
    pub(super) logs: BTreeMap<u64, (sys::log::Source, LogPipe)>,
    pub(super) next_log: u64,
    pub(super) pulse: Pulse,
    pub(super) watchdog: Option<Watchdog>,
    pub(super) reserve: Reserve,
    pub(super) quit: Option<Result<(), super::Fatal>>,
}

impl Edge {
    /// Runs until the registry wants to quit, or vmm is lost.
    pub(super) fn serve(&mut self) -> Result<(), super::Fatal> {
        loop {
            if let Some(result) = self.quit.take() {
                return result;
            }
            self.watch();
            let alive = self.watchdog.as_ref().map(Watchdog::deadline);
            let deadlines = self.registry.next_deadline().into_iter().chain(self.pulse.deadline());
            let deadlines = deadlines.chain(self.graves.deadline()).chain(self.socket.deadline());
            let deadline = deadlines.chain(alive).chain(self.restarts.deadline()).min();
            let ready = self.events.wait(deadline)?;
            for ready in ready {
                self.ready(ready);
            }
            if self.registry.next_deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                self.event(Event::Time);
            }
            if self.socket.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                self.keep_socket();
            }
            self.start_due();
            self.look_at_graves(false);
            if self.watchdog.as_mut().is_some_and(|watchdog| watchdog.due(Instant::now())) {
                notify::tell("WATCHDOG=1");
            }
            match self.pulse.due(Instant::now()) {
                None => {}
                Some(Beat::Ask(request)) => self.tell_vmm(&vmm::ToVmm::Info { request }),
                Some(Beat::Late(late)) => {
                    log::error!("vmm has not answered for {} s; VMs run on", late.as_secs());
                    self.event(Event::VmmSilent(late));
                }
            }
        }
    }

    fn watch(&mut self) {
        self.control.iter_mut().for_each(|peer| peer.watch(&mut self.events));
        self.privileged.iter_mut().for_each(|peer| peer.watch(&mut self.events));
        self.vmm.iter_mut().for_each(|peer| peer.watch(&mut self.events));
        self.agentx.iter_mut().for_each(|peer| peer.watch(&mut self.events));
    }

    /// Tells the registry, and does what it wants, and what follows from that.
    pub(super) fn event(&mut self, event: Event) {
        self.happened(event, None);
    }

    /// The same of a request that a kernel may have come with. It is closed unless it is to be held.
    pub(super) fn happened(&mut self, event: Event, mut kernel: Option<OwnedFd>) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.registry.handle(event, Instant::now()) {
                log::debug!("action: {action:?}");
                self.perform(action, &mut kernel, &mut events);
            }
        }
    }

    fn ready(&mut self, ready: Ready<Token>) {
        match ready.token {
            Token::Signals => self.signals_pending(),
            Token::Names => self.keep_socket(),
            Token::Control => self.control_ready(),
            Token::Privileged => self.privileged_ready(),
            Token::Vmm => self.vmm_ready(),
            Token::AgentX => self.agentx_ready(),
            Token::Opener(errand) => self.opener_ready(errand),
            Token::Probe(run, file) => self.probe_ready(run, file),
            Token::Log(number) => self.log_ready(number),
        }
    }

    fn signals_pending(&mut self) {
        while let Ok(Some(signal)) = self.signals.next() {
            match signal {
                Signal::Terminate | Signal::Interrupt => {
                    log::info!("terminating");
                    notify::tell("STOPPING=1");
                    self.event(Event::Terminate);
                }
                Signal::Hangup => {
                    notify::tell_reloading();
                    self.event(Event::Hangup);
                    notify::tell("READY=1");
                }
                Signal::Child => self.reap(),
                Signal::Pipe | Signal::User1 | Signal::WindowChanged => {}
            }
        }
    }

    /// Children that were given up are only reaped; the end of a peer its channel tells too.
    fn reap(&mut self) {
        self.look_at_graves(true);
    }

    fn look_at_graves(&mut self, all: bool) {
        let now = Instant::now();
        if self.graves.look(all, now) {
            let told = self.graves.unkillable().map(|grave| (grave.vm, unkillable(grave, now)));
            let told = told.collect();
            self.event(Event::Unkillable(told));
        }
    }

    /// The descriptor of a message, to be kept if that leaves the reserve whole; else it is closed.
    pub(super) fn keep(&mut self, mut fds: Vec<OwnedFd>) -> Result<Option<OwnedFd>, Failure> {
        if self.reserve.fill() {
            return Ok(fds.pop());
        }
        drop(fds);
        self.reserve.fill();
        Err(Failure::new(Code::NoDescriptors, "vmd may have no more descriptors; stop a VM, or raise the limit"))
    }

    /// Ends a child that was given up or lost; it is reaped when the kernel says so.
    pub(super) fn bury(&mut self, child: Child, what: &'static str, vm: Option<VmId>) {
        if let Err(error) = child.kill(Signal9::KILL) {
            sys::guest_log!(Error, "kill pid {}: {error}", child.pid());
        }
        self.graves.put(Dead::Child(child), what, vm, Instant::now());
    }

    /// Ends all that is left in a VM's cgroup, and removes it when the kernel has let go.
    pub(super) fn bury_vm(&mut self, vm: VmId) {
        let Some(cgroup) = self.host.vms.remove(&vm) else { return };
        if !cgroup.try_remove().is_ok_and(|gone| gone) {
            if let Err(error) = cgroup.kill() {
                sys::guest_log!(Warn, "cgroup of vm {vm}: {}", proto::failure::plain(&error));
            }
            self.graves.put(Dead::Cgroup(cgroup), "a process of a VM", Some(vm), Instant::now());
        }
    }
}

/// What was killed.
#[derive(Debug)]
pub(super) enum Dead {
    Child(Child),
    Cgroup(Cgroup),
}

impl Body for Dead {
    fn is_gone(&mut self) -> bool {
        match self {
            Self::Child(child) => !matches!(child.try_wait(), Ok(None)),
            Self::Cgroup(cgroup) => cgroup.try_remove().unwrap_or(true),
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Child(child) => child.pid(),
            Self::Cgroup(cgroup) => cgroup.first().unwrap_or(0),
        }
    }
}

/// What clients are told of it.
fn unkillable(grave: &Grave<Dead>, now: Instant) -> Unkillable {
    let age = now.saturating_duration_since(grave.since).as_secs();
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Unkillable { what: Text::cut(grave.what), pid: grave.pid(), since: time.saturating_sub(age), uid: 0 }
}

impl Hearer for Edge {
    fn reserve(&mut self) -> &mut Reserve {
        &mut self.reserve
    }
}
