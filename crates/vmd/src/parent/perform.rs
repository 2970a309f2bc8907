//! Carries out what the registry decided. No meaning here: what fails becomes the event that says so.

use std::os::fd::OwnedFd;

use model::{Text, VmName};
use proto::agentx::ToAgentX;
use proto::control;
use proto::vmm::ToVmm;
use sys::log::Weight;

use super::edge::Edge;
use super::network::wishes;
use super::registry::{Action, Event};

impl Edge {
    /// Does one thing. What it leads to at once is added to the events.
    pub(super) fn perform(&mut self, action: Action, kernel: &mut Option<OwnedFd>, events: &mut Vec<Event>) {
        match action {
            Action::ReadConfig(reading) => {
                let read = self.source.read_again(reading.load.as_deref(), &self.registry.known());
                events.push(Event::ConfigRead(reading, read.map(Box::new)));
                events.extend(self.wish(wishes::Event::Look));
            }
            Action::KeepIds(ids) => super::service::state::keep_ids(&ids),
            Action::GiveSocket(owner) => {
                if let Err(error) = self.socket.give(owner) {
                    log::error!("socket owner: {}", proto::failure::plain(&error));
                }
                self.keep_socket();
            }
            Action::ServeSnmp(master) => self.serve_snmp(master),
            Action::NameOwner(vm, owner) => {
                events.push(Event::OwnerNamed(vm, Text::cut(&super::accounts::owner_name_at_once(owner))));
            }
            Action::MakeSwitch(switch) => events.extend(self.wish(wishes::Event::Switch(switch))),
            Action::RemoveBridge(bridge) => events.extend(self.wish(wishes::Event::NoSwitch(bridge))),
            Action::HoldKernel(run) => self.hold_kernel(run, kernel.take()),
            Action::Open { run, who, files } => events.extend(self.open(run, &who, files)),
            Action::Probe(run, file, question) => events.extend(self.probe(run, file, question)),
            Action::MakeTap { run, nic, tap } => {
                self.holdings.entry(run.vm).or_default();
                events.extend(self.wish(wishes::Event::Tap(run, nic, tap)));
            }
            Action::MakeConsole(run, owner) => events.push(Event::ConsoleMade(run, self.console(run.vm, owner))),
            Action::Launch(run, launch) => events.extend(self.launch(run, &launch)),
            Action::Abandon(run) => events.extend(self.abandon(run)),
            Action::Release(vm, keep) => self.release(vm, keep),
            Action::Terminate(request, vm, how) => self.tell_vmm(&ToVmm::Terminate { request, vm, how }),
            Action::Order(request, vm, order) => self.tell_vmm(&ToVmm::Order { request, vm, order }),
            Action::AskDevice(request, vm, device, ask) => events.extend(self.ask_device(request, vm, device, ask)),
            Action::EndOpeners(run) => self.end_openers(run),
            Action::Medium(vm, medium) => self.set_medium(vm, medium),
            Action::Answer(asked, reply) => self.answer(asked, reply),
            Action::Log(weight, text) => sys::log::of_daemon(weight, format_args!("{text}")),
            Action::LogOf(vm, maker, weight, text) => {
                sys::log::of_vm(weight, vm.as_str(), maker, format_args!("{text}"));
            }
            Action::Asked { uid, vm, what, refused } => log_asked(uid, vm.as_ref(), &what, refused.as_deref()),
            Action::Verbose(debug) => self.verbose(debug),
            Action::Quit => self.quit = Some(Ok(())),
        }
    }

    fn verbose(&mut self, debug: bool) {
        sys::log::set_level(sys::log::level_of(u8::from(debug)));
        self.starter.debug = debug;
        self.tell_control(&control::ToControl::Verbose { debug });
        self.wish(wishes::Event::Verbose(debug));
        self.tell_vmm(&ToVmm::Verbose { debug });
        self.tell_agentx(&ToAgentX::Verbose { debug }, vec![]);
    }
}

/// Who wants what; what was refused is a notice.
fn log_asked(uid: u32, vm: Option<&VmName>, what: &str, refused: Option<&str>) {
    let name = sys::users::name_in_files(uid).map(|name| format!("\"{name}\" ")).unwrap_or_default();
    let (weight, why) = match refused {
        None => (Weight::Of(log::Level::Info), String::new()),
        Some(why) => (Weight::Notice, format!(": refused: {why}")),
    };
    let text = format_args!("user {name}(uid {uid}) asked to {what}{why}");
    match vm {
        Some(vm) => sys::log::of_vm(weight, vm.as_str(), Some(uid), text),
        None => sys::log::by_user(weight, uid, text),
    }
}
