//! Whether network cards of VMs reach anything: taps, bridges, VRFs, NAT, forwarding, and other tools' firewalls.

use proto::privileged::{DOORS, FIREWALLD, TABLE};
use sys::netlink::nft::{Hook, Listed};

use super::{Judged, has_driver, hidden, known, module_of, note, ok, other_device, rights, unknown, value, warning};
use crate::doctor::ask::TUN;
use crate::doctor::host::{Host, Manager, Module, Unseen, Value};

/// NFPROTO_* of linux/netfilter.h: families whose chains see what guests send.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];

/// /dev/net/tun: no network card without it.
pub fn tun(host: &Host) -> Judged {
    let without = "VMs with network cards do not start";
    let load = "\"modprobe tun\"; in a container, let it have the device 10:200";
    match &host.tun {
        Err(Unseen::Missing) => warning(format!("/dev/net/tun: not there; {without}"), load),
        Err(unseen) => unknown(host, "/dev/net/tun", unseen),
        Ok(node) => match (other_device(node, TUN), &node.opens) {
            (Some(wrong), _) => warning(format!("/dev/net/tun: {wrong}; {without}"), format!("remove it, then {load}")),
            (None, Ok(())) => ok(format!("/dev/net/tun: device 10:200, {}", rights(node))),
            (None, Err(Unseen::Denied)) if host.caller.uid != 0 => {
                let seen = format!("user \"{}\" may not open /dev/net/tun ({})", host.caller.name, rights(node));
                note(seen, "nothing: vmd opens it as root")
            }
            (None, Err(Unseen::Denied)) => warning(format!("root may not open /dev/net/tun; {without}"), load),
            (None, Err(Unseen::Missing)) => warning(format!("/dev/net/tun: no driver behind it; {without}"), load),
            (None, Err(Unseen::Failed(_)))
                if has_driver(host, "tun") == Some(false) && module_of(host, "tun") == Module::Loadable =>
            {
                ok("/dev/net/tun: its module is loaded when it is needed")
            }
            (None, Err(Unseen::Failed(why))) => warning(format!("/dev/net/tun: {why}; {without}"), load),
        },
    }
}

/// A module that some of vm.conf needs.
pub fn module(host: &Host, name: &str, needed_by: &str) -> Judged {
    match module_of(host, name) {
        Module::Present => ok(format!("the kernel has {name}")),
        Module::BuiltIn => ok(format!("{name} is built in")),
        Module::Loadable => ok(format!("{name} is loaded when it is needed")),
        Module::Absent => warning(
            format!("the kernel has no {name}: {needed_by} fails"),
            format!("install a kernel with the module {name}"),
        ),
        Module::Unknown => note(
            format!("not loaded, and /lib/modules/{} has no list of what could be", host.release),
            format!("\"modprobe {name}\" tells, if {needed_by} is wanted"),
        ),
    }
}

/// Whether the kernel has nftables.
pub fn nftables(host: &Host) -> Judged {
    let without = "local interfaces reach nothing but the host";
    match &host.chains {
        Ok(chains) if module_of(host, "nft_masq") == Module::Absent => warning(
            format!("{} chains, but no module nft_masq: {without}", chains.len()),
            "install a kernel with CONFIG_NFT_MASQ, or write \"local nat no\"",
        ),
        Ok(chains) => ok(format!("they answer; {} chains", chains.len())),
        Err(Unseen::Denied) => hidden(host, "tables of nftables"),
        Err(Unseen::Missing) => warning(format!("none: {without}"), "install a kernel with CONFIG_NF_TABLES"),
        Err(Unseen::Failed(why)) => warning(
            format!("none: {why}; {without}"),
            "install a kernel with CONFIG_NF_TABLES, or write \"local nat no\"",
        ),
    }
}

/// Whether the host forwards by itself. vmd has it forward for local interfaces while there are any.
pub fn forwarding(host: &Host, of: Value) -> Judged {
    let ipv6 = of == Value::ForwardIpv6;
    let name = if ipv6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" };
    if ipv6 && matches!(host.values.get(&of), Some(Err(Unseen::Missing))) {
        return note("the host has no IPv6", "nothing, unless guests are to use it");
    }
    match value(host, name, of)? {
        "0" => ok(format!("{name} is 0; vmd has the host forward while a local interface needs it")),
        on => ok(format!("{name} is {on}")),
    }
}

