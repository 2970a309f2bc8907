//! Whatever the bytes: no panic, an answer in time, and what is accepted means the same in its canonical form.

mod world;

use config::{AgentX, Config};
use config::{Macros, canonical, parse};
use model::{CommandLine, Description, Disk, Switch, SwitchName, UserPath};
use proptest::prelude::*;
use world::World;

/// Pieces of the language, so that random text gets past its first word.
const PIECES: &[&str] = &[
    "vm ",
    "\"a\" ",
    "web ",
    "{",
    "}",
    "\n",
    "\n\t",
    " ",
    ",",
    "=",
    "$m ",
    "m = ",
    "\"x y\" ",
    "\\\n",
    "#",
    "\"",
    "'",
    "switch ",
    "interface ",
    "tap3 ",
    "tap ",
    "br0 ",
    "local ",
    "prefix ",
    "\"10/8\" ",
    "inet6 ",
    "memory ",
    "512M ",
    "1048576 ",
    "-1 ",
    "2 ",
    "disk ",
    "format ",
    "raw ",
    "qcow2 ",
    "boot ",
    "device ",
    "cdrom ",
    "net ",
    "cpus ",
    "initrd ",
    "cmdline ",
    "description ",
    "owner ",
    "joe:operator ",
    ":staff ",
    "allow ",
    "instance ",
    "locked ",
    "guarded ",
    "isolated ",
    "iops ",
    "bandwidth ",
    "burst ",
    "external ",
    "lladdr ",
    "2:0:0:0:0:1 ",
    "group ",
    "rdomain ",
    "up ",
    "down ",
    "enable ",
    "disable ",
    "sev ",
    "seves ",
    "interfaces ",
    "include ",
    "\"/etc/vm.d/one.conf\" ",
    "agentx ",
    "context ",
    "path ",
    "socket ",
    "staggered ",
    "start ",
    "parallel ",
    "delay ",
    "\\\\",
    "\\\" ",
    "nat ",
    "no ",
    "é",
];

fn check(text: &[u8]) {
    let Ok(parsed) = parse("vm.conf", text, &Macros::new(), &World, &World) else { return };
    let canonical = canonical(&parsed.config, &World).expect("a canonical text");
    let mut again = match parse("canonical", &canonical, &Macros::new(), &World, &World) {
        Ok(again) => again.config,
        Err(errors) => panic!("{}\n{errors}", String::from_utf8_lossy(&canonical)),
    };
    for (vm, first) in again.vms.iter_mut().zip(&parsed.config.vms) {
        vm.template.clone_from(&first.template);
    }
    assert_eq!(again, parsed.config);
}

/// A configuration of which every string is this one, as far as it may be.
fn said(word: &str) -> Config {
    let text = "agentx context x path \"/x\"\nvm v {\n\tboot /k\n\tinitrd /i\n\tcmdline x\n\tcdrom x\n\tdisk d\n\t\
        interface { switch s }\n}\nswitch s { interface br0 }\n";
    let mut config = parse("vm.conf", text.as_bytes(), &Macros::new(), &World, &World).expect("right").config;
    let path = || UserPath::new(&format!("/{word}")).expect("a short path");
    config.globals.agentx = Some(AgentX { context: Some(word.into()), path: Some(path()) });
    let vm = &mut config.vms[0];
    (vm.boot, vm.initrd, vm.cdrom) = (Some(path()), Some(path()), UserPath::new(word).ok());
    vm.description = Description::new(word.as_bytes()).ok();
    vm.cmdline = CommandLine::new(word.as_bytes()).ok();
    vm.disks[0] = Disk::new(path(), None);
    if let Ok(name) = SwitchName::new(word.as_bytes()) {
        vm.nics[0].switch = Some(name.clone());
        config.switches =
            config.switches.iter().map(|switch| Switch { name: name.clone(), ..switch.clone() }).collect();
    }
    config
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn random_pieces_of_the_language_keep_their_meaning(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        check(pieces.concat().as_bytes());
    }

    #[test]
    fn random_options_of_a_vm_keep_their_meaning(
        lines in proptest::collection::vec(proptest::collection::vec(proptest::sample::select(PIECES), 1..5), 0..6),
        path in "[ -~\t]{1,20}",
    ) {
        let lines: Vec<String> = lines.iter().map(|line| line.concat()).collect();
        check(format!("vm \"v\" {{\n\tdisk \"{path}\"\n\t{}\n}}\n", lines.join("\n\t")).as_bytes());
    }

    #[test]
    fn any_string_keeps_its_meaning_or_is_refused(word in "[\\\\\\\\\"\"'#(){},=$ \t\r\nxé🦀]{0,8}") {
        let config = said(&word);
        match canonical(&config, &World) {
            Ok(text) => {
                prop_assert!(!word.contains('\n'));
                let again = parse("canonical", &text, &Macros::new(), &World, &World);
                let again = again.map(|again| again.config).map_err(|errors| errors.to_string());
                prop_assert_eq!(again, Ok(config), "{}", String::from_utf8_lossy(&text));
            }
            Err(why) => prop_assert!(word.contains('\n') && why.to_string().starts_with("context "), "{}", why),
        }
    }

    #[test]
    fn errors_are_pointed(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)) {
        if let Err(errors) = parse("vm.conf", pieces.concat().as_bytes(), &Macros::new(), &World, &World) {
            prop_assert!(!errors.errors.is_empty());
            for error in &errors.errors {
                let place = error.place.as_ref().expect("every error has a place");
                prop_assert!(place.line >= 1 && place.column >= 1);
                prop_assert!(error.to_string().contains('^'));
            }
        }
    }
}
