//! `vmctl image`: what an image is, and what is wrong with one, by the program itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use testkit::schema;

/// Status, standard output and standard error.
fn run(folder: &Path, program: &str, arguments: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(program);
    command.args(arguments.split(' ')).current_dir(folder).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}; the tests need qemu-utils"));
    let [out, err] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).expect("text"));
    (output.status.code(), out, err)
}

fn vmctl(folder: &Path, arguments: &str) -> (Option<i32>, String, String) {
    run(folder, env!("CARGO_BIN_EXE_vmctl"), arguments)
}

#[track_caller]
fn done(folder: &Path, program: &str, arguments: &str) {
    let (status, out, err) = run(folder, program, arguments);
    assert_eq!(status, Some(0), "{program} {arguments}: {out}{err}");
}

#[track_caller]
fn json(folder: &Path, arguments: &str, text: &str) -> (Option<i32>, Value) {
    let (status, out, err) = vmctl(folder, arguments);
    assert_eq!(err, "", "{arguments}");
    schema::holds(text, &out);
    (status, serde_json::from_str(&out).expect("JSON"))
}

const INFO: &str = include_str!("../../../docs/schema/image-info.json");
const CHECK: &str = include_str!("../../../docs/schema/image-check.json");

#[test]
fn an_image_and_its_bases_are_told_as_text_and_as_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("base.img"), vec![1; 2 << 20]).expect("it is ours");
    done(folder, "qemu-img", "create -q -f qcow2 -b base.img -F raw -o cluster_size=4k,compat=0.10 middle.qcow2");
    done(folder, "qemu-img", "create -q -f qcow2 -b middle.qcow2 -F qcow2 -o refcount_bits=8 top 10G");
    done(folder, "qemu-img", "snapshot -c s top");
    let (status, out, err) = vmctl(folder, "image info qcow2:top");
    assert_eq!((status, err.as_str()), (Some(0), ""));
    for line in [
        "     image  top\n    format  qcow2, version 3\n      size  10.0G (10737418240 bytes)\n",
        "  clusters  64.0K\n snapshots  1\n      base  middle.qcow2 (qcow2)\n\n     image  middle.qcow2\n",
        "    format  qcow2, version 2\n      size  2.0M (2097152 bytes)\n",
        "  clusters  4.0K\n      base  base.img (raw)\n\n     image  base.img\n    format  raw\n",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }
    let (status, told) = json(folder, "image --json info qcow2:top", INFO);
    assert_eq!((status, told["chain"].as_array().map(Vec::len)), (Some(0), Some(3)));
    let top = &told["chain"][0];
    assert_eq!((&top["path"], &top["snapshots"], &top["refcount_bits"]), (&"top".into(), &1.into(), &8.into()));
    assert_eq!((&top["base"]["name"], &top["base"]["format"]), (&"middle.qcow2".into(), &"qcow2".into()));
    let raw = &told["chain"][2];
    assert_eq!((&raw["size"], &raw["base"], &raw["version"]), (&(2 << 20).into(), &Value::Null, &Value::Null));
}

#[test]
fn what_a_header_says_against_its_image_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    done(folder, "qemu-img", "create -q -f qcow2 a.qcow2 1M");
    let file = File::options().write(true).open(folder.join("a.qcow2")).expect("it is ours");
    file.write_all_at(&[3], 79).expect("the incompatible features' last byte");
    let (_, told) = json(folder, "image info --json a.qcow2", INFO);
    let problems = told["chain"][0]["problems"].as_array().expect("a list").clone();
    assert_eq!(problems.len(), 2, "{problems:?}");
    let (status, out, _) = vmctl(folder, "image info a.qcow2");
    assert_eq!((status, out.matches("   problem  it ").count()), (Some(0), 2), "{out}");
}

