//! How local interfaces reach the outside: nftables tables of ours, and forwarding. Pure: it sees chains and links, and
//! says what to do.
//!
//! ```text
//! prerouting   from a local tap, with a source that is not behind it: dropped
//! forward      to a local tap: what it asked for, or what was redirected to it; nothing else
//!              from a local tap: on
//!              from a port of a bridge to another: on (bridges show here where br_netfilter is loaded)
//!              from an interface that forwards only since we had it do so: dropped (the host is nobody else's router)
//! postrouting  from a local tap: with the host's address
//! ```
//!
//! There are two tables. The first has all of it, and belongs to a socket of ours: nobody else can flush it, but it is gone
//! when the last process of vmd is killed. So the second has the chain `forward` once more, is nobody's, and is made again
//! when it was flushed: what still forwards for us is kept in by it until the next daemon has undone that.
//!
//! Taps are known by their group, or by their index where their group is the administrator's, so that the rules need no
//! change when one goes. What was changed on the host is kept in the tables themselves, as names of chains, so that the
//! next priv, or the next daemon, can undo it.

use std::collections::{BTreeMap, BTreeSet};

use sys::netlink::nft::{Chain, Expr, Fact, Hook, INET as NFPROTO_INET, Listed, Table};
use sys::netlink::{Link, LinkKind};

use proto::privileged::{DOORS, FIREWALLD};
pub use proto::privileged::{HOST_TABLE, TABLE};

use super::forward6::{self, Change};
use super::switches::LOCAL_GROUP;

/// The comment of our rules in others' chains.
pub const TAG: &str = "vmd";
/// Before the name of an interface that was made to forward.
const FORWARDS: &str = "forwards-";
/// Before the index of a local tap whose group is the administrator's.
const TAP: &str = "tap-";
/// Bits of a connection's state (linux/netfilter/nf_conntrack_common.h: established, related).
const UNDER_WAY: u32 = 2 | 4;
/// Bit of a connection's status: its destination was changed (IPS_DST_NAT).
const REDIRECTED: u32 = 1 << 5;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// What the table remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Local taps that are not in our group, by index.
    pub taps: BTreeSet<u32>,
    /// Interfaces that were made to forward IPv4.
    pub forwards: BTreeSet<String>,
    /// What was changed so that IPv6 is forwarded.
    pub inet6: BTreeSet<Change>,
}

impl Memory {
    /// What an earlier call, or an earlier priv, left in the table.
    pub fn of(chains: &[Listed]) -> Self {
        let ours = |chain: &&Listed| chain.family == NFPROTO_INET && is_ours(&chain.table);
        let ours = chains.iter().filter(ours);
        let mut memory = Self::default();
        for name in ours.map(|chain| chain.name.as_str()) {
            memory.forwards.extend(name.strip_prefix(FORWARDS).map(str::to_owned));
            memory.taps.extend(name.strip_prefix(TAP).and_then(|index| index.parse::<u32>().ok()));
            memory.inet6.extend(Change::of_name(name));
        }
        memory
    }

    /// Forgets interfaces that are gone: the next ones of their names are not ours to change.
    pub fn forget_all_but(&mut self, links: &[Link]) {
        let there = |name: &str| links.iter().any(|link| link.name == name);
        self.taps.retain(|index| links.iter().any(|link| link.index == *index));
        self.forwards.retain(|name| there(name));
        self.inet6.retain(|change| forward6::is_for_all(&change.interface) || there(&change.interface));
    }

    /// What either knows.
    pub fn extend(&mut self, other: Self) {
        self.taps.extend(other.taps);
        self.forwards.extend(other.forwards);
        self.inet6.extend(other.inet6);
    }

    /// Whether the tables are needed: for a local tap, or because something forwards for one that was there.
    pub fn is_needed(&self, links: &[Link]) -> bool {
        !self.forwards.is_empty() || !self.inet6.is_empty() || links.iter().any(|link| self.is_local(link))
    }

