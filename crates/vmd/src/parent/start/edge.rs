//! Carries out a start: openers, probes, the console, and all of it to vmm; and the end of what is held for it.

use std::io;
use std::os::fd::OwnedFd;

use model::{List, Owner, Text, UserPath};
use proto::device::Ask;
use proto::opener::{self, Asker, ToOpener, What};
use proto::probe::{self, Found, ToProbe};
use proto::vmm::ToVmm;
use proto::{Code, Failure, RequestId, VmId};
use sys::log::Source;
use sys::logpipe::LogPipe;
use sys::pty::Pty;

use super::Errand;
use super::holdings::Holdings;
use crate::parent::edge::{Edge, Token};
use crate::parent::network::wishes;
use crate::parent::peers::turn::Turn;
use crate::parent::peers::{Opener, Peer, Probe, StartError};
use crate::parent::registry::access::Who;
use crate::parent::registry::{Event, File, Keep, Launch, Medium, Run};

impl Edge {
    pub(in crate::parent) fn open(&mut self, run: Run, who: &Who, files: Vec<(File, What, UserPath)>) -> Vec<Event> {
        self.holdings.entry(run.vm).or_default();
        let names: Vec<File> = files.iter().map(|(file, ..)| *file).collect();
        let Some(first) = names.first() else { return vec![] };
        let errand = (run, *first);
        self.end_opener(errand); // one of an earlier request, which is about to end
        let Err(error) = self.start_opener(errand, who, names.clone(), files) else { return vec![] };
        self.end_opener(errand);
        let failure = Failure::new(Code::Io, format!("start the opener: {error}"));
        names.into_iter().map(|file| Event::Opened(run, file, Err(failure.clone()))).collect()
    }

    fn start_opener(
        &mut self,
        errand: Errand,
        who: &Who,
        names: Vec<File>,
        files: Vec<(File, What, UserPath)>,
    ) -> Result<(), StartError> {
        let opens = (0u8..).zip(files).map(|(index, (_, what, path))| ToOpener::Open { index, what, path });
        let messages = [ToOpener::Become(asker(who)?)].into_iter().chain(opens).chain([ToOpener::End]);
        let started = self.starter.start("opener", &[], None)?;
        let mut opener: Opener = self.kept(Token::Opener(errand), started)?;
        let sent = messages.into_iter().try_for_each(|message| opener.channel.send(&message, vec![]));
        self.openers.insert(errand, (opener, names.into_iter().map(Some).collect()));
        Ok(sent.map_err(io::Error::other)?)
    }

    pub(in crate::parent) fn opener_ready(&mut self, errand: Errand) {
        let run = errand.0;
        let turn = Peer::drain(
            self,
            |edge| edge.openers.get_mut(&errand).map(|(peer, _)| peer),
            |edge, message, fds| edge.opener_says(errand, message, fds),
        );
        if turn == Turn::Lost {
            for file in self.end_opener(errand) {
                let failure = Failure::new(Code::Io, "the opener ended before it answered; see the log");
                self.event(Event::Opened(run, file, Err(failure)));
            }
        }
    }

    /// Gives up what a run has openers for.
    pub(in crate::parent) fn end_openers(&mut self, run: Run) {
        let errands: Vec<Errand> = self.openers.keys().filter(|(of, _)| *of == run).copied().collect();
        for errand in errands {
            self.end_opener(errand);
        }
    }

    /// Asks a device, with what was opened for that.
    pub(in crate::parent) fn ask_device(
        &mut self,
        request: RequestId,
        vm: VmId,
        device: u8,
        ask: Ask,
    ) -> Option<Event> {
        let held = self.holdings.get(&vm).and_then(|held| held.files.get(&File::Medium));
        let fds = held.into_iter().take(ask.fds()).map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>();
        let sent = fds.and_then(|fds| match self.give_vmm(&ToVmm::AskDevice { request, vm, device, ask }, fds) {
            true => Ok(()),
            false => Err(io::Error::other("the vmm process does not take it")),
        });
        let failure = Failure::io("ask a device", &sent.err()?);
        Some(Event::DeviceDone(request, vm, Err(failure)))
    }

