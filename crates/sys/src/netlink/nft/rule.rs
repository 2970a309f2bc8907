//! Chains and rules as the kernel reads them.

use super::super::attributes::{Out, text};
use super::uapi::*;
use super::{Chain, Expr, Fact, Key, Set};

impl Chain {
    pub(super) fn write(&self, table: &[u8], device: Option<&str>, out: &mut Out) {
        out.put(NFTA_CHAIN_TABLE, table);
        out.put(NFTA_CHAIN_NAME, &text(&self.name));
        let Some((hook, kind, priority)) = self.base else { return };
        out.nest(NFTA_CHAIN_HOOK, |out| {
            out.put(NFTA_HOOK_HOOKNUM, &hook.number().to_be_bytes());
            out.put(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
            if let Some(device) = device {
                out.put(NFTA_HOOK_DEV, &text(device));
            }
        });
        out.put(NFTA_CHAIN_TYPE, &text(kind));
    }
}

impl Set {
    pub(super) fn write(&self, table: &[u8], id: u32, out: &mut Out) {
        // The kind is what nft(8) shows it as (datatype.h).
        let (kind, length) = match self.key {
            Key::Inet => (7_u32, 4_u32),
            Key::Inet6 => (8, 16),
            Key::Ethernet => (9, 6),
        };
        let milliseconds = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX);
        out.put(NFTA_SET_TABLE, table);
        out.put(NFTA_SET_NAME, &text(self.name));
        out.put(NFTA_SET_FLAGS, &word(libc::NFT_SET_TIMEOUT | libc::NFT_SET_EVAL));
        out.put(NFTA_SET_KEY_TYPE, &kind.to_be_bytes());
        out.put(NFTA_SET_KEY_LEN, &length.to_be_bytes());
        out.put(NFTA_SET_ID, &id.to_be_bytes());
        out.put(NFTA_SET_TIMEOUT, &milliseconds.to_be_bytes());
        out.nest(NFTA_SET_DESC, |out| out.put(NFTA_SET_DESC_SIZE, &self.size.to_be_bytes()));
    }
}

pub(super) fn write_rule(out: &mut Out, table: &[u8], chain: &[u8], rule: &[Expr]) {
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
            Expr::AtLeast(value) => compare(out, libc::NFT_CMP_GTE, value),
            Expr::Remember(set) => named(out, "dynset", |out| {
                out.put(NFTA_DYNSET_SET_NAME, &text(set));
                out.put(NFTA_DYNSET_OP, &word(libc::NFT_DYNSET_OP_UPDATE));
                out.put(NFTA_DYNSET_SREG_KEY, &register);
            }),
            Expr::Goto(chain) => verdict(out, libc::NFT_GOTO, Some(chain)),
            Expr::Accept => verdict(out, libc::NF_ACCEPT, None),
            Expr::Drop => verdict(out, libc::NF_DROP, None),
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
        let bytes = |out: &mut Out, base: libc::c_int, at: u32, length: u32| {
            named(out, "payload", |out| {
                out.put(NFTA_DREG, &register);
                out.put(NFTA_PAYLOAD_BASE, &word(base));
                out.put(NFTA_PAYLOAD_OFFSET, &at.to_be_bytes());
                out.put(NFTA_PAYLOAD_LEN, &length.to_be_bytes());
            });
        };
        match self {
            Fact::EtherType => load(out, "meta", libc::NFT_META_PROTOCOL),
            Fact::Protocol => load(out, "meta", libc::NFT_META_L4PROTO),
            Fact::Link(at, length) => bytes(out, libc::NFT_PAYLOAD_LL_HEADER, at, length),
            Fact::Network(at, length) => bytes(out, libc::NFT_PAYLOAD_NETWORK_HEADER, at, length),
            Fact::Transport(at, length) => bytes(out, libc::NFT_PAYLOAD_TRANSPORT_HEADER, at, length),
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

fn verdict(out: &mut Out, code: libc::c_int, chain: Option<&str>) {
    named(out, "immediate", |out| {
        out.put(NFTA_DREG, &word(libc::NFT_REG_VERDICT));
        out.nest(NFTA_IMMEDIATE_DATA, |out| {
            out.nest(NFTA_DATA_VERDICT, |out| {
                out.put(NFTA_VERDICT_CODE, &word(code));
                if let Some(chain) = chain {
                    out.put(NFTA_VERDICT_CHAIN, &text(chain));
                }
            });
        });
    });
}

/// A number as nf_tables has them.
fn word(number: libc::c_int) -> [u8; 4] {
    number.to_be_bytes()
}
