//! nftables over netlink, synchronous: one table is made or replaced as a whole, and chains are listed.
//!
//! Called by priv alone. A table is data: chains of rules of expressions, each of which loads, compares or decides. What is
//! sent is one batch, that the kernel carries out as a whole or not at all.

mod rule;
mod uapi;

use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use super::NetlinkError;
use super::attributes::{Out, find, plain, string, text};
use super::wire::Wire;
use rule::write_rule;
use uapi::*;

/// Bytes of a `struct nfgenmsg` (linux/netfilter/nfnetlink.h).
const GENERIC: usize = 4;

/// Where a chain looks at packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// As they come by the interface of the table, before any bridge.
    Ingress,
    /// As they come.
    PreRouting,
    /// On their way from one interface to another.
    Forward,
    /// As they go.
    PostRouting,
}

impl Hook {
    /// As the kernel numbers it.
    pub fn number(self) -> u32 {
        let number = match self {
            Hook::Ingress => NF_NETDEV_INGRESS,
            Hook::PreRouting => libc::NF_INET_PRE_ROUTING,
            Hook::Forward => libc::NF_INET_FORWARD,
            Hook::PostRouting => libc::NF_INET_POST_ROUTING,
        };
        u32::try_from(number).unwrap_or(0)
    }
}

/// The family of a table that looks at the packets of IPv4 and IPv6.
pub const INET: u8 = 1;
/// The family of a table that looks at the frames of one interface.
pub const NETDEV: u8 = 5;

/// A table: of the inet family, or of an interface's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The interface whose frames it looks at; its family is netdev then.
    pub device: Option<String>,
    /// It belongs to the socket that makes it: nobody else can change or remove it, a flush of all rules passes it by, and
    /// it goes with the last descriptor of the socket. Before Linux 5.12 it is made as any other.
    pub owned: bool,
    /// What its rules remember.
    pub sets: Vec<Set>,
    /// In order.
    pub chains: Vec<Chain>,
}

impl Table {
    /// INET or NETDEV.
    pub fn family(&self) -> u8 {
        if self.device.is_some() { NETDEV } else { INET }
    }
}

/// What rules remember, for a time after it was last seen and up to a number: where there is no room, the rule ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub key: Key,
    /// How many, at most.
    pub size: u32,
    /// For how long.
    pub time: Duration,
}

/// What is in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// IPv4 addresses.
    Inet,
    /// IPv6 addresses.
    Inet6,
    /// Ethernet addresses.
    Ethernet,
}

/// A chain of ours; what none of its rules decides is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where it looks, of which kind it is ("filter", "nat") and its place among others; none: nowhere, it is only a name.
    pub base: Option<(Hook, &'static str, i32)>,
    /// In order.
    pub rules: Vec<Vec<Expr>>,
}

/// A step of a rule. Each load goes to the one register; a comparison that fails ends the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a fact of the packet, of its path, or of its connection.
    Load(Fact),
    /// Keeps these bits of four bytes.
    Mask(u32),
    /// Goes on if the register is this.
    Is(Vec<u8>),
    /// Goes on if the register is anything else.
    IsNot(Vec<u8>),
    /// Goes on if the register is this or more, byte by byte.
    AtLeast(Vec<u8>),
    /// Goes on if the register is in the set of this name, or finds room there.
    Remember(&'static str),
    /// The chain of this name decides, which is written before.
    Goto(&'static str),
    /// The packet may go on.
    Accept,
    /// The packet ends here.
    Drop,
    /// The packet gets the address of the interface that it leaves by.
    Masquerade,
}

/// What can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Group of the interface that it came by.
    InGroup,
    /// Group of the interface that it leaves by.
    OutGroup,
    /// Index of the interface that it came by.
    InIndex,
    /// Index of the interface that it leaves by.
    OutIndex,
    /// EtherType, two bytes; behind a VLAN tag.
    EtherType,
    /// Protocol that an IP packet carries behind all its headers, one byte.
    Protocol,
    /// Bytes of the Ethernet header: from where, how many.
    Link(u32, u32),
    /// Bytes of the packet.
    Network(u32, u32),
    /// Bytes of what an IP packet carries.
    Transport(u32, u32),
    /// Name of the interface that it came by, 16 bytes.
    InName,
    /// Name of the interface that it leaves by, 16 bytes.
    OutName,
    /// What drives the interface that it came by ("bridge", "tun"), 16 bytes; without such a word the rule ends.
    InKind,
    /// What drives the interface that it leaves by.
    OutKind,
    /// NFPROTO_IPV4 or NFPROTO_IPV6, one byte.
    Family,
    /// State of its connection, as bits.
    State,
    /// Status of its connection, as bits.
    Status,
    /// The interface that its source is behind, if that is the one it came by; else 0.
    WayBack,
}

