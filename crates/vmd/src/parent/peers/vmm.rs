//! vmm, as the parent speaks with it. Its loss is the end of the daemon: without it there is no VM, and nothing to start one with.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use proto::RequestId;
use proto::vmm::{self, ToVmm};

use super::turn::Turn;
use super::{Peer, StartError};
use crate::parent::Fatal;
use crate::parent::edge::{Edge, Token};
use crate::parent::registry::Event;

impl Edge {
    pub(in crate::parent) fn start_vmm(&mut self) -> Result<(), StartError> {
        let extras: Vec<BorrowedFd<'_>> =
            [self.starter.exe.as_fd()].into_iter().chain(self.host.users.as_ref().map(AsFd::as_fd)).collect();
        let started = self.starter.start("vmm", &extras, self.host.vmm_cgroup())?;
        self.vmm = Some(self.kept(Token::Vmm, started)?);
        Ok(())
    }

    /// Without vmm there is no VM, and nothing to start one with.
    pub(in crate::parent) fn vmm_ready(&mut self) {
        if Peer::drain(self, |edge| edge.vmm.as_mut(), Self::vmm_says) == Turn::Over {
            return;
        }
        let peer = self.vmm.take();
        self.give_up(None, peer);
        self.event(Event::VmmGone);
        self.quit = Some(Err(Fatal::VmmLost));
    }

    fn vmm_says(&mut self, message: vmm::ToParent, _: Vec<OwnedFd>) {
        match message {
            vmm::ToParent::StartDone { vm, result } => {
                let result = result.map_err(|failure| self.host.why(vm, failure));
                self.event(Event::StartDone(vm, result));
            }
            vmm::ToParent::TerminateDone { request, result, .. } => self.event(Event::TerminateDone(request, result)),
            vmm::ToParent::Leaving { vm, reboot } => self.event(Event::Leaving(vm, reboot)),
            vmm::ToParent::Ended { vm, end } => {
                let end = self.host.why_ended(vm, end);
                self.event(Event::Ended(vm, end));
            }
            vmm::ToParent::Info { request, vm, pid, .. } => self.pulse.told(request, vm, pid),
            vmm::ToParent::InfoEnd { request } => self.compare(request),
            vmm::ToParent::Report { vm, device, report } => self.event(Event::Reported(vm, device, report)),
            vmm::ToParent::DeviceDone { request, vm, result } => self.event(Event::DeviceDone(request, vm, result)),
            vmm::ToParent::OrderDone { request, vm, order, result } => {
                self.event(Event::OrderDone(request, vm, order, result));
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
                let reported =
                    running.get(&vm).map_or_else(|| "that it does not run".to_owned(), |pid| format!("pid {pid}"));
                sys::guest_log!(Warn, "vm {vm} should be running as pid {pid}, but vmm reports {reported}");
            }
        }
    }

    pub(in crate::parent) fn tell_vmm(&mut self, message: &ToVmm) {
        self.give_vmm(message, vec![]);
    }

    /// False when vmm did not take it.
    pub(in crate::parent) fn give_vmm(&mut self, message: &ToVmm, fds: Vec<OwnedFd>) -> bool {
        self.vmm.as_mut().is_some_and(|peer| peer.tell(message, fds))
    }
}