    /// What is in a VM's CD-ROM drive now is what a reboot of its guest finds there.
    pub(in crate::parent) fn set_medium(&mut self, vm: VmId, medium: Medium) {
        let Some(held) = self.holdings.get_mut(&vm) else { return };
        let opened = held.files.remove(&File::Medium);
        match medium {
            Medium::Same => {}
            Medium::Opened => held.files.extend(opened.map(|medium| (File::Cdrom, medium))),
            Medium::None => drop(held.files.remove(&File::Cdrom)),
        }
    }

    fn opener_says(&mut self, errand: Errand, message: opener::ToParent, fds: Vec<OwnedFd>) {
        let run = errand.0;
        let (index, answer) = match message {
            opener::ToParent::Opened { index, file } => (index, Ok(file)),
            opener::ToParent::Locked { index, id, failure } => (index, Err((Some(id), failure))),
            opener::ToParent::Failed { index, failure } => (index, Err((None, failure))),
        };
        let files = self.openers.get_mut(&errand).map(|(_, files)| files);
        let Some(file) = files.and_then(|files| files.get_mut(usize::from(index))).and_then(Option::take) else {
            return sys::guest_log!(Error, "opener: an answer came to a request that was not made");
        };
        let event = match answer {
            Ok(open) => {
                let kept = self.keep(fds).map(|fd| {
                    if let (Some(fd), Some(holdings)) = (fd, self.holdings.get_mut(&run.vm)) {
                        holdings.files.insert(file, fd);
                    }
                    open
                });
                Event::Opened(run, file, kept)
            }
            Err((Some(id), failure)) => Event::Locked(run, file, id, failure),
            Err((None, failure)) => Event::Opened(run, file, Err(failure)),
        };
        self.event(event);
    }

    /// Ends an opener; the files that it still owed.
    fn end_opener(&mut self, errand: Errand) -> Vec<File> {
        let Some((opener, files)) = self.openers.remove(&errand) else { return vec![] };
        self.give_up(Some(errand.0.vm), Some(opener));
        files.into_iter().flatten().collect()
    }

    pub(in crate::parent) fn probe(&mut self, run: Run, file: File, question: ToProbe) -> Option<Event> {
        let failure = self.start_probe(run, file, question).err()?;
        self.end_probe(run, file);
        Some(Event::Probed(run, file, Err(Failure::new(Code::Io, format!("start the probe: {failure}")))))
    }

