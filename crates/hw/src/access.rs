//! Reading and writing byte images of registers at any offset and width, without a panic and without wrapping.

/// What nothing answers: all ones (openbsd/devices.md, 7.5).
pub fn ones(data: &mut [u8]) {
    data.fill(0xFF);
}

/// Copies `image` from `offset` on into `data`; what lies beyond the image reads as `beyond`.
pub fn copy(image: &[u8], offset: usize, data: &mut [u8], beyond: u8) {
    for (at, byte) in (offset..=usize::MAX).zip(data) {
        *byte = image.get(at).copied().unwrap_or(beyond);
    }
}

/// Puts an 8-bit register's value on the lowest lane of an access; an 8-bit device drives no other.
pub fn low_byte(value: u8, data: &mut [u8]) {
    ones(data);
    if let Some(lowest) = data.first_mut() {
        *lowest = value;
    }
}

/// Puts the part of a write that falls onto the field at `field` into the field's bytes. Whether there is such a part.
pub fn merge(bytes: &mut [u8], field: usize, offset: usize, data: &[u8]) -> bool {
    let mut touched = false;
    for (at, byte) in (field..=usize::MAX).zip(bytes) {
        if let Some(written) = at.checked_sub(offset).and_then(|index| data.get(index)) {
            *byte = *written;
            touched = true;
        }
    }
    touched
}

/// Little-endian value of up to eight bytes.
pub fn value(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_across_the_end_is_filled() {
        let mut data = [0; 4];
        copy(&[1, 2, 3], 2, &mut data, 0xFF);
        assert_eq!(data, [3, 0xFF, 0xFF, 0xFF]);
        copy(&[1, 2, 3], usize::MAX, &mut data[..1], 0);
        assert_eq!(data[0], 0);
    }

    #[test]
    fn a_write_changes_only_the_bytes_it_covers() {
        let after =
            |mut bytes: [u8; 4], field, offset, data: &[u8]| merge(&mut bytes, field, offset, data).then_some(bytes);
        assert_eq!(after([1, 2, 3, 4], 8, 10, &[9, 9, 9]), Some([1, 2, 9, 9]));
        assert_eq!(after([1, 2, 3, 4], 8, 4, &[9; 4]), None);
        assert_eq!(after([1, 2, 3, 4], 8, 12, &[9; 4]), None);
        assert_eq!(after([1, 2, 3, 4], 0, usize::MAX, &[9; 4]), None);
    }
}
