//! Messages of the parent that came without what belongs to them, or not at all: the starts that they were of fail.

use super::*;

impl Running {
    /// Whose message it was is not known, so all descriptions that were coming are given up, and answered.
    pub(super) fn lost(&mut self, why: &str, out: &mut Vec<Action>) {
        out.push(Action::Log(Level::Error, format!("message of the parent: {why}")));
        let coming = |vm: &Vm| matches!(vm.life, Life::Described);
        let ids: Vec<VmId> = self.vms.iter().filter(|(_, vm)| coming(vm)).map(|(id, _)| *id).collect();
        for id in ids {
            self.spoil(id, Code::Io, format!("a message of the start was lost: {why}"), out);
        }
    }

    /// Its descriptors found no number in this process.
    pub(super) fn without_descriptors(&mut self, message: &ToVmm, out: &mut Vec<Action>) {
        out.push(Action::Log(Level::Error, "no descriptor is free for those of a message of the parent".to_owned()));
        let failure = || Failure::new(Code::NoDescriptors, "vmm has no descriptor free for what the start brings");
        match message {
            ToVmm::StartVm(start) => self.refuse(start.vm, failure(), out),
            ToVmm::StartDevice { vm, .. } => self.give_up(*vm, failure(), out),
            ToVmm::StartEnd { vm } => {
                self.give_up(*vm, failure(), out);
                self.refused.remove(vm); // this was its last message
            }
            ToVmm::AskDevice { request, vm, .. } => {
                let failure =
                    Failure::new(Code::NoDescriptors, "vmm has no descriptor free for what the request brings");
                out.push(Action::Reply(ToParent::DeviceDone { request: *request, vm: *vm, result: Err(failure) }));
            }
            // vmm has none of them from then on, and says so when a VM needs it; the others bring none.
            ToVmm::Kvm
            | ToVmm::Psp
            | ToVmm::Config(_)
            | ToVmm::StartCancel { .. }
            | ToVmm::Terminate { .. }
            | ToVmm::Info { .. }
            | ToVmm::Order { .. }
            | ToVmm::Verbose { .. } => {}
        }
    }

    fn give_up(&mut self, id: VmId, failure: Failure, out: &mut Vec<Action>) {
        if self.parts(id, out).is_some() {
            self.spoil(id, failure.code, failure.text.to_string(), out);
        }
    }
}
