//! The event loop of a running VM: vmm's messages, the console, the chipset's timers, and the end.

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hw::Timer;
use log::{debug, error};
use proto::vm::{ToVm, ToVmm};
use proto::{Channel, Received, exit};
use sys::event::{Interest, Loop, Ready};

use crate::console::Console;
use crate::error::Error;
use crate::lifecycle::{Action, Event, Lifecycle};
use crate::machine::{Assembled, Machine};
use crate::vcpus::Vcpus;
use crate::virtio;

/// How long the addresses of PCI's mechanism 1 are held back: a stock kernel has found its devices within a second, where it
/// is emulated within some more. A guest that resets by 0xCF9 before and then does nothing is seen to only at the end of it.
const HOLD_BACK: Duration = Duration::from_secs(10);

/// What the loop waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Vmm,
    Wake,
    Console,
    Timer(Timer),
}

struct Running<'a> {
    channel: &'a mut Channel<ToVmm, ToVm>,
    machine: Arc<Machine>,
    console: Console,
    /// What the loop was last told of the console.
    watched: Option<Interest>,
    lifecycle: Lifecycle,
    events: Loop<Token>,
    vcpus: Vcpus,
    /// When to hold back less; never, once that is done.
    hold_back_until: Option<Instant>,
    /// Timers of the chipset that rang while the guest was paused.
    rung: Vec<Timer>,
}

/// Starts the vCPUs, tells vmm, and serves until the VM ends. Gives the exit status.
pub fn run(channel: &mut Channel<ToVmm, ToVm>, assembled: Assembled) -> Result<u8, Error> {
    let Assembled { machine, vcpus, console, worker } = assembled;
    let mut running = Running::new(channel, machine.clone(), console).map_err(Error::system("event loop"))?;
    worker.start(machine.clone()).map_err(Error::system("device thread"))?;
    running.vcpus.start(vcpus, &machine)?;
    running.tell(&ToVmm::Started);
    let status = running.serve().unwrap_or_else(|error| {
        error!("event loop: {error}");
        exit::FAILED
    });
    // For the vCPUs too, when it was vmm who ended the VM.
    machine.outside.end(Event::VmmGone);
    if !running.vcpus.stop() {
        error!("a vCPU does not leave the guest");
    }
    running.console.pump(&*machine, Instant::now());
    Ok(status)
}

impl<'a> Running<'a> {
    fn new(channel: &'a mut Channel<ToVmm, ToVm>, machine: Arc<Machine>, console: Console) -> std::io::Result<Self> {
        let mut events = Loop::new()?;
        events.add(&*channel, Token::Vmm, Interest::Read)?;
        events.add(machine.outside.wake(), Token::Wake, Interest::Read)?;
        for timer in [Timer::Rtc, Timer::Pm, Timer::Vmmci] {
            if let Some(fd) = machine.outside.timer(timer) {
                events.add(fd, Token::Timer(timer), Interest::Read)?;
            }
        }
        let mut running = Self {
            channel,
            machine,
            console,
            watched: None,
            lifecycle: Lifecycle::default(),
            events,
            vcpus: Vcpus::default(),
            hold_back_until: Some(Instant::now() + HOLD_BACK),
            rung: Vec::new(),
        };
        running.watch_console()?;
        Ok(running)
    }

    fn serve(&mut self) -> std::io::Result<u8> {
        loop {
            let console = self.console.deadline(Instant::now());
            let deadline = [console, self.hold_back_until].into_iter().flatten().min();
            let ready = self.events.wait(deadline)?;
            let now = Instant::now();
            let mut pump = console.is_some_and(|at| at <= now);
            if self.hold_back_until.is_some_and(|at| at <= now) {
                self.hold_back_less();
            }
            for Ready { token, .. } in ready {
                match token {
                    Token::Vmm => {
                        if let Some(status) = self.messages()? {
                            return Ok(status);
                        }
                    }
                    Token::Wake => drain(self.machine.outside.wake()),
                    Token::Console => pump = true,
                    Token::Timer(timer) => {
                        if let Some(fd) = self.machine.outside.timer(timer) {
                            drain(fd);
                        }
                        self.rang(timer);
                    }
                }
            }
            if self.machine.outside.serial_news() || pump {
                self.console.pump(&*self.machine, Instant::now());
                self.watch_console()?;
            }
            let news = [self.machine.outside.devices_news(), self.machine.outside.ended().cloned()];
            for event in news.into_iter().flatten() {
                if let Some(status) = self.happened(event) {
                    return Ok(status);
                }
            }
        }
    }

