//! What `vmd -n --format` writes: the text of a configuration that is its own.

use std::fs;
use std::path::Path;

use model::UserPath;

use crate::world::World;
use crate::{config, told};

#[test]
fn the_canonical_text_is_its_own_and_says_all_defaults() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut right = 0;
    for entry in fs::read_dir(folder).expect("the folder of cases") {
        let text = fs::read(entry.expect("an entry").path()).expect("a case");
        let Some(read) = told(&String::from_utf8_lossy(&text)).config else { continue };
        let canonical = String::from_utf8(config::canonical(&read, &World).expect("one")).expect("text");
        let again = config(&canonical);
        assert_eq!(String::from_utf8(config::canonical(&again, &World).expect("one")).expect("text"), canonical);
        right += 1;
    }
    assert!(right > 5, "{right} right ones");
    let canonical = config::canonical(&config("vm a { disk d }\n"), &World).expect("one");
    let text = String::from_utf8(canonical).expect("text");
    for default in ["\tenable\n", "\tmemory 536870912\n", "\tcpus 1\n", "\towner 0\n"] {
        assert!(text.contains(default), "{default:?} in {text}");
    }
}

/// What a configuration of these options of a VM is in its canonical text: the lines that hold a word.
fn lines(text: &str, word: &str) -> Vec<String> {
    let canonical = config::canonical(&config(text), &World).expect("a canonical text");
    let canonical = String::from_utf8(canonical).expect("text");
    assert_eq!(config(&canonical).globals, config(text).globals);
    canonical.lines().filter(|line| line.contains(word)).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn an_owner_is_a_number_unless_a_group_must_be_named() {
    let socket = |owner: &str| lines(&format!("socket owner {owner}\n"), "socket").remove(0);
    assert_eq!((socket("5000"), socket("joe")), ("socket owner 5000".to_owned(), "socket owner 1000".to_owned()));
    assert_eq!((socket("joe:wheel"), socket("joe:staff")), (socket("joe"), "socket owner \"joe:staff\"".to_owned()));
    assert_eq!(socket(":staff"), "socket owner \":staff\"");
    let vm = |owner: &str| lines(&format!("vm v {{\n\tdisk d\n\towner {owner}\n}}\n"), "\towner").remove(0);
    assert_eq!(
        (vm("5000"), vm("joe:wheel"), vm(":wheel")),
        ("owner 5000".into(), "owner \"joe:wheel\"".into(), "owner \":wheel\"".into())
    );
}

/// Names that no account has, or that would be read as others.
struct Names(Option<&'static str>, Option<&'static str>);

impl config::AccountNames for Names {
    fn user(&self, _: u32) -> Option<String> {
        self.0.map(str::to_owned)
    }

    fn group(&self, _: u32) -> Option<String> {
        self.1.map(str::to_owned)
    }
}

#[test]
fn an_owner_that_no_name_says_is_refused() {
    let text = "vm t {\n\tdisk d\n\towner :staff\n}\nvm t instance i {\n\tdisk e\n\towner 5000\n}\n";
    let told = |names: Names| config::canonical(&config(text), &names).map_err(|why| why.to_string());
    let user = Err("vm \"i\": owner 5000:20: vm.conf takes user and group by name, and user 5000 has none".to_owned());
    for names in [Names(None, Some("g")), Names(Some("a:b"), Some("g")), Names(Some(""), Some("g"))] {
        assert_eq!(told(names), user);
    }
    let group = Err("vm \"t\": owner 0:20: vm.conf takes user and group by name, and group 20 has none".to_owned());
    assert_eq!((told(Names(Some("u"), None)), told(Names(None, Some("")))), (group.clone(), group));
    assert!(told(Names(Some("u"), Some("g:h"))).is_ok(), "the first colon splits");
    let socket = config::canonical(&config("socket owner joe:staff\n"), &Names(None, None)).expect_err("nameless");
    assert!(socket.to_string().starts_with("socket owner 1000:20: "), "{socket}");
    let allow = "vm t {\n\tdisk d\n\tallow instance owner :staff\n}\n";
    let allow = config::canonical(&config(allow), &Names(None, None)).expect_err("nameless");
    assert!(allow.to_string().starts_with("vm \"t\": allow instance owner 0:20: "), "{allow}");
}

#[test]
fn a_string_that_no_file_can_hold_is_refused_with_its_option() {
    let of = |path: &str| {
        let mut config = config("vm v {\n\tdisk d\n}\nswitch s { interface br0 }\n");
        config.vms[0].disks[0].path = UserPath::new(path).expect("a path");
        config::canonical(&config, &World).map_err(|why| why.to_string())
    };
    let refused = |shown: &str| {
        Err(format!("vm \"v\": disk {shown}: a string in vm.conf can't contain a newline or NUL; rename the file"))
    };
    assert_eq!((of("/a\nb"), of("/a\0")), (refused("\"/a\\nb\""), refused("\"/a\\0\"")));
    assert!(of("/a\rb\u{1}\u{b}").is_ok());
    let mut after = config("vm v {\n\tdisk d\n}\n");
    after.globals.agentx = Some(config::AgentX { context: Some(b"a\n".to_vec()), path: None });
    after.vms[0].boot = UserPath::new("/b\n").ok();
    let first = config::canonical(&after, &World).expect_err("a newline").to_string();
    assert!(first.starts_with("context \"a\\n\": "), "the first one is told: {first}");
}

#[test]
fn backslashes_before_blanks_quotes_and_the_end_stay_what_they_are() {
    let written = |word: &str| {
        let mut config = config("vm v {\n\tdisk d\n}\n");
        config.vms[0].cdrom = UserPath::new(word).ok();
        let text = String::from_utf8(config::canonical(&config, &World).expect("one")).expect("text");
        let (_, rest) = text.split_once("\tcdrom ").expect("a cdrom");
        let (word, _) = rest.split_once("\n\tdisk").expect("the next option");
        word.to_owned()
    };
    assert_eq!(written(r"x\a\"), "\"x\\a\\\\\n\"");
    assert_eq!(written(r"x\\"), "\"x\\\\\\\n\"");
    assert_eq!(written(r#"x"\""#), r#""x\"\\"""#);
    assert_eq!((written(r"a\ b"), written("a\\\tb")), (r#""a\\ b""#.to_owned(), "\"a\\\\\tb\"".to_owned()));
    assert_eq!((written("a#b'"), written("")), ("\"a#b'\"".to_owned(), "\"\"".to_owned()));
}