/// A chain of somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Family of its table.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The number of its hook, if it has one.
    pub hook: Option<u32>,
    /// It drops what no rule of it decides.
    pub drops: bool,
}

/// A socket of the netfilter family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Nft {
    wire: Wire,
    /// The kernel lets a table have an owner (NFT_TABLE_F_OWNER), as far as is known.
    owns: bool,
}

/// Opens such a socket for an [`Nft`] of another process. Tables that it owns live as long as any descriptor of it.
pub fn socket() -> Result<OwnedFd, NetlinkError> {
    Ok(Wire::open(NETLINK_NETFILTER, Duration::ZERO)?.into_socket())
}

impl Nft {
    /// Opens the socket. `deadline` holds for each request.
    pub fn open(deadline: Duration) -> Result<Self, NetlinkError> {
        Ok(Self { wire: Wire::open(NETLINK_NETFILTER, deadline)?, owns: true })
    }

    /// As [`super::Route::over`].
    pub fn over(socket: OwnedFd, deadline: Duration) -> Self {
        Self { wire: Wire::over(socket, deadline), owns: true }
    }

    /// Goes on with a [`socket`] whose last user may have been killed before it had its answer: that is thrown away.
    pub fn take_over(socket: OwnedFd, deadline: Duration) -> Result<Self, NetlinkError> {
        let wire = Wire::over(socket, deadline);
        wire.drain()?;
        Ok(Self { wire, owns: true })
    }

    /// Makes the table, in the place of an earlier one of the name.
    pub fn replace(&mut self, table: &Table) -> Result<(), NetlinkError> {
        let owned = table.owned && self.owns;
        match self.wire.batch(whole(table, owned).messages) {
            // An unknown flag: EINVAL before Linux 5.12, in which the flag came.
            Err(error) if owned && matches!(error.errno(), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
                self.wire.batch(whole(table, false).messages)?;
                self.owns = false;
                Ok(())
            }
            done => done,
        }
    }

    /// Whether tables have an owner where that is wished: not known before the first of them.
    pub fn owns(&self) -> bool {
        self.owns
    }

    /// Removes a table, if it is there.
    pub fn delete(&mut self, family: u8, name: &str) -> Result<(), NetlinkError> {
        let mut batch = Batch::default();
        batch.command(libc::NFT_MSG_DELTABLE, 0, family, |out| out.put(NFTA_TABLE_NAME, &text(name)));
        match self.wire.batch(batch.messages) {
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
            done => done,
        }
    }

    /// Every chain of every table.
    pub fn chains(&mut self) -> Result<Vec<Listed>, NetlinkError> {
        let (ask, answer) = (kind_of(libc::NFT_MSG_GETCHAIN), kind_of(libc::NFT_MSG_NEWCHAIN));
        Ok(self.wire.list(ask, NLM_F_DUMP, &Out(generic(0).to_vec()), answer, listed)?.0)
    }

    /// How many rules of a chain have the tag.
    pub fn tagged(&mut self, chain: &Listed, tag: &str) -> Result<usize, NetlinkError> {
        Ok(self.handles(chain.family, &chain.table, &chain.name, Some(tag))?.len())
    }

    /// How many rules a chain of a table has, whoever made them.
    pub fn rules(&mut self, table: &Table, chain: &Chain) -> Result<usize, NetlinkError> {
        Ok(self.handles(table.family(), &table.name, &chain.name, None)?.len())
    }

    /// Puts rules with a tag before all others of a chain of somebody's, in the place of all that have the tag; none: those
    /// only go. No packet sees a state in between. Another who changes the chain at the moment makes it fail with NOENT.
    pub fn exchange(&mut self, chain: &Listed, tag: &str, rules: &[Vec<Expr>]) -> Result<(), NetlinkError> {
        let mut batch = Batch::default();
        for handle in self.handles(chain.family, &chain.table, &chain.name, Some(tag))? {
            batch.command(libc::NFT_MSG_DELRULE, 0, chain.family, |out| {
                out.put(NFTA_RULE_TABLE, &text(&chain.table));
                out.put(NFTA_RULE_CHAIN, &text(&chain.name));
                out.put(NFTA_RULE_HANDLE, &handle);
            });
        }
        for rule in rules {
            batch.command(libc::NFT_MSG_NEWRULE, NLM_F_CREATE, chain.family, |out| {
                write_rule(out, &text(&chain.table), &text(&chain.name), rule);
                out.put(NFTA_RULE_USERDATA, &comment(tag));
            });
        }
        if batch.messages.is_empty() { Ok(()) } else { self.wire.batch(batch.messages) }
    }