#[test]
fn a_check_tells_errors_and_leaks_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("raw"), vec![1; 1 << 20]).expect("it is ours");
    done(folder, "qemu-img", "convert -f raw -O qcow2 raw a.qcow2");
    let counts = "16 of 16 clusters are allocated, 0 of them compressed\n";
    let right = (Some(0), format!("a.qcow2: no errors\n{counts}"), String::new());
    assert_eq!(vmctl(folder, "image check a.qcow2"), right);
    assert_eq!(json(folder, "image check --json a.qcow2", CHECK).1["allocated"], 16);

    let file = File::options().read(true).write(true).open(folder.join("a.qcow2")).expect("it is ours");
    let number = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).expect("it is there");
        u64::from_be_bytes(bytes) & 0x00ff_ffff_ffff_fe00
    };
    let block = number(number(48));
    let data = number(number(number(40))) / 65536;
    // A refcount of 2 where one thing refers to it: the mark for writing in place is wrong too. Then one of 0.
    file.write_all_at(&[0, 2], block + data * 2).expect("it is ours");
    let (status, told) = json(folder, "image --json check a.qcow2", CHECK);
    assert_eq!((status, &told["errors"], &told["leaks"]), (Some(1), &1.into(), &1.into()), "{told}");
    file.write_all_at(&[0, 0], block + data * 2).expect("it is ours");
    let (status, out, _) = vmctl(folder, "image check a.qcow2");
    let said = format!("error: the cluster at byte {} has refcount 0 and 1 references\n", data * 65536);
    assert!(status == Some(1) && out.contains(&said), "{out}");
    assert!(out.contains("a.qcow2: 2 errors and 0 leaked clusters; keep a copy before it is written again\n"), "{out}");
    file.write_all_at(&[0, 1], block + data * 2).expect("it is ours");

    // A cluster behind all others that nobody uses.
    let len = file.metadata().expect("there").len();
    file.set_len(len + 65536).expect("it is ours");
    file.write_all_at(&[0, 1], block + len / 65536 * 2).expect("it is ours");
    let (status, out, _) = vmctl(folder, "image check a.qcow2");
    assert_eq!(status, Some(0), "{out}");
    assert!(out.contains("a.qcow2: 1 leaked clusters, which cost space and nothing else\n"), "{out}");
    let (status, told) = json(folder, "image --json check a.qcow2", CHECK);
    assert_eq!((status, &told["errors"], &told["findings"][0]["kind"]), (Some(0), &0.into(), &"leak".into()));
}

#[test]
fn what_can_not_be_looked_at_is_told_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    done(folder, "qemu-img", "create -q -f qcow2 a.qcow2 1M");
    fs::copy(folder.join("a.qcow2"), folder.join("unnamed")).expect("it is ours");
    fs::write(folder.join("raw"), vec![1; 4096]).expect("it is ours");
    let raw = "raw: a raw image has nothing that could be wrong\n".to_owned();
    assert_eq!(vmctl(folder, "image check raw"), (Some(0), raw, String::new()));
    assert_eq!(json(folder, "image check --json raw", CHECK).1["clusters"], Value::Null);
    let held = File::options().read(true).write(true).open(folder.join("a.qcow2")).expect("it is ours");
    assert!(sys::lock::try_lock(&held, sys::lock::Kind::Exclusive).expect("it is ours"));
    let in_use = "in use: a VM, or another program, has it open for writing; stop that first";
    let looks = "begins like a qcow2 image; write \"qcow2:\" or \"raw:\" before its name to say what it is";
    for (image, said) in [
        ("a.qcow2", in_use),
        ("unnamed", looks),
        ("none", "No such file or directory"),
        ("none.qcow2", "No such file or directory"),
    ] {
        for what in ["info", "check"] {
            let said = format!("vmctl: image {what}: \"{image}\": {said}\n");
            assert_eq!(vmctl(folder, &format!("image {what} {image}")), (Some(1), String::new(), said));
        }
    }
    let (status, _, err) = vmctl(folder, "image check qcow2:raw");
    assert!(status == Some(1) && err.starts_with("vmctl: image check: \"raw\": the file is no qcow2 image"), "{err}");
}

