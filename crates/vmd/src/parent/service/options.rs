//! The daemon's command line (openbsd/daemon.md, 1.2).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Shown for every mistake.
pub const USAGE: &str = "usage: vmd [-dnv] [-D macro=value] [-f file]
       vmd -n --format | --json [-D macro=value] [-f file]";

/// What each option does, below the usage where that was asked for.
pub const HELP: &str = "
  -D macro=value  define a macro for vm.conf
  -d              stay in the foreground, log to standard error
  -f file         read this file instead of /etc/vm.conf
  -h, --help      show this
  -n              check the configuration only
  --format        with -n: write it to standard output in canonical form
  --json          with -n: write what it means, and what is wrong, as JSON
  -v              log more; given twice, in all processes
  --version       show the release

vmd(8) and vm.conf(5) say more.";

/// What is shown instead of anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// `-h`, `--help`.
    Help,
    /// `--version`.
    Version,
}

/// How a checked configuration is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// As the canonical text of vm.conf(5).
    Format,
    /// As JSON.
    Json,
}

/// What a user said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-d`: in the foreground, log to standard error.
    pub foreground: bool,
    /// `-n`: check the configuration only.
    pub check: bool,
    /// `--format`, `--json`: with `-n`, what it means, on standard output.
    pub tell: Option<Tell>,
    /// `-h`, `--help`, `--version`; the first counts.
    pub show: Option<Show>,
    /// `-v`, how often.
    pub verbose: u8,
    /// `-f`: the configuration, instead of the default.
    pub file: Option<OsString>,
    /// `-D`: macros, as written.
    pub macros: Vec<OsString>,
    /// No option: where relative names of the configuration lie, once that is not the working directory.
    pub directory: PathBuf,
}

impl Options {
    /// The options, or nothing where the usage is to be shown.
    pub fn parse(arguments: &[OsString]) -> Option<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let letters = argument.as_bytes().strip_prefix(b"-").filter(|letters| !letters.is_empty())?;
            match letters {
                b"-" => {
                    arguments.next().is_none().then_some(())?;
                    break;
                }
                b"-help" => options.show = options.show.or(Some(Show::Help)),
                b"-version" => options.show = options.show.or(Some(Show::Version)),
                b"-format" if options.tell.is_none() => options.tell = Some(Tell::Format),
                b"-json" if options.tell.is_none() => options.tell = Some(Tell::Json),
                letters => options.cluster(letters, &mut arguments)?,
            }
        }
        (options.check || options.tell.is_none() || options.show.is_some()).then_some(options)
    }

    /// `-dv`, `-fFILE`, `-f FILE`.
    fn cluster<'a>(&mut self, letters: &[u8], rest: &mut impl Iterator<Item = &'a OsString>) -> Option<()> {
        for (at, letter) in letters.iter().enumerate() {
            let mut value = || match letters.get(at + 1..) {
                Some(attached) if !attached.is_empty() => Some(OsStr::from_bytes(attached).to_owned()),
                _ => rest.next().cloned(),
            };
            match letter {
                b'd' => self.foreground = true,
                b'h' => self.show = self.show.or(Some(Show::Help)),
                b'n' => self.check = true,
                b'v' => self.verbose = self.verbose.saturating_add(1),
                b'f' => {
                    self.file = Some(value()?);
                    return Some(());
                }
                b'D' => {
                    self.macros.push(value()?);
                    return Some(());
                }
                _ => return None,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Option<Options> {
        Options::parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_cluster_and_take_values_attached_or_apart() {
        let options = parse(&["-dvvn", "-f", "/a b", "-Dx=1", "-D", "y=2"]).unwrap();
        assert!(options.foreground && options.check);
        assert_eq!((options.verbose, options.file), (2, Some("/a b".into())));
        assert_eq!(options.macros, ["x=1", "y=2"]);
        assert_eq!(parse(&["-df/x", "--"]).unwrap().file, Some("/x".into()));
    }

    #[test]
    fn what_a_checked_file_means_is_told_in_one_way() {
        assert_eq!(parse(&["-n", "--json"]).unwrap().tell, Some(Tell::Json));
        assert_eq!(parse(&["--format", "-n", "-f", "/x"]).unwrap().tell, Some(Tell::Format));
        for words in [&["--json"][..], &["-n", "--json", "--format"], &["-n", "--jso"], &["-n", "--"], &["-n", "-json"]]
        {
            assert_eq!(parse(words).and_then(|options| options.tell), None, "{words:?}");
        }
        assert_eq!(parse(&["--json"]), None, "it has no effect without -n");
    }

    #[test]
    fn help_and_release_are_asked_for_beside_whatever_else() {
        for words in [&["-h"][..], &["--help"], &["-dh"], &["-n", "--help", "--version"], &["--json", "-h"]] {
            assert_eq!(parse(words).unwrap().show, Some(Show::Help), "{words:?}");
        }
        assert_eq!(parse(&["--version", "-h"]).unwrap().show, Some(Show::Version));
        for (words, file) in [(&["-f", "--help"][..], "--help"), (&["-fh"], "h")] {
            let options = parse(words).unwrap();
            assert_eq!((options.show, options.file), (None, Some(file.into())), "it is the option's value");
        }
        assert_eq!(parse(&["--help", "x"]), None);
    }

    #[test]
    fn anything_else_is_the_usage() {
        for words in [&["x"][..], &["-z"], &["-f"], &["-D"], &["-d", "--", "x"], &["-"], &[""]] {
            assert_eq!(parse(words), None, "{words:?}");
        }
    }
}
