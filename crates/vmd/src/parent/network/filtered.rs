//! Whether frames that stay within a bridge meet the host's chains of forwarded packets: where the module br_netfilter is
//! loaded, as docker does, they do unless a sysctl is 0.

/// Of iptables' and ip6tables' chains, and nftables' in the same places. Without the module there is no such file.
const SETTINGS: [&str; 2] =
    ["/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"];

/// Whether the host's firewall sees what guests on one bridge send each other.
pub fn frames_are_filtered() -> bool {
    SETTINGS.iter().any(|path| std::fs::read(path).is_ok_and(|value| is_on(&value)))
}

fn is_on(value: &[u8]) -> bool {
    !matches!(value.trim_ascii(), b"" | b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_but_zero_is_on() {
        assert_eq!(
            ["1\n", "2", "0\n", "", "\n"].map(|value| is_on(value.as_bytes())),
            [true, true, false, false, false]
        );
    }
}
