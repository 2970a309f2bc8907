//! Macros from the command line (`-D name=value`), which win over every definition in a file and outlive a parse.

use std::collections::BTreeMap;

/// The macros of all `-D` options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Macros {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A `-D` argument without `=`. The daemon warns and goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not parse macro definition {0}; write -D name=value")]
pub struct MacroSyntax(String);

impl Macros {
    /// No macros.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one `name=value`, split at the last `=`. The first definition of a name stays.
    pub fn define(&mut self, argument: &[u8]) -> Result<(), MacroSyntax> {
        let mut halves = argument.rsplitn(2, |byte| *byte == b'=');
        let (value, name) = (halves.next(), halves.next());
        let (Some(value), Some(name)) = (value, name) else {
            return Err(MacroSyntax(String::from_utf8_lossy(argument).into_owned()));
        };
        self.values.entry(name.to_vec()).or_insert_with(|| value.to_vec());
        Ok(())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.values.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(arguments: &[&str]) -> Vec<(String, String)> {
        let mut macros = Macros::new();
        for argument in arguments {
            macros.define(argument.as_bytes()).expect("has =");
        }
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).expect("utf-8");
        macros.iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn definition_splits_at_the_last_equals_sign() {
        assert_eq!(pairs(&["a=b=c"]), [("a=b".into(), "c".into())]);
    }

    #[test]
    fn first_definition_wins_and_a_value_may_be_empty() {
        assert_eq!(pairs(&["a=", "a=2"]), [("a".into(), String::new())]);
    }

    #[test]
    fn definition_without_equals_sign_is_refused_with_its_text() {
        let error = Macros::new().define(b"abc").expect_err("no =");
        assert_eq!(error.to_string(), "could not parse macro definition abc; write -D name=value");
    }
}
