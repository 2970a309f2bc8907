//! nftables over netlink, synchronous: one table is made or replaced as a whole, and chains are listed.
//!
//! Called by priv alone. A table is data: chains of rules of expressions, each of which loads, compares or decides. What is
//! sent is one batch, that the kernel carries out as a whole or not at all.

use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use super::NetlinkError;
use super::wire::Wire;

/// Attributes and values of linux/netfilter/nf_tables.h that libc lacks.
mod uapi {
    pub const NFTA_TABLE_NAME: u16 = 1;
    pub const NFTA_CHAIN_TABLE: u16 = 1;
    pub const NFTA_CHAIN_NAME: u16 = 3;
    pub const NFTA_CHAIN_HOOK: u16 = 4;
    pub const NFTA_CHAIN_POLICY: u16 = 5;
    pub const NFTA_CHAIN_TYPE: u16 = 7;
    pub const NFTA_HOOK_HOOKNUM: u16 = 1;
    pub const NFTA_HOOK_PRIORITY: u16 = 2;
    pub const NFTA_RULE_TABLE: u16 = 1;
    pub const NFTA_RULE_CHAIN: u16 = 2;
    pub const NFTA_RULE_HANDLE: u16 = 3;
    pub const NFTA_RULE_EXPRESSIONS: u16 = 4;
    pub const NFTA_RULE_USERDATA: u16 = 7;
    pub const NFTA_LIST_ELEM: u16 = 1;
    pub const NFTA_EXPR_NAME: u16 = 1;
    pub const NFTA_EXPR_DATA: u16 = 2;
    /// Target register and what is loaded, of meta and ct.
    pub const NFTA_DREG: u16 = 1;
    pub const NFTA_KEY: u16 = 2;
    pub const NFTA_FIB_RESULT: u16 = 2;
    pub const NFTA_FIB_FLAGS: u16 = 3;
    pub const NFTA_SREG: u16 = 1;
    pub const NFT_META_IIFKIND: i32 = 26;
    pub const NFT_META_OIFKIND: i32 = 27;
    pub const NFTA_CMP_OP: u16 = 2;
    pub const NFTA_CMP_DATA: u16 = 3;
    pub const NFTA_BITWISE_DREG: u16 = 2;
    pub const NFTA_BITWISE_LEN: u16 = 3;
    pub const NFTA_BITWISE_MASK: u16 = 4;
    pub const NFTA_BITWISE_XOR: u16 = 5;
    pub const NFTA_IMMEDIATE_DATA: u16 = 2;
    pub const NFTA_DATA_VALUE: u16 = 1;
    pub const NFTA_DATA_VERDICT: u16 = 2;
    pub const NFTA_VERDICT_CODE: u16 = 1;
    pub const NFT_FIB_RESULT_OIF: u32 = 1;
    pub const NFTA_F_SADDR: u32 = 1;
    pub const NFTA_F_IIF: u32 = 8;
    pub const NESTED: u16 = 1 << 15;
}
use uapi::*;

/// Bytes of a `struct nfgenmsg` (linux/netfilter/nfnetlink.h).
const GENERIC: usize = 4;

/// Where a chain looks at packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
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
            Hook::PreRouting => libc::NF_INET_PRE_ROUTING,
            Hook::Forward => libc::NF_INET_FORWARD,
            Hook::PostRouting => libc::NF_INET_POST_ROUTING,
        };
        u32::try_from(number).unwrap_or(0)
    }
}

/// A table of the inet family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// In order.
    pub chains: Vec<Chain>,
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
}

impl Nft {
    /// Opens the socket. `deadline` holds for each request.
    pub fn open(deadline: Duration) -> Result<Self, NetlinkError> {
        Ok(Self { wire: Wire::open_for(NETLINK_NETFILTER, deadline)? })
    }

