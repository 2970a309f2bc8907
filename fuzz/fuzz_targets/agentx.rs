//! What an SNMP master sends agentx: any bytes, or nearly sound packets, cut anywhere, while sessions begin and end, the parent
//! answers or does not, and time passes. What agentx says is whole packets, and never more than its bounds.
//!
//! The daemon is a program and no library, so that its pure parts are taken by their files.
#![no_main]
#![allow(dead_code)] // not all of them is used here

#[path = "../../crates/vmd/src/agentx/agent.rs"]
mod agent;
#[path = "../../crates/vmd/src/agentx/answers.rs"]
mod answers;
#[path = "../../crates/vmd/src/agentx/codec.rs"]
mod codec;
#[path = "../../crates/vmd/src/agentx/mib.rs"]
mod mib;
#[path = "../../crates/vmd/src/agentx/pdu.rs"]
mod pdu;

use std::time::{Duration, Instant};

use agent::{Action, Agent, Event};
use libfuzzer_sys::fuzz_target;
use model::VmName;
use proto::agentx::{Context, Row};
use proto::client::VmState;
use proto::{RequestId, VmId};
use vmd_fuzz::Script;

/// More than it may owe a master that does not read: its limit, and the answers to what waited.
const MAX_OWED: usize = 8 << 20;

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let mut agent = Agent::new("vmd", "6.1");
    let mut now = Instant::now();
    let mut asked = RequestId(0);
    let (mut packet, mut owed) = (0, Vec::new());
    while !script.is_empty() {
        let bytes;
        let event = match script.byte() % 16 {
            0 => Event::Serve(None),
            1 => Event::Serve(Context::new("lab").ok()),
            2 => {
                owed.clear();
                Event::Connected
            }
            3 => Event::NotConnected("away".to_owned()),
            4 => Event::Lost("closed".to_owned()),
            5 => {
                now += Duration::from_millis(script.number() % 70_000);
                Event::Time
            }
            6 => Event::Vms(asked, (0..script.byte()).map(|id| row(id.into())).collect()),
            7 => Event::VmsEnd(asked),
            8 => {
                let count = usize::from(script.word()).min(agent.output().len());
                owed.extend(agent.output().iter().take(count));
                Event::Written(count)
            }
            9 => {
                let count = usize::from(script.byte());
                Event::Received(script.bytes(count))
            }
            10..=12 => {
                bytes = header(18, 0, packet, &[0; 8]);
                packet = packet.wrapping_add(1);
                Event::Received(&bytes)
            }
            _ => {
                bytes = question(&mut script);
                Event::Received(&bytes)
            }
        };
        for action in agent.handle(event, now) {
            if let Action::List(request) = action {
                asked = request;
            }
        }
        assert!(agent.output().len() < MAX_OWED, "{} bytes", agent.output().len());
        assert!(agent.deadline().is_none_or(|at| at <= now + agent::PING));
    }
    owed.extend(agent.output());
    let mut rest = owed.as_slice();
    while let Some(header) = pdu::Header::read(rest).expect("a sound header") {
        rest = rest.get(pdu::HEADER + header.payload..).expect("a whole packet");
    }
    assert_eq!(rest, []);
});

fn row(id: u32) -> Row {
    let name = VmName::new("web").expect("a name");
    let state = if id % 2 == 0 { VmState::Paused } else { VmState::Stopped };
    Row {
        vm: VmId(id),
        name,
        state,
        disabled: id % 3 == 0,
        cpus: 1,
        memory: model::MemorySize::DEFAULT,
        used: Some(u64::from(id) << 30),
    }
}

/// Of session 0, as the answers open it, mostly in network byte order.
fn header(kind: u8, flags: u8, packet: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    let numbers = [0, 0, packet, length].into_iter().flat_map(u32::to_be_bytes);
    [1, kind, flags | 16, 0].into_iter().chain(numbers).chain(payload.iter().copied()).collect()
}

fn question(script: &mut Script<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    let (kind, flags) = (script.byte() % 20, script.byte() & 8);
    if flags != 0 {
        payload.extend(*b"\0\0\0\x03lab\0");
    }
    if kind == 7 {
        payload.extend([script.word(), script.word()].into_iter().flat_map(u16::to_be_bytes));
    }
    for _ in 0..script.byte() % 6 {
        for _ in 0..2 {
            let count = script.byte() % 6;
            payload.extend([count + 2, 2, script.byte() % 2, 0]);
            let near = (0..count).map(|_| u32::from(script.byte() % 20));
            payload.extend([1, 236].into_iter().chain(near).flat_map(u32::to_be_bytes));
        }
    }
    let mut bytes = header(kind, flags, 9, &payload);
    if script.byte() % 4 == 0 {
        let (place, value) = (usize::from(script.word()) % bytes.len(), script.byte());
        bytes[place] = value;
    }
    if script.byte() % 8 == 0 {
        bytes.truncate(usize::from(script.word()) % bytes.len());
    }
    bytes
}
