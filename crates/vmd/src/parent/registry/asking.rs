//! Clients' requests: found, allowed, sensible, in this order, so that nothing is told to who may not.

use std::time::Instant;

use proto::client::{Detail, Reply, Request, Start, VmRef};
use proto::vmm::Stop;
use proto::{Code, Failure, VmId};

use super::access::Who;
use super::definition::{checked_cpus, of_request, unsupported};
use super::known::Known;
use super::life::{Asked, Life, Vm};
use super::plan::ThisBoot;
use super::{Action, GRACE_SECONDS, MAX_WAITS, Registry, Stopper};
use crate::parent::network::local::Locals;

/// A client with a request.
#[derive(Debug)]
pub(super) struct Asker {
    /// Where the answer goes.
    pub(super) asked: Asked,
    /// Who it is.
    pub(super) who: Who,
}

impl Registry {
    pub(super) fn ask(&mut self, asker: &Asker, request: Request, now: Instant, out: &mut Vec<Action>) {
        let Asker { asked, who } = asker;
        let asked = *asked;
        let (record, before) = (self.record(who, &request), out.len());
        let result = match request {
            Request::List => {
                self.list(asked, now, out);
                Ok(())
            }
            Request::Detail { vm } => {
                let cdrom = self.found(who, &vm).ok().and_then(|vm| vm.in_cdrom());
                let next = self.found(who, &vm).ok().and_then(|vm| Self::word_of_next(vm));
                let next = next.map(|text| model::Text::cut(&text));
                let detail = Detail { failure: self.failures.last(who, &vm), next, cdrom };
                out.push(Action::Answer(asked, Reply::Detail(detail)));
                Ok(())
            }
            Request::Start(start) => self.ask_start(asker, &start, now, out),
            Request::Stop { vm, force, wait } => self.ask_stop(asker, &vm, force, wait, out),
            Request::Wait { vm } => self.ask_wait(asked, who, &vm),
            Request::Order { vm, order } => self.ask_order(asker, &vm, order, out),
            Request::Memory { vm, size } => {
                let request = self.new_request();
                self.found(who, &vm).and_then(|vm| vm.ask_memory(asked, request, size, out))
            }
            Request::Cdrom { vm, medium, force } => self.ask_cdrom(asker, &vm, medium, force, now, out),
            Request::DiskFail { vm, disk, .. } => self.found(who, &vm).and_then(|vm| vm.ask_fault("disk-fail", disk)),
            Request::FlushStop { vm, disk, .. } => self.found(who, &vm).and_then(|vm| vm.ask_fault("flush-stop", disk)),
            Request::Send { vm } => {
                let found = root_only(who, "send").and_then(|()| self.found(who, &vm));
                found.and(Err(unsupported("send")))
            }
            Request::Receive { .. } => root_only(who, "receive").and(Err(unsupported("receive"))),
            Request::Log { verbose } => root_only(who, "log").map(|()| {
                out.push(Action::Verbose(verbose));
                out.push(Action::Answer(asked, Reply::Done));
            }),
            Request::Reload => root_only(who, "reload").and_then(|()| self.ask_reading(asked, None, out)),
            Request::Load { path } => root_only(who, "load").and_then(|()| self.ask_reading(asked, Some(path), out)),
            Request::Reset { vms, switches } => root_only(who, "reset").map(|()| {
                self.reset(vms, switches, out);
                out.push(Action::Answer(asked, Reply::Done));
            }),
        };
        if let Some(record) = record {
            out.insert(before, record.of(&result)); // what follows from it follows it in the log
        }
        if let Err(failure) = result {
            out.push(Action::Answer(asked, Reply::Failed(failure)));
        }
    }

    /// The VM that is meant, if there is one and the asker may use it.
    pub(super) fn found(&mut self, who: &Who, wanted: &VmRef) -> Result<&mut Vm, Failure> {
        let at = self.vms.iter().position(|vm| vm.is_meant(wanted)).ok_or_else(|| self.not_found(who, wanted))?;
        let vm = &mut self.vms[at];
        if who.may_use(vm.definition.owner) {
            return Ok(vm);
        }
        let (name, owner) = (&vm.definition.name, &vm.definition.owner_name);
        let text =
            format!("vm \"{name}\" belongs to \"{owner}\", and uid {} is neither that user nor in that group", who.uid);
        Err(Failure::new(Code::NotPermitted, text))
    }

