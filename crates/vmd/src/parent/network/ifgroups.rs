//! Groups of interfaces by name, as ip(8) and nft(8) know them. Pure.

/// Where the names stand: the first file that exists counts (iproute2, lib/rt_names.c).
pub const FILES: [&str; 2] = ["/etc/iproute2/group", "/usr/share/iproute2/group"];

/// The number of a group: lines of a number, decimal or with "0x", and a name. The last one counts, as there.
pub fn number_of(text: &[u8], group: &str) -> Option<u32> {
    let text = String::from_utf8_lossy(text);
    let mut numbers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (number, name) = (words.next()?, words.next()?);
        let number = match number.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => number.parse(),
        };
        number.ok().filter(|_| name == group)
    });
    numbers.next_back()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &[u8] = b"# device group names\n0\tdefault\n  1000 dmz # ours\n0x2a hex\n1001 two\n1002 two\n#7 not\nx odd\n-1 low\n9\n";

    #[test]
    fn groups_are_what_ip_shows() {
        let names = ["default", "dmz", "hex", "two", "not", "odd", "low", "none", "#", ""];
        let numbers = [Some(0), Some(1000), Some(42), Some(1002), None, None, None, None, None, None];
        assert_eq!(names.map(|name| number_of(FILE, name)), numbers);
    }

    proptest! {
        #[test]
        fn any_file_is_read_and_what_stands_in_it_is_found(
            before in proptest::collection::vec(any::<u8>(), 0..200), number: u32, name in "[a-z_]{1,15}",
        ) {
            let _ = number_of(&before, &name);
            let file = [&before[..], format!("\n{number}\t{name}\n").as_bytes()].concat();
            prop_assert_eq!(number_of(&file, &name), Some(number));
        }
    }
}