    /// Makes the table, in the place of an earlier one of the name.
    pub fn replace(&mut self, table: &Table) -> Result<(), NetlinkError> {
        let name = text(table.name);
        let mut batch = Batch::default();
        // Made first, so that there is one to be removed.
        batch.command(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE, inet(), |out| out.put(NFTA_TABLE_NAME, &name));
        batch.command(libc::NFT_MSG_DELTABLE, 0, inet(), |out| out.put(NFTA_TABLE_NAME, &name));
        batch.command(libc::NFT_MSG_NEWTABLE, NLM_F_CREATE, inet(), |out| out.put(NFTA_TABLE_NAME, &name));
        for chain in &table.chains {
            batch.command(libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE, inet(), |out| chain.write(&name, out));
            for rule in &chain.rules {
                let flags = NLM_F_CREATE | NLM_F_APPEND;
                batch.command(libc::NFT_MSG_NEWRULE, flags, inet(), |out| {
                    write_rule(out, &name, &text(&chain.name), rule);
                });
            }
        }
        self.wire.batch(batch.messages)
    }

    /// Removes a table of the inet family; that there is none is fine.
    pub fn delete(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut batch = Batch::default();
        batch.command(libc::NFT_MSG_DELTABLE, 0, inet(), |out| out.put(NFTA_TABLE_NAME, &text(name)));
        match self.wire.batch(batch.messages) {
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
            done => done,
        }
    }

    /// Every chain of every table.
    pub fn chains(&mut self) -> Result<Vec<Listed>, NetlinkError> {
        let mut chains = Vec::new();
        let body = Raw(generic(0).to_vec());
        self.wire.request(kind_of(libc::NFT_MSG_GETCHAIN), NLM_F_DUMP, &body, |kind, payload| {
            if kind == kind_of(libc::NFT_MSG_NEWCHAIN) {
                chains.push(listed(payload)?);
            }
            Ok(())
        })?;
        Ok(chains)
    }

    /// How many rules of a chain have the tag.
    pub fn tagged(&mut self, chain: &Listed, tag: &str) -> Result<usize, NetlinkError> {
        Ok(self.handles(chain, tag)?.len())
    }