    /// A word of digits is a number, also where it is meant as a name.
    fn not_found(&self, who: &Who, wanted: &VmRef) -> Failure {
        let id = match wanted {
            VmRef::Name(name) => return Failure::new(Code::NotFound, format!("vm \"{name}\" not found")),
            VmRef::Id(id) => id,
        };
        let word = id.to_string();
        let named = self.vms.iter().find(|vm| vm.definition.name.as_str() == word);
        let text = match named.filter(|vm| who.may_use(vm.definition.owner)) {
            Some(vm) => format!(
                "vm {id} not found: digits are taken for a number, not a name; the vm named \"{id}\" has number {}",
                vm.id
            ),
            None => format!("vm {id} not found"),
        };
        Failure::new(Code::NotFound, text)
    }

    fn ask_start(&mut self, asker: &Asker, start: &Start, now: Instant, out: &mut Vec<Action>) -> Result<(), Failure> {
        if self.ending {
            return Err(Failure::new(Code::Invalid, "the daemon is shutting down"));
        }
        let found = self.found(&asker.who, &start.vm).and_then(|vm| vm.may_start(start));
        if let Some(vm) = found.as_ref().ok().and_then(|id| self.vms.iter().find(|vm| vm.id == *id)) {
            self.waits_for(vm).map_or(Ok(()), Err)?; // it still has its turn
        }
        let id = match (&start.instance_of, found) {
            (Some(template), _) => self.instance(asker, start, template, out)?,
            (None, Ok(id)) => id,
            (None, Err(failure)) if failure.code == Code::NotFound => self.created(asker, start)?,
            (None, Err(failure)) => return Err(failure),
        };
        let cpus = start.cpus.map(checked_cpus).transpose()?;
        let boot = ThisBoot { kernel: start.kernel.clone(), cpus, device: start.boot_device };
        self.begin(id, Some(asker.asked), boot, now, out);
        Ok(())
    }

    fn created(&mut self, asker: &Asker, start: &Start) -> Result<VmId, Failure> {
        let who = &asker.who;
        if !who.is_root() {
            let text =
                format!("only root defines new VMs, and uid {} is not root; ask for a block in vm.conf", who.uid);
            return Err(Failure::new(Code::NotPermitted, text));
        }
        let nothing = start.kernel.is_none() && start.disks.is_empty() && start.cdrom.is_none();
        let name = match &start.vm {
            VmRef::Name(name) => name,
            VmRef::Id(_) if nothing => return Err(self.not_found(who, &start.vm)),
            VmRef::Id(id) => {
                let text = format!("vm {id} not found, and a new vm needs a name that is no number");
                return Err(Failure::new(Code::NotFound, text));
            }
        };
        if nothing {
            let text = format!("vm \"{name}\" is not known, and no kernel or disk was given to start it from (-b, -d)");
            return Err(Failure::new(Code::NotFound, text));
        }
        let definition = of_request(start, name, None, &self.known_switches(), &mut Known::new(&self.vms))?;
        self.register(definition)
    }

    fn ask_stop(
        &mut self,
        asker: &Asker,
        wanted: &VmRef,
        force: bool,
        wait: bool,
        out: &mut Vec<Action>,
    ) -> Result<(), Failure> {
        let (request, asked) = (self.new_request(), asker.asked);
        let vm = self.found(&asker.who, wanted)?;
        let id = vm.id;
        let how = if force { Stop::Force } else { Stop::Graceful { seconds: GRACE_SECONDS } };
        match &mut vm.life {
            Life::Stopped | Life::Waiting => return Err(vm.not_running()),
            Life::Preparing(_) | Life::Launching { .. } => {
                vm.waits.extend(wait.then_some(asked));
                self.stop_for_good(id, how, out);
                if !wait {
                    out.push(Action::Answer(asked, Reply::Accepted { id: id.0 }));
                }
            }
            Life::Running { pid, .. } | Life::Stopping { pid } => {
                vm.life = Life::Stopping { pid: *pid };
                vm.waits.extend(wait.then_some(asked));
                self.stops.insert(request, Stopper { asked, vm: id, wait });
                out.push(Action::Terminate(request, id, how));
            }
        }
        Ok(())
    }

