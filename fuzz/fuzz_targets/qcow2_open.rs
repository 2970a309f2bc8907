//! An image as a user or another's tool may leave it: opened, checked, read and written a little.
#![no_main]

use std::ops::ControlFlow;

use disk::qcow2::{Access, Header, Layer, Limits, Map, Request, check};
use libfuzzer_sys::fuzz_target;
use model::DiskFormat;
use vmd_fuzz::Script;
use vmd_fuzz::qcow2::{Engine, image};

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let mut bytes = image();
    bytes.resize(8192, 0);
    if script.byte() & 1 == 0 {
        bytes = script.0.to_vec();
    } else {
        for _ in 0..script.byte() % 32 {
            let (at, value) = (usize::from(script.word()) % bytes.len(), script.byte());
            bytes[at] = value;
        }
    }
    let len = u64::try_from(bytes.len()).expect("it is small");
    let _ = Header::probe(&bytes, len);
    let _ = check::check(&bytes, &mut |_, _| ControlFlow::Continue(()));
    let read = |at: u64, len: usize| {
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let mut found = bytes[from..bytes.len().min(from.saturating_add(len))].to_vec();
        found.resize(len, 0);
        Ok(found)
    };
    for access in [Access::Read, Access::Write] {
        let Ok(layer) = Layer::from_reads(read, len, DiskFormat::Qcow2, access) else { continue };
        let limits = Limits { tables: 4096, copying: 4096, write_through: false };
        let mut map = Map::open(vec![layer], limits).expect("a chain of one");
        let mut engine = Engine::new(vec![bytes.clone()]);
        let size = map.size();
        for id in 0..4 {
            let offset = script.number() % size;
            let len = (size - offset).min(u64::from(script.word()) % 5000);
            let buffer = vec![0; usize::try_from(len).expect("it is small")];
            let request = match (access, script.byte() % 3) {
                (Access::Read, _) | (Access::Write, 0) => Request::Read { offset, len },
                (Access::Write, 1) => Request::Write { offset, len },
                (Access::Write, _) => Request::Discard { offset, len },
            };
            engine.submit(&mut map, id, request, buffer);
        }
        engine.run(&mut map, &mut script);
        engine.submit(&mut map, 9, Request::Flush, Vec::new());
        engine.run(&mut map, &mut script);
    }
});
