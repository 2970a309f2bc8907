//! Whatever answers in the kernel's place, whole or broken, late or of another request: what priv takes from it has a name
//! and a number, and no answer is waited for that does not come.
#![no_main]

use std::os::fd::OwnedFd;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use sys::netlink::nft::{Expr, Listed, Nft, Table};
use sys::netlink::{Link, NetlinkError, Route};
use vmd_fuzz::Script;

/// linux/netlink.h and rtnetlink.h, and what nftables adds to its subsystem's number.
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const NEW_CHAIN: u16 = 10 << 8 | 3;
const NEW_RULE: u16 = 10 << 8 | 6;
const MULTI: u16 = 2;
/// Requests of one run.
const MAX_REQUESTS: usize = 16;

struct Host {
    kernel: OwnedFd,
    ours: OwnedFd,
}

thread_local! {
    static HOST: Host = {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (kernel, ours) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).expect("a pair of sockets");
        Host { kernel, ours }
    };
}

fuzz_target!(|input: &[u8]| HOST.with(|host| run(host, Script(input))));

fn run(host: &Host, mut script: Script<'_>) {
    let ours = || host.ours.try_clone().expect("one more descriptor");
    let (mut route, mut nft) = (Route::over(ours(), Duration::ZERO), Nft::over(ours(), Duration::ZERO));
    let mut sequence = [0u32; 2];
    for _ in 0..MAX_REQUESTS {
        if script.is_empty() {
            break;
        }
        let choice = script.byte() % 12;
        let of = usize::from(choice >= 6);
        for _ in 0..1 + script.byte() % 4 {
            let _ = send(&host.kernel, &datagram(&mut script, sequence[of] + 1), SendFlags::empty());
        }
        let asked = match choice {
            0..=2 => heard(route.links().map(|links| links.iter().for_each(check))),
            3 => heard(route.link("web0").map(|link| link.iter().for_each(check))),
            4 => heard(route.forwarding()),
            5 => heard(route.create_bridge("br0", 7).map(|link| check(&link))),
            6 | 7 => heard(nft.chains()),
            8 => heard(nft.tagged(&chain(), "vmd")),
            9 => heard(nft.exchange(&chain(), "vmd", &[vec![Expr::Accept]])),
            10 => heard(nft.delete(1, "vmd")),
            _ => heard(nft.replace(&Table { name: "vmd".into(), device: None, owned: true, sets: vec![], chains: vec![] })),
        };
        // What was asked, and what was said and not heard; numbers of requests go on.
        sequence[of] += drain(&host.kernel);
        drain(&host.ours);
        if let Err(error) = asked {
            assert!(!error.to_string().is_empty());
        }
    }
}

fn heard<T>(answer: Result<T, NetlinkError>) -> Result<(), NetlinkError> {
    answer.map(drop)
}

fn check(link: &Link) {
    assert!(link.index != 0 && !link.name.is_empty(), "{link:?}");
}

fn chain() -> Listed {
    Listed { family: 1, table: "filter".into(), name: "FORWARD".into(), hook: Some(2), drops: true }
}

/// Datagrams that wait.
fn drain(socket: &OwnedFd) -> u32 {
    let mut byte = [0];
    (0..).take_while(|_| recv(socket, &mut byte[..], RecvFlags::empty()).is_ok()).count() as u32
}

/// Messages, and perhaps a change of a byte or of the length.
fn datagram(script: &mut Script<'_>, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + script.byte() % 4 {
        let choice = script.byte();
        let flags = [0, MULTI, MULTI, MULTI | 0x10][usize::from(choice & 3)];
        let sequence = if choice & 0x1C == 0x1C { sequence.wrapping_add(u32::from(script.byte())) } else { sequence };
        let (kind, payload) = message(script, choice >> 5);
        let length = if choice == 0xFF { script.number() as u32 } else { payload.len() as u32 + 16 };
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    match script.byte() {
        0xF0..=0xF7 => {
            let (place, value) = (usize::from(script.word()) % bytes.len(), script.byte());
            bytes[place] = value;
        }
        0xF8..=0xFB => bytes.truncate(usize::from(script.word()) % bytes.len()),
        0xFC => bytes.resize(bytes.len() + usize::from(script.word()) * 2, 0),
        _ => {}
    }
    bytes
}

fn message(script: &mut Script<'_>, choice: u8) -> (u16, Vec<u8>) {
    let mut payload = Vec::new();
    match choice {
        0 | 1 => {
            payload.extend_from_slice(&[0, 0, 1, 0, script.byte() % 4, 0, 0, 0, script.byte(), 0, 0, 0, 0, 0, 0, 0]);
            attributes(script, &[3, 3, 1, 10, 4, 27, 18, 52, 20, 26], 0, &mut payload);
            (NEW_LINK, payload)
        }
        2 => {
            payload.extend_from_slice(&[script.byte() % 8, 0, 0, 0]);
            attributes(script, &[1, 3, 3, 4, 5, 7], 0, &mut payload);
            (NEW_CHAIN, payload)
        }
        3 => {
            payload.extend_from_slice(&[1, 0, 0, 0]);
            attributes(script, &[1, 2, 3, 7], 0, &mut payload);
            (NEW_RULE, payload)
        }
        4 | 5 => {
            // An end: a code, of an error also the header that it is about, and the kernel's words.
            let code = match script.byte() {
                0..=0x7F => 0,
                0x80..=0xEF => -i32::from(script.byte()),
                _ => script.number() as i32,
            };
            payload.extend_from_slice(&code.to_ne_bytes());
            let kind = if choice == 4 { 2 } else { DONE };
            payload.resize(if choice == 4 { 20 } else { 4 }, 0);
            if code != 0 {
                attributes(script, &[1, 1, 2], 2, &mut payload);
            }
            (kind, payload)
        }
        6 => (script.byte().into(), script.bytes(24).to_vec()),
        _ => (script.word(), script.bytes(40).to_vec()),
    }
}

/// Attributes of these kinds, some of which hold attributes.
fn attributes(script: &mut Script<'_>, kinds: &[u16], depth: u8, out: &mut Vec<u8>) {
    for _ in 0..script.byte() % 8 {
        let choice = script.byte();
        let kind = if choice >= 0xF8 { script.word() } else { kinds[usize::from(choice >> 3) % kinds.len()] };
        let mut value = Vec::new();
        match choice % 8 {
            0 | 1 => value.extend_from_slice(
                [&b"web0\0"[..], b"bridge\0", b"tun\0", b"vrf\0", b"\0\x04vmd\0", b"\0", b"\xff\xfe\0", b"filter"]
                    [usize::from(script.byte() % 8)],
            ),
            2 => value.extend_from_slice(&u32::from(script.byte()).to_ne_bytes()),
            3 => value.extend_from_slice(&u32::from(script.byte()).to_be_bytes()),
            4 => value.extend_from_slice(script.bytes(6)),
            5 | 6 if depth < 3 => attributes(script, &[1, 2, 53], depth + 1, &mut value),
            _ => {
                let count = usize::from(script.byte());
                value.extend_from_slice(script.bytes(count));
            }
        }
        let length = if choice == 0xFF { script.word() } else { value.len() as u16 + 4 };
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}