#[test]
fn a_repair_mends_refcounts_and_refuses_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("raw"), vec![1; 1 << 20]).expect("it is ours");
    done(folder, "qemu-img", "convert -f raw -O qcow2 raw a.qcow2");
    let file = File::options().read(true).write(true).open(folder.join("a.qcow2")).expect("it is ours");
    let number = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).expect("it is there");
        u64::from_be_bytes(bytes) & 0x00ff_ffff_ffff_fe00
    };
    file.write_all_at(&[1], 79).expect("not closed");
    file.write_all_at(&[0; 40], number(number(48))).expect("no counts");
    let (status, out, _) = vmctl(folder, "image check -r a.qcow2");
    assert!(status == Some(0) && out.contains("a.qcow2: repaired\n"), "{out}");
    let (_, told) = json(folder, "image check -r --json a.qcow2", CHECK);
    assert_eq!((&told["errors"], &told["leaks"], &told["repaired"]), (&0.into(), &0.into(), &false.into()));
    done(folder, "qemu-img", "check a.qcow2");
    done(folder, "qemu-img", "compare -f raw -F qcow2 raw a.qcow2");

    let before = {
        file.write_all_at(&[2], number(number(40)) + 7).expect("a reserved bit");
        fs::read(folder.join("a.qcow2")).expect("it is there")
    };
    let (status, out, _) = vmctl(folder, "image check -r a.qcow2");
    let said =
        "a.qcow2: not repaired: it has errors that no repair mends; copy what can be read with vmctl create -i\n";
    assert!(status == Some(1) && out.contains(said), "{out}");
    assert!(fs::read(folder.join("a.qcow2")).expect("it is there") == before, "nothing was changed");
    let reader = File::open(folder.join("a.qcow2")).expect("it is ours");
    assert!(sys::lock::try_lock(&reader, sys::lock::Kind::Shared).expect("it is ours"));
    let (status, _, err) = vmctl(folder, "image check -r a.qcow2");
    assert!(status == Some(1) && err.contains("in use: "), "{err}");
}

#[test]
fn an_image_is_made_larger_and_never_smaller() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("raw"), vec![1; 1 << 20]).expect("it is ours");
    done(folder, "qemu-img", "convert -f raw -O qcow2 raw a.qcow2");
    let said = (Some(0), String::new(), "vmctl: image resized to 3.0G\n".to_owned());
    for image in ["raw", "a.qcow2"] {
        assert_eq!(vmctl(folder, &format!("image resize {image} 3G")), said);
    }
    assert_eq!(fs::metadata(folder.join("raw")).expect("there").len(), 3 << 30);
    done(folder, "qemu-img", "check a.qcow2");
    done(folder, "qemu-img", "compare -f raw -F qcow2 raw a.qcow2");
    for image in ["raw", "a.qcow2"] {
        let (status, _, err) = vmctl(folder, &format!("image resize {image} 2G"));
        let said = format!("vmctl: image resize: \"{image}\": it has 3221225472 bytes; images are not made smaller");
        assert!(status == Some(1) && err.starts_with(&said), "{err}");
    }
    done(folder, "qemu-img", "create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2 1M");
    let (status, _, err) = vmctl(folder, "image resize top.qcow2 2M");
    assert!(status == Some(1) && err.contains("\"top.qcow2\": its base is larger, and would show"), "{err}");
    done(folder, "qemu-img", "rebase -u -b top.qcow2 -F qcow2 top.qcow2");
    let (status, _, err) = vmctl(folder, "image resize top.qcow2 2M");
    assert_eq!((status, &*err), (Some(1), "vmctl: image resize: \"top.qcow2\": it is a base of itself\n"));
    let held = File::options().read(true).write(true).open(folder.join("a.qcow2")).expect("it is ours");
    assert!(sys::lock::try_lock(&held, sys::lock::Kind::Shared).expect("it is ours"));
    let (status, _, err) = vmctl(folder, "image resize a.qcow2 4G");
    assert!(status == Some(1) && err.contains("\"a.qcow2\": in use: "), "{err}");
}
