//! Carries out what the registry decided. No meaning here: what fails becomes the event that says so.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use model::{List, Owner, Text, UserPath};
use proto::agentx::ToAgentX;
use proto::client::Reply;
use proto::opener::{Asker, ToOpener, What};
use proto::privileged::ToPriv;
use proto::probe::ToProbe;
use proto::vmm::ToVmm;
use proto::{Code, Failure, VmId, control};
use sys::event::Interest;
use sys::logpipe::LogPipe;
use sys::pty::Pty;

use super::edge::{Edge, Errand, Token, rearm};
use super::peers::StartError;
use super::registry::access::Who;
use super::registry::{Action, Asked, Event, File, Keep, Launch, Run};
use super::start::holdings::Holdings;

/// What the processes of a VM that was killed have to end.
const KILL_LIMIT: Duration = Duration::from_secs(10);

impl Edge {
    /// Does one thing. What it leads to at once comes back as events.
    pub(super) fn perform(&mut self, action: Action) -> Vec<Event> {
        match action {
            Action::ReadConfig(reading) => {
                let read = self.source.read_again(reading.load.as_deref(), &self.registry.known());
                vec![Event::ConfigRead(reading, read.map(Box::new))]
            }
            Action::KeepIds(ids) => {
                super::service::state::keep_ids(&ids);
                vec![]
            }
            Action::GiveSocket(owner) => {
                if let Err(error) = super::service::places::give_socket(owner) {
                    log::error!("socket owner: {}", proto::failure::plain(&error));
                }
                vec![]
            }
            Action::ServeSnmp(master) => {
                self.serve_snmp(master);
                vec![]
            }
            Action::NameOwner(vm, owner) => {
                vec![Event::OwnerNamed(vm, Text::cut(&super::accounts::owners::name(owner)))]
            }
            Action::MakeSwitch(switch) => self.make_switch(switch).into_iter().collect(),
            Action::Open { run, who, files } => self.open(run, &who, files),
            Action::Probe(run, file, question) => self.probe(run, file, question).into_iter().collect(),
            Action::MakeTap { run, nic, tap } => self.make_tap(run, nic, tap).into_iter().collect(),
            Action::MakeConsole(run, owner) => vec![Event::ConsoleMade(run, self.console(run.vm, owner))],
            Action::Launch(run, launch) => self.launch(run, &launch).into_iter().collect(),
            Action::Abandon(run) => self.abandon(run),
            Action::Release(vm, keep) => self.release(vm, keep),
            Action::Terminate(request, vm, how) => {
                self.tell_vmm(ToVmm::Terminate { request, vm, how }, vec![]);
                vec![]
            }
            Action::Pause(request, vm) => {
                self.tell_vmm(ToVmm::Pause { request, vm }, vec![]);
                vec![]
            }
            Action::Unpause(request, vm) => {
                self.tell_vmm(ToVmm::Unpause { request, vm }, vec![]);
                vec![]
            }
            Action::Answer(asked, reply) => self.answer(asked, reply),
            Action::Log(level, text) => {
                log::log!(level, "{text}");
                vec![]
            }
            Action::LogOf(vm, level, text) => {
                sys::log::of_vm(level, vm.as_str(), format_args!("{text}"));
                vec![]
            }
            Action::Verbose(debug) => self.verbose(debug),
            Action::Quit => {
                self.quit = Some(Ok(()));
                vec![]
            }
        }
    }

    fn open(&mut self, run: Run, who: &Who, files: Vec<(File, What, UserPath)>) -> Vec<Event> {
        self.holdings.entry(run.vm).or_default();
        let names: Vec<File> = files.iter().map(|(file, ..)| *file).collect();
        match self.start_opener(run, who, files) {
            Ok(()) => vec![],
            Err(error) => {
                self.end_opener((run, who.uid));
                let failure = Failure::new(Code::Io, format!("start the opener: {error}"));
                names.into_iter().map(|file| Event::Opened(run, file, Err(failure.clone()))).collect()
            }
        }
    }