    fn ask_wait(&mut self, asked: Asked, who: &Who, wanted: &VmRef) -> Result<(), Failure> {
        let waits = self.vms.iter().flat_map(|vm| &vm.waits).filter(|wait| wait.conn == asked.conn).count();
        let vm = self.found(who, wanted)?;
        if waits >= MAX_WAITS {
            let text = format!("at most {MAX_WAITS} waits are allowed on one connection");
            return Err(Failure::new(Code::Busy, text));
        }
        if !vm.runs() {
            return Err(vm.not_running());
        }
        vm.waits.push(asked);
        Ok(())
    }

    /// Forgets: VMs are ended at once and off the list when they are gone. Addresses of local interfaces come from the
    /// default in every case (openbsd/daemon.md, 3.11).
    fn reset(&mut self, vms: bool, switches: bool, out: &mut Vec<Action>) {
        self.locals = Locals::default();
        if vms {
            self.forget_ids();
            self.stagger.next = None;
            let ids: Vec<VmId> = self.vms.iter().map(|vm| vm.id).collect();
            for id in ids {
                if let Some(vm) = self.vm(id) {
                    vm.definition.from_config = false;
                }
                self.stop_for_good(id, Stop::Force, out);
            }
            self.vms.retain(|vm| !matches!(vm.life, Life::Stopped));
        }
        if switches {
            self.switches.clear();
            self.late.clear();
            self.unmade.clear();
            self.answer_reloads(out);
        }
    }
}

impl Vm {
    /// Whether a client's word means it.
    pub(super) fn is_meant(&self, wanted: &VmRef) -> bool {
        match wanted {
            VmRef::Id(id) => self.id.0 == *id,
            VmRef::Name(name) => self.definition.name == *name,
        }
    }

    /// One that is known takes a kernel, a CPU count and a boot device for this boot, nothing else.
    fn may_start(&self, start: &Start) -> Result<VmId, Failure> {
        let name = &self.definition.name;
        match &self.life {
            Life::Stopped | Life::Waiting => {}
            Life::Stopping { .. } | Life::Launching { stop: Some(_), .. } => {
                let text = format!("vm \"{name}\" is being stopped; start -w waits for that, then starts it");
                return Err(Failure::new(Code::InProgress, text));
            }
            Life::Preparing(_) | Life::Launching { stop: None, .. } | Life::Running { .. } => {
                return Err(Failure::new(Code::Already, format!("vm \"{name}\" already runs")));
            }
        }
        let devices = !start.disks.is_empty() || !start.nics.is_empty() || start.cdrom.is_some();
        if devices || start.memory.is_some() {
            let text =
                format!("vm \"{name}\" exists already: its memory, disks and interfaces can't be changed by a start");
            return Err(Failure::new(Code::Already, text));
        }
        Ok(self.id)
    }

    /// A fault of a disk that runs, for tests: it has its place, and no disk of this release can do it.
    fn ask_fault(&self, what: &str, disk: u8) -> Result<(), Failure> {
        if !matches!(self.life, Life::Running { .. }) {
            return Err(self.not_running());
        }
        let (name, has) = (&self.definition.name, self.definition.disks.len());
        if usize::from(disk) >= has {
            let those = match has {
                0 => "it has none".to_owned(),
                1 => "its only one is 0".to_owned(),
                _ => format!("they are 0 to {}", has - 1),
            };
            return Err(Failure::new(Code::Invalid, format!("vm \"{name}\" has no disk {disk}; {those}")));
        }
        Err(unsupported(what))
    }
}

fn root_only(who: &Who, command: &str) -> Result<(), Failure> {
    if who.is_root() {
        return Ok(());
    }
    Err(Failure::new(Code::NotPermitted, format!("only root may {command}, and uid {} is not root", who.uid)))
}
