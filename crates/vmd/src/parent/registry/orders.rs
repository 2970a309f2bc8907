//! Orders to VMs that run, as clients give them and vmm answers.

use proto::client::{Order, Reply, VmRef};
use proto::{Failure, RequestId, VmId};

use super::asking::Asker;
use super::life::Life;
use super::{Action, Registry};

impl Registry {
    /// A guest that is paused already, or runs already, is asked too: vmm and its process say that all is well.
    pub(super) fn ask_order(
        &mut self,
        asker: &Asker,
        wanted: &VmRef,
        order: Order,
        out: &mut Vec<Action>,
    ) -> Result<(), Failure> {
        let vm = self.found(&asker.who, wanted)?;
        vm.must_run()?;
        let id = vm.id;
        let request = self.new_request();
        self.orders.insert(request, asker.asked);
        out.push(Action::Order(request, id, order));
        Ok(())
    }

    /// vmm's answer, which comes even if the client has left meanwhile; the state is that of the VM.
    pub(super) fn order_done(
        &mut self,
        request: RequestId,
        id: VmId,
        order: Order,
        result: Result<bool, Failure>,
        out: &mut Vec<Action>,
    ) {
        let asked = self.orders.remove(&request);
        if let (Ok(still), Some(vm)) = (&result, self.vm(id)) {
            if let Life::Running { paused, .. } = &mut vm.life {
                *paused = *still;
            }
            let log = vm.definition.logger();
            out.push(log(log::Level::Info, format!("{} vm {id} successfully", order.done())));
        }
        let Some(asked) = asked else { return };
        let reply = result.map_or_else(Reply::Failed, |_| Reply::Accepted { id: id.0 });
        out.push(Action::Answer(asked, reply));
    }
}
