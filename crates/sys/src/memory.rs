//! Guest memory: a file without a name and of fixed size, which a vm process and its devices map.
//!
//! It comes from a tmpfs of its own, which has room for this file and is mounted at no path: whoever has the file can't take
//! more of the host's memory by it than the guest has. It gives huge pages to those who ask for them (MADV_HUGEPAGE): a
//! guest then takes one fault for each 2 MiB that it touches, not 512. A memfd gives them only where the whole host is
//! set so (/sys/kernel/mm/transparent_hugepage/shmem_enabled, `never` by default;
//! Documentation/admin-guide/mm/transhuge.rst).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{
    AtFlags, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, openat, unlinkat,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

/// Where the host says whether programs may have huge pages at all.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// What /proc/PID/maps calls it.
const NAME: &str = "guest memory";

/// Where guest memory comes from.
#[derive(Clone, Copy, Debug)]
pub enum Pool {
    /// A tmpfs for each.
    HugePages,
    /// Pages of 4 KiB: the host wants, has or gives no others.
    SmallPages,
}

impl Pool {
    /// Where the host's huge pages are not switched off and such a tmpfs can be made. The error says why not.
    pub fn huge_pages() -> io::Result<Self> {
        if std::fs::read_to_string(HUGE_PAGES)?.contains("[never]") {
            return Err(io::Error::other(format!("{HUGE_PAGES} is \"never\"")));
        }
        tmpfs(0)?;
        Ok(Self::HugePages)
    }

    /// A file of `bytes` zeros. No memory is taken before it is touched.
    pub fn take(self, bytes: u64) -> io::Result<OwnedFd> {
        match self {
            // Its size is kept by whom it is given to: ftruncate(2) is in no promise of a vm process.
            Self::HugePages => {
                let root = tmpfs(bytes)?;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                let file = openat(&root, NAME, flags, Mode::RUSR | Mode::WUSR)?;
                unlinkat(&root, NAME, AtFlags::empty())?;
                ftruncate(&file, bytes)?;
                Ok(file)
            }
            Self::SmallPages => sealed(NAME, bytes),
        }
    }
}

/// One with room for a file of `bytes`, which is never run. It lives as long as that file does.
fn tmpfs(bytes: u64) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // A size of 0 would be no limit. Of inodes its root is the first.
    let size = bytes.max(1).to_string();
    for (key, value) in
        [("source", "vmd-guest"), ("huge", "advise"), ("size", &*size), ("nr_inodes", "2"), ("mode", "700")]
    {
        fsconfig_set_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// An anonymous file of `bytes` zeros that nobody can shrink, grow or unseal; `name` is what /proc calls it.
pub fn sealed(name: &str, bytes: u64) -> io::Result<OwnedFd> {
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
    use rustix::fs::FallocateFlags;
    use rustix::io::Errno;

    use crate::alone::{alone, fill_descriptors};

    /// Both kinds; the first where this process may mount.
    fn pools() -> Vec<Pool> {
        let mut pools = vec![Pool::SmallPages];
        pools.extend(tmpfs(0).map(|_| Pool::HugePages));
        assert_eq!(pools.len() > 1, rustix::process::geteuid().is_root(), "root may mount");
        pools
    }

    #[test]
    fn memory_has_its_size_reads_zero_and_takes_none() {
        for pool in pools() {
            let fd = pool.take(1 << 40).expect("a sparse file");
            let stat = rustix::fs::fstat(&fd).expect("stat");
            assert_eq!((stat.st_size, stat.st_blocks, stat.st_nlink), (1 << 40, 0, 0));
            let mut bytes = [1; 8];
            assert_eq!(rustix::io::pread(&fd, &mut bytes, (1 << 40) - 8).expect("its end"), 8);
            assert_eq!(bytes, [0; 8]);
        }
    }

    #[test]
    fn a_write_beyond_its_size_takes_no_memory() {
        const SIZE: u64 = 3 << 20;
        for pool in pools() {
            let (first, second) = (pool.take(SIZE).expect("memory"), pool.take(SIZE).expect("memory"));
            let allocate = |fd: &OwnedFd, flags, from, len| rustix::fs::fallocate(fd, flags, from, len);
            allocate(&first, FallocateFlags::empty(), 0, SIZE).expect("all of it");
            let refused = match pool {
                Pool::HugePages => Errno::NOSPC,
                Pool::SmallPages => Errno::PERM, // its seal
            };
            for flags in [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE] {
                assert_eq!(allocate(&first, flags, SIZE, 1 << 32), Err(refused), "{pool:?}");
                assert_eq!(allocate(&first, flags, SIZE, 1), Err(refused), "{pool:?}");
            }
            assert_eq!(rustix::io::pwrite(&first, b"x", SIZE), Err(refused), "{pool:?}");
            allocate(&second, FallocateFlags::empty(), 0, SIZE).expect("another's is its own");
            let sectors = |fd: &OwnedFd| rustix::fs::fstat(fd).expect("stat").st_blocks;
            let all = i64::try_from(SIZE / 512).expect("small");
            assert_eq!((sectors(&first), sectors(&second)), (all, all), "{pool:?}");
        }
    }

    #[test]
    fn size_and_seals_are_fixed() {
        let fd = Pool::SmallPages.take(8192).expect("memory");
        assert_eq!(ftruncate(&fd, 4096), Err(rustix::io::Errno::PERM));
        assert_eq!(ftruncate(&fd, 16384), Err(rustix::io::Errno::PERM));
        assert_eq!(fcntl_add_seals(&fd, SealFlags::WRITE), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn beyond_the_file_size_limit_is_an_error() {
        alone("memory::tests::beyond_the_file_size_limit_is_an_error", || {
            use rustix::process::{Resource, Rlimit, setrlimit};
            crate::signals::outlive_the_file_size_limit();
            setrlimit(Resource::Fsize, Rlimit { current: Some(4096), maximum: Some(4096) }).expect("limit");
            for pool in pools() {
                assert_eq!(pool.take(8192).expect_err("too big").raw_os_error(), Some(libc::EFBIG));
            }
        });
    }

    #[test]
    fn full_descriptor_table_is_an_error() {
        alone("memory::tests::full_descriptor_table_is_an_error", || {
            let pools = pools();
            let _held = fill_descriptors(0);
            for pool in pools {
                assert_eq!(pool.take(4096).expect_err("full").raw_os_error(), Some(libc::EMFILE));
            }
        });
    }
}
