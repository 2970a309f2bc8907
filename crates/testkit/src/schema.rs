//! JSON held against a schema: the part of JSON Schema (draft 2020-12) that `docs/schema/` uses, and no more. A word of
//! a schema that is not known here is a fault of its own, so that no rule is written and never looked at.

use serde_json::{Map, Value};

/// Words that say nothing about a value.
const NOTES: [&str; 6] = ["$schema", "$id", "$defs", "title", "description", "examples"];

/// What is wrong with a value, one line each, with its place; and what is wrong with the schema itself.
pub fn faults(schema: &str, value: &str) -> Vec<String> {
    let root: Value = serde_json::from_str(schema).expect("a schema is JSON");
    match serde_json::from_str(value) {
        Ok(value) => {
            let mut look = Look { root: &root, faults: Vec::new() };
            look.value(&root, &value, "");
            look.faults
        }
        Err(error) => vec![format!("no JSON: {error}")],
    }
}

/// Panics with all faults of a value.
#[track_caller]
pub fn holds(schema: &str, value: &str) {
    let faults = faults(schema, value);
    assert!(faults.is_empty(), "{}\nin\n{value}", faults.join("\n"));
}

struct Look<'a> {
    root: &'a Value,
    faults: Vec<String>,
}

impl Look<'_> {
    fn fault(&mut self, place: &str, what: impl std::fmt::Display) {
        self.faults.push(format!("{}: {what}", if place.is_empty() { "/" } else { place }));
    }

    fn value(&mut self, schema: &Value, value: &Value, place: &str) {
        let Some(rules) = schema.as_object() else { return self.fault(place, "the schema here is no object") };
        for (word, rule) in rules {
            self.rule(rules, word, rule, value, place);
        }
    }

    fn rule(&mut self, rules: &Map<String, Value>, word: &str, rule: &Value, value: &Value, place: &str) {
        match word {
            "type" if !types(rule).iter().any(|wanted| is_of(wanted, value)) => {
                self.fault(place, format!("{value} is not of type {rule}"));
            }
            "const" if rule != value => self.fault(place, format!("{value} is not {rule}")),
            "enum" if !rule.as_array().is_some_and(|all| all.contains(value)) => {
                self.fault(place, format!("{value} is none of {rule}"));
            }
            "minimum" if value.as_u64().is_some_and(|number| Some(number) < rule.as_u64()) => {
                self.fault(place, format!("{value} is less than {rule}"));
            }
            "maximum" if value.as_u64().is_some_and(|number| Some(number) > rule.as_u64()) => {
                self.fault(place, format!("{value} is more than {rule}"));
            }
            "minLength" if value.as_str().is_some_and(|text| (text.chars().count() as u64) < number(rule)) => {
                self.fault(place, format!("{value} is shorter than {rule}"));
            }
            "required" => self.required(rule, value, place),
            "properties" => self.properties(rules, rule, value, place),
            "items" => {
                for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.value(rule, item, &format!("{place}/{at}"));
                }
            }
            "anyOf" => self.any_of(rule, value, place),
            "$ref" => {
                match rule.as_str().and_then(|name| name.strip_prefix('#')).and_then(|at| self.root.pointer(at)) {
                    Some(meant) => self.value(&meant.clone(), value, place),
                    None => self.fault(place, format!("the schema has no {rule}")),
                }
            }
            "type" | "const" | "enum" | "minimum" | "maximum" | "minLength" => {}
            // Looked at with the properties, and meant as closed everywhere.
            "additionalProperties" if *rule == Value::Bool(false) => {}
            note if NOTES.contains(&note) => {}
            unknown => self.fault(place, format!("the schema says {unknown:?}, which is not known here")),
        }
    }

    fn required(&mut self, rule: &Value, value: &Value, place: &str) {
        let Some(object) = value.as_object() else { return };
        for name in rule.as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                self.fault(place, format!("{name:?} is missing"));
            }
        }
    }

    fn properties(&mut self, rules: &Map<String, Value>, rule: &Value, value: &Value, place: &str) {
        let Some(object) = value.as_object() else { return };
        if rules.get("additionalProperties") != Some(&Value::Bool(false)) {
            self.fault(place, "the schema leaves other members open");
        }
        for (name, member) in object {
            match rule.get(name) {
                Some(schema) => self.value(schema, member, &format!("{place}/{name}")),
                None => self.fault(place, format!("{name:?} is not described")),
            }
        }
    }

    fn any_of(&mut self, rule: &Value, value: &Value, place: &str) {
        let mut all = Vec::new();
        for schema in rule.as_array().into_iter().flatten() {
            let mut look = Look { root: self.root, faults: Vec::new() };
            look.value(schema, value, place);
            match look.faults.is_empty() {
                true => return,
                false => all.extend(look.faults),
            }
        }
        self.fault(place, format!("fits none: {}", all.join("; ")));
    }
}

fn number(rule: &Value) -> u64 {
    rule.as_u64().expect("a number in the schema")
}

fn types(rule: &Value) -> Vec<&str> {
    match rule {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

fn is_of(wanted: &str, value: &Value) -> bool {
    match wanted {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::faults;

    const SCHEMA: &str = r##"{
        "type": "object", "additionalProperties": false, "required": ["id"],
        "properties": {
            "id": { "type": "integer", "minimum": 1, "maximum": 9 },
            "state": { "enum": ["running", "stopped"] },
            "tty": { "type": ["string", "null"], "minLength": 2 },
            "list": { "type": "array", "items": { "$ref": "#/$defs/yes" } },
            "either": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/yes" }] }
        },
        "$defs": { "yes": { "const": true } }
    }"##;

    #[test]
    fn what_fits_has_no_faults() {
        let value = r#"{ "id": 1, "state": "running", "tty": null, "list": [true], "either": null }"#;
        assert_eq!(faults(SCHEMA, value), Vec::<String>::new());
        assert_eq!(faults(SCHEMA, r#"{ "id": 9, "tty": "ab", "either": true }"#), Vec::<String>::new());
    }

    #[test]
    fn each_rule_that_is_broken_is_told_with_its_place() {
        for (value, fault) in [
            ("[]", "/: [] is not of type \"object\""),
            ("{}", "/: \"id\" is missing"),
            (r#"{"id":0}"#, "/id: 0 is less than 1"),
            (r#"{"id":10}"#, "/id: 10 is more than 9"),
            (r#"{"id":1.5}"#, "/id: 1.5 is not of type \"integer\""),
            (r#"{"id":1,"state":"idle"}"#, "/state: \"idle\" is none of [\"running\",\"stopped\"]"),
            (r#"{"id":1,"tty":"a"}"#, "/tty: \"a\" is shorter than 2"),
            (r#"{"id":1,"list":[true,false]}"#, "/list/1: false is not true"),
            (r#"{"id":1,"more":1}"#, "/: \"more\" is not described"),
            (
                r#"{"id":1,"either":1}"#,
                "/either: fits none: /either: 1 is not of type \"null\"; /either: 1 is not true",
            ),
        ] {
            assert_eq!(faults(SCHEMA, value), [fault]);
        }
        assert!(faults(SCHEMA, "{").concat().starts_with("no JSON: "));
    }

    #[test]
    fn a_schema_with_an_unknown_word_or_open_members_is_told() {
        assert!(faults(r#"{"pattern":"a"}"#, "1").concat().contains("\"pattern\", which is not known here"));
        assert!(faults(r#"{"properties":{}}"#, "{}").concat().contains("leaves other members open"));
    }
}
