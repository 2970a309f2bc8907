//! Section 4: files within files.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};

use config::{Macros, Sources};

use crate::{Told, refused, told_by};

/// Files by name, and which were asked for.
struct Files<'a>(&'a [(&'a str, &'a str)], RefCell<Vec<String>>);

impl Sources for Files<'_> {
    fn include(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.1.borrow_mut().push(path.display().to_string());
        let found = self.0.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| text.as_bytes().to_vec()).ok_or_else(|| io::Error::from_raw_os_error(2))
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

fn read(text: &str, files: &[(&str, &str)]) -> (Told, Vec<String>) {
    let files = Files(files, RefCell::default());
    let told = told_by(text.as_bytes(), &Macros::new(), &files);
    (told, files.1.into_inner())
}

#[test]
fn a_file_is_read_as_if_it_stood_there_to_any_depth() {
    let files = [("/a", "vm two { disk d }\ninclude \"/b\"\nvm four { disk d }"), ("/b", "vm three { disk d }")];
    let (told, _) = read("vm one { disk d }\ninclude \"/\" \"a\"\nvm five { disk d }\n", &files);
    let config = told.config.expect("right");
    let names: Vec<_> = config.vms.iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(names, ["one", "two", "three", "four", "five"]);
}

#[test]
fn a_name_is_taken_as_written_and_not_beside_the_file_that_includes_it() {
    let (_, asked) = read("include \"dir/a.conf\"\n", &[("dir/a.conf", "include \"b.conf\"\n")]);
    assert_eq!(asked, ["dir/a.conf", "b.conf"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_reading_goes_on() {
    let (told, _) = read("include \"/no\"\nrubbish\n", &[]);
    let wrong =
        ["1: failed to include file /no: No such file or directory", "2: syntax error: unknown statement \"rubbish\""];
    assert_eq!(told.errors, wrong);
}

#[test]
fn macros_go_both_ways_between_files() {
    let (told, _) = read("d = \"/d\"\ninclude \"/a\"\nvm w { disk $e }\n", &[("/a", "e = \"/e\"\nvm v { disk $d }\n")]);
    assert_eq!(told.config.expect("right").vms[1].disks[0].path.as_str(), "/e");
}

#[test]
fn errors_of_a_file_name_it_and_its_own_lines_and_count_for_the_whole() {
    let (told, _) = read("include \"/a\"\nlocal inet6\nrubbish\n", &[("/a", "\n\nvm v { disk d\n\tcpus 99\n}\n")]);
    assert!(told.config.is_none());
    let wrong = ["/a:4: invalid number of cpus: 99", "3: syntax error: unknown statement \"rubbish\""];
    assert_eq!(told.errors, wrong);
}

#[test]
fn a_block_that_a_file_leaves_open_goes_on_in_the_one_around_it() {
    let (told, _) = read("include \"/a\"\n\tmemory 1G\n}\n", &[("/a", "vm v {\n\tdisk d")]);
    assert_eq!(told.config.expect("right").vms[0].memory.bytes(), 1 << 30);
}

#[test]
fn quotes_do_not_span_files() {
    let (told, _) = read("include \"/a\"\n\"\n", &[("/a", "agentx context \"open")]);
    assert_eq!(told.errors[0], "/a:1: reached end of file while parsing quoted string");
}

#[test]
fn a_file_that_includes_itself_is_told_once() {
    let files = [("/a", "include \"/b\"\n"), ("/b", "include \"/a\"\nvm v { disk d }\n")];
    let (told, asked) = read("include \"/a\"\n", &files);
    assert_eq!(told.errors, ["/b:1: failed to include file /a: it includes itself"]);
    assert_eq!(asked, ["/a", "/b"]);
    let (told, _) = read("include \"/b\"\ninclude \"/b\"\n", &[("/b", "local inet6\n")]);
    assert!(told.config.is_some(), "twice one after the other is no circle");
}

#[test]
fn include_stands_alone_on_its_line_outside_of_blocks() {
    refused("include \"/a\" up\n", "1: syntax error: found \"up\"");
    refused("include\n", "1: syntax error: found end of line");
    refused("vm v {\n\tdisk d\n\tinclude \"/a\"\n}\n", "3: syntax error: unknown vm option \"include\"");
}
