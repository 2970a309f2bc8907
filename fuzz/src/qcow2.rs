//! An engine over files in memory, for the map of a qcow2 chain.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use disk::qcow2::{Action, Failure, Map, Op, Request, RequestId};

use crate::Script;

/// Bytes that a file may have: more is growth that nobody asked for.
const ROOM: usize = 16 << 20;

/// Files, and what requests have in their buffers.
pub struct Engine {
    /// The image, then its bases.
    pub files: Vec<Vec<u8>>,
    /// Buffers of requests by number.
    pub buffers: HashMap<u64, Vec<u8>>,
    /// Answers by number.
    pub answers: HashMap<u64, Result<(), Failure>>,
}

fn span(range: &Range<u64>) -> Range<usize> {
    usize::try_from(range.start).expect("it is small")..usize::try_from(range.end).expect("it is small")
}

impl Engine {
    /// One over these files.
    pub fn new(files: Vec<Vec<u8>>) -> Self {
        Self { files, buffers: HashMap::new(), answers: HashMap::new() }
    }

    /// Asks for something with a buffer.
    pub fn submit(&mut self, map: &mut Map, id: u64, request: Request, buffer: Vec<u8>) {
        self.buffers.insert(id, buffer);
        map.submit(RequestId(id), request);
    }

    /// Does all there is, in the order that the script says.
    pub fn run(&mut self, map: &mut Map, script: &mut Script<'_>) {
        let mut under_way = Vec::new();
        loop {
            while let Some(action) = map.poll() {
                match action {
                    Action::Do { token, file, op } => under_way.push((token, file, op)),
                    Action::Finish { id, result } => {
                        assert!(self.answers.insert(id.0, result).is_none(), "a request is answered twice");
                    }
                }
            }
            if under_way.is_empty() {
                break;
            }
            let next = usize::from(script.byte()) % under_way.len();
            let (token, file, op) = under_way.swap_remove(next);
            let result = self.perform(usize::from(file), op);
            map.done(token, result);
        }
        assert_eq!(map.under_way(), 0, "a request has no answer");
    }

    fn read(&self, file: usize, at: u64, len: usize) -> Vec<u8> {
        let at = usize::try_from(at).expect("it is small");
        self.files[file].get(at..at + len).expect("what is read is in the file").to_vec()
    }

    fn write(&mut self, file: usize, at: u64, bytes: &[u8]) {
        assert_eq!(file, 0, "a base is written");
        let at = usize::try_from(at).expect("it is small");
        let end = at + bytes.len();
        assert!(end <= ROOM, "the image grows to {end} bytes");
        let file = &mut self.files[0];
        file.resize(file.len().max(end), 0);
        file[at..end].copy_from_slice(bytes);
    }

    fn perform(&mut self, file: usize, op: Op) -> Result<Option<Vec<u8>>, io::ErrorKind> {
        match op {
            Op::Read { at, len } => return Ok(Some(self.read(file, at, len))),
            Op::ReadGuest { id, data, at } => {
                let bytes = self.read(file, at, span(&data).len());
                self.buffers.get_mut(&id.0).expect("it was asked")[span(&data)].copy_from_slice(&bytes);
            }
            Op::ZeroGuest { id, data } => self.buffers.get_mut(&id.0).expect("it was asked")[span(&data)].fill(0),
            Op::FillGuest { id, data, bytes, from } => {
                let len = span(&data).len();
                let buffer = self.buffers.get_mut(&id.0).expect("it was asked");
                buffer[span(&data)].copy_from_slice(&bytes[from..from + len]);
            }
            Op::WriteGuest { id, data, at } => {
                let bytes = self.buffers[&id.0][span(&data)].to_vec();
                self.write(file, at, &bytes);
            }
            Op::Write { at, bytes } => self.write(file, at, &bytes),
            Op::Zero { at, len } => self.write(file, at, &vec![0; usize::try_from(len).expect("it is small")]),
            Op::Punch { at, len } => {
                let end = self.files[0].len();
                let at = usize::try_from(at).expect("it is small").min(end);
                let len = usize::try_from(len).expect("it is small").min(end - at);
                self.files[0][at..at + len].fill(0xdd);
            }
            Op::Sync => {}
        }
        Ok(None)
    }
}

/// An empty image of 512 byte clusters and a disk of 64: header, refcount table, L1 table, refcount block.
pub fn image() -> Vec<u8> {
    let mut bytes = vec![0; 4 * 512];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &9u32.to_be_bytes());
    put(24, &(64 * 512u64).to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &1024u64.to_be_bytes());
    put(48, &512u64.to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &112u32.to_be_bytes());
    put(512, &1536u64.to_be_bytes());
    (0..4).for_each(|cluster| put(1536 + cluster * 2, &[0, 1]));
    bytes
}
