//! The VMs of this host, from definition to end. Pure: no clock, no descriptor, no log.
//!
//! ```text
//!   Waiting ──turn or start──► Preparing ──all there──► Launching ──StartDone──► Running
//!   Stopped ──start──────────►     │ failure, stop          │ failure               │ stop
//!      ▲                           ▼                        ▼                       ▼
//!      └──────────────────────(Stopped; gone, if a client made it)◄──Ended────── Stopping
//!                                  ▲ rate, failure                                  │
//!                                  └────────── Preparing ◄── Ended(Rebooted) ◄── Running
//! ```
//!
//! The edge turns what comes into [`Event`]s, calls [`Registry::handle`] and carries the [`Action`]s out, in order.

pub mod access;
mod asking;
mod cards;
mod cdrom;
pub mod chain;
mod changes;
pub mod definition;
mod disks;
mod ending;
mod failures;
mod farewell;
mod ids;
mod instances;
mod known;
mod late;
mod life;
mod list;
mod memory;
mod orders;
mod plan;
pub mod rate;
mod record;
mod reload;
mod starting;
#[cfg(test)]
mod tests;
mod unfit;
mod unkillable;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use model::{IfName, Owner, SwitchName, Text, UserPath, VmName};
use proto::client::{Order, Reply, Request, Unkillable};
use proto::device::{Ask, Report, Spec};
use proto::opener::{FileId, OpenFile, What};
use proto::privileged::TapSpec;
use proto::probe::{Found, ToProbe};
use proto::vmm::{End, StartVm, Stop};
use proto::{ConnId, Failure, RequestId, VmId};
use sys::log::Weight;

pub use cards::HostBytes;
pub use ids::Ids;
pub use life::Asked;
use life::{Life, Vm};
pub use unfit::Trouble;

use self::access::Who;
use self::asking::Asker;
use self::definition::Definition;
use self::plan::ThisBoot;
use super::network::local::Locals;
use super::service::snmp::Master;

/// Opener, probe and priv have this long for one start.
pub const PREPARE_LIMIT: Duration = Duration::from_secs(30);
/// vmm answers a start within its own deadlines, which are shorter; one whose messages it never got it can't answer.
pub const LAUNCH_LIMIT: Duration = Duration::from_secs(120);
/// A guest has this long to leave by itself (openbsd/daemon.md, 9).
pub const GRACE_SECONDS: u16 = 120;
/// Waits of one connection: a client has no use for more.
pub const MAX_WAITS: usize = 64;

/// One start of one VM; never used again, so that what comes late can't hit a later start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// Whose.
    pub vm: VmId,
    /// Which of all starts of this daemon.
    pub nth: u64,
}

/// A file of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum File {
    /// The kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// A disk's image, by index.
    Disk(u8),
    /// A base of a disk, by the disk's index; the nearest is 1.
    Base(u8, u8),
    /// The image in the CD-ROM drive.
    Cdrom,
    /// The image that is to be put into it, while its VM runs.
    Medium,
}