    /// Of the rules of a chain, or of those with the tag.
    fn handles(
        &mut self,
        family: u8,
        table: &str,
        chain: &str,
        tag: Option<&str>,
    ) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut body = Out(generic(family).to_vec());
        body.put(NFTA_RULE_TABLE, &text(table));
        body.put(NFTA_RULE_CHAIN, &text(chain));
        let (ask, answer) = (kind_of(libc::NFT_MSG_GETRULE), kind_of(libc::NFT_MSG_NEWRULE));
        let (found, _) = self.wire.list(ask, NLM_F_DUMP, &body, answer, |payload| handle_of(payload, tag))?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// What makes a table in the place of an earlier one of its name.
fn whole(table: &Table, owned: bool) -> Batch {
    let name = text(&table.name);
    let family = table.family();
    let mut batch = Batch::default();
    // Made first, so that there is one to be removed. Without flags it takes any that is there.
    batch.command(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE, family, |out| out.put(NFTA_TABLE_NAME, &name));
    batch.command(libc::NFT_MSG_DELTABLE, 0, family, |out| out.put(NFTA_TABLE_NAME, &name));
    batch.command(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE, family, |out| {
        out.put(NFTA_TABLE_NAME, &name);
        if owned {
            out.put(NFTA_TABLE_FLAGS, &NFT_TABLE_F_OWNER.to_be_bytes());
        }
    });
    for (id, set) in (1_u32..).zip(&table.sets) {
        batch.command(libc::NFT_MSG_NEWSET, NLM_F_CREATE, family, |out| set.write(&name, id, out));
    }
    for chain in &table.chains {
        batch.command(libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, |out| {
            chain.write(&name, table.device.as_deref(), out);
        });
        for rule in &chain.rules {
            let flags = NLM_F_CREATE | NLM_F_APPEND;
            batch.command(libc::NFT_MSG_NEWRULE, flags, family, |out| {
                write_rule(out, &name, &text(&chain.name), rule);
            });
        }
    }
    batch
}

/// The messages of a batch, without their sequence number.
#[derive(Debug, Default)]
struct Batch {
    messages: Vec<(u16, u16, Out)>,
}

impl Batch {
    fn command(&mut self, command: libc::c_int, flags: u16, family: u8, write: impl FnOnce(&mut Out)) {
        let mut out = Out(generic(family).to_vec());
        write(&mut out);
        self.messages.push((kind_of(command), NLM_F_REQUEST | flags, out));
    }
}

fn generic(family: u8) -> [u8; GENERIC] {
    [family, 0, 0, 0]
}

fn kind_of(command: libc::c_int) -> u16 {
    u16::try_from(libc::NFNL_SUBSYS_NFTABLES << 8 | command).unwrap_or(0)
}

fn attributes(payload: &[u8]) -> Result<Vec<(u16, &[u8])>, NetlinkError> {
    plain(payload.get(GENERIC..).ok_or(NetlinkError::Malformed)?)
}

fn listed(payload: &[u8]) -> Result<Listed, NetlinkError> {
    let family = *payload.first().ok_or(NetlinkError::Malformed)?;
    let mut chain = Listed { family, table: String::new(), name: String::new(), hook: None, drops: false };
    let number = |value: &[u8]| value.try_into().map(u32::from_be_bytes).map_err(|_| NetlinkError::Malformed);
    for (kind, value) in attributes(payload)? {
        match kind {
            NFTA_CHAIN_TABLE => chain.table = string(value),
            NFTA_CHAIN_NAME => chain.name = string(value),
            NFTA_CHAIN_POLICY => chain.drops = number(value)? == 0,
            NFTA_CHAIN_HOOK => {
                chain.hook = find(value, NFTA_HOOK_HOOKNUM)?.map(number).transpose()?;
            }
            _ => {}
        }
    }
    Ok(chain)
}

/// A comment as nft(8) keeps it beside a rule (libnftnl, NFTNL_UDATA_RULE_COMMENT): kind, length, text.
fn comment(tag: &str) -> Vec<u8> {
    let text = text(tag);
    [&[0, u8::try_from(text.len()).unwrap_or(0)], text.as_slice()].concat()
}

/// The handle of a rule, with the tag if one is asked for.
fn handle_of(payload: &[u8], tag: Option<&str>) -> Result<Option<Vec<u8>>, NetlinkError> {
    let attributes = attributes(payload)?;
    let value = |wanted: u16| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let ours = tag.is_none_or(|tag| value(NFTA_RULE_USERDATA) == Some(comment(tag).as_slice()));
    Ok(value(NFTA_RULE_HANDLE).filter(|_| ours).map(<[u8]>::to_vec))
}
