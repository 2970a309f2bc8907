//! Lengths and numbers at which a configuration stops being one, and sizes that must not slow it down.

mod world;

use std::fmt::Write as _;

use config::{Errors, Macros, Parsed, parse};
use world::World;

fn read(text: &str) -> Result<Parsed, Errors> {
    parse("vm.conf", text.as_bytes(), &Macros::new(), &World, &World)
}

fn first_error(text: &str) -> String {
    let errors = read(text).expect_err("refused").errors;
    errors.first().expect("an error").fault.to_string()
}

#[test]
fn quoted_string_ends_at_8094_bytes() {
    let macro_of = |length: usize| format!("a = \"{}\"\nvm \"v\" {{ disk \"$a\" }}\n", "x".repeat(length));
    assert!(read(&macro_of(8094)).is_ok());
    assert_eq!(first_error(&macro_of(8095)), "string too long");
}

#[test]
fn unquoted_word_ends_at_8095_bytes() {
    let macro_of = |length: usize| format!("a = {}\n", "x".repeat(length));
    assert!(read(&macro_of(8095)).is_ok());
    assert_eq!(first_error(&macro_of(8096)), "string too long");
}

#[test]
fn paths_end_at_1023_bytes() {
    for option in ["disk", "boot", "cdrom", "initrd"] {
        let block = |length: usize| format!("vm \"v\" {{ disk \"d\"\n{option} \"/{}\"\n}}\n", "x".repeat(length - 1));
        assert!(read(&block(1023)).is_ok(), "{option}");
        let error = first_error(&block(1024));
        assert!(error.ends_with("path too long"), "{error}");
    }
}

#[test]
fn path_that_is_too_long_only_when_resolved_is_refused() {
    let block = format!("vm \"v\" {{ disk \"{}\" }}\n", "x".repeat(1020));
    assert_eq!(first_error(&block), "disk path too long");
}

#[test]
fn cmdline_ends_at_2047_bytes() {
    let block = |length: usize| format!("vm \"v\" {{ boot \"/k\"\ncmdline \"{}\"\n}}\n", "x".repeat(length));
    assert!(read(&block(2047)).is_ok());
    assert_eq!(first_error(&block(2048)), "kernel command line too long: 2048 bytes");
}

#[test]
fn agentx_strings_end_at_32_and_103_bytes() {
    assert!(read(&format!("agentx context \"{}\" path \"/{}\"", "c".repeat(32), "p".repeat(102))).is_ok());
    assert_eq!(first_error(&format!("agentx context \"{}\"", "c".repeat(33))), "agentx context too large");
    assert_eq!(first_error(&format!("agentx path \"/{}\"", "p".repeat(103))), "agentx path too large");
}

#[test]
fn long_line_is_shown_around_its_caret() {
    let text = format!("vm \"v\" {{ disk \"{}\" rotten\n}}\n", "x".repeat(5000));
    let shown = read(&format!("{text}vm \"v\" {{ disk \"{}\" format rotten }}", "y".repeat(500))).expect_err("rotten");
    for line in shown.to_string().lines() {
        assert!(line.chars().count() < 250, "{line}");
    }
    assert!(shown.to_string().contains("rotten"));
}

#[test]
fn ten_thousand_vms_are_read_with_their_instances() {
    let mut text = String::from("vm \"base\" { boot \"/k\" }\nswitch \"s\" { interface br0 }\n");
    for number in 0..10_000 {
        let _ = writeln!(
            text,
            "vm \"base\" instance \"v{number}\" {{\n\tdisk \"d{number}\"\n\tinterface {{ switch s }}\n}}"
        );
    }
    let parsed = read(&text).expect("right");
    assert_eq!((parsed.config.vms.len(), parsed.warnings.len()), (10_001, 0));
}

#[test]
fn ten_thousand_errors_are_all_told() {
    let text = "rotten\n".repeat(10_000);
    assert_eq!(read(&text).expect_err("wrong").errors.len(), 10_000);
}

/// Each is found and shown without reading the line anew.
#[test]
fn ten_thousand_errors_of_one_line_are_all_told() {
    let text = format!("vm a {{ {}}}\n", "interface ".repeat(20_008));
    let errors = read(&text).expect_err("wrong").errors;
    assert_eq!(errors.len(), 20_000);
    let last = errors.last().and_then(|last| last.place.as_ref()).expect("a place");
    assert_eq!((last.line, last.column), (1, 8 + 20_007 * 10));
}

#[test]
fn ten_thousand_vms_are_each_on_a_switch_of_their_own() {
    let mut text = String::new();
    for number in 0..40_000 {
        let _ = writeln!(text, "vm v{number} {{\n\tboot /k\n\tinterface {{ switch s{number} rdomain 0 }}\n}}");
    }
    for number in 0..40_000 {
        let _ = writeln!(text, "switch s{number} {{\n\tinterface br{number}\n\tlocked lladdr\n}}");
    }
    let config = read(&text).expect("right").config;
    assert!(config.vms.iter().all(|vm| vm.nics[0].locked));
    let known = config::parse_onto("more", text.as_bytes(), &Macros::new(), &World, &World, &config).expect("right");
    assert_eq!((known.config.vms.len(), known.config.switches.len()), (0, 40_000));
}

#[test]
fn ten_thousand_switches_that_no_one_defined_are_all_warned_of() {
    let mut text = String::new();
    for number in 0..20_000 {
        let _ = writeln!(text, "vm v{number} {{\n\tboot /k\n\tinterface {{ switch lan{number} }}\n}}");
        let _ = writeln!(text, "switch dmz{number} {{ interface br{number} }}");
    }
    assert_eq!(read(&text).expect("right").warnings.len(), 20_000);
}

#[test]
fn macro_of_the_command_line_wins_and_is_warned_of_when_unused() {
    let mut macros = Macros::new();
    macros.define(b"disk_path=/from/D").expect("a definition");
    macros.define(b"idle=x").expect("a definition");
    let text = b"disk_path = \"/from/file\"\nvm \"v\" { disk $disk_path }\n";
    let parsed = parse("vm.conf", text, &macros, &World, &World).expect("right");
    let disk = &parsed.config.vms[0].disks[0];
    assert_eq!(disk.path.as_str(), "/from/D");
    let warnings: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["warning: macro 'idle' not used"]);
}

#[test]
fn file_loaded_beside_another_knows_its_vms_and_switches() {
    let known = read("switch s { interface br0\nlocked lladdr }\nvm \"base\" { boot \"/k\" }\n").expect("right").config;
    let text = "vm \"base\" { disk \"other\" }\nvm \"base\" instance \"i\" {\ninterface { switch s }\n}\n";
    let parsed = config::parse_onto("more", text.as_bytes(), &Macros::new(), &World, &World, &known).expect("right");
    assert_eq!(parsed.warnings, []);
    let names: Vec<&str> = parsed.config.vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["i"]);
    assert!(parsed.config.vms[0].nics[0].locked);
}

#[test]
fn includes_that_never_end_are_refused() {
    struct Endless;
    impl config::Sources for Endless {
        fn include(&self, path: &std::path::Path) -> std::io::Result<Vec<u8>> {
            let name = path.display();
            Ok(format!("include \"{name}a\"\ninclude \"{name}b\"\n").into_bytes())
        }
        fn resolve(&self, path: &std::path::Path) -> std::io::Result<std::path::PathBuf> {
            Ok(path.to_owned())
        }
    }
    let errors = parse("vm.conf", b"include \"a\"", &Macros::new(), &Endless, &World).expect_err("endless").errors;
    assert!(errors.iter().all(|error| error.fault.to_string().ends_with("it includes itself")));
}