    fn is_local(&self, link: &Link) -> bool {
        link.group == LOCAL_GROUP || self.taps.contains(&link.index)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let forwards = self.forwards.iter().map(|name| format!("{FORWARDS}{name}"));
        let taps = self.taps.iter().map(|index| format!("{TAP}{index}"));
        forwards.chain(taps).chain(self.inet6.iter().map(Change::name))
    }
}

/// The interfaces that don't forward and have to, so that answers from the outside reach guests.
pub fn to_switch_on<'a>(links: &'a [Link], forwarding: &BTreeMap<u32, bool>) -> Vec<&'a Link> {
    let idle = |link: &&Link| link.name != "lo" && forwarding.get(&link.index) == Some(&false);
    links.iter().filter(idle).collect()
}

/// Both tables.
pub fn tables(memory: &Memory, links: &[Link]) -> [Table; 2] {
    let local = |group, index| {
        let by_group = vec![Expr::Load(group), Expr::Is(LOCAL_GROUP.to_ne_bytes().to_vec())];
        let by_index = |tap: &u32| vec![Expr::Load(index), Expr::Is(tap.to_ne_bytes().to_vec())];
        std::iter::once(by_group).chain(memory.taps.iter().map(by_index)).collect::<Vec<_>>()
    };
    let (from, to) = (local(Fact::InGroup, Fact::InIndex), local(Fact::OutGroup, Fact::OutIndex));
    let bits = |fact, bits| vec![Expr::Load(fact), Expr::Mask(bits), Expr::IsNot(vec![0; 4])];
    let family = |family| vec![Expr::Load(Fact::Family), Expr::Is(vec![family])];
    let name = |fact, name: &str| vec![Expr::Load(fact), Expr::Is(padded(name))];
    let rule = |parts: Vec<Vec<Expr>>, last| parts.into_iter().flatten().chain([last]).collect::<Vec<_>>();
    let each = |of: &[Vec<Expr>], last: Expr| of.iter().map(|one| rule(vec![one.clone()], last.clone())).collect();
    let spoofed = vec![Expr::Load(Fact::WayBack), Expr::Is(vec![0; 4])];

    let spoofing = from.iter().map(|from| rule(vec![from.clone(), spoofed.clone()], Expr::Drop)).collect();
    let mut forward = Vec::new();
    for to in to {
        forward.push(rule(vec![to.clone(), bits(Fact::State, UNDER_WAY)], Expr::Accept));
        forward.push(rule(vec![to.clone(), bits(Fact::Status, REDIRECTED)], Expr::Accept));
        forward.push(rule(vec![to], Expr::Drop));
    }
    forward.extend::<Vec<_>>(each(&from, Expr::Accept));
    let bridges = links.iter().filter(|link| link.kind == LinkKind::Bridge);
    for bridge in bridges.clone() {
        let within = vec![name(Fact::InName, &bridge.name), name(Fact::OutName, &bridge.name)];
        forward.push(rule(within, Expr::Accept));
    }
    forward
        .extend(memory.forwards.iter().map(|by| rule(vec![family(NFPROTO_IPV4), name(Fact::InName, by)], Expr::Drop)));
    match forward6::who_forwards(&memory.inet6) {
        forward6::Forwarding::All => {
            // A bridge that is made later has no rule of its own; what stays within it goes on all the same.
            let known = bridges.flat_map(|bridge| [Fact::InName, Fact::OutName].map(|fact| name(fact, &bridge.name)));
            forward.extend(known.map(|known| rule(vec![family(NFPROTO_IPV6), known], Expr::Drop)));
            let kinds = [Fact::InKind, Fact::OutKind].map(|fact| name(fact, "bridge"));
            forward.push(rule([&[family(NFPROTO_IPV6)], &kinds[..]].concat(), Expr::Accept));
            forward.push(rule(vec![family(NFPROTO_IPV6)], Expr::Drop));
        }
        forward6::Forwarding::Some(names) => forward
            .extend(names.into_iter().map(|by| rule(vec![family(NFPROTO_IPV6), name(Fact::InName, by)], Expr::Drop))),
    }
    let chain = |name: &str, base, rules| Chain { name: name.to_owned(), base, rules };
    let first = chain("prerouting", Some((Hook::PreRouting, "filter", -150)), spoofing);
    let forward = chain("forward", Some((Hook::Forward, "filter", 0)), forward);
    let last = chain("postrouting", Some((Hook::PostRouting, "nat", 100)), each(&from, Expr::Masquerade));
    let names = || memory.names().map(|name| chain(&name, None, vec![]));
    let table = |name: &str, owned, chains: Vec<Chain>| {
        let chains = chains.into_iter().chain(names()).collect();
        Table { name: name.to_owned(), device: None, owned, sets: vec![], chains }
    };
    [table(TABLE, true, vec![first, forward.clone(), last]), table(HOST_TABLE, false, vec![forward])]
}

