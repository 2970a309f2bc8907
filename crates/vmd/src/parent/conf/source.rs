//! Where the configuration comes from, and how it is read: whole, or not at all.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use config::{Config, Errors, Macros, Parsed, Sources};
use proto::Failure;
use proto::failure::plain;
use rustix::io::Errno;
use sys::reach::{Barrier, barrier};

use super::obstacles::will_not_start;
use super::settings;
use crate::parent::Fatal;
use crate::parent::accounts::{HostAccounts, read_at_once, read_text};
use crate::parent::network::makers;
use crate::parent::registry::Settings;
use crate::parent::service::options::Options;
use crate::parent::service::say;

/// Read where nothing else is said; it may be missing.
const DEFAULT_FILE: &str = "/etc/vm.conf";

/// The daemon's file and what its command line defines, for all of its life.
#[derive(Debug, Default)]
pub struct Source {
    file: Option<OsString>,
    macros: Macros,
    names: Names,
}

/// Files that a configuration names: relative ones lie where the daemon was started, also once it has left there.
#[derive(Debug, Default)]
struct Names {
    directory: PathBuf,
}

impl Sources for Names {
    fn include(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = self.directory.join(path);
        read_at_once(&path).map_err(|error| with_barrier(&path, error))
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let path = self.directory.join(path);
        std::fs::canonicalize(&path).map_err(|error| with_barrier(&path, error))
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }
}

impl Source {
    /// What the command line says; an invalid macro is reported and skipped.
    pub fn new(options: &Options) -> Self {
        let mut macros = Macros::new();
        for argument in &options.macros {
            if let Err(error) = macros.define(argument.as_bytes()) {
                say::say(format_args!("vmd: {error}"));
            }
        }
        Self { file: options.file.clone(), macros, names: Names { directory: options.directory.clone() } }
    }

    /// For a check: errors and warnings are written for who asks.
    pub fn read(&self) -> Result<Config, Fatal> {
        told(self.parse()?, super::check::foreseen_here).map(|parsed| parsed.config)
    }

    /// The same for the service: what concerns one VM alone is written, and costs that VM.
    pub fn read_with_patience(&self) -> Result<Parsed, Fatal> {
        let (name, text) = self.text()?;
        told(config::parse_with_patience(&name, &text, &self.macros, &self.names, &HostAccounts), will_not_start)
    }

    /// What the file means, or its errors, with nothing said.
    pub fn parse(&self) -> Result<Result<Parsed, Errors>, Fatal> {
        let (name, text) = self.text()?;
        Ok(config::parse(&name, &text, &self.macros, &self.names, &HostAccounts))
    }

    fn text(&self) -> Result<(String, Vec<u8>), Fatal> {
        let (name, path) = self.name();
        let path = self.names.directory.join(path);
        let text =
            self.or_missing(read_text(&path)).map_err(|error| Fatal::File(name.clone(), with_barrier(&path, error)))?;
        Ok((name, text))
    }

    /// Again, with the patience of the start; or one more file beside what is `known`, without. Each error in the order of the
    /// file.
    pub fn read_again(&self, load: Option<&str>, known: &Config) -> Result<Settings, Vec<String>> {
        let parsed = match load {
            None => {
                let (name, path) = self.name();
                let path = self.names.directory.join(path);
                let text = self.or_missing(read_at_once(&path)).map_err(|error| unread(&name, &error))?;
                config::parse_with_patience(&name, &text, &self.macros, &self.names, &HostAccounts)
            }
            Some(name) => {
                let text = read_at_once(&self.names.directory.join(name)).map_err(|error| unread(name, &error))?;
                config::parse_onto(name, &text, &self.macros, &self.names, &HostAccounts, known)
            }
        };
        let parsed = parsed.map_err(|errors| errors.errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        parsed.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        will_not_start(&parsed.config).iter().for_each(|note| log::warn!("{note}"));
        match settings_here(&parsed) {
            (settings, refused) if refused.is_empty() => Ok(settings),
            (_, refused) => Err(refused.iter().map(ToString::to_string).collect()),
        }
    }

    fn name(&self) -> (String, &OsStr) {
        let file = self.file.as_deref().unwrap_or(OsStr::new(DEFAULT_FILE));
        (file.to_string_lossy().into_owned(), file)
    }

    /// The default file may be missing; one that was named may not.
    fn or_missing(&self, read: io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.file.is_none() => Ok(Vec::new()),
            read => read,
        }
    }
}

/// Says what was noticed, and gives what there is to go on with.
fn told(read: Result<Parsed, Errors>, notes: fn(&Config) -> Vec<String>) -> Result<Parsed, Fatal> {
    match read {
        Ok(parsed) => {
            parsed.warnings.iter().for_each(say::all);
            parsed.troubles.iter().for_each(|(_, trouble)| say::all(trouble));
            notes(&parsed.config).iter().for_each(|note| say::say(format_args!("vmd: warning: {note}")));
            let refused = refused(&parsed.config);
            refused.iter().for_each(|failure| say::say(format_args!("vmd: {failure}")));
            if refused.is_empty() { Ok(parsed) } else { Err(Fatal::Told) }
        }
        Err(errors) => {
            say::all(&errors);
            Err(Fatal::Told)
        }
    }
}

/// The settings that a file means on this host, and what of it can't be carried out.
pub fn settings_here(parsed: &Parsed) -> (Settings, Vec<Failure>) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut settings, refused) = settings::of_config(&parsed.config, cpus, &mut HostAccounts);
    settings.troubles = settings::troubles_of(&parsed.troubles);
    makers::note(&mut settings.switches);
    (settings, refused)
}

/// What this release does not carry out, or can't on Linux.
pub fn refused(config: &Config) -> Vec<String> {
    let (_, refused) = settings::of_config(config, 1, &mut HostAccounts); // how many CPUs there are refuses nothing
    refused.iter().map(ToString::to_string).collect()
}

/// An error with the directory that keeps this user from the file, where there is one.
fn with_barrier(path: &Path, error: io::Error) -> io::Error {
    if Errno::from_io_error(&error) != Some(Errno::ACCESS) {
        return error;
    }
    let who = if rustix::process::geteuid().is_root() { "root" } else { "you" };
    match barrier(path) {
        Some(barrier @ (Barrier::Directory(_) | Barrier::Link(_))) => {
            let told = barrier.told(&path.to_string_lossy(), who);
            io::Error::new(error.kind(), format!("{}: {told}", plain(&error)))
        }
        Some(Barrier::Itself) | None => error,
    }
}

fn unread(name: &str, error: &io::Error) -> Vec<String> {
    vec![format!("failed to open \"{name}\": {}", plain(error))]
}
