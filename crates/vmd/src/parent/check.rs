//! `vmd -n`: what a configuration means, or what is wrong with it, for a user who need not be root.

use std::io::{self, Write};

use config::json::Value;
use config::{Config, Diagnostic, dump};

use super::accounts::HostAccounts;
use super::options::{Options, Tell};
use super::source::Source;
use super::{Fatal, settings};

/// Of the host: without meaning for what is refused.
const CPUS: usize = 1;

/// Says on standard error what is wrong, or `configuration OK`; and on standard output what was asked for.
pub fn check(options: &Options) -> Result<(), Fatal> {
    match options.tell {
        Some(Tell::Json) => json(options),
        tell => {
            let config = Source::new(options).read()?;
            let refused = refused(&config);
            refused.iter().for_each(|failure| eprintln!("vmd: {failure}"));
            if !refused.is_empty() {
                return Err(Fatal::Told);
            }
            match tell {
                Some(_) => print(&config::canonical(&config, &HostAccounts)),
                None => {
                    eprintln!("configuration OK");
                    Ok(())
                }
            }
        }
    }
}

/// What this release does not carry out, or this host does not let it.
fn refused(config: &Config) -> Vec<String> {
    let (_, refused) = settings::of_config(config, CPUS, &mut HostAccounts);
    refused.iter().map(ToString::to_string).collect()
}

/// All that is to be said stands in the JSON, whichever way the check ends.
fn json(options: &Options) -> Result<(), Fatal> {
    let values = |notes: &[Diagnostic]| notes.iter().map(Value::from).collect::<Vec<_>>();
    let (config, notes, right) = match Source::new(options).parse() {
        Ok(Ok(parsed)) => {
            let refused: Vec<Value> = refused(&parsed.config).iter().map(dump::error).collect();
            let right = refused.is_empty();
            (Some(Value::from(&parsed.config)), [refused, values(&parsed.warnings)].concat(), right)
        }
        Ok(Err(errors)) => (None, [values(&errors.errors), values(&errors.warnings)].concat(), false),
        Err(fatal) => (None, vec![dump::error(fatal)], false),
    };
    print(format!("{}\n", dump::report(config, notes)).as_bytes())?;
    if right { Ok(()) } else { Err(Fatal::Told) }
}

fn print(bytes: &[u8]) -> Result<(), Fatal> {
    let mut out = io::stdout().lock();
    Ok(out.write_all(bytes).and_then(|()| out.flush())?)
}
