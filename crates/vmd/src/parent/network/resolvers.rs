//! The host's name servers, as far as its guests can reach them. Pure.

use std::net::Ipv4Addr;

use model::List;
use proto::device::MAX_NAME_SERVERS;

/// What a guest is told.
pub type NameServers = List<Ipv4Addr, MAX_NAME_SERVERS>;

/// Where the host's stand. In the first one often stands only a stub that answers the host alone; behind it are the files
/// in which systemd-resolved and NetworkManager then name the real ones.
pub const FILES: [&str; 3] =
    ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"];

/// The servers of the first file that names any which a guest can reach through the host.
pub fn first_within_reach(mut files: impl Iterator<Item = Vec<u8>>) -> NameServers {
    files.find_map(|text| Some(within_reach(&text)).filter(|servers| !servers.is_empty())).unwrap_or_default()
}

/// Those of one resolv.conf(5). DHCP tells IPv4 addresses alone.
fn within_reach(text: &[u8]) -> NameServers {
    let text = String::from_utf8_lossy(text);
    let mut servers = NameServers::default();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("nameserver").filter(|rest| rest.starts_with([' ', '\t'])) else { continue };
        let address = rest.split_ascii_whitespace().next().and_then(|word| word.parse::<Ipv4Addr>().ok());
        let Some(address) = address.filter(can_be_reached) else { continue };
        if !servers.contains(&address) && servers.push(address).is_err() {
            break;
        }
    }
    servers
}

/// Not this very host, not what lies on one link alone, not many.
fn can_be_reached(address: &Ipv4Addr) -> bool {
    let here = address.octets()[0] == 0 || address.is_loopback() || address.is_link_local();
    !here && !address.is_multicast() && !address.is_broadcast()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(files: &[&str]) -> Vec<String> {
        let files = files.iter().map(|file| file.as_bytes().to_vec());
        first_within_reach(files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_guest_is_told_the_hosts_name_servers_that_it_can_reach() {
        for (text, expected) in [
            (
                "nameserver 192.0.2.1\nsearch example.org\nnameserver\t192.0.2.2 # two\n",
                &["192.0.2.1", "192.0.2.2"][..],
            ),
            ("nameserver 127.0.0.53\nnameserver 192.0.2.1\n", &["192.0.2.1"]),
            ("nameserver 127.0.0.1\nnameserver ::1\nnameserver 2001:db8::1\nnameserver 0.0.0.0\n", &[]),
            ("nameserver 169.254.1.1\nnameserver 224.0.0.251\nnameserver 255.255.255.255\n", &[]),
            (
                "# nameserver 192.0.2.1\n;nameserver 192.0.2.1\n nameserver 192.0.2.1\nnameserver192.0.2.1\nnameserver\n",
                &[],
            ),
            (
                "nameserver 192.0.2.1\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
                &["192.0.2.1", "192.0.2.2", "192.0.2.3"],
            ),
            ("nameserver example.org\nnameserver 192.0.2\nnameserver 192.0.2.1.5\n", &[]),
            ("", &[]),
        ] {
            assert_eq!(told(&[text]), expected, "{text}");
        }
    }

    #[test]
    fn behind_a_stub_the_real_servers_are_told() {
        let (stub, real) = ("nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.1\n");
        assert_eq!(told(&[stub, real]), ["192.0.2.1"]);
        assert_eq!(told(&["nameserver 192.0.2.9\n", real]), ["192.0.2.9"], "only behind one");
        assert_eq!(told(&[stub, stub]), [""; 0]);
        assert_eq!(told(&[]), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_file_is_read_and_only_what_can_be_reached_is_told(
            before in "[ -~\\n\\t]{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..100), address: u32,
        ) {
            let address = Ipv4Addr::from(address);
            let text = [before.as_bytes(), &bytes, format!("\nnameserver {address}\n").as_bytes()].concat();
            let told = within_reach(&text);
            prop_assert!(told.iter().all(can_be_reached));
            prop_assert!(told.contains(&address) == can_be_reached(&address) || told.len() == MAX_NAME_SERVERS);
        }
    }
}
