//! JSON, written only (RFC 8259): what `vmd -n --json` and the reading commands of vmctl print. Pure.

use std::fmt;

/// A value of JSON. Numbers are whole: no other kind is needed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing: not known, or not there.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A number.
    Number(u64),
    /// Text.
    Text(String),
    /// Values in their order.
    List(Vec<Value>),
    /// Members in the order in which they are shown.
    Object(Vec<(&'static str, Value)>),
}

impl Value {
    /// Text of anything that shows itself.
    pub fn text(text: impl fmt::Display) -> Self {
        Self::Text(text.to_string())
    }

    /// A list of what an iterator gives.
    pub fn list<T: Into<Self>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => string(f, text),
            Self::List(items) => block(f, depth, ['[', ']'], items, |f, item, depth| item.write(f, depth)),
            Self::Object(members) => block(f, depth, ['{', '}'], members, |f, (name, value), depth| {
                string(f, name)?;
                f.write_str(": ")?;
                value.write(f, depth)
            }),
        }
    }
}

/// A list's or an object's items, one a line, two blanks deeper than it stands itself.
fn block<T>(
    f: &mut fmt::Formatter<'_>,
    depth: usize,
    [open, close]: [char; 2],
    items: &[T],
    write: fn(&mut fmt::Formatter<'_>, &T, usize) -> fmt::Result,
) -> fmt::Result {
    let deeper = depth.saturating_add(2);
    write!(f, "{open}")?;
    for (at, item) in items.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(f, "{comma}\n{:deeper$}", "")?;
        write(f, item, deeper)?;
    }
    match items {
        [] => write!(f, "{close}"),
        _ => write!(f, "\n{:depth$}{close}", ""),
    }
}

/// A string (RFC 8259, 7). Beyond what must be escaped, so is all that could command a terminal or turn text around.
fn string(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for letter in text.chars() {
        match letter {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            // All of these are of the basic plane: four digits are enough.
            hidden
                if hidden.is_control()
                    || matches!(hidden, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                write!(f, "\\u{:04x}", u32::from(hidden))?;
            }
            plain => write!(f, "{plain}")?,
        }
    }
    f.write_str("\"")
}

/// The value on lines of its own, two blanks a level, without a newline at the end.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

macro_rules! from {
    ($($of:ty, |$value:ident| $made:expr;)*) => {
        $(impl From<$of> for Value {
            fn from($value: $of) -> Self {
                $made
            }
        })*
    };
}

from! {
    bool, |value| Self::Bool(value);
    u8, |value| Self::Number(value.into());
    u32, |value| Self::Number(value.into());
    u64, |value| Self::Number(value);
    &str, |text| Self::Text(text.to_owned());
    String, |text| Self::Text(text);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn items_stand_on_lines_of_their_own() {
        let value = Value::Object(vec![
            ("none", Value::Null),
            ("yes", true.into()),
            ("list", Value::list([1u32, 2])),
            ("empty", Value::List(Vec::new())),
            ("object", Value::Object(vec![("name", "web".into())])),
        ]);
        let expected = "{\n  \"none\": null,\n  \"yes\": true,\n  \"list\": [\n    1,\n    2\n  ],\n  \"empty\": [],\n  \
                        \"object\": {\n    \"name\": \"web\"\n  }\n}";
        assert_eq!(value.to_string(), expected);
    }

    #[test]
    fn what_commands_a_terminal_is_escaped() {
        let text = Value::text("a\"b\\c\n\t\u{1b}[31m\u{7f}\u{9b}\u{202e}é");
        assert_eq!(text.to_string(), r#""a\"b\\c\n\t\u001b[31m\u007f\u009b\u202eé""#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_again_by_another_reader(text in any::<String>(), number in any::<u64>()) {
            let value = Value::list([Value::text(&text), number.into()]);
            let read: serde_json::Value = serde_json::from_str(&value.to_string()).expect("JSON");
            prop_assert_eq!(read, serde_json::json!([text, number]));
        }
    }
}
