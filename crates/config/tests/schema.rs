//! What each case means, as JSON, against the schema that the documents give of it.

mod world;

use std::fs;
use std::path::Path;

use config::json::Value;
use config::{Macros, parse};
use testkit::schema;
use world::World;

const SCHEMA: &str = include_str!("../../../docs/schema/config.json");

/// As `vmd -n --json` tells it.
fn told(text: &[u8]) -> String {
    let (config, diagnostics) = match parse("vm.conf", text, &Macros::new(), &World, &World) {
        Ok(parsed) => (Some(Value::from(&parsed.config)), parsed.warnings),
        Err(errors) => (None, [errors.errors, errors.warnings].concat()),
    };
    config::dump::report(config, diagnostics.iter().map(Value::from).collect()).to_string()
}

#[test]
fn what_every_case_means_matches_the_schema() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut right = 0;
    let mut wrong = 0;
    for entry in fs::read_dir(folder).expect("the folder of cases") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|end| end == "conf") {
            let told = told(&fs::read(&path).expect("a case"));
            schema::holds(SCHEMA, &told);
            if told.contains("\"ok\": true") { right += 1 } else { wrong += 1 }
        }
    }
    assert!(right > 5 && wrong > 5, "{right} right, {wrong} wrong");
}

#[test]
fn what_a_file_says_is_told_with_all_its_defaults() {
    let told = told(b"switch lan {\n interface br0\n locked lladdr\n}\nvm web {\n boot \"/bsd\"\n memory 1G\n interface { switch lan }\n}\n");
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let vm = &told["configuration"]["vms"][0];
    assert_eq!((&vm["name"], &vm["memory_bytes"], &vm["cpus"]), (&"web".into(), &(1u64 << 30).into(), &1.into()));
    assert_eq!(vm["interfaces"][0]["switch"], "lan");
    assert_eq!(vm["interfaces"][0]["locked_lladdr"], true, "what the switch gave is filled in");
    assert_eq!(told["configuration"]["globals"]["local_prefix"], "100.64.0.0/10");
    assert_eq!((&told["ok"], &told["diagnostics"]), (&true.into(), &serde_json::json!([])));
}

#[test]
fn an_error_is_told_with_its_place_and_what_to_do() {
    let told = told(b"vm web {\n\tmemmory 1G\n}\n");
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let first = &told["diagnostics"][0];
    assert_eq!((&told["ok"], &told["configuration"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!((&first["severity"], &first["file"]), (&"error".into(), &"vm.conf".into()));
    assert_eq!((&first["line"], &first["column"]), (&2.into(), &2.into()));
    assert!(first["hint"].as_str().is_some_and(|hint| hint.contains("memory")), "{first}");
}
