//! How local interfaces reach the outside: one nftables table of ours, and IPv4 forwarding interface by interface. Pure: it
//! sees chains and links, and says what to do.
//!
//! ```text
//! prerouting   from a local tap, with a source that is not behind it: dropped
//! forward      to a local tap: what it asked for, or what was redirected to it; nothing else
//!              from a local tap: on
//!              from an interface that forwards only since we had it do so: dropped (the host is nobody else's router)
//! postrouting  from a local tap: with the host's address
//! ```
//!
//! Taps are known by their group, so the rules need no change when one comes or goes. Which interfaces were made to
//! forward is kept in the table itself, as names of chains, so that the next priv, or the next daemon, can undo it.

use std::collections::{BTreeMap, BTreeSet};

use sys::netlink::Link;
use sys::netlink::nft::{Chain, Expr, Fact, Hook, Listed, Table};

pub use proto::privileged::TABLE;

use super::switches::LOCAL_GROUP;

/// The comment of our rules in others' chains.
pub const TAG: &str = "vmd";
/// Before the name of an interface that was made to forward.
const MEMORY: &str = "forwards-";
/// Bits of a connection's state (linux/netfilter/nf_conntrack_common.h: established, related).
const UNDER_WAY: u32 = 2 | 4;
/// Bit of a connection's status: its destination was changed (IPS_DST_NAT).
const REDIRECTED: u32 = 1 << 5;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_INET: u8 = 1;
/// Where tools that drop forwarded packets let others put rules: docker's and ufw's chains.
const DOORS: [&str; 2] = ["DOCKER-USER", "ufw-user-forward"];

/// The interfaces that an earlier call, or an earlier priv, made to forward.
pub fn remembered(chains: &[Listed]) -> BTreeSet<String> {
    let ours = chains.iter().filter(|chain| chain.family == NFPROTO_INET && chain.table == TABLE);
    ours.filter_map(|chain| chain.name.strip_prefix(MEMORY)).map(str::to_owned).collect()
}

/// The interfaces that don't forward and have to, so that answers from the outside reach guests.
pub fn to_switch_on<'a>(links: &'a [Link], forwarding: &BTreeMap<u32, bool>) -> Vec<&'a Link> {
    let idle = |link: &&Link| link.name != "lo" && forwarding.get(&link.index) == Some(&false);
    links.iter().filter(idle).collect()
}

/// The whole table, with these interfaces made to forward.
pub fn table(forwarding: &BTreeSet<String>) -> Table {
    let from = || vec![Expr::Load(Fact::InGroup), Expr::Is(LOCAL_GROUP.to_ne_bytes().to_vec())];
    let to = || vec![Expr::Load(Fact::OutGroup), Expr::Is(LOCAL_GROUP.to_ne_bytes().to_vec())];
    let bits = |fact, bits| vec![Expr::Load(fact), Expr::Mask(bits), Expr::IsNot(vec![0; 4])];
    let inet = || vec![Expr::Load(Fact::Family), Expr::Is(vec![NFPROTO_IPV4])];
    let rule = |parts: Vec<Vec<Expr>>, last| parts.into_iter().flatten().chain([last]).collect::<Vec<_>>();
    let spoofed = vec![Expr::Load(Fact::WayBack), Expr::Is(vec![0; 4])];
    let mut forward = vec![
        rule(vec![to(), bits(Fact::State, UNDER_WAY)], Expr::Accept),
        rule(vec![to(), bits(Fact::Status, REDIRECTED)], Expr::Accept),
        rule(vec![to()], Expr::Drop),
        rule(vec![from()], Expr::Accept),
    ];
    let others = forwarding.iter().map(|name| {
        let by = vec![Expr::Load(Fact::InName), Expr::Is(padded(name))];
        rule(vec![inet(), by], Expr::Drop)
    });
    forward.extend(others);
    let chain = |name: &str, base, rules| Chain { name: name.to_owned(), base, rules };
    let mut chains = vec![
        chain(
            "prerouting",
            Some((Hook::PreRouting, "filter", -150)),
            vec![rule(vec![inet(), from(), spoofed], Expr::Drop)],
        ),
        chain("forward", Some((Hook::Forward, "filter", 0)), forward),
        chain("postrouting", Some((Hook::PostRouting, "nat", 100)), vec![rule(vec![from()], Expr::Masquerade)]),
    ];
    chains.extend(forwarding.iter().map(|name| chain(&format!("{MEMORY}{name}"), None, vec![])));
    Table { name: TABLE, chains }
}

/// A chain of somebody's that drops what guests send, and the chain for others' rules that its tool has, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// The chain.
    pub chain: Listed,
    /// Where rules of ours go.
    pub door: Option<Listed>,
}

/// What stands in the way: a policy of drop, or firewalld, which refuses by its last rule.
pub fn blocking(chains: &[Listed]) -> Vec<Blocking> {
    let forward = Some(Hook::Forward.number());
    let drops = |chain: &&Listed| {
        let inet = chain.family == NFPROTO_IPV4 || chain.family == NFPROTO_INET;
        inet && chain.table != TABLE && chain.hook == forward && (chain.drops || chain.table == "firewalld")
    };
    let door =
        |of: &Listed| doors(chains).into_iter().find(|door| (door.family, &door.table) == (of.family, &of.table));
    chains.iter().filter(drops).map(|chain| Blocking { chain: chain.clone(), door: door(chain) }).collect()
}

/// All chains that rules of ours may be in.
pub fn doors(chains: &[Listed]) -> Vec<Listed> {
    chains.iter().filter(|chain| DOORS.contains(&chain.name.as_str())).cloned().collect()
}

/// What lets the packets of taps through a chain, such as the tool's own commands can show: by name, both ways. What may
/// not reach a tap our own table drops all the same.
pub fn passes(links: &[Link]) -> Vec<Vec<Expr>> {
    let local = links.iter().filter(|link| link.group == LOCAL_GROUP);
    let rule = |fact, link: &Link| vec![Expr::Load(fact), Expr::Is(padded(&link.name)), Expr::Accept];
    local.flat_map(|link| [rule(Fact::InName, link), rule(Fact::OutName, link)]).collect()
}

/// What names a blocking chain for the administrator.
pub fn place(chain: &Listed) -> String {
    let family = if chain.family == NFPROTO_INET { "inet" } else { "ip" };
    format!("chain {} of table {family} {}", chain.name, chain.table)
}

/// A name as the kernel compares it.
fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
