//! Requests to a new qcow2 image on a base, many at once and done in any order: its disk is as a flat copy.
#![no_main]

use disk::qcow2::{Access, Layer, Limits, Map, Request};
use libfuzzer_sys::fuzz_target;
use model::DiskFormat;
use vmd_fuzz::Script;
use vmd_fuzz::qcow2::{Engine, image};

const SIZE: u64 = 64 * 512;

fn layer(bytes: &[u8], format: DiskFormat, access: Access) -> Layer {
    let read = |at: u64, len: usize| {
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let mut found = bytes[from..bytes.len().min(from.saturating_add(len))].to_vec();
        found.resize(len, 0);
        Ok(found)
    };
    let len = u64::try_from(bytes.len()).expect("it is small");
    Layer::from_reads(read, len, format, access).expect("the image is right")
}

fuzz_target!(|input: &[u8]| {
    let mut script = Script(input);
    let choice = script.byte();
    let base: Vec<u8> =
        (0..u16::from(choice) * 128).map(|at| u8::try_from(at % 255).expect("it is small") + 1).collect();
    let mut layers = vec![layer(&image(), DiskFormat::Qcow2, Access::Write)];
    layers.push(layer(&base, DiskFormat::Raw, Access::Read));
    let limits = Limits { tables: usize::from(script.byte()) * 16, copying: 2048, write_through: choice & 1 == 1 };
    let mut map = Map::open(layers, limits).expect("a short chain");
    let mut model = base.clone();
    model.resize(64 * 512, 0);
    let mut engine = Engine::new(vec![image(), base]);
    let mut id = 0;
    while !script.is_empty() && id < 200 {
        // A group that shares no cluster is done at once.
        let mut taken = [false; 64];
        let mut discards = Vec::new();
        for _ in 0..1 + script.byte() % 8 {
            id += 1;
            let offset = u64::from(script.word()) % SIZE;
            let len = (1 + u64::from(script.word()) % 3000).min(SIZE - offset);
            let (from, to) = (usize::try_from(offset).expect("small"), usize::try_from(offset + len).expect("small"));
            let clusters = &mut taken[from / 512..to.div_ceil(512)];
            if clusters.contains(&true) {
                continue;
            }
            clusters.fill(true);
            let value = script.byte();
            let request = match script.byte() % 8 {
                0 => Request::WriteZeroes { offset, len, unmap: value & 1 == 1 },
                1 => Request::Discard { offset, len },
                2 => Request::Flush,
                _ => Request::Write { offset, len },
            };
            match &request {
                Request::Write { .. } => model[from..to].fill(value),
                Request::WriteZeroes { .. } => model[from..to].fill(0),
                Request::Discard { .. } => discards.push(from..to),
                Request::Read { .. } | Request::Flush => {}
            }
            engine.submit(&mut map, id, request, vec![value; to - from]);
        }
        engine.run(&mut map, &mut script);
        id += 1;
        engine.submit(&mut map, id, Request::Read { offset: 0, len: SIZE }, vec![0xee; 64 * 512]);
        engine.run(&mut map, &mut script);
        let read = &engine.buffers[&id];
        for at in discards.into_iter().flatten() {
            assert!(read[at] == 0 || read[at] == model[at], "byte {at} is another's after a discard");
            model[at] = read[at];
        }
        assert!(*read == model, "the disk is not as its copy");
        assert!(engine.answers.values().all(Result::is_ok), "a request failed");
    }
});
