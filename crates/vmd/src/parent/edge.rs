//! The parent's loop: waits, turns what came into events of the registry, and carries its actions out (`perform`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use proto::channel::Message;
use proto::client::Reply;
use proto::{Channel, Code, ConnId, Failure, Received, RequestId, VmId, control, opener, probe, vmm};
use rustix::process::Signal as Signal9;
use sys::child::Child;
use sys::event::{Interest, Loop, Ready};
use sys::logpipe::LogPipe;
use sys::signals::{Signal, Signals};

use super::conf::source::Source;
use super::network::edge::{Unsaid, Wish};
use super::peers::reserve::Reserve;
use super::peers::restarts::Restarts;
use super::peers::{AgentX, Control, Peer, Privileged, Starter, Vmm};
use super::registry::access::Who;
use super::registry::{Asked, Event, File, Found, Registry, Run};
use super::service::notify::{self, Watchdog};
use super::service::pulse::{Beat, Pulse};
use super::service::snmp::Snmp;
use super::start::holdings::Holdings;
use super::start::host::Host;

/// Opener of one start.
pub(super) type Opener = Peer<opener::ToOpener, opener::ToParent>;
/// Probe of one file.
pub(super) type Probe = Peer<probe::ToProbe, probe::ToParent>;

/// What one opener is for: the files of a start that this user may open.
pub(super) type Errand = (Run, u32);

/// Connections of one user, root apart. Control has places for 256 in all.
const MAX_CONNECTIONS: usize = 64;