/// What is in a CD-ROM drive from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// What was in it before.
    Same,
    /// What was opened for it.
    Opened,
    /// Nothing.
    None,
}

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            File::Kernel => "kernel",
            File::Initrd => "initrd",
            File::Disk(_) => "disk",
            File::Base(..) => "base",
            File::Cdrom | File::Medium => "cdrom",
        })
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The configuration was read, for the first time.
    Configured(Box<Settings>),
    /// It was read again, or one more file beside it; or what is wrong, error by error, and then changes nothing.
    ConfigRead(Reading, Result<Box<Settings>, Vec<String>>),
    /// SIGHUP: read it again.
    Hangup,
    /// A bridge is there, or not.
    SwitchMade(SwitchName, Result<(), Failure>),
    /// A client asks. A kernel that came with it goes where `HoldKernel` says.
    Ask {
        /// Where the answer goes.
        asked: Asked,
        /// Who asks.
        who: Who,
        /// What is wanted.
        request: Request,
    },
    /// A client left.
    Gone(ConnId),
    /// What users call an owner.
    OwnerNamed(VmId, Text<80>),
    /// A file of a start is open and held, or not.
    Opened(Run, File, Result<OpenFile, Failure>),
    /// It is not, as somebody has this file locked.
    Locked(Run, File, FileId, Failure),
    /// The probe finds a file fit, or not.
    Probed(Run, File, Result<Found, Failure>),
    /// A tap is there by this name and held, or not.
    TapMade(Run, u8, Result<IfName, Failure>),
    /// The console is there, at this path, or not.
    ConsoleMade(Run, Result<Text<64>, Failure>),
    /// vmm answers a start.
    StartDone(VmId, Result<u32, Failure>),
    /// vmm answers a stop.
    TerminateDone(RequestId, Result<(), Failure>),
    /// vmm answers an order: whether the guest stands still now, or why it was not done.
    OrderDone(RequestId, VmId, Order, Result<bool, Failure>),
    /// vmm answers what a device was asked.
    DeviceDone(RequestId, VmId, Result<(), Failure>),
    /// What the device of this index has learned of its guest.
    Reported(VmId, u8, Report),
    /// The guest began to leave by itself.
    Leaving(VmId, bool),
    /// A VM is gone.
    Ended(VmId, End),
    /// vmm has not answered for so long: who waits for its answer waits no longer.
    VmmSilent(Duration),
    /// vmm has ended, and with it all VMs.
    VmmGone,
    /// What was killed and is not gone, and for which VM it worked; the whole list, whenever it changed.
    Unkillable(Vec<(Option<VmId>, Unkillable)>),
    /// A deadline passed.
    Time,
    /// The daemon shall end: gracefully the first time, at once the second.
    Terminate,
}

/// What is to be done. Nothing is asked back but by an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Read the configuration whole; answered by `ConfigRead`.
    ReadConfig(Reading),
    /// Keep the numbers of names across the daemon's restarts.
    KeepIds(Ids),
    /// Give the control socket to its owner.
    GiveSocket(Owner),
    /// Report VMs to this SNMP master from now on, or to none.
    ServeSnmp(Option<Master>),
    /// Make a bridge; answered by `SwitchMade`.
    MakeSwitch(Switch),
    /// No switch of vm.conf has this bridge any more: if vmd made it, it goes once nobody uses it.
    RemoveBridge(IfName),
    /// Look up what users call the owner of a VM; answered by `OwnerNamed`.
    NameOwner(VmId, Owner),
    /// Start an opener as this user for these files; each answered by `Opened` or `Locked`. No two have the same first file.
    Open {
        /// For which start.
        run: Run,
        /// As whom.
        who: Who,
        /// What, in this order.
        files: Vec<(File, What, UserPath)>,
    },
    /// The kernel that came with the request is this run's.
    HoldKernel(Run),
    /// Show an open file to a probe; answered by `Probed`.
    Probe(Run, File, ToProbe),
    /// Make a tap; answered by `TapMade`.
    MakeTap {
        /// For which start.
        run: Run,
        /// Index of the card.
        nic: u8,
        /// What it is to be.
        tap: TapSpec,
    },
    /// Make the console, unless the VM still has it; answered by `ConsoleMade`.
    MakeConsole(Run, Owner),
    /// Send the start to vmm with all that is held; answered by `StartDone`.
    Launch(Run, Box<Launch>),
    /// The run failed or was given up: end its opener and probes. What the VM holds follows by `Release`.
    Abandon(Run),
    /// Close what a VM holds.
    Release(VmId, Keep),
    /// Ask vmm to end a VM; answered by `TerminateDone`, later `Ended`.
    Terminate(RequestId, VmId, Stop),
    /// Ask vmm to have a VM that runs do something; answered by `OrderDone`.
    Order(RequestId, VmId, Order),
    /// Ask the device of this index, with what was opened for that; answered by `DeviceDone`, unless the VM ends.
    AskDevice(RequestId, VmId, u8, Ask),
    /// Give up what openers of this run have not opened.
    EndOpeners(Run),
    /// Hold what is in a VM's CD-ROM drive now.
    Medium(VmId, Medium),
    /// Answer a client.
    Answer(Asked, Reply),
    /// Tell the log.
    Log(Weight, String),
    /// Tell the log of a VM, and of the user who made it where that is not root.
    LogOf(VmName, Option<u32>, Weight, String),
    /// Tell the log what a user asked for.
    Asked {
        /// Which user.
        uid: u32,
        /// The VM that it concerns.
        vm: Option<VmName>,
        /// What stands behind "asked to".
        what: String,
        /// Why it was not done.
        refused: Option<String>,
    },
    /// How much everybody logs.
    Verbose(bool),
    /// Nothing runs any more: end the daemon.
    Quit,
}