    fn start_probe(&mut self, run: Run, file: File, question: ToProbe) -> Result<(), StartError> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "there is nothing to look at");
        let held = self.holdings.get(&run.vm).and_then(|held| held.files.get(&file)).ok_or_else(missing)?;
        let copy = held.try_clone()?;
        let started = self.starter.start("probe", &[], None)?;
        let mut probe: Probe = self.kept(Token::Probe(run, file), started)?;
        let sent = probe.channel.send(&question, vec![copy]);
        self.probes.insert((run, file), probe);
        Ok(sent.map_err(io::Error::other)?)
    }

    /// A kernel that came with the request that began this run.
    pub(in crate::parent) fn hold_kernel(&mut self, run: Run, kernel: Option<OwnedFd>) {
        self.holdings.entry(run.vm).or_default().files.extend(kernel.map(|kernel| (File::Kernel, kernel)));
    }

    pub(in crate::parent) fn probe_ready(&mut self, run: Run, file: File) {
        let turn = Peer::drain(
            self,
            |edge| edge.probes.get_mut(&(run, file)),
            |edge, message, _| edge.probed(run, file, found(message)),
        );
        if turn == Turn::Lost {
            let failure = Failure::new(Code::Io, "the probe ended before it answered; see the log");
            self.probed(run, file, Err(failure));
        }
    }

    fn probed(&mut self, run: Run, file: File, found: Result<Found, Failure>) {
        self.end_probe(run, file);
        self.event(Event::Probed(run, file, found));
    }

    fn end_probe(&mut self, run: Run, file: File) {
        let probe = self.probes.remove(&(run, file));
        self.give_up(Some(run.vm), probe);
    }

    pub(in crate::parent) fn console(&mut self, vm: VmId, owner: Owner) -> Result<Text<64>, Failure> {
        let held = self.holdings.entry(vm).or_default();
        if held.console.is_none() {
            let pty = Pty::open().map_err(|error| Failure::io("open a pty for the console", &error))?;
            let (gid, mode) = self.host.console_rights(owner);
            pty.give(owner.uid, gid, mode).map_err(|error| Failure::io("give the console to its owner", &error))?;
            // Its vm, which shares it, can't.
            sys::waits::never(&pty.master).map_err(|error| Failure::io("keep the console from waiting", &error))?;
            held.console = Some(pty);
        }
        let name = held.console.as_ref().map(|pty| pty.name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Text::cut(&name))
    }

    pub(in crate::parent) fn launch(&mut self, run: Run, launch: &Launch) -> Option<Event> {
        let failure = self.send_start(run, launch).err()?;
        self.tell_vmm(&ToVmm::StartCancel { vm: run.vm });
        Some(Event::StartDone(run.vm, Err(failure)))
    }

    fn send_start(&mut self, run: Run, launch: &Launch) -> Result<(), Failure> {
        let (log, log_end) = LogPipe::new().map_err(|error| Failure::io("log pipe", &error))?;
        let in_memory = self.holdings.get(&run.vm).map_or(Ok(0), |held| held.disks_in_memory(&launch.growth));
        let in_memory = in_memory.map_err(|error| Failure::io("where the disks lie", &error))?;
        let cgroup = self.host.vm_cgroup(run.vm, launch, in_memory);
        let user = self.host.vm_user(launch);
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
        held.user = user;
        let messages =
            held.messages(launch, &servers).map_err(|error| Failure::io("descriptors of the start", &error))?;
        held.keep_for_reboot();
        self.watch_log(Source { name: format!("vm/{}", launch.vm.name), maker: launch.vm.maker }, log);
        for (message, fds) in messages {
            if !self.give_vmm(&message, fds) {
                return Err(Failure::new(Code::Io, "the vmm process does not accept the start"));
            }
        }
        Ok(())
    }

    pub(in crate::parent) fn abandon(&mut self, run: Run) -> Vec<Event> {
        self.end_openers(run);
        let probes: Vec<File> = self.probes.keys().filter(|(of, _)| *of == run).map(|(_, file)| *file).collect();
        for file in probes {
            self.end_probe(run, file);
        }
        self.wish(wishes::Event::GivenUp(run))
    }

    /// Closing is releasing: locks, taps and the console end with their descriptors.
    pub(in crate::parent) fn release(&mut self, vm: VmId, keep: Keep) {
        if keep == Keep::ForReboot {
            self.holdings.entry(vm).and_modify(Holdings::keep_for_reboot);
        } else if let Some(held) = self.holdings.remove(&vm) {
            if let Err(error) = held.take_console_back() {
                sys::guest_log!(Warn, "take the console of vm {vm} back: {}", proto::failure::plain(&error));
            }
            let Holdings { taps, outside, .. } = held;
            drop(taps);
            for name in outside {
                self.wish(wishes::Event::TapClosed(name));
            }
        }
        self.bury_vm(vm);
    }
}

fn asker(who: &Who) -> io::Result<Asker> {
    if who.is_root() {
        return Ok(Asker::Root);
    }
    let groups = List::try_from(who.groups.clone()).map_err(io::Error::other)?;
    Ok(Asker::User { uid: who.uid, gid: who.gid, groups })
}

fn found(message: probe::ToParent) -> Result<Found, Failure> {
    match message {
        probe::ToParent::Found(found) => Ok(found),
        probe::ToParent::Failed(failure) => Err(failure),
    }
}
