//! From vm.conf's model to what the registry keeps; what this release does not carry out is refused here, by name.

use std::collections::BTreeMap;
use std::time::Duration;

use config::LocalInet6;
use model::{Owner, UserPath};
use proto::agentx::Context;
use proto::{Code, Failure};

use crate::parent::accounts::names::Names;
use crate::parent::network::local::{Locals, random_network};
use crate::parent::registry::definition::definition_of;
use crate::parent::registry::{Settings, Switch, Trouble};
use crate::parent::service::snmp::{DEFAULT_PATH, Master};

/// Time between two batches of starts where vm.conf says nothing (openbsd/daemon.md, 3.8).
const STAGGER_DELAY: Duration = Duration::from_secs(30);

/// Names that are asked for once: each question is a process, and there may be thousands of VMs.
struct Known<'a> {
    names: &'a mut dyn Names,
    owners: BTreeMap<(u32, Option<u32>), String>,
}

impl Names for Known<'_> {
    fn owner(&mut self, owner: Owner) -> String {
        self.owners.entry((owner.uid, owner.gid)).or_insert_with(|| self.names.owner(owner)).clone()
    }
}

/// The settings that a configuration means, and what of it can't be carried out.
pub fn of_config(config: &config::Config, cpus_online: usize, names: &mut dyn Names) -> (Settings, Vec<Failure>) {
    let mut names = Known { names, owners: BTreeMap::new() };
    let mut refused = Vec::new();
    let mut vms = Vec::new();
    let globals = &config.globals;
    let snmp = globals.agentx.as_ref().and_then(|agentx| match master_of(agentx) {
        Ok(master) => Some(master),
        Err(failure) => {
            refused.push(failure);
            None
        }
    });
    let switches = config.switches.iter().filter(|switch| switch.enabled);
    let switches = (1..).zip(switches).map(|(id, spec)| Switch { id, spec: spec.clone(), maker: None }).collect();
    for vm in &config.vms {
        match definition_of(vm, config, &mut names) {
            Ok(definition) => vms.push(definition),
            Err(failure) => refused.push(Failure::new(failure.code, format!("vm \"{}\": {failure}", vm.name.as_str()))),
        }
    }
    let stagger = globals.staggered;
    let settings = Settings {
        socket: globals.socket_owner,
        snmp,
        switches,
        locals: locals_of(globals),
        troubles: vec![],
        vms,
        parallel: stagger.map_or(cpus_online, |s| usize::try_from(s.parallel).unwrap_or(usize::MAX)),
        delay: stagger.map_or(STAGGER_DELAY, |s| Duration::from_secs(s.delay_s.into())),
    };
    (settings, refused)
}

/// What keeps single VMs from being started: the first of each.
pub fn troubles_of(troubles: &[(model::VmName, config::Diagnostic)]) -> Vec<(model::VmName, Trouble)> {
    let trouble = |(vm, note): &(model::VmName, config::Diagnostic)| {
        let owner = note.fault.is_of_an_owner();
        let text = note.to_string();
        (vm.clone(), Trouble { owner, reason: text.lines().next().unwrap_or_default().to_owned() })
    };
    let mut all: Vec<(model::VmName, Trouble)> = troubles.iter().map(trouble).collect();
    all.sort_by_key(|(_, trouble)| !trouble.owner); // an owner's is the one that does not go by itself
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|(vm, _)| seen.insert(vm.clone()));
    all
}

fn master_of(agentx: &config::AgentX) -> Result<Master, Failure> {
    let context = agentx.context.as_deref().map(|context| {
        let bad = |why: String| Failure::new(Code::Invalid, format!("agentx context: {why}"));
        let text = std::str::from_utf8(context).map_err(|_| bad("not UTF-8".to_owned()))?;
        Context::new(text).map_err(|error| bad(error.to_string()))
    });
    Ok(Master {
        path: agentx.path.clone().unwrap_or_else(|| UserPath::cut(DEFAULT_PATH)),
        context: context.transpose()?.filter(|context| !context.is_empty()), // the default one has no name
    })
}

fn locals_of(globals: &config::Globals) -> Locals {
    let inet6 = globals.local_inet6.map(|inet6| match inet6 {
        LocalInet6::Random => random_network(crate::parent::accounts::drawn()),
        LocalInet6::Prefix(prefix) => prefix.address(),
    });
    Locals { inet: globals.local_prefix, inet6, nat: globals.local_nat }
}

#[cfg(test)]
mod rules;

#[cfg(test)]
mod tests {

    use super::*;
    use crate::parent::registry::definition::obstacle;

