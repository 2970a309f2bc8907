//! Carries out what the registry decided. No meaning here: what fails becomes the event that says so.

use std::os::fd::OwnedFd;

use model::Text;
use proto::agentx::ToAgentX;
use proto::control;
use proto::vmm::ToVmm;

use super::edge::Edge;
use super::network::wishes;
use super::registry::{Action, Event};

impl Edge {
    /// Does one thing. What it leads to at once comes back as events.
    pub(super) fn perform(&mut self, action: Action, kernel: &mut Option<OwnedFd>) -> Vec<Event> {
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
            Action::MakeSwitch(switch) => self.wish(wishes::Event::Switch(switch)),
            Action::HoldKernel(run) => {
                self.hold_kernel(run, kernel.take());
                vec![]
            }
            Action::Open { run, who, files } => self.open(run, &who, files),
            Action::Probe(run, file, question) => self.probe(run, file, question).into_iter().collect(),
            Action::MakeTap { run, nic, tap } => {
                self.holdings.entry(run.vm).or_default();
                self.wish(wishes::Event::Tap(run, nic, tap))
            }
            Action::MakeConsole(run, owner) => vec![Event::ConsoleMade(run, self.console(run.vm, owner))],
            Action::Launch(run, launch) => self.launch(run, &launch).into_iter().collect(),
            Action::Abandon(run) => self.abandon(run),
            Action::Release(vm, keep) => self.release(vm, keep),
            Action::Terminate(request, vm, how) => {
                self.tell_vmm(ToVmm::Terminate { request, vm, how }, vec![]);
                vec![]
            }
            Action::Order(request, vm, order) => {
                self.tell_vmm(ToVmm::Order { request, vm, order }, vec![]);
                vec![]
            }
            Action::AskDevice(vm, device, ask) => {
                self.tell_vmm(ToVmm::AskDevice { vm, device, ask }, vec![]);
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

    fn verbose(&mut self, debug: bool) -> Vec<Event> {
        sys::log::set_level(sys::log::level_of(u8::from(debug)));
        self.starter.debug = debug;
        self.tell_control(control::ToControl::Verbose { debug });
        self.wish(wishes::Event::Verbose(debug));
        self.tell_vmm(ToVmm::Verbose { debug }, vec![]);
        self.tell_agentx(&ToAgentX::Verbose { debug }, vec![]);
        vec![]
    }
}
