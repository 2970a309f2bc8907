//! Where things are that were made before the tests ran: the binaries under test, and the guests' kernels and images.
//!
//! `make test` builds the former and lets `scripts/lab setup` prepare the latter.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The two ways in which a Linux kernel is handed to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// A bzImage, by the Linux x86 boot protocol.
    BzImage,
    /// An ELF file with the PVH entry.
    Vmlinux,
}

/// The project's root directory.
pub fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("crates/testkit lies two folders down").to_path_buf()
}

/// One of the project's scripts.
pub fn script(name: &str) -> PathBuf {
    project().join("scripts").join(name)
}

/// The stock kernel that guests boot, in one of its two forms.
pub fn kernel(kind: Kernel) -> PathBuf {
    prepared(match kind {
        Kernel::BzImage => "bzimage",
        Kernel::Vmlinux => "vmlinux",
    })
}

/// The version of that kernel, as `uname -r` prints it.
pub fn kernel_version() -> String {
    let file = prepared("vmlinux").with_file_name("version");
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).trim().to_owned()
}

/// The guests' RAM disk: virtio drivers and a command loop on the console.
pub fn initrd() -> PathBuf {
    prepared("initrd")
}

/// The small root file system, an ext4 image. Shared by all: copy it before a guest may write to it.
pub fn root_file_system() -> PathBuf {
    prepared("rootfs")
}

/// The daemon's binary: from `$VMD_BIN_DIR`, else beside the test that runs.
pub fn vmd() -> PathBuf {
    binary("vmd")
}

/// The command's binary, found like [`vmd`].
pub fn vmctl() -> PathBuf {
    binary("vmctl")
}

fn binary(name: &str) -> PathBuf {
    let dir = match env::var_os("VMD_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        // target/TRIPLE/PROFILE/deps/TEST
        None => {
            let test = env::current_exe().expect("a test knows its own file");
            test.ancestors().nth(2).expect("a test lies below deps/").to_path_buf()
        }
    };
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{}: not there; \"make build\" makes it, and \"make test\" tells the tests where",
        path.display()
    );
    path
}

fn prepared(name: &str) -> PathBuf {
    let output = Command::new(script("lab")).args(["path", name]).output().expect("scripts/lab can be run");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    assert!(path.exists(), "{}: not there; \"scripts/lab setup\" makes it", path.display());
    path
}