    #[test]
    fn agentx_is_the_systems_socket_and_the_default_context_unless_they_are_named() {
        let snmp = |context: Option<&[u8]>, path: Option<&str>| {
            let agentx = config::AgentX { context: context.map(<[u8]>::to_vec), path: path.map(UserPath::cut) };
            let mut config = config::Config::default();
            config.globals.agentx = Some(agentx);
            let (settings, refused) = of_config(&config, 1, &mut crate::parent::accounts::HostAccounts);
            let told = settings.snmp.map(|master| (master.path.to_string(), master.context.map(|it| it.to_string())));
            (told, refused.len())
        };
        assert_eq!(snmp(None, None), (Some(("/var/agentx/master".into(), None)), 0));
        assert_eq!(snmp(Some(b"lab"), Some("/run/x")), (Some(("/run/x".into(), Some("lab".into()))), 0));
        assert_eq!(snmp(Some(b""), None), (Some(("/var/agentx/master".into(), None)), 0));
        assert_eq!(snmp(Some(b"\xff"), None), (None, 1), "a context is UTF-8");
        let (settings, _) = of_config(&config::Config::default(), 1, &mut crate::parent::accounts::HostAccounts);
        assert_eq!(settings.snmp, None, "without the word there is no master");
    }

    /// Owners by their uid, and how often one was asked for.
    #[derive(Default)]
    struct Counting {
        owners: usize,
    }

    impl Names for Counting {
        fn owner(&mut self, owner: Owner) -> String {
            self.owners += 1;
            format!("user{}", owner.uid)
        }
    }

    /// What a vm.conf says, on a host that has every file.
    fn parsed(text: &str) -> config::Config {
        struct Host;
        impl config::Sources for Host {
            fn include(&self, _: &std::path::Path) -> std::io::Result<Vec<u8>> {
                Ok(Vec::new())
            }
            fn resolve(&self, path: &std::path::Path) -> std::io::Result<std::path::PathBuf> {
                Ok(path.to_owned())
            }
        }
        impl config::Users for Host {
            fn uid(&self, _: &str) -> std::io::Result<Option<u32>> {
                Ok(None)
            }
            fn gid(&self, _: &str) -> std::io::Result<Option<u32>> {
                Ok(None)
            }
            fn interface_group(&self, _: &str) -> std::io::Result<Option<u32>> {
                Ok(None)
            }
        }
        let parsed = config::parse("vm.conf", text.as_bytes(), &config::Macros::new(), &Host, &Host);
        parsed.unwrap_or_else(|errors| panic!("{errors}")).config
    }

    fn settings_of(text: &str, names: &mut Counting) -> (Settings, Vec<Failure>) {
        of_config(&parsed(text), 2, names)
    }

    #[test]
    fn an_owner_is_asked_for_once() {
        let vm = |name: &str, uid| format!("vm {name} {{\n boot \"/k\"\n owner {uid}\n interfaces 2\n}}\n");
        let mut names = Counting::default();
        let (settings, refused) = settings_of(&[vm("a", 1000), vm("b", 1000), vm("c", 1001)].concat(), &mut names);
        assert_eq!((refused, names.owners), (vec![], 2));
        let owners: Vec<String> = settings.vms.iter().map(|vm| vm.owner_name.to_string()).collect();
        assert_eq!(owners, ["user1000", "user1000", "user1001"]);
    }

    #[test]
    fn switches_are_numbered_from_one_in_the_order_of_the_file() {
        let (settings, _) = settings_of(
            "switch a { interface br0 }\nswitch off { interface br1\ndisable\n}\nswitch b { interface br2 }\n",
            &mut Counting::default(),
        );
        let switches: Vec<_> = settings.switches.iter().map(|switch| (switch.id, switch.spec.name.as_str())).collect();
        assert_eq!(switches, [(1, "a"), (2, "b")]);
    }

    #[test]
    fn local_interfaces_are_as_the_file_says() {
        let text = "local prefix \"10.0.0.0/8\"\nlocal inet6 prefix \"fd00:1::/64\"\nlocal nat no\n";
        let (settings, _) = settings_of(text, &mut Counting::default());
        let inet = config::prefix::Prefix4::parse(b"10.0.0.0/8").unwrap();
        assert_eq!(settings.locals, Locals { inet, inet6: "fd00:1::".parse().ok(), nat: false });
    }

    #[test]
    fn a_vm_starts_with_64_mebibytes_at_least() {
        for (memory, starts) in [("64M", true), ("63M", false)] {
            let parsed = parsed(&format!("vm a {{\n boot \"/k\"\n memory {memory}\n}}\n"));
            assert_eq!(parsed.vms.iter().all(|vm| obstacle(vm).is_none()), starts, "{memory}");
        }
    }
}