    /// A timer of the chipset: the guest hears it when it runs.
    fn rang(&mut self, timer: Timer) {
        if self.lifecycle.guest_runs() {
            self.machine.chipset.timer(timer, &self.machine.outside);
        } else {
            self.rung.push(timer); // each once: it is armed again by what its ringing does
        }
    }

    fn hold_back_less(&mut self) {
        self.hold_back_until = None;
        match self.machine.outside.vm().hold_back_less() {
            Ok(()) => self.vcpus.kick_first(),
            Err(error) => debug!("{error}"),
        }
    }

    /// Takes all messages that are there; a status if one of them ends the VM.
    fn messages(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            let (event, fds) = match self.channel.flush().and_then(|()| self.channel.recv()) {
                Ok(Received::Message(message, fds)) => (Event::Message(message), fds),
                Ok(Received::Empty) => break,
                Ok(Received::Closed) => (Event::VmmGone, Vec::new()),
                Err(error) => {
                    error!("vmm: {error}");
                    (Event::VmmGone, Vec::new())
                }
            };
            if let Some(status) = self.happened_with(event, fds) {
                return Ok(Some(status));
            }
        }
        let interest = if self.channel.wants_write() { Interest::ReadWrite } else { Interest::Read };
        self.events.change(&*self.channel, interest)?;
        Ok(None)
    }

    fn happened(&mut self, event: Event) -> Option<u8> {
        self.happened_with(event, Vec::new())
    }

    /// The same, with the descriptors that came along.
    fn happened_with(&mut self, event: Event, fds: Vec<OwnedFd>) -> Option<u8> {
        let mut fds = fds.into_iter();
        let mut status = None;
        let mut actions = VecDeque::from(self.lifecycle.handle(event));
        while let Some(action) = actions.pop_front() {
            match action {
                Action::ParkVcpus => {
                    let parked = self.vcpus.pause();
                    actions.extend(self.lifecycle.handle(Event::Parked(parked)));
                }
                Action::RunVcpus => {
                    for timer in std::mem::take(&mut self.rung) {
                        self.machine.chipset.timer(timer, &self.machine.outside);
                    }
                    self.vcpus.unpause();
                }
                Action::QuietDevices(pause) => self.machine.outside.front_ends().quiet(pause),
                Action::WakeDevices(pause) => self.machine.outside.front_ends().wake_up(pause),
                Action::Nmi => self.vcpus.nmi(),
                Action::AskToStop => self.machine.chipset.ask_to_stop(&self.machine.outside),
                Action::ReadConfig(device) => self.machine.outside.front_ends().read_config(virtio::slot_of(device)),
                Action::Replace(device) => {
                    if let Some(socket) = fds.next() {
                        self.machine.outside.front_ends().replace(virtio::slot_of(device), socket);
                    }
                }
                Action::Tell(message) => self.tell(&message),
                Action::SetDebug(debug) => crate::set_debug(debug),
                Action::Refuse(what) => error!("vmm sent {what}"),
                Action::End(end) => status = Some(end),
            }
        }
        status
    }

    fn tell(&mut self, message: &ToVmm) {
        if let Err(error) = self.channel.send(message, Vec::new()) {
            // Its end of the socket tells the loop the rest.
            debug!("vmm can't be told {message:?}: {error}");
        }
    }

    fn watch_console(&mut self) -> std::io::Result<()> {
        let wanted = self.console.interest();
        match (self.watched, wanted) {
            (before, after) if before == after => {}
            (None, Some(interest)) => self.events.add(&self.console, Token::Console, interest)?,
            (Some(_), Some(interest)) => self.events.change(&self.console, interest)?,
            (_, None) => self.events.remove(&self.console),
        }
        self.watched = wanted;
        Ok(())
    }
}

/// Empties an eventfd or a timerfd; that it was empty already is no matter.
fn drain(fd: BorrowedFd<'_>) {
    let _ = rustix::io::read(fd, &mut [0; 8]);
}
