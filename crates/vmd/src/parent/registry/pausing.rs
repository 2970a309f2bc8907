//! Pause and its end, as clients ask for them and vmm answers.

use proto::client::{Reply, VmRef};
use proto::{Code, Failure, RequestId, VmId};

use super::access::Who;
use super::life::{Asked, Life};
use super::{Action, Registry};

impl Registry {
    /// A guest that is paused already, or runs already, is asked too: vmm and its process say that all is well.
    pub(super) fn ask_pause(
        &mut self,
        asked: Asked,
        who: &Who,
        wanted: &VmRef,
        pause: bool,
        out: &mut Vec<Action>,
    ) -> Result<(), Failure> {
        let id = self.found(who, wanted)?;
        let request = self.new_request();
        if let Some(vm) = self.vm(id) {
            let name = &vm.definition.name;
            match vm.life {
                Life::Running { .. } => {}
                Life::Stopping { .. } => {
                    return Err(Failure::new(Code::Invalid, format!("vm \"{name}\" is being stopped")));
                }
                Life::Stopped | Life::Waiting | Life::Preparing(_) | Life::Launching { .. } => {
                    return Err(Failure::new(Code::Invalid, format!("vm \"{name}\" is not running")));
                }
            }
        }
        self.pauses.insert(request, asked);
        out.push(if pause { Action::Pause(request, id) } else { Action::Unpause(request, id) });
        Ok(())
    }

    /// vmm's answer, which comes even if the client has left meanwhile; the state is that of the VM.
    pub(super) fn pause_done(
        &mut self,
        request: RequestId,
        id: VmId,
        pause: bool,
        result: Result<(), Failure>,
        out: &mut Vec<Action>,
    ) {
        let asked = self.pauses.remove(&request);
        if let (Ok(()), Some(vm)) = (&result, self.vm(id)) {
            if let Life::Running { paused, .. } = &mut vm.life {
                *paused = pause;
            }
            let word = if pause { "paused" } else { "unpaused" };
            let name = vm.definition.name.clone();
            out.push(Action::LogOf(name, log::Level::Info, format!("{word} vm {id} successfully")));
        }
        let Some(asked) = asked else { return };
        let reply = result.map_or_else(Reply::Failed, |()| Reply::Accepted { id: id.0 });
        out.push(Action::Answer(asked, reply));
    }
}
