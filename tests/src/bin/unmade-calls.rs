//! `unmade-calls DIR`: fails for each system call that a promise allows, that no process of that role made in the machines
//! whose counts lie in DIR, and that the promise does not explain.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use e2e::calls::Counts;

fn main() -> ExitCode {
    match std::env::args_os().nth(1).ok_or_else(|| "usage: unmade-calls DIR".to_owned()).and_then(|dir| read(&dir)) {
        Ok((machines, counts)) => told(machines, &counts),
        Err(why) => {
            eprintln!("unmade-calls: {why}");
            ExitCode::FAILURE
        }
    }
}

fn read(dir: &std::ffi::OsStr) -> Result<(usize, Counts), String> {
    let (mut machines, mut counts) = (0, Counts::default());
    for entry in std::fs::read_dir(dir).map_err(|error| format!("{dir:?}: {error}"))? {
        let path = entry.map_err(|error| format!("{dir:?}: {error}"))?.path();
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        counts.add(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        machines += 1;
    }
    Ok((machines, counts))
}

fn told(machines: usize, counts: &Counts) -> ExitCode {
    let unexplained = counts.unexplained();
    for line in &unexplained {
        println!("promises: allowed, never made and not explained: {line}");
    }
    println!("promises: {} calls unexplained, counted on {machines} machines", unexplained.len());
    if unexplained.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
