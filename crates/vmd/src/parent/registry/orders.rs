//! Orders to VMs that run, as clients give them and vmm answers.

use std::collections::BTreeMap;
use std::mem;

use proto::client::{Order, Reply, VmRef};
use proto::{ConnId, Failure, RequestId, VmId};

use super::asking::Asker;
use super::life::{Asked, Life, Vm};
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
        if let Some(Life::Running { pausing, .. }) = self.vm(id).map(|vm| &mut vm.life) {
            pausing.extend((order == Order::Pause).then_some(request));
        }
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
        if let Some(Life::Running { pausing, .. }) = self.vm(id).map(|vm| &mut vm.life) {
            pausing.remove(&request);
        }
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

    /// A client has left. A pause that nobody waits for any more, and that is not done, is taken back: it would come at any
    /// later time, unexpected.
    pub(super) fn forget_orders(&mut self, conn: ConnId, out: &mut Vec<Action>) {
        let (left, kept): (BTreeMap<RequestId, Asked>, _) =
            mem::take(&mut self.orders).into_iter().partition(|(_, asked)| asked.conn == conn);
        self.orders = kept;
        let abandoned = |vm: &&Vm| {
            let Life::Running { pausing, paused: false, .. } = &vm.life else { return false };
            let among = |requests: &BTreeMap<RequestId, Asked>| pausing.iter().any(|one| requests.contains_key(one));
            among(&left) && !among(&self.orders)
        };
        for id in self.vms.iter().filter(abandoned).map(|vm| vm.id).collect::<Vec<_>>() {
            out.push(Action::Order(self.new_request(), id, Order::Unpause));
        }
    }
}
