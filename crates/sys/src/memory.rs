//! Guest memory: an anonymous file of fixed size that the vm process makes and its devices map.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// An anonymous file of `bytes` zeros that nobody can shrink, grow or unseal: who maps it can rely on its size, and a
/// hostile peer cannot turn accesses into SIGBUS. No memory is taken before it is touched.
pub fn guest_memory(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let fd = sealable(name)?;
    ftruncate(&fd, bytes)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// Not executable where the kernel can say so (6.3): a guest's memory is never run by the host.
fn sealable(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => Ok(memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alone::{alone, fill_descriptors};

    #[test]
    fn memory_has_its_size_reads_zero_and_takes_none() {
        let fd = guest_memory("test", 1 << 40).expect("a sparse file");
        let stat = rustix::fs::fstat(&fd).expect("stat");
        assert_eq!((stat.st_size, stat.st_blocks), (1 << 40, 0));
    }

    #[test]
    fn size_and_seals_are_fixed() {
        let fd = guest_memory("test", 8192).expect("memory");
        assert_eq!(ftruncate(&fd, 4096), Err(rustix::io::Errno::PERM));
        assert_eq!(ftruncate(&fd, 16384), Err(rustix::io::Errno::PERM));
        assert_eq!(fcntl_add_seals(&fd, SealFlags::WRITE), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn beyond_the_file_size_limit_is_an_error() {
        alone("memory::tests::beyond_the_file_size_limit_is_an_error", || {
            use rustix::process::{Resource, Rlimit, setrlimit};
            // The kernel also sends SIGXFSZ, whose default would end the process.
            let _blocked = crate::signals::Signals::block(&[]).expect("no signals");
            // SAFETY: ignores a signal in a process that runs only this test.
            #[allow(unsafe_code)]
            unsafe {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            }
            setrlimit(Resource::Fsize, Rlimit { current: Some(4096), maximum: Some(4096) }).expect("limit");
            assert_eq!(guest_memory("test", 8192).expect_err("too big").raw_os_error(), Some(libc::EFBIG));
        });
    }

    #[test]
    fn full_descriptor_table_is_an_error() {
        alone("memory::tests::full_descriptor_table_is_an_error", || {
            let _held = fill_descriptors(0);
            assert_eq!(guest_memory("test", 4096).expect_err("full").raw_os_error(), Some(libc::EMFILE));
        });
    }
}