    /// Puts rules with a tag before all others of a chain of somebody's, in the place of all that have the tag; none: those
    /// only go. No packet sees a state in between. Another who changes the chain at the moment makes it fail with NOENT.
    pub fn exchange(&mut self, chain: &Listed, tag: &str, rules: &[Vec<Expr>]) -> Result<(), NetlinkError> {
        let mut batch = Batch::default();
        for handle in self.handles(chain, tag)? {
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

    fn handles(&mut self, chain: &Listed, tag: &str) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut handles = Vec::new();
        let mut body = Out(generic(chain.family).to_vec());
        body.put(NFTA_RULE_TABLE, &text(&chain.table));
        body.put(NFTA_RULE_CHAIN, &text(&chain.name));
        self.wire.request(kind_of(libc::NFT_MSG_GETRULE), NLM_F_DUMP, &Raw(body.0), |kind, payload| {
            if kind == kind_of(libc::NFT_MSG_NEWRULE) {
                handles.extend(handle_of(payload, tag)?);
            }
            Ok(())
        })?;
        Ok(handles)
    }
}

impl Chain {
    fn write(&self, table: &[u8], out: &mut Out) {
        out.put(NFTA_CHAIN_TABLE, table);
        out.put(NFTA_CHAIN_NAME, &text(&self.name));
        let Some((hook, kind, priority)) = self.base else { return };
        out.nest(NFTA_CHAIN_HOOK, |out| {
            out.put(NFTA_HOOK_HOOKNUM, &hook.number().to_be_bytes());
            out.put(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
        });
        out.put(NFTA_CHAIN_TYPE, &text(kind));
    }
}

fn write_rule(out: &mut Out, table: &[u8], chain: &[u8], rule: &[Expr]) {
    out.put(NFTA_RULE_TABLE, table);
    out.put(NFTA_RULE_CHAIN, chain);
    out.nest(NFTA_RULE_EXPRESSIONS, |out| {
        for expr in rule {
            out.nest(NFTA_LIST_ELEM, |out| expr.write(out));
        }
    });
}

impl Expr {
    fn write(&self, out: &mut Out) {
        let register = word(libc::NFT_REG_1);
        match self {
            Expr::Load(fact) => fact.write(out),
            Expr::Mask(bits) => named(out, "bitwise", |out| {
                out.put(NFTA_SREG, &register);
                out.put(NFTA_BITWISE_DREG, &register);
                out.put(NFTA_BITWISE_LEN, &4_u32.to_be_bytes());
                out.nest(NFTA_BITWISE_MASK, |out| out.put(NFTA_DATA_VALUE, &bits.to_ne_bytes()));
                out.nest(NFTA_BITWISE_XOR, |out| out.put(NFTA_DATA_VALUE, &[0; 4]));
            }),
            Expr::Is(value) => compare(out, libc::NFT_CMP_EQ, value),
            Expr::IsNot(value) => compare(out, libc::NFT_CMP_NEQ, value),
            Expr::Accept => verdict(out, libc::NF_ACCEPT),
            Expr::Drop => verdict(out, libc::NF_DROP),
            Expr::Masquerade => named(out, "masq", |_| ()),
        }
    }
}

impl Fact {
    fn write(self, out: &mut Out) {
        let register = word(libc::NFT_REG_1);
        let load = |out: &mut Out, what: &str, key: libc::c_int| {
            named(out, what, |out| {
                out.put(NFTA_DREG, &register);
                out.put(NFTA_KEY, &word(key));
            });
        };
        match self {
            Fact::InGroup => load(out, "meta", libc::NFT_META_IIFGROUP),
            Fact::OutGroup => load(out, "meta", libc::NFT_META_OIFGROUP),
            Fact::InIndex => load(out, "meta", libc::NFT_META_IIF),
            Fact::OutIndex => load(out, "meta", libc::NFT_META_OIF),
            Fact::InName => load(out, "meta", libc::NFT_META_IIFNAME),
            Fact::OutName => load(out, "meta", libc::NFT_META_OIFNAME),
            Fact::InKind => load(out, "meta", NFT_META_IIFKIND),
            Fact::OutKind => load(out, "meta", NFT_META_OIFKIND),
            Fact::Family => load(out, "meta", libc::NFT_META_NFPROTO),
            Fact::State => load(out, "ct", libc::NFT_CT_STATE),
            Fact::Status => load(out, "ct", libc::NFT_CT_STATUS),
            Fact::WayBack => named(out, "fib", |out| {
                out.put(NFTA_DREG, &register);
                out.put(NFTA_FIB_RESULT, &NFT_FIB_RESULT_OIF.to_be_bytes());
                out.put(NFTA_FIB_FLAGS, &(NFTA_F_SADDR | NFTA_F_IIF).to_be_bytes());
            }),
        }
    }
}

fn named(out: &mut Out, name: &str, data: impl FnOnce(&mut Out)) {
    out.put(NFTA_EXPR_NAME, &text(name));
    out.nest(NFTA_EXPR_DATA, data);
}

fn compare(out: &mut Out, how: libc::c_int, value: &[u8]) {
    named(out, "cmp", |out| {
        out.put(NFTA_SREG, &word(libc::NFT_REG_1));
        out.put(NFTA_CMP_OP, &word(how));
        out.nest(NFTA_CMP_DATA, |out| out.put(NFTA_DATA_VALUE, value));
    });
}

fn verdict(out: &mut Out, code: libc::c_int) {
    named(out, "immediate", |out| {
        out.put(NFTA_DREG, &word(libc::NFT_REG_VERDICT));
        out.nest(NFTA_IMMEDIATE_DATA, |out| {
            out.nest(NFTA_DATA_VERDICT, |out| out.put(NFTA_VERDICT_CODE, &word(code)));
        });
    });
}

/// Attributes one behind the other, each padded to four bytes (netlink(7)).
#[derive(Debug, Default)]
struct Out(Vec<u8>);

impl Out {
    fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Out)) {
        let mut out = Out::default();
        inside(&mut out);
        self.put(kind | NESTED, &out.0);
    }
}

