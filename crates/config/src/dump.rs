//! What a configuration means, and what was wrong with one, as JSON: `docs/schema/config.json` describes it. Pure.
//!
//! A path or a text that is not UTF-8 is shown with U+FFFD where it is not; no file can say one.

use std::fmt;

use model::{Allow, BootDevice, Disk, Nic, Owner, Rate, Sev, Switch, Vm};

use crate::diagnostic::{Diagnostic, Location, Severity};
use crate::globals::{AgentX, Config, Globals, LocalInet6};
use crate::json::Value;

/// The whole that `vmd -n --json` prints: a configuration, where there is one, and what was noticed. It is right when
/// nothing of that is an error.
pub fn report(configuration: Option<Value>, diagnostics: Vec<Value>) -> Value {
    let error = |value: &Value| match value {
        Value::Object(members) => members.contains(&("severity", "error".into())),
        _ => false,
    };
    Value::Object(vec![
        ("ok", (configuration.is_some() && !diagnostics.iter().any(error)).into()),
        ("configuration", configuration.into()),
        ("diagnostics", Value::List(diagnostics)),
    ])
}

/// An error that concerns no place of a file.
pub fn error(message: impl fmt::Display) -> Value {
    noticed("error", None, message, None)
}

/// A warning that concerns none.
pub fn warning(message: impl fmt::Display) -> Value {
    noticed("warning", None, message, None)
}

fn noticed(severity: &str, place: Option<&Location>, message: impl fmt::Display, hint: Option<String>) -> Value {
    let number = |of: Option<usize>| of.and_then(|number| u64::try_from(number).ok());
    Value::Object(vec![
        ("severity", severity.into()),
        ("file", place.map(|place| place.file.clone()).into()),
        ("line", number(place.map(|place| place.line)).into()),
        ("column", number(place.map(|place| place.column)).into()),
        ("message", Value::text(message)),
        ("hint", hint.into()),
    ])
}

impl From<&Config> for Value {
    fn from(config: &Config) -> Self {
        Self::Object(vec![
            ("globals", (&config.globals).into()),
            ("switches", Self::list(config.switches.iter())),
            ("vms", Self::list(&config.vms)),
        ])
    }
}

impl From<&Globals> for Value {
    fn from(globals: &Globals) -> Self {
        let inet6 = globals.local_inet6.map(|local| match local {
            LocalInet6::Random => Self::Null,
            LocalInet6::Prefix(prefix) => Self::text(prefix),
        });
        let staggered = globals.staggered.map(|start| {
            Self::Object(vec![("parallel", start.parallel.into()), ("delay_seconds", start.delay_s.into())])
        });
        Self::Object(vec![
            ("local_prefix", Self::text(globals.local_prefix)),
            ("local_inet6", inet6.is_some().into()),
            ("local_inet6_prefix", inet6.into()),
            ("local_nat", globals.local_nat.into()),
            ("socket_owner", globals.socket_owner.into()),
            ("agentx", globals.agentx.as_ref().into()),
            ("staggered_start", staggered.into()),
        ])
    }
}

impl From<&AgentX> for Value {
    fn from(agentx: &AgentX) -> Self {
        let context = agentx.context.as_deref().map(String::from_utf8_lossy).map(Self::text);
        Self::Object(vec![("context", context.into()), ("path", agentx.path.as_deref().into())])
    }
}

impl From<Owner> for Value {
    fn from(owner: Owner) -> Self {
        Self::Object(vec![("uid", owner.uid.into()), ("gid", owner.gid.into())])
    }
}

impl From<&Switch> for Value {
    fn from(switch: &Switch) -> Self {
        Self::Object(vec![
            ("name", Self::text(&switch.name)),
            ("enabled", switch.enabled.into()),
            ("interface", Self::text(&switch.interface)),
            ("locked_lladdr", switch.locked_lladdr.into()),
            ("guarded", switch.guarded.into()),
            ("isolated", switch.isolated.into()),
            ("external", switch.external.into()),
            ("group", switch.group.as_ref().map(|group| Self::text(&group.name)).into()),
            ("rdomain", switch.rdomain.into()),
            ("up", switch.up.into()),
        ])
    }
}

impl From<&Vm> for Value {
    fn from(vm: &Vm) -> Self {
        let mut members: Vec<(&str, Self)> = vec![
            ("name", Self::text(&vm.name)),
            ("template", vm.template.as_ref().map(Self::text).into()),
            ("enabled", vm.enabled.into()),
            ("memory_bytes", vm.memory.bytes().into()),
            ("cpus", vm.cpus.into()),
            ("boot_device", vm.boot_device.map(BootDevice::word).into()),
            ("disks", Self::list(&vm.disks)),
            ("interfaces", Self::list(&vm.nics)),
            ("owner", vm.owner.into()),
            ("allow_instance", (&vm.allow).into()),
            ("sev", vm.sev.map(sev).into()),
            ("vmmci", vm.vmmci.into()),
            ("device_restarts", vm.device_restarts.unwrap_or(model::DEVICE_RESTARTS).into()),
            ("balloon_bytes", vm.balloon.map(model::MemorySize::bytes).into()),
        ];
        members.extend(vm.texts().map(|(word, text)| (word, text.into())));
        Self::Object(members)
    }
}

impl From<&Disk> for Value {
    fn from(disk: &Disk) -> Self {
        Self::Object(vec![
            ("path", disk.path.as_str().into()),
            ("format", disk.format.kind.word().into()),
            ("format_named", disk.format.named.into()),
            ("iops", disk.limits.iops.into()),
            ("bandwidth", disk.limits.bandwidth.into()),
        ])
    }
}

impl From<Rate> for Value {
    fn from(rate: Rate) -> Self {
        Self::Object(vec![("per_second", rate.per_second().into()), ("burst", rate.burst().into())])
    }
}

impl From<&Nic> for Value {
    fn from(nic: &Nic) -> Self {
        Self::Object(vec![
            ("local", nic.local.into()),
            ("tap", nic.tap.as_ref().map(Self::text).into()),
            ("switch", nic.switch.as_ref().map(Self::text).into()),
            ("group", nic.group.as_ref().map(|group| Self::text(&group.name)).into()),
            ("lladdr", nic.lladdr.map(Self::text).into()),
            ("locked_lladdr", nic.locked.into()),
            ("rdomain", nic.rdomain.into()),
            ("up", nic.up.into()),
        ])
    }
}

impl From<&Allow> for Value {
    fn from(allow: &Allow) -> Self {
        Self::Object(vec![
            ("rights", Self::list(allow.rights.iter().map(|right| right.word()))),
            ("owner", allow.owner.into()),
        ])
    }
}

impl From<&Diagnostic> for Value {
    fn from(diagnostic: &Diagnostic) -> Self {
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        noticed(severity, diagnostic.place.as_ref(), &diagnostic.fault, diagnostic.fault.hint())
    }
}

fn sev(sev: Sev) -> &'static str {
    match sev {
        Sev::Memory => "sev",
        Sev::State => "seves",
    }
}
