//! `vmd -n`: what a configuration means, or what is wrong with it, for a user who need not be root.

use std::os::fd::OwnedFd;
use std::time::Duration;

use config::json::Value;
use config::{Config, Diagnostic, dump};
use proto::probe::{Found, ToParent, ToProbe};
use proto::{Failure, Received};
use rustix::fs::OFlags;
use rustix::process::Signal;
use sys::exe::Executable;

use super::foreseen::foreseen;
use super::source::{Source, refused};
use crate::parent::Fatal;
use crate::parent::accounts::HostAccounts;
use crate::parent::peers::{Probe, Starter};
use crate::parent::service::options::{Options, Tell};
use crate::parent::service::say;
use crate::parent::start::host::open_device;

/// A probe reads a header.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says on standard error what is wrong, or `configuration OK`; and on standard output what was asked for.
pub fn check(options: &Options) -> Result<(), Fatal> {
    match options.tell {
        Some(Tell::Json) => json(options),
        tell => {
            let config = Source::new(options).read()?;
            match tell {
                Some(_) => say::print(&config::canonical(&config, &HostAccounts)?),
                None => {
                    say::all(&"configuration OK");
                    Ok(())
                }
            }
        }
    }
}

/// What is foreseen of a start on this host. Root does not read what others wrote, as in a start: a probe does.
pub fn foreseen_here(config: &Config) -> Vec<String> {
    if !rustix::process::geteuid().is_root() {
        return foreseen(config, false, &mut crate::probe::look_at);
    }
    let null = open_device("/dev/null", OFlags::empty());
    let starter = Executable::own().and_then(|exe| Ok(Starter { exe, null: null?, debug: false }));
    foreseen(config, true, &mut |question, file| match &starter {
        Ok(starter) => by_probe(starter, question, file),
        Err(_) => Ok(None),
    })
}

/// Where no probe can be had, nothing is known against a file.
fn by_probe(starter: &Starter, question: ToProbe, file: OwnedFd) -> Result<Option<Found>, Failure> {
    let Ok((mut probe, _log)): Result<(Probe, _), _> = starter.start("probe", &[], None) else { return Ok(None) };
    let sent = probe.channel.send(&question, vec![file]);
    let answer = sent.and_then(|()| probe.channel.recv_within(PATIENCE));
    let _ = probe.child.kill(Signal::KILL).and_then(|()| probe.child.wait()); // it has said what it had to
    match answer {
        Ok(Received::Message(ToParent::Failed(failure), _)) => Err(failure),
        Ok(Received::Message(ToParent::Found(found), _)) => Ok(Some(found)),
        Ok(Received::Empty | Received::Closed) | Err(_) => Ok(None),
    }
}

/// All that is to be said stands in the JSON, whichever way the check ends.
fn json(options: &Options) -> Result<(), Fatal> {
    let values = |notes: &[Diagnostic]| notes.iter().map(Value::from).collect::<Vec<_>>();
    let (config, notes, right) = match Source::new(options).parse() {
        Ok(Ok(parsed)) => {
            let refused: Vec<Value> = refused(&parsed.config).iter().map(dump::error).collect();
            let right = refused.is_empty();
            let notes = foreseen_here(&parsed.config).iter().map(dump::warning).collect();
            (Some(Value::from(&parsed.config)), [refused, values(&parsed.warnings), notes].concat(), right)
        }
        Ok(Err(errors)) => (None, [values(&errors.errors), values(&errors.warnings)].concat(), false),
        Err(fatal) => (None, vec![dump::error(fatal)], false),
    };
    say::print(format!("{}\n", dump::report(config, notes)).as_bytes())?;
    if right { Ok(()) } else { Err(Fatal::Told) }
}