/// The messages of a batch, without their sequence number.
#[derive(Debug, Default)]
struct Batch {
    messages: Vec<(u16, u16, Vec<u8>)>,
}

impl Batch {
    fn command(&mut self, command: libc::c_int, flags: u16, family: u8, write: impl FnOnce(&mut Out)) {
        let mut out = Out(generic(family).to_vec());
        write(&mut out);
        self.messages.push((kind_of(command), NLM_F_REQUEST | flags, out.0));
    }
}

/// The batch as the socket takes it: between a beginning and an end, the last message acknowledged.
pub(super) fn framed(mut messages: Vec<(u16, u16, Vec<u8>)>) -> Vec<(u16, u16, Vec<u8>)> {
    if let Some((_, flags, _)) = messages.last_mut() {
        *flags |= NLM_F_ACK;
    }
    let subsystem = u16::try_from(libc::NFNL_SUBSYS_NFTABLES).unwrap_or(0).to_be_bytes();
    let bound = |kind: libc::c_int| {
        let body = [&[0, 0][..], &subsystem].concat();
        (u16::try_from(kind).unwrap_or(0), NLM_F_REQUEST, body)
    };
    messages.insert(0, bound(libc::NFNL_MSG_BATCH_BEGIN));
    messages.push(bound(libc::NFNL_MSG_BATCH_END));
    messages
}

/// A body that is bytes already.
struct Raw(Vec<u8>);

impl netlink_packet_core::Emitable for Raw {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        if let Some(place) = buffer.get_mut(..self.0.len()) {
            place.copy_from_slice(&self.0);
        }
    }
}

fn generic(family: u8) -> [u8; GENERIC] {
    [family, 0, 0, 0]
}

fn inet() -> u8 {
    u8::try_from(libc::NFPROTO_INET).unwrap_or(0)
}

fn kind_of(command: libc::c_int) -> u16 {
    u16::try_from(libc::NFNL_SUBSYS_NFTABLES << 8 | command).unwrap_or(0)
}

/// A number as nf_tables has them.
fn word(number: libc::c_int) -> [u8; 4] {
    number.to_be_bytes()
}

/// A string with its NUL.
fn text(string: &str) -> Vec<u8> {
    [string.as_bytes(), &[0]].concat()
}

fn attributes(payload: &[u8]) -> Result<Vec<(u16, &[u8])>, NetlinkError> {
    plain(payload.get(GENERIC..).ok_or(NetlinkError::Malformed)?)
}

/// Attributes (kind, value) that borrow from the bytes, which netlink-packet-core's iterator does not let out.
pub(super) fn plain(mut bytes: &[u8]) -> Result<Vec<(u16, &[u8])>, NetlinkError> {
    let mut found = Vec::new();
    while let Some((&[l0, l1, k0, k1], _)) = bytes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length).ok_or(NetlinkError::Malformed)?;
        found.push((u16::from_ne_bytes([k0, k1]) & !NESTED, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

fn string(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
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
                let hook = plain(value)?.into_iter().find(|(kind, _)| *kind == NFTA_HOOK_HOOKNUM);
                chain.hook = hook.map(|(_, value)| number(value)).transpose()?;
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

/// The handle of a rule with the tag.
fn handle_of(payload: &[u8], tag: &str) -> Result<Option<Vec<u8>>, NetlinkError> {
    let attributes = attributes(payload)?;
    let value = |wanted: u16| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let ours = value(NFTA_RULE_USERDATA) == Some(comment(tag).as_slice());
    Ok(value(NFTA_RULE_HANDLE).filter(|_| ours).map(<[u8]>::to_vec))
}