    fn start_opener(&mut self, run: Run, who: &Who, files: Vec<(File, What, UserPath)>) -> Result<(), StartError> {
        let (mut opener, log): (super::edge::Opener, _) = self.starter.start("opener", None, None)?;
        self.watch_log("opener".to_owned(), log);
        let names: Vec<File> = files.iter().map(|(file, ..)| *file).collect();
        let mut messages = vec![ToOpener::Become(asker(who)?)];
        for (index, (_, what, path)) in (0u8..).zip(files) {
            messages.push(ToOpener::Open { index, what, path });
        }
        messages.push(ToOpener::End);
        let sent = messages.iter().try_for_each(|message| opener.channel.send(message, vec![]));
        let watched = self.events.add(&opener.channel, Token::Opener((run, who.uid)), Interest::Read);
        self.openers.insert((run, who.uid), (opener, names));
        sent.map_err(io::Error::other)?;
        Ok(watched?)
    }

    /// Ends an opener; the files that it still owed.
    pub(super) fn end_opener(&mut self, errand: Errand) -> Vec<File> {
        let Some((opener, files)) = self.openers.remove(&errand) else { return vec![] };
        self.events.remove(&opener.channel);
        self.bury(opener.child);
        let held = self.holdings.get(&errand.0.vm);
        files.into_iter().filter(|file| !held.is_some_and(|held| held.files.contains_key(file))).collect()
    }

    fn probe(&mut self, run: Run, file: File, question: ToProbe) -> Option<Event> {
        let failure = self.start_probe(run, file, question).err()?;
        self.end_probe(run, file);
        Some(Event::Probed(run, file, Err(Failure::new(Code::Io, format!("start the probe: {failure}")))))
    }

    fn start_probe(&mut self, run: Run, file: File, question: ToProbe) -> Result<(), StartError> {
        self.keep_clients_kernel(run, file);
        let missing = || io::Error::new(io::ErrorKind::NotFound, "nothing to look at");
        let held = self.holdings.get(&run.vm).and_then(|held| held.files.get(&file)).ok_or_else(missing)?;
        let copy = held.try_clone()?;
        let (mut probe, log): (super::edge::Probe, _) = self.starter.start("probe", None, None)?;
        self.watch_log("probe".to_owned(), log);
        let sent = probe.channel.send(&question, vec![copy]);
        let watched = self.events.add(&probe.channel, Token::Probe(run, file), Interest::Read);
        self.probes.insert((run, file), probe);
        sent.map_err(io::Error::other)?;
        Ok(watched?)
    }

    /// A kernel that came with a request belongs to the run that the request began.
    fn keep_clients_kernel(&mut self, run: Run, file: File) {
        if file != File::Kernel || self.holdings.get(&run.vm).is_some_and(|held| held.files.contains_key(&file)) {
            return;
        }
        let ours = self
            .kernels
            .keys()
            .copied()
            .find(|(conn, id)| self.registry.run_of(Asked { conn: *conn, id: *id }) == Some(run));
        if let Some(kernel) = ours.and_then(|key| self.kernels.remove(&key)) {
            self.holdings.entry(run.vm).or_default().files.insert(file, kernel);
        }
    }

    pub(super) fn end_probe(&mut self, run: Run, file: File) {
        if let Some(probe) = self.probes.remove(&(run, file)) {
            self.events.remove(&probe.channel);
            self.bury(probe.child);
        }
    }

    fn console(&mut self, vm: VmId, owner: Owner) -> Result<Text<64>, Failure> {
        let held = self.holdings.entry(vm).or_default();
        if held.console.is_none() {
            let pty = Pty::open().map_err(|error| Failure::io("open a pty for the console", &error))?;
            let (gid, mode) = self.host.console_rights(owner);
            pty.give(owner.uid, gid, mode).map_err(|error| Failure::io("give the console to its owner", &error))?;
            held.console = Some(pty);
        }
        let name = held.console.as_ref().map(|pty| pty.name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Text::cut(&name))
    }

    fn launch(&mut self, run: Run, launch: &Launch) -> Option<Event> {
        let failure = self.send_start(run, launch).err()?;
        self.tell_vmm(ToVmm::StartCancel { vm: run.vm }, vec![]);
        Some(Event::StartDone(run.vm, Err(failure)))
    }

