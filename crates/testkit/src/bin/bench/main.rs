//! `make bench`: vmd against QEMU at its best, both booting one kernel the same way on one machine, in turn.
//!
//! Prints a Markdown table for docs/benchmarks.md. In the lab times are an emulator's and count only as ratios within one
//! run; exits to the process do not depend on the machine. `BENCH_ROUNDS` sets how often each boots (5). `bench cache` does the
//! last part alone: a disk with and without its VM's limit of memory. Two benchmarks beside these need no lab: `bench many`, one
//! daemon with many VMs, of which `BENCH_RUNNING` run (24), and `bench disk`, vioblk beside qemu-storage-daemon. Its further
//! arguments are words of the rows that are measured; `BENCH_DIR` is a directory on the file system of the disk (VMD_BIN_DIR).
#![forbid(unsafe_code)]

mod boot;
mod cache;
mod disk;
mod exits;
mod many;
mod ours;
mod qemu;
mod stages;
mod table;

use boot::{Contender, Sample};
use exits::{Exits, Tracer};
use ours::Ours;
use qemu::Qemu;

/// Boots of each contender, and runs of each pattern of a disk, for the medians.
const ROUNDS: usize = 5;

fn main() {
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    match std::env::args().nth(1).as_deref() {
        Some("disk") => {
            let words: Vec<String> = std::env::args().skip(2).collect();
            return println!("{}", table::disk(&disk::measure(&words, rounds)));
        }
        Some("many") => return println!("{}", table::many(&many::measure())),
        Some("cache") => return println!("{}", table::cache(cache::measure().as_ref())),
        _ => {}
    }
    let ours = Ours::start();
    let bare = ours.bare();
    let contenders: [&dyn Contender; 2] = [&Qemu, &bare];
    let names = contenders.map(Contender::name);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); contenders.len()];
    for round in 1..=rounds {
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            eprintln!("bench: round {round} of {rounds}: {}", contender.name());
            samples.push(boot::measure(*contender));
        }
    }
    println!("{}", table::comparison(&names, &samples));
    // Exits by reason come from tracing, which costs time: so from boots of their own.
    let traced = contenders.map(count);
    println!("{}", table::reasons(&names, &traced));
    let bare = traced.into_iter().zip(names).map(|(exits, name)| (name, exits));
    let with_devices = ours.with_devices().map(|it| (it.name(), count(&it)));
    println!("{}", table::devices(&bare.chain(with_devices).collect::<Vec<_>>()));
    let memory = std::iter::once(ours.bare()).chain(ours.with_devices()).map(|it| (it.name(), boot::measure(&it)));
    println!("{}", table::memory(&memory.map(|(name, sample)| (name, sample.private_kib)).collect::<Vec<_>>()));
    println!("{}", table::stages(&stages::of_a_start(&ours)));
    drop(ours);
    println!("{}", table::cache(cache::measure().as_ref()));
}

fn count(contender: &dyn Contender) -> Exits {
    eprintln!("bench: counting exits of {}", contender.name());
    let tracer = Tracer::start();
    let running = contender.boot();
    let exits = tracer.read();
    drop(running);
    exits
}