/// Other tools' rules that drop what guests send through the host.
pub fn firewall(host: &Host) -> Judged {
    let chains = known(host, "chains of firewalls", &host.chains)?;
    let blocking: Vec<&Listed> = chains.iter().filter(|chain| blocks(chain)).collect();
    let closed: Vec<String> =
        blocking.iter().filter(|chain| door(chains, chain).is_none()).map(|chain| place(chain)).collect();
    let open: Vec<String> =
        blocking.iter().filter_map(|chain| Some(format!("{} (by {})", place(chain), door(chains, chain)?))).collect();
    if let [tap, ..] = host.marked.local.as_slice()
        && !chains.iter().any(|chain| chain.table == TABLE)
    {
        return warning(
            format!(
                "tap \"{tap}\" is there, and the nftables table \"inet {TABLE}\" is not: guests have no NAT, and the host may route for others"
            ),
            "\"vmctl reload\" restores the table; see the log for what removed it",
        );
    }
    if !blocking.is_empty() && value(host, "", Value::BridgeFilter).is_ok_and(|value| value != "0") {
        let places: Vec<String> = blocking.iter().map(|chain| place(chain)).collect();
        return warning(
            format!(
                "{} drops what guests on one bridge send each other, as net.bridge.bridge-nf-call-iptables is 1",
                places.join(", ")
            ),
            "\"sysctl net.bridge.bridge-nf-call-iptables=0\" (and bridge-nf-call-ip6tables), or accept there what comes and goes by the bridge",
        );
    }
    if !closed.is_empty() {
        let seen = format!("{} drops packets from guests on local interfaces and routed bridges", closed.join(", "));
        return warning(seen, "accept there packets from and to the taps and bridges of VMs");
    }
    let legacy = value(host, "tables of iptables", Value::LegacyTables);
    if legacy.is_ok_and(|names| names.split('\n').any(|name| name == "filter")) {
        return note(
            "iptables' older kind has a table \"filter\", whose policies can't be seen here",
            "\"iptables-legacy -S FORWARD\" shows whether it drops; accept taps and bridges of VMs there",
        );
    }
    match open.as_slice() {
        [] => ok("no chain drops forwarded packets"),
        open if blocking.iter().any(|chain| chain.table == FIREWALLD.0) => note(
            format!("vmd lets its guests through {}, unless firewalld owns its table", open.join(", ")),
            "where vmd's log says that it takes no rule: \"firewall-cmd --zone=trusted --add-interface=\" the tap",
        ),
        open => ok(format!("vmd lets its guests through {}", open.join(", "))),
    }
}

/// Other programs that have vmd's interfaces for theirs, and would undo what it set up.
pub fn managers(host: &Host) -> Judged {
    let managed = known(host, "who manages vmd's interfaces", &host.marked.managed)?;
    let of = |manager| {
        let names = managed.iter().filter(|(_, by)| *by == manager).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let (networkd, network_manager) = (of(Manager::Networkd), of(Manager::NetworkManager));
    if !networkd.is_empty() {
        return warning(
            format!("systemd-networkd manages {networkd}, and undoes what vmd sets up there"),
            "install 00-vmd.network in /etc/systemd/network, let no file that matches all interfaces sort before it, then \"networkctl reload\"",
        );
    }
    if !network_manager.is_empty() {
        return note(
            format!("NetworkManager manages {network_manager}, and may undo what vmd sets up there"),
            "install 00-vmd.conf in /etc/NetworkManager/conf.d, then \"nmcli general reload\"",
        );
    }
    ok("no other program manages vmd's interfaces")
}

/// A policy of drop for what is forwarded; firewalld refuses by its last rule.
fn blocks(chain: &Listed) -> bool {
    let looks =
        FAMILIES.iter().any(|(family, _)| *family == chain.family) && chain.hook == Some(Hook::Forward.number());
    looks && chain.table != TABLE && (chain.drops || chain.table == FIREWALLD.0)
}

fn door<'c>(chains: &'c [Listed], of: &Listed) -> Option<&'c str> {
    let same = |chain: &&Listed| (chain.family, &chain.table) == (of.family, &of.table);
    chains
        .iter()
        .filter(same)
        .map(|chain| chain.name.as_str())
        .find(|name| DOORS.contains(name) || (of.table.as_str(), *name) == FIREWALLD)
}

fn place(chain: &Listed) -> String {
    let family = FAMILIES.iter().find(|(family, _)| *family == chain.family).map_or("", |(_, name)| *name);
    format!("chain {} of table {family} {}", chain.name, chain.table)
}