/// What the loop watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    Signals,
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
    pub(super) listener: OwnedFd,
    pub(super) signals: Signals,
    pub(super) control: Option<Control>,
    pub(super) privileged: Option<Privileged>,
    pub(super) vmm: Option<Vmm>,
    pub(super) agentx: Option<AgentX>,
    pub(super) snmp: Snmp,
    pub(super) restarts: Restarts,
    pub(super) openers: BTreeMap<Errand, (Opener, Vec<File>)>,
    pub(super) probes: BTreeMap<(Run, File), Probe>,
    pub(super) buried: Vec<Child>,
    pub(super) holdings: BTreeMap<VmId, Holdings>,
    pub(super) clients: BTreeMap<ConnId, Who>,
    pub(super) kernels: BTreeMap<(ConnId, RequestId), OwnedFd>,
    pub(super) wishes: BTreeMap<RequestId, Wish>,
    pub(super) next_wish: u32,
    pub(super) unsaid: Unsaid,
    /// That were made; each takes the kernel a while to remove.
    pub(super) bridges: u32,
    /// What a killed daemon left may still be there.
    pub(super) unswept: bool,
    pub(super) logs: BTreeMap<u64, (String, LogPipe)>,
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
            let alive = self.watchdog.as_ref().map(Watchdog::deadline);
            let deadlines = self.registry.next_deadline().into_iter().chain(self.pulse.deadline());
            let deadline = deadlines.chain(alive).chain(self.restarts.deadline()).min();
            let ready = self.events.wait(deadline)?;
            for ready in ready {
                self.ready(ready);
            }
            if self.registry.next_deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                self.event(Event::Time);
            }
            self.start_due();
            if self.watchdog.as_mut().is_some_and(|watchdog| watchdog.due(Instant::now())) {
                notify::tell("WATCHDOG=1");
            }
            match self.pulse.due(Instant::now()) {
                None => {}
                Some(Beat::Ask(request)) => drop(self.tell_vmm(vmm::ToVmm::Info { request }, vec![])),
                Some(Beat::Late(late)) => {
                    log::error!("vmm has not answered for {} s; VMs run on", late.as_secs());
                    self.event(Event::VmmSilent(late));
                }
            }
        }
    }

    /// Tells the registry, and does what it wants, and what follows from that.
    pub(super) fn event(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.registry.handle(event, Instant::now()) {
                log::debug!("action: {action:?}");
                events.extend(self.perform(action));
            }
        }
    }

    fn ready(&mut self, ready: Ready<Token>) {
        match ready.token {
            Token::Signals => self.signals_pending(),
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
        self.buried.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    fn control_ready(&mut self) {
        loop {
            let Some(peer) = &mut self.control else { return };
            match receive(&mut peer.channel, "control", &mut self.reserve) {
                Got::Message(message, fds) => {
                    self.control_says(message, fds);
                    self.reserve.fill();
                }
                Got::Nothing => break,
                Got::Lost => return self.control_lost(),
            }
        }
        let peer = self.control.as_ref();
        rearm(&mut self.events, peer.map(|peer| &peer.channel));
    }

    fn control_says(&mut self, message: control::ToParent, mut fds: Vec<OwnedFd>) {
        match message {
            control::ToParent::Connected { conn } => {
                let peer = fds.pop().ok_or(io::ErrorKind::NotFound.into()).and_then(sys::creds::Peer::of);
                match peer {
                    Ok(peer) => {
                        self.connected(conn, Who { uid: peer.uid, gid: peer.gid, groups: peer.groups });
                    }
                    Err(error) => {
                        log::warn!("credentials of a client: {error}");
                        self.tell_control(control::ToControl::Disconnect { conn });
                    }
                }
            }
            control::ToParent::Ask { conn, id, request } => {
                let Some(who) = self.clients.get(&conn).cloned() else {
                    return self.tell_control(control::ToControl::Disconnect { conn });
                };
                match self.keep(fds) {
                    Ok(kernel) => self.kernels.extend(kernel.map(|kernel| ((conn, id), kernel))),
                    Err(failure) => {
                        let reply = Reply::Failed(failure);
                        return self.tell_control(control::ToControl::Answer { conn, id, reply });
                    }
                }
                let random = u64::from_le_bytes(self.host.random());
                self.event(Event::Ask { asked: Asked { conn, id }, who, request, random });
                self.kernels.remove(&(conn, id));
            }
            control::ToParent::Gone { conn } => {
                self.clients.remove(&conn);
                self.event(Event::Gone(conn));
            }
        }
    }

    /// Who has too many connections already gets no other: control's places are for all users.
    fn connected(&mut self, conn: ConnId, who: Who) {
        let held = self.clients.values().filter(|other| other.uid == who.uid).count();
        if held >= MAX_CONNECTIONS && !who.is_root() {
            log::warn!("uid {} has {held} connections; one more is refused", who.uid);
            return self.tell_control(control::ToControl::Disconnect { conn });
        }
        self.clients.insert(conn, who);
    }

    fn vmm_ready(&mut self) {
        loop {
            let Some(peer) = &mut self.vmm else { return };
            match receive(&mut peer.channel, "vmm", &mut self.reserve) {
                Got::Message(message, _) => self.vmm_says(message),
                Got::Nothing => break,
                Got::Lost => return self.vmm_lost(),
            }
        }
        let peer = self.vmm.as_ref();
        rearm(&mut self.events, peer.map(|peer| &peer.channel));
    }

    fn vmm_says(&mut self, message: vmm::ToParent) {
        match message {
            vmm::ToParent::StartDone { vm, result } => {
                if result.is_ok() {
                    self.tell_tap_addresses(vm);
                }
                self.event(Event::StartDone(vm, result));
            }
            vmm::ToParent::TerminateDone { request, result, .. } => self.event(Event::TerminateDone(request, result)),
            vmm::ToParent::Leaving { vm, reboot } => self.event(Event::Leaving(vm, reboot)),
            vmm::ToParent::Ended { vm, end } => self.event(Event::Ended(vm, end)),
            vmm::ToParent::Info { request, vm, pid, .. } => self.pulse.told(request, vm, pid),
            vmm::ToParent::InfoEnd { request } => self.compare(request),
            vmm::ToParent::PauseDone { request, vm, result } => {
                self.event(Event::PauseDone(request, vm, true, result));
            }
            vmm::ToParent::UnpauseDone { request, vm, result } => {
                self.event(Event::PauseDone(request, vm, false, result));
            }
        }
    }

    /// Says where vmm and the registry differ; each learns of an end by its event, so a difference that stays is a bug.
    fn compare(&mut self, request: RequestId) {
        let Some((running, late)) = self.pulse.ended(request, Instant::now()) else { return };
        if let Some(late) = late {
            log::warn!("vmm answered after {} s", late.as_secs());
        }
        for (vm, pid) in self.registry.running() {
            if running.get(&vm) != Some(&pid) {
                log::warn!("vm {vm} should run as pid {pid}, and vmm says {:?}", running.get(&vm));
            }
        }
    }

    /// Each card learns the address of the host's side of its tap (openbsd/daemon.md, 1.10, GET_ADDR).
    fn tell_tap_addresses(&mut self, vm: VmId) {
        let macs: Vec<_> = self.holdings.get(&vm).map(|held| held.tap_macs.clone()).into_iter().flatten().collect();
        for (nic, mac) in macs {
            self.tell_vmm(vmm::ToVmm::TapAddress { vm, nic, mac }, vec![]);
        }
    }

    fn opener_ready(&mut self, errand: Errand) {
        let run = errand.0;
        loop {
            let Some((peer, files)) = self.openers.get_mut(&errand) else { return };
            match receive(&mut peer.channel, "opener", &mut self.reserve) {
                Got::Message(opener::ToParent::Opened { index, .. }, fds) => {
                    let Some(file) = take_file(files, index) else { continue };
                    let kept = self.keep(fds).map(|fd| {
                        if let (Some(fd), Some(holdings)) = (fd, self.holdings.get_mut(&run.vm)) {
                            holdings.files.insert(file, fd);
                        }
                    });
                    self.event(Event::Opened(run, file, kept));
                }
                Got::Message(opener::ToParent::Failed { index, failure }, _) => {
                    let Some(file) = take_file(files, index) else { continue };
                    self.event(Event::Opened(run, file, Err(failure)));
                }
                Got::Nothing => return,
                Got::Lost => break,
            }
        }
        for file in self.end_opener(errand) {
            let failure = Failure::new(Code::Io, "the opener ended before it answered; see the log");
            self.event(Event::Opened(run, file, Err(failure)));
        }
    }

    fn probe_ready(&mut self, run: Run, file: File) {
        let Some(peer) = self.probes.get_mut(&(run, file)) else { return };
        let found = match receive(&mut peer.channel, "probe", &mut self.reserve) {
            Got::Nothing => return,
            Got::Message(probe::ToParent::Kernel { kind }, _) => Ok(Found::Kernel(kind)),
            Got::Message(probe::ToParent::Raw, _) => Ok(Found::RawDisk),
            Got::Message(probe::ToParent::Failed(failure), _) => Err(failure),
            Got::Lost => Err(Failure::new(Code::Io, "the probe ended before it answered; see the log")),
        };
        self.end_probe(run, file);
        self.event(Event::Probed(run, file, found));
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

    /// Prints what has been written to log pipes so far.
    pub(super) fn drain_logs(&mut self) {
        let numbers: Vec<u64> = self.logs.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.log_ready(number));
    }

    pub(super) fn watch_log(&mut self, prefix: String, log: LogPipe) {
        self.next_log += 1;
        if let Err(error) = self.events.add(&log, Token::Log(self.next_log), Interest::Read) {
            log::warn!("log of {prefix}: {error}");
        }
        self.logs.insert(self.next_log, (prefix, log));
    }

    fn log_ready(&mut self, number: u64) {
        let Some((prefix, log)) = self.logs.get_mut(&number) else { return };
        let ended = log.read(&mut |line| print_line(prefix, &line));
        if !matches!(ended, Ok(false)) {
            if let Some((_, log)) = self.logs.remove(&number) {
                self.events.remove(&log);
            }
        }
    }

    /// Ends a child that was given up or lost; it is reaped when the kernel says so.
    pub(super) fn bury(&mut self, mut child: Child) {
        if let Err(error) = child.kill(Signal9::KILL) {
            log::error!("kill pid {}: {error}", child.pid());
        }
        if !matches!(child.try_wait(), Ok(Some(_))) {
            self.buried.push(child);
        }
    }
}

/// A line of a child. What does not name itself as it should is named by us: a child can't speak as another.
fn print_line(prefix: &str, line: &sys::logpipe::Line) {
    let named = line.text.split_once(": ").filter(|(origin, _)| {
        let rest = origin.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    let (origin, text) = named.unwrap_or((prefix, &line.text));
    sys::log::relay(line.level, origin, format_args!("{text}"));
}

pub(super) enum Got<Rx> {
    Message(Rx, Vec<OwnedFd>),
    Nothing,
    Lost,
}

/// One message of a peer. One that says nonsense is as good as lost. What comes with a message has the room of one of the
/// reserve, which is to be filled again.
pub(super) fn receive<Tx: Message, Rx: Message>(
    channel: &mut Channel<Tx, Rx>,
    role: &str,
    reserve: &mut Reserve,
) -> Got<Rx> {
    reserve.give_way();
    let received = channel.flush().and_then(|()| channel.recv());
    if !matches!(&received, Ok(Received::Message(_, fds)) if !fds.is_empty()) {
        reserve.fill();
    }
    match received {
        Ok(Received::Message(message, fds)) => Got::Message(message, fds),
        Ok(Received::Empty) => Got::Nothing,
        Ok(Received::Closed) => Got::Lost,
        Err(error) => {
            log::error!("{role}: {error}");
            Got::Lost
        }
    }
}

fn take_file(files: &mut [File], index: u8) -> Option<File> {
    let file = files.get(usize::from(index)).copied();
    if file.is_none() {
        log::error!("opener: answer to no request of ours");
    }
    file
}

/// Watches for writing as long as something waits to be sent.
pub(super) fn rearm<Tx: Message, Rx: Message>(events: &mut Loop<Token>, channel: Option<&Channel<Tx, Rx>>) {
    if let Some(channel) = channel {
        let interest = if channel.wants_write() { Interest::ReadWrite } else { Interest::Read };
        if let Err(error) = events.change(channel, interest) {
            log::error!("event loop: {error}");
        }
    }
}