    fn send_start(&mut self, run: Run, launch: &Launch) -> Result<(), Failure> {
        let (log, log_end) = LogPipe::new().map_err(|error| Failure::io("log pipe", &error))?;
        let cgroup = self.host.vm_cgroup(run.vm, launch);
        let memory = self
            .host
            .memory
            .take(launch.vm.memory.bytes())
            .map_err(|error| Failure::io(format!("guest memory of {} bytes", launch.vm.memory.bytes()), &error))?;
        let servers = self.host.name_servers(launch);
        let held = self.holdings.entry(run.vm).or_default();
        held.log = Some(log_end);
        held.memory = Some(memory);
        held.cgroup = cgroup;
        let messages =
            held.messages(launch, &servers).map_err(|error| Failure::io("descriptors of the start", &error))?;
        held.log = None; // so that the pipe ends with the VM's processes
        held.memory = None; // given back with the last process that has it
        held.cgroup = None; // the host's own is what ends it
        held.files.retain(|file, _| matches!(file, File::Disk(_)));
        self.watch_log(format!("vm/{}", launch.vm.name), log);
        for (message, fds) in messages {
            if !self.tell_vmm(message, fds) {
                return Err(Failure::new(Code::Io, "the vmm process does not take the start"));
            }
        }
        Ok(())
    }

    fn abandon(&mut self, run: Run) -> Vec<Event> {
        let errands: Vec<Errand> = self.openers.keys().filter(|(of, _)| *of == run).copied().collect();
        for errand in errands {
            self.end_opener(errand);
        }
        let probes: Vec<File> = self.probes.keys().filter(|(of, _)| *of == run).map(|(_, file)| *file).collect();
        for file in probes {
            self.end_probe(run, file);
        }
        self.give_up_taps(run);
        vec![]
    }

    /// Closing is releasing: locks, taps and the console end with their descriptors.
    fn release(&mut self, vm: VmId, keep: Keep) -> Vec<Event> {
        match keep {
            Keep::Nothing => {
                if let Some(held) = self.holdings.remove(&vm) {
                    if let Err(error) = held.take_console_back() {
                        log::warn!("take the console of vm {vm} back: {}", proto::failure::plain(&error));
                    }
                    let Holdings { taps, outside, .. } = held;
                    drop(taps);
                    outside.into_iter().for_each(|name| self.tap_gone(name));
                }
            }
            Keep::ForReboot => {
                if let Some(held) = self.holdings.get_mut(&vm) {
                    held.for_reboot();
                }
            }
        }
        self.host.end_vm_cgroup(vm, KILL_LIMIT);
        vec![]
    }

    fn answer(&mut self, asked: Asked, mut reply: Reply) -> Vec<Event> {
        if let Reply::Vms(lines) = &mut reply {
            for line in lines.iter_mut() {
                line.used = line.pid.and_then(|pid| sys::procfs::resident(pid).ok());
            }
        }
        self.tell_control(control::ToControl::Answer { conn: asked.conn, id: asked.id, reply });
        vec![]
    }

    fn verbose(&mut self, debug: bool) -> Vec<Event> {
        sys::log::set_level(sys::log::level_of(u8::from(debug)));
        self.starter.debug = debug;
        self.tell_control(control::ToControl::Verbose { debug });
        if let Err(failure) = self.tell_priv(ToPriv::Verbose { debug }, vec![]) {
            log::warn!("{failure}");
        }
        self.tell_vmm(ToVmm::Verbose { debug }, vec![]);
        self.tell_agentx(&ToAgentX::Verbose { debug }, vec![]);
        vec![]
    }

    pub(super) fn tell_control(&mut self, message: control::ToControl) {
        let Some(peer) = &mut self.control else { return };
        let sent = peer.channel.send(&message, vec![]);
        rearm(&mut self.events, Some(&peer.channel));
        if let Err(error) = sent {
            log::error!("control: {error}");
        }
    }

    /// False when vmm did not take it; its loss is then told by its channel.
    pub(super) fn tell_vmm(&mut self, message: ToVmm, fds: Vec<OwnedFd>) -> bool {
        let Some(peer) = &mut self.vmm else { return false };
        let sent = peer.channel.send(&message, fds);
        rearm(&mut self.events, Some(&peer.channel));
        if let Err(error) = &sent {
            log::error!("vmm: {error}");
        }
        sent.is_ok()
    }
}

fn asker(who: &Who) -> io::Result<Asker> {
    if who.is_root() {
        return Ok(Asker::Root);
    }
    let groups = List::try_from(who.groups.clone()).map_err(io::Error::other)?;
    Ok(Asker::User { uid: who.uid, gid: who.gid, groups })
}
