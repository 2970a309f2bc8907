//! What a guest on a local interface sends: any bytes, or a sound request with some of them changed and its sum right.
#![no_main]

use devices::net::{DhcpServer, Lease};
use libfuzzer_sys::fuzz_target;
use vmd_fuzz::Script;

const MAC: [u8; 6] = [0xfe, 0xe1, 0xbb, 0xd1, 2, 3];
const OPTIONS: usize = 14 + 20 + 8 + 240;

fuzz_target!(|input: &[u8]| {
    let lease = Lease {
        mac: MAC,
        host_mac: [2; 6],
        host: [100, 64, 1, 2].into(),
        address: [100, 64, 1, 3].into(),
        name_servers: vec![[192, 0, 2, 53].into()],
        name: Some("web".to_owned()),
        net_boot: input.len() % 2 == 0,
    };
    let mut server = DhcpServer::new(lease);
    server.take(input, true);
    let mut script = Script(input);
    let checksum = script.byte() % 4 == 0;
    let mut frame = request();
    for _ in 0..script.byte() % 8 {
        let (place, value) = (usize::from(script.word()) % frame.len(), script.byte());
        frame[place] = value;
    }
    if script.byte() % 2 == 0 {
        frame.truncate(OPTIONS);
        frame.extend(script.0);
        frame.resize(frame.len().clamp(300, 1600), 0);
    }
    mend(&mut frame);
    server.take(&frame, checksum);
    while let Some(answer) = server.pop() {
        assert!((342..=1514).contains(&answer.len()), "{} bytes", answer.len());
        assert_eq!(answer[..6], MAC);
    }
    assert!(server.due().is_none());
});

/// A DISCOVER without a checksum over its UDP part.
fn request() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &MAC, &[0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17]].concat();
    frame.extend([0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67, 0, 0, 0, 0, 1, 1, 6]);
    frame.resize(14 + 20 + 8 + 28, 0);
    frame.extend(MAC);
    frame.resize(OPTIONS - 4, 0);
    frame.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
    frame.resize(14 + 20 + 8 + 300, 0);
    frame
}

/// Lengths and the header's sum as they have to be, where there is a header.
fn mend(frame: &mut [u8]) {
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[38..40].copy_from_slice(&(length - 20).to_be_bytes());
    frame[24..26].fill(0);
    let end = (14 + usize::from(frame[14] & 15) * 4).clamp(34, frame.len());
    let sum: u32 = frame[14..end].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
}
