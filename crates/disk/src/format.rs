//! What an image's contents may say against its format. They never decide it: a guest could have written them
//! (openbsd/devices.md, 3.5). Pure.

/// The first four bytes of a qcow2 image (QEMU, docs/interop/qcow2.rst, "Header").
pub const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// Why an image is not taken for raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the image begins like a qcow2 image and was not called raw; add \"format qcow2\" or \"format raw\"")]
pub struct RawError;

/// Why the base of an image that does not record its format is not taken for raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it begins like a qcow2 image, and the image that names it does not record its format; record it with \
     \"qemu-img rebase -u -b BASE -F qcow2 IMAGE\", or with \"-F raw\""
)]
pub struct RawBaseError;

/// Whether an image whose first bytes are `header` may be taken for raw, when the user named no format. A guest that
/// writes a qcow2 header to its raw disk gains nothing: the disk is refused, and never read as qcow2
/// (openbsd/devices.md, Q21).
pub fn check_raw(header: &[u8]) -> Result<(), RawError> {
    if header.starts_with(&QCOW2_MAGIC) { Err(RawError) } else { Ok(()) }
}

/// The same of a base.
pub fn check_raw_base(header: &[u8]) -> Result<(), RawBaseError> {
    check_raw(header).map_err(|RawError| RawBaseError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_like_qcow2_is_not_taken_for_raw() {
        let mut header = *b"QFI\xfb\0\0\0\x03";
        assert_eq!(check_raw(&header), Err(RawError));
        assert_eq!(check_raw_base(&header), Err(RawBaseError));
        assert_eq!(check_raw_base(&header[..3]), Ok(()));
        assert_eq!(check_raw(&header[..4]), Err(RawError));
        assert_eq!(check_raw(&header[..3]), Ok(()));
        assert_eq!(check_raw(&[]), Ok(()));
        header[3] = 0;
        assert_eq!(check_raw(&header), Ok(()));
    }
}