fn is_ours(table: &str) -> bool {
    [TABLE, HOST_TABLE].contains(&table)
}

/// A chain of somebody's that drops what guests send, and the chain for others' rules that its tool has, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// The chain.
    pub chain: Listed,
    /// Where rules of ours go.
    pub door: Option<Listed>,
}

/// What stands in the way: a policy of drop, or firewalld, which refuses by its last rule. With `inet6` of IPv6 too.
pub fn blocking(chains: &[Listed], inet6: bool) -> Vec<Blocking> {
    let forward = Some(Hook::Forward.number());
    let drops = |chain: &&Listed| {
        let concerned = match chain.family {
            NFPROTO_IPV4 | NFPROTO_INET => true,
            NFPROTO_IPV6 => inet6,
            _ => false,
        };
        concerned && !is_ours(&chain.table) && chain.hook == forward && (chain.drops || chain.table == FIREWALLD.0)
    };
    let door =
        |of: &Listed| doors(chains).into_iter().find(|door| (door.family, &door.table) == (of.family, &of.table));
    chains.iter().filter(drops).map(|chain| Blocking { chain: chain.clone(), door: door(chain) }).collect()
}

/// All chains that rules of ours may be in.
pub fn doors(chains: &[Listed]) -> Vec<Listed> {
    let named = |chain: &Listed| DOORS.contains(&chain.name.as_str());
    let door = |chain: &&Listed| named(chain) || (chain.table.as_str(), chain.name.as_str()) == FIREWALLD;
    chains.iter().filter(door).cloned().collect()
}

/// What lets the packets of taps through a chain, such as the tool's own commands can show: by name, both ways. What may
/// not reach a tap our own table drops all the same.
pub fn passes(links: &[Link], memory: &Memory) -> Vec<Vec<Expr>> {
    let local = links.iter().filter(|link| memory.is_local(link));
    let rule = |fact, link: &Link| vec![Expr::Load(fact), Expr::Is(padded(&link.name)), Expr::Accept];
    local.flat_map(|link| [rule(Fact::InName, link), rule(Fact::OutName, link)]).collect()
}

/// What keeps guests on one bridge from each other, where their frames meet the chains of forwarded packets: for the
/// administrator, as a rule that let all such frames through would let routed packets by an isolated port's side too.
pub fn held_up(bridge: &str, blocking: &Blocking) -> String {
    format!(
        "{} drops what guests on bridge \"{bridge}\" send each other, as net.bridge.bridge-nf-call-iptables is 1: accept \
         there what comes and goes by \"{bridge}\", or set net.bridge.bridge-nf-call-iptables (for IPv6 \
         bridge-nf-call-ip6tables) to 0",
        place(&blocking.chain)
    )
}

/// What names a blocking chain for the administrator.
pub fn place(chain: &Listed) -> String {
    let family = match chain.family {
        NFPROTO_INET => "inet",
        NFPROTO_IPV6 => "ip6",
        _ => "ip",
    };
    format!("chain {} of table {family} {}", chain.name, chain.table)
}

/// A name as the kernel compares it.
fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
