//! Options as getopt(3) takes them: clustered letters, arguments attached or apart, `--` ends them. Unlike the
//! original's, options may also follow operands: no operand of vmctl begins with `-`, so nothing else can be meant. What
//! the original does not have is a word: `--json`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What was wrong with the options, in getopt's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A letter that the command does not have.
    #[error("unknown option -- {0}")]
    Unknown(char),
    /// A letter without the argument that it needs.
    #[error("option requires an argument -- {0}")]
    Argument(char),
    /// A word behind two dashes that the command does not have.
    #[error("unknown option -- {0}")]
    Word(String),
}

impl OptionError {
    /// `-h` or `--help`, which the command does not have.
    pub fn asks_for_help(&self) -> bool {
        matches!(self, Self::Unknown('h')) || matches!(self, Self::Word(word) if word == "help")
    }
}

/// Options in their order, and operands in theirs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Letters with their arguments, empty for those that have none.
    pub options: Vec<(char, OsString)>,
    /// Words behind two dashes.
    pub words: Vec<&'static str>,
    /// What is left.
    pub operands: Vec<OsString>,
}

/// Takes the arguments apart. `letters` are those of the command, each with a `:` behind it if it has an argument.
pub fn parse(letters: &str, arguments: &[OsString]) -> Result<Parsed, OptionError> {
    parse_with(letters, &[], arguments)
}

/// The same for a command that has `words` too. They must be written out; an abbreviation is not accepted.
pub fn parse_with(letters: &str, words: &[&'static str], arguments: &[OsString]) -> Result<Parsed, OptionError> {
    let mut parsed = Parsed::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_bytes() {
            b"--" => {
                parsed.operands.extend(arguments.by_ref().cloned());
            }
            [b'-', b'-', word @ ..] => match words.iter().find(|known| known.as_bytes() == word) {
                Some(known) => parsed.words.push(known),
                None => return Err(OptionError::Word(String::from_utf8_lossy(word).into_owned())),
            },
            [b'-', cluster @ ..] if !cluster.is_empty() => options(letters, cluster, &mut arguments, &mut parsed)?,
            _ => parsed.operands.push(argument.clone()),
        }
    }
    Ok(parsed)
}

/// One argument that begins with `-`.
fn options<'a>(
    letters: &str,
    mut cluster: &[u8],
    arguments: &mut impl Iterator<Item = &'a OsString>,
    parsed: &mut Parsed,
) -> Result<(), OptionError> {
    while let [byte, rest @ ..] = cluster {
        let letter = char::from(*byte);
        let known = letters.find(letter).filter(|_| letter != ':').ok_or(OptionError::Unknown(letter))?;
        let takes = letters.get(known.saturating_add(1)..).is_some_and(|behind| behind.starts_with(':'));
        if !takes {
            parsed.options.push((letter, OsString::new()));
            cluster = rest;
            continue;
        }
        let argument = match rest {
            [] => arguments.next().cloned().ok_or(OptionError::Argument(letter))?,
            attached => OsString::from_vec(attached.to_vec()),
        };
        parsed.options.push((letter, argument));
        return Ok(());
    }
    Ok(())
}

/// Takes leading options off, up to the first operand: what stands before a command's name.
pub fn leading<'a>(
    letters: &str,
    words: &[&'static str],
    arguments: &'a [OsString],
) -> Result<(Parsed, &'a [OsString]), OptionError> {
    let is_option = |argument: &&OsString| argument.as_bytes().starts_with(b"-") && argument.len() > 1;
    let end = arguments.iter().position(|argument| !is_option(&argument) || argument == OsStr::new("--"));
    let (mine, rest) = arguments.split_at(end.unwrap_or(arguments.len()));
    let rest = match rest {
        [first, behind @ ..] if first == OsStr::new("--") => behind,
        rest => rest,
    };
    Ok((parse_with(letters, words, mine)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(letters: &str, line: &str) -> Result<(String, Vec<String>), OptionError> {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let Parsed { options, operands, .. } = parse(letters, &arguments)?;
        let options = options.iter().map(|(letter, value)| format!("{letter}{} ", value.to_string_lossy())).collect();
        Ok((options, operands.iter().map(|operand| operand.to_string_lossy().into_owned()).collect()))
    }

    #[test]
    fn letters_cluster_and_arguments_attach() {
        let expected = ("f w m1G d/x ".to_owned(), vec!["id".to_owned()]);
        assert_eq!(parsed("fwm:d:", "-fwm1G -d /x id"), Ok(expected));
    }

    #[test]
    fn options_may_follow_operands_until_two_dashes() {
        let expected = ("m1G ".to_owned(), vec!["x".to_owned(), "-f".to_owned(), "--".to_owned()]);
        assert_eq!(parsed("fm:", "x -m 1G -- -f --"), Ok(expected));
        assert_eq!(parsed("f", "-"), Ok((String::new(), vec!["-".to_owned()])));
    }

    #[test]
    fn unknown_letters_and_missing_arguments_are_named() {
        assert_eq!(parsed("f", "-x"), Err(OptionError::Unknown('x')));
        assert_eq!(parsed("f:", "-f:"), Ok(("f: ".to_owned(), vec![])));
        assert_eq!(parsed("f:", "-:"), Err(OptionError::Unknown(':')));
        assert_eq!(parsed("m:", "-m"), Err(OptionError::Argument('m')));
        assert_eq!(OptionError::Unknown('x').to_string(), "unknown option -- x");
        assert_eq!(OptionError::Argument('m').to_string(), "option requires an argument -- m");
    }

    #[test]
    fn words_are_written_out_and_stand_anywhere_before_two_dashes() {
        let parse = |line: &str| {
            let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            parse_with("r", &["json"], &arguments).map(|parsed| (parsed.words, parsed.operands.len()))
        };
        assert_eq!(parse("--json -r web"), Ok((vec!["json"], 1)));
        assert_eq!(parse("web --json"), Ok((vec!["json"], 1)));
        assert_eq!(parse("-- --json"), Ok((vec![], 1)));
        assert_eq!(parse("--jso"), Err(OptionError::Word("jso".to_owned())));
        assert_eq!(parsed("f", "--force"), Err(OptionError::Word("force".to_owned())));
    }

    #[test]
    fn leading_options_end_at_the_command() {
        let arguments: Vec<OsString> = ["-v", "stop", "-f"].map(OsString::from).to_vec();
        let (mine, rest) = leading("v", &[], &arguments).expect("right");
        assert_eq!((mine.options.len(), rest.len()), (1, 2));
    }
}
