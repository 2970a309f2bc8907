//! What was measured, as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use crate::boot::{Sample, median};
use crate::disk;
use crate::exits::{Counts, Exits};
use crate::many::Figures;
use crate::stages::Stage;

/// One figure of a sample.
type Figure = fn(&Sample) -> f64;

/// One kind of count.
type Kind = fn(&Exits) -> &Counts;

/// Reasons of each kind that are listed, the most frequent first.
const LISTED: usize = 12;

/// The comparison: QEMU first, then vmd, then their ratio.
pub fn comparison(names: &[String], samples: &[Vec<Sample>]) -> String {
    let rows: [(&str, Figure, usize); 4] = [
        ("launch to the guest's init (s)", |it| it.to_init.as_secs_f64(), 2),
        ("processor time of the VM until then (s)", |it| it.cpu.as_secs_f64(), 2),
        ("KVM exits until then", |it| it.exits as f64, 0),
        ("memory beyond the guest's (KiB)", |it| it.private_kib as f64, 0),
    ];
    let mut text = format!("| medians | {} | ratio |\n|---|--:|--:|--:|\n", names.join(" | "));
    for (what, value, decimals) in rows {
        let values: Vec<f64> = samples.iter().map(|of| median(of.iter().map(value).collect())).collect();
        row(&mut text, what, &values, decimals);
    }
    text
}

/// Exits by reason, of each contender.
pub fn reasons(names: &[String], traced: &[Exits]) -> String {
    let mut text = format!("| exits of one boot | {} |\n|---|--:|--:|\n", names.join(" | "));
    let parts: [(&str, Kind); 3] =
        [("all", |it| &it.all), ("to the process", |it| &it.to_process), ("port", |it| &it.ports)];
    for (part, counts) in parts {
        let keys: BTreeSet<&String> = traced.iter().flat_map(|it| counts(it).keys()).collect();
        let most = |key: &String| traced.iter().filter_map(|it| counts(it).get(key)).max().copied();
        let mut keys: Vec<&String> = keys.into_iter().collect();
        keys.sort_by_key(|key| std::cmp::Reverse(most(key)));
        for key in keys.into_iter().take(LISTED) {
            let cells: Vec<String> =
                traced.iter().map(|it| counts(it).get(key).copied().unwrap_or_default().to_string()).collect();
            let _ = writeln!(text, "| {part}: {key} | {} |", cells.join(" | "));
        }
    }
    text
}

/// Exits of each contender, and so what each device adds.
pub fn devices(boots: &[(String, Exits)]) -> String {
    let mut text = "| exits until the guest's init, one boot | in all | to the process |\n|---|--:|--:|\n".to_owned();
    for (name, exits) in boots {
        let _ = writeln!(text, "| {name} | {} | {} |", Exits::sum(&exits.all), Exits::sum(&exits.to_process));
    }
    text
}

/// Memory of VMs that differ in their devices.
pub fn memory(vms: &[(String, u64)]) -> String {
    let mut text = "| memory beyond the guest's, all processes of the VM, one boot | KiB |\n|---|--:|\n".to_owned();
    for (name, kib) in vms {
        let _ = writeln!(text, "| {name} | {kib} |");
    }
    text
}

/// A disk with and without its VM's limit of memory.
pub fn cache(figures: Option<&crate::cache::Figures>) -> String {
    let Some(crate::cache::Figures { limit_mib, written_mib, seconds: [without, with] }) = figures else {
        return "No figures of a disk with a limit of memory: cgroups have no controller \"memory\" here.\n".to_owned();
    };
    let ratio = with / without;
    format!(
        "| a guest of 256 MiB writes {written_mib} MiB, medians | no limit | limit of {limit_mib} MiB | ratio |\n\
         |---|--:|--:|--:|\n| buffered writes (s) | {without:.2} | {with:.2} | {ratio:.3} |\n"
    )
}

/// The stages of a start.
pub fn stages(stages: &[Stage]) -> String {
    let mut text =
        "| `vmctl start` until the first guest instruction | wall (ms) | processor (ms) |\n|---|--:|--:|\n".to_owned();
    for stage in stages {
        let _ = writeln!(text, "| {} | {:.1} | {:.1} |", stage.name, stage.wall_ms, stage.cpu_ms);
    }
    text
}

/// Many VMs.
pub fn many(figures: &Figures) -> String {
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
    let mut text = format!("| 500 VMs, {} of them running | |\n|---|--:|\n", figures.running);
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "| {what} | {value} |");
    };
    line("the daemon's processor time for one `vmctl status` (ms)", ms(figures.status_cpu));
    line("one `vmctl status` in all (ms)", ms(figures.status_wall));
    line("start of the daemon until it answers (ms)", ms(figures.until_served));
    line("starts of those that run, one after the other (ms)", ms(figures.until_run));
    for (role, kib) in &figures.private_kib {
        line(&format!("memory of {role} (KiB)"), kib.to_string());
    }
    line("memory of all four (KiB)", figures.private_kib.iter().map(|(_, kib)| kib).sum::<u64>().to_string());
    text
}

/// Servers of disks.
pub fn disk(figures: &disk::Figures) -> String {
    let mut text =
        "| requests a second of the server's processor time, medians | qemu-storage-daemon | vioblk | ratio |\n\
                    |---|--:|--:|--:|\n"
            .to_owned();
    for disk::Row { name, rates: [qemu, ours], .. } in &figures.rows {
        // By round: what else the machine does is much the same for both then.
        let ratio = median(ours.iter().zip(qemu).map(|(ours, qemu)| ours / qemu).collect());
        let (qemu, ours) = (median(qemu.clone()), median(ours.clone()));
        let _ = writeln!(text, "| {name} | {qemu:.0} | {ours:.0} | {ratio:.2} |");
    }
    for (kind, [qemu, ours]) in &figures.private_kib {
        let _ = writeln!(text, "| {kind}: memory of its own at most (KiB) | {qemu} | {ours} | |");
    }
    text
}

fn row(text: &mut String, what: &str, values: &[f64], decimals: usize) {
    let cells: Vec<String> = values.iter().map(|it| format!("{it:.decimals$}")).collect();
    let ratio = match values {
        [theirs, ours] if *theirs > 0.0 => format!("{:.3}", ours / theirs),
        _ => "-".to_owned(),
    };
    let _ = writeln!(text, "| {what} | {} | {ratio} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_ours_to_theirs() {
        let mut text = String::new();
        row(&mut text, "x", &[4.0, 3.0], 1);
        assert_eq!(text, "| x | 4.0 | 3.0 | 0.750 |\n");
    }
}