/// What of a VM outlives its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Console, disks and the CD-ROM with their locks, taps: it reboots.
    ForReboot,
}

/// A start, complete but for the descriptors that the edge holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// As vmm gets it; whether a cgroup comes along the edge knows.
    pub vm: StartVm,
    /// In the order that the guest sees.
    pub devices: Vec<Device>,
    /// Bytes by which images of a format that grows may come to be longer than they are, by number of the disk.
    pub growth: BTreeMap<u8, u64>,
}

/// A device of a start.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// What it is. What the host alone knows of a card's network, the edge fills in: name servers, and the address of the
    /// host's side of its tap.
    pub spec: Spec,
    /// The guest reaches the outside by it, and is told the host's name servers.
    pub outside: bool,
}

/// A switch of vm.conf.
#[derive(Clone, Debug, PartialEq)]
pub struct Switch {
    /// Its number, from 1, in the file's order.
    pub id: u32,
    /// What vm.conf says.
    pub spec: model::Switch,
    /// Its bridge is not there, and this file of another program's makes it.
    pub maker: Option<String>,
}

/// A reading of vm.conf after the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Who wanted it; nobody after SIGHUP.
    pub asked: Option<Asked>,
    /// One more file, beside all that is known; else the daemon's own, in place of what does not run.
    pub load: Option<UserPath>,
}

/// What vm.conf says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom the control socket belongs to.
    pub socket: Owner,
    /// Where VMs are reported, if anywhere.
    pub snmp: Option<Master>,
    /// In the file's order.
    pub switches: Vec<Switch>,
    /// Where addresses of local interfaces come from.
    pub locals: Locals,
    /// What keeps single ones of its VMs from being started.
    pub troubles: Vec<(VmName, Trouble)>,
    /// In the file's order.
    pub vms: Vec<Definition>,
    /// VMs that are started at once.
    pub parallel: usize,
    /// Time between such batches.
    pub delay: Duration,
}

/// All that the parent knows of VMs.
#[derive(Debug, Default)]
pub struct Registry {
    vms: Vec<Vm>,
    ids: Ids,
    /// In the addresses that are made for cards.
    host: HostBytes,
    last_id: u32,
    /// They are not kept yet.
    ids_changed: bool,
    switches: Vec<(Switch, bool)>,
    /// Those that could not be set up.
    unmade: BTreeSet<SwitchName>,
    /// Those whose bridge others make, and have not yet.
    late: BTreeMap<SwitchName, late::Late>,
    locals: Locals,
    snmp: Option<Master>,
    stagger: Stagger,
    next_run: u64,
    next_request: u32,
    started: u64,
    stops: BTreeMap<RequestId, Stopper>,
    /// Clients whose orders vmm has not answered yet.
    orders: BTreeMap<RequestId, Asked>,
    /// Clients whose reload is answered when all switches are.
    reloads: Vec<reload::Reload>,
    /// What was killed and is not gone.
    unkillable: Vec<Unkillable>,
    failures: failures::Failures,
    unfit: BTreeMap<VmName, Trouble>,
    ending: bool,
    /// When the log is told again who is waited for at the end.
    remind: Option<Instant>,
    quit: bool,
}

