//! Completion in three shells: each command and option of the program is in their files, and the shells offer them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/completions");

/// A vmctl that lists two VMs, one of which runs.
const VMCTL: &str = "#!/bin/sh\n[ \"$1\" = status ] || exit 1\necho '   ID   PID VCPUS  MAXMEM  CURMEM     TTY        OWNER    STATE NAME'\n\
     echo '    1    12     1    512M    100M   pts/4         root  running web'\n\
     [ \"$2\" = -r ] || echo '    2     -     1    512M       -       -         root  stopped wiki'\n";

/// A folder with that program.
fn programs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("vmctl");
    fs::write(&path, VMCTL).expect("it is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn file(shell: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("vmctl.{shell}"))
}

/// What a shell prints for a script, with that vmctl.
fn shell(name: &str, arguments: &[&str], script: &str) -> String {
    let programs = programs();
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new(name).args(arguments).arg(script).env("PATH", path).env("HOME", programs.path()).output();
    let output =
        output.unwrap_or_else(|error| panic!("{name}: {error}; install the package {name}, or run \"make test\""));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name} says nothing else");
    String::from_utf8(output.stdout).expect("text")
}

/// What bash offers behind these words; the last is being written.
fn bash(words: &[&str]) -> String {
    let list: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        ". '{}'; COMP_WORDS=({}); COMP_CWORD={}; _vmctl; echo \"${{COMPREPLY[*]}}\"",
        file("bash").display(),
        list.join(" "),
        words.len() - 1
    );
    shell("bash", &["--norc", "-c"], &script).trim().to_owned()
}

#[test]
fn bash_offers_commands_options_words_and_vms() {
    for (words, offered) in [
        (&["vmctl", "sta"][..], "start status"),
        (&["vmctl", "-"], "--help --version -h -v"),
        (&["vmctl", "help", "st"], "start status stop"),
        (&["vmctl", "-v", "un"], "unpause"),
        (&["vmctl", "status", ""], "web wiki"),
        (&["vmctl", "status", "-"], "--json -r"),
        (&["vmctl", "show", "--json", "wi"], "wiki"),
        (&["vmctl", "stop", ""], "web"),
        (&["vmctl", "stop", "-"], "-a -f -w"),
        (&["vmctl", "cdrom", ""], "eject insert web"),
        (&["vmctl", "cdrom", "-"], "-f"),
        (&["vmctl", "cdrom", "web", "insert", ""], ""),
        (&["vmctl", "console", "w"], "web"),
        (&["vmctl", "start", "-B", ""], "cdrom disk net"),
        (&["vmctl", "start", "-m", ""], ""),
        (&["vmctl", "start", "-t", "wi"], "wiki"),
        (&["vmctl", "start", "-"], "-B -b -c -d -i -L -m -n -p -r -t -w"),
        (&["vmctl", "create", "-"], "-b -i -s"),
        (&["vmctl", "log", "v"], "verbose"),
        (&["vmctl", "do"], "doctor"),
        (&["vmctl", "image", ""], "check info resize"),
        (&["vmctl", "image", "-"], "--json -r"),
        (&["vmctl", "doctor", "-"], "--json"),
        (&["vmctl", "doctor", ""], ""),
        (&["vmctl", "reset", ""], "all switches vms"),
        (&["vmctl", "reload", ""], ""),
        (&["vmctl", "nosuch", ""], ""),
    ] {
        assert_eq!(bash(words), offered, "{words:?}");
    }
}

#[test]
fn fish_offers_the_same() {
    let offers = |line: &str| {
        let script = format!("source '{}'; complete -C '{line}'", file("fish").display());
        let said = shell("fish", &["--no-config", "-c"], &script);
        said.lines().map(|line| line.split('\t').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(offers("vmctl sta"), "start status");
    assert_eq!(offers("vmctl stop w"), "web");
    assert_eq!(offers("vmctl status w"), "web wiki");
    assert_eq!(offers("vmctl status --js"), "--json");
    assert_eq!(offers("vmctl start -B "), "cdrom disk net");
    assert_eq!(offers("vmctl reset "), "all switches vms");
}

#[test]
fn zsh_takes_the_file() {
    let script = format!("autoload -U compinit; autoload +X -Uz _arguments; zsh -n '{}'", file("zsh").display());
    assert_eq!(shell("zsh", &["-f", "-c"], &script), "");
    assert!(text(&file("zsh")).starts_with("#compdef vmctl\n"), "zsh finds it by this line");
}

/// The usage of each command of the program.
fn usages() -> Vec<(String, String, String)> {
    let commands = vmctl::commands();
    commands.map(|(name, syntax, about)| (name.to_owned(), syntax.to_owned(), about.to_owned())).collect()
}

#[test]
fn each_command_and_option_of_the_program_is_in_each_file() {
    let [zsh, fish] = ["zsh", "fish"].map(|shell| text(&file(shell)));
    let usages = usages();
    assert!(usages.len() > 14, "{usages:?}");
    for (command, syntax, about) in usages {
        assert!(zsh.contains(&format!("'{command}:{about}'\n")), "zsh: {command}");
        let list = fish.lines().find(|line| line.starts_with("set -l commands ")).expect("a list");
        assert!(list.split(' ').any(|word| word == command), "fish: {command}");
        let offered = self::bash(&["vmctl", &command]);
        assert!(offered.split(' ').any(|word| word == command), "bash: {command}");
        let words = syntax.split_whitespace().map(|word| word.trim_matches(['[', ']']));
        let letters = words.filter_map(|word| word.strip_prefix('-'));
        let in_bash = self::bash(&["vmctl", &command, "-"]);
        for option in letters {
            let all = match option.strip_prefix('-') {
                Some(word) => vec![format!("--{word}")],
                None => option.chars().map(|letter| format!("-{letter}")).collect(),
            };
            for option in all {
                assert!(in_bash.split(' ').any(|word| word == option), "bash: {command} {option}");
                assert!(zsh.contains(&format!("{option}[")), "zsh: {command} {option}");
                let fish_form = option.replacen("--", "-l ", 1);
                let fish_form = if fish_form == option { option.replacen('-', "-s ", 1) } else { fish_form };
                let has = |line: &str| line.contains(&format!(" {fish_form} ")) && line.contains(&command);
                assert!(fish.lines().any(has), "fish: {command} {option}");
            }
        }
    }
}
