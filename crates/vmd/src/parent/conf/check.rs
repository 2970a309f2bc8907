//! `vmd -n`: what a configuration means, or what is wrong with it, for a user who need not be root.

use config::json::Value;
use config::{Diagnostic, dump};

use super::obstacles::will_not_start;
use super::source::{Source, refused};
use crate::parent::Fatal;
use crate::parent::accounts::HostAccounts;
use crate::parent::service::options::{Options, Tell};
use crate::parent::service::say;

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

/// All that is to be said stands in the JSON, whichever way the check ends.
fn json(options: &Options) -> Result<(), Fatal> {
    let values = |notes: &[Diagnostic]| notes.iter().map(Value::from).collect::<Vec<_>>();
    let (config, notes, right) = match Source::new(options).parse() {
        Ok(Ok(parsed)) => {
            let refused: Vec<Value> = refused(&parsed.config).iter().map(dump::error).collect();
            let right = refused.is_empty();
            let notes = will_not_start(&parsed.config).iter().map(dump::warning).collect();
            (Some(Value::from(&parsed.config)), [refused, values(&parsed.warnings), notes].concat(), right)
        }
        Ok(Err(errors)) => (None, [values(&errors.errors), values(&errors.warnings)].concat(), false),
        Err(fatal) => (None, vec![dump::error(fatal)], false),
    };
    say::print(format!("{}\n", dump::report(config, notes)).as_bytes())?;
    if right { Ok(()) } else { Err(Fatal::Told) }
}