/// A client whose stop vmm has not answered yet.
#[derive(Debug)]
struct Stopper {
    asked: Asked,
    vm: VmId,
    /// It is answered when the VM is gone; until then it is among the VM's waits.
    wait: bool,
}

/// The staggered start.
#[derive(Debug, Default)]
struct Stagger {
    parallel: usize,
    delay: Duration,
    next: Option<Instant>,
}

impl Stagger {
    /// Tells that so many VMs wait for the next batch.
    fn word(&self, rest: usize) -> String {
        let (some, delay) = (self.parallel, self.delay.as_secs());
        let wait = if rest == 1 { "1 VM waits".to_owned() } else { format!("{rest} VMs wait") };
        format!(
            "{wait} for a turn: {some} at a time, the next in {delay} s (\"staggered start\" in vm.conf changes that)"
        )
    }
}

impl Registry {
    /// What is to be done now that this happened.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        self.failures.it_is(now);
        match event {
            Event::Configured(settings) => self.configured(*settings, now, out),
            Event::ConfigRead(reading, read) => self.config_read(reading, read, now, out),
            Event::Hangup => self.hangup(out),
            Event::SwitchMade(name, result) => self.switch_made(&name, result, now, out),
            Event::Ask { asked, who, request } => self.ask(&Asker { asked, who }, request, now, out),
            Event::Gone(conn) => self.gone(conn, out),
            Event::OwnerNamed(id, name) => {
                self.vm(id).into_iter().for_each(|vm| vm.definition.owner_name = name.clone());
            }
            Event::Opened(run, file, result) => self.opened(run, file, result, now, out),
            Event::Locked(run, file, id, failure) => self.locked(run, file, id, failure, now, out),
            Event::Probed(run, file, result) => self.probed(run, file, result, now, out),
            Event::TapMade(run, nic, result) => self.tap_made(run, nic, result, now, out),
            Event::ConsoleMade(run, result) => self.made(run, result, now, out, |start, tty| start.tty = Some(tty)),
            Event::StartDone(vm, result) => self.start_done(vm, result, out),
            Event::TerminateDone(request, result) => self.terminate_done(request, result, out),
            Event::OrderDone(request, vm, order, result) => self.order_done(request, vm, order, result, out),
            Event::DeviceDone(request, vm, result) => self.device_done(request, vm, result, out),
            Event::Reported(id, device, report) => {
                if let Some(vm) = self.vm(id) {
                    vm.reports.insert(device, (now, report));
                }
            }
            Event::Leaving(vm, reboot) => self.leaving(vm, reboot),
            Event::Ended(vm, end) => self.ended(vm, end, now, out),
            Event::VmmSilent(late) => self.vmm_silent(late, out),
            Event::VmmGone => self.vmm_gone(out),
            Event::Unkillable(found) => self.found_unkillable(found, out),
            Event::Time => self.time(now, out),
            Event::Terminate => self.terminate(now, out),
        }
        if std::mem::take(&mut self.ids_changed) {
            out.push(Action::KeepIds(self.ids.clone()));
        }
        self.perhaps_quit(out);
        actions
    }

    /// When [`Event::Time`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let looks = self.late.values().filter_map(|late| late.next);
        self.vms
            .iter()
            .flat_map(|vm| [vm.deadline(), vm.change_deadline()])
            .flatten()
            .chain(self.stagger.next)
            .chain(looks)
            .chain(self.remind)
            .min()
    }

    /// The VMs that run, with their vm processes.
    pub fn running(&self) -> impl Iterator<Item = (VmId, u32)> {
        self.vms.iter().filter_map(|vm| Some((vm.id, vm.pid()?)))
    }

    fn configured(&mut self, mut settings: Settings, now: Instant, out: &mut Vec<Action>) {
        self.stagger = Stagger { parallel: settings.parallel, delay: settings.delay, next: None };
        self.locals = settings.locals;
        self.report(settings.snmp.take(), out);
        self.unfit = std::mem::take(&mut settings.troubles).into_iter().collect();
        self.take_in(settings, false, now, out);
        self.tell_troubles(None, out);
    }

    /// Says so only where it is something else than before.
    fn report(&mut self, master: Option<Master>, out: &mut Vec<Action>) {
        if self.snmp != master {
            self.snmp.clone_from(&master);
            out.push(Action::ServeSnmp(master));
        }
    }

    /// VMs start once each switch was answered for: a tap can only join what is there.
    fn switch_made(&mut self, name: &SwitchName, result: Result<(), Failure>, now: Instant, out: &mut Vec<Action>) {
        if result.as_ref().is_err_and(|why| self.is_late(name, why, now, out)) {
            self.answer_reloads(out);
            return self.next_batch(now, out);
        }
        self.late.remove(name);
        if let Err(failure) = result {
            let text = format!("switch \"{name}\": {failure}");
            out.push(Action::Log(log::Level::Error.into(), text.clone()));
            self.switches.retain(|(switch, _)| switch.spec.name != *name);
            self.unmade.insert(name.clone());
            self.reloads.iter_mut().for_each(|reload| reload.failed(failure.code, &text));
        } else {
            self.unmade.remove(name);
        }
        for (switch, made) in &mut self.switches {
            *made |= switch.spec.name == *name;
        }
        self.answer_reloads(out);
        self.next_batch(now, out);
    }

    fn switches_pending(&self) -> bool {
        self.switches.iter().any(|(switch, made)| !made && !self.late.contains_key(&switch.spec.name))
    }

    fn next_batch(&mut self, now: Instant, out: &mut Vec<Action>) {
        let early = self.stagger.next.is_some_and(|next| now < next);
        if self.switches_pending() || early || self.ending {
            return;
        }
        let waiting = self.vms.iter().filter(|vm| matches!(vm.life, Life::Waiting) && self.waits_for(vm).is_none());
        let waiting: Vec<VmId> = waiting.map(|vm| vm.id).collect();
        for vm in waiting.iter().take(self.stagger.parallel) {
            self.begin(*vm, None, ThisBoot::default(), now, out);
        }
        let rest = waiting.len().saturating_sub(self.stagger.parallel);
        self.stagger.next = (rest > 0).then(|| now + self.stagger.delay);
        if rest > 0 {
            out.push(Action::Log(log::Level::Info.into(), self.stagger.word(rest)));
        }
    }

    fn time(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.late_starts(now, out);
        self.late_changes(now, out);
        self.look_for_the_late(now, out);
        self.remind(now, out);
        if self.stagger.next.is_some_and(|next| next <= now) {
            self.stagger.next = None;
            self.next_batch(now, out);
        }
    }

    /// Puts a definition on the list.
    fn register(&mut self, definition: Definition) -> Result<VmId, Failure> {
        let id = self.claim(definition.name.as_str(), definition.owner.uid)?;
        let life = if definition.enabled { Life::Waiting } else { Life::Stopped };
        self.vms.push(Vm::new(id, self.host, definition, life));
        Ok(id)
    }

    fn perhaps_quit(&mut self, out: &mut Vec<Action>) {
        if self.ending && !self.vms.iter().any(Vm::runs) && !self.quit {
            self.quit = true;
            out.push(Action::Quit);
        }
    }

    fn vm(&mut self, id: VmId) -> Option<&mut Vm> {
        self.vms.iter_mut().find(|vm| vm.id == id)
    }

    fn of_run(&mut self, run: Run) -> Option<&mut Vm> {
        self.vm(run.vm).filter(|vm| vm.run == Some(run))
    }

    fn new_request(&mut self) -> RequestId {
        self.next_request = self.next_request.wrapping_add(1);
        RequestId(self.next_request)
    }
}
