//! `image info` and `image check`: what an image is, and whether it is right.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;

use config::json::Value;
use config::size;
use disk::qcow2::check::{self, CheckError, Finding, Repair, Report};
use disk::qcow2::{Compression, Header, MAX_CHAIN, Version, features};
use model::DiskFormat;

use super::ImageError;
use super::chain::{self, ChainError, Link};
use super::convert::Tell;
use crate::create::Source;

/// What an image and its bases are, nearest first; `docs/schema/image-info.json` describes the JSON.
pub fn info(image: &Source, json: bool) -> Result<String, ImageError> {
    let chain = chain::open(&image.path, image.format, image.called, MAX_CHAIN);
    let chain = chain.map_err(|error| ImageError::Look { what: "info", error })?;
    let files: Vec<File<'_>> = chain.iter().map(File::of).collect();
    Ok(match json {
        true => {
            let files = files.iter().map(File::json).collect();
            format!("{}\n", Value::Object(vec![("chain", Value::List(files))]))
        }
        false => files.iter().map(File::text).collect::<Vec<_>>().join("\n"),
    })
}

/// A file of a chain, as it is shown.
struct File<'a> {
    link: &'a Link,
    on_disk: u64,
}

impl<'a> File<'a> {
    fn of(link: &'a Link) -> Self {
        // What the file system can't say is shown as nothing. Its unit is 512 bytes (stat(2)).
        let on_disk = link.file.metadata().map_or(0, |it| it.blocks().saturating_mul(512));
        Self { link, on_disk }
    }

    fn header(&self) -> Option<&'a Header> {
        self.link.header.as_ref()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:>10}  {value}");
        };
        line("image", self.link.path.display().to_string());
        let version = self.header().map(|header| format!(", version {}", version(header))).unwrap_or_default();
        line("format", format!("{}{version}", self.link.format.word()));
        line("size", format!("{} ({} bytes)", size::format(self.link.size), self.link.size));
        line("on disk", size::format(self.on_disk));
        if let Some(header) = self.header() {
            line("clusters", size::format(header.geometry.cluster_size()));
            if let Some(snapshots) = header.snapshots {
                line("snapshots", snapshots.count.to_string());
            }
            if let Some(backing) = &header.backing {
                let format = backing.format.map(|format| format!(" ({})", format.word())).unwrap_or_default();
                line("base", format!("{}{format}", String::from_utf8_lossy(&backing.name)));
            }
            problems(header).iter().for_each(|problem| line("problem", (*problem).to_owned()));
        }
        text
    }

    fn json(&self) -> Value {
        let header = self.header();
        let number = |of: Option<u64>| Value::from(of);
        let backing = header.and_then(|header| header.backing.as_ref()).map(|backing| {
            Value::Object(vec![
                ("name", Value::text(String::from_utf8_lossy(&backing.name))),
                ("format", backing.format.map(|format| Value::text(format.word())).into()),
            ])
        });
        let compression = header.map(|header| match header.compression {
            Compression::Deflate => Value::text("deflate"),
            Compression::Zstd => Value::text("zstd"),
        });
        Value::Object(vec![
            ("path", Value::text(self.link.path.display())),
            ("format", Value::text(self.link.format.word())),
            ("size", self.link.size.into()),
            ("on_disk", self.on_disk.into()),
            ("version", number(header.map(version))),
            ("cluster_size", number(header.map(|header| header.geometry.cluster_size()))),
            ("refcount_bits", number(header.map(|header| 1 << header.geometry.refcount_order()))),
            ("compression", compression.into()),
            ("extended_l2", header.map(|header| header.geometry.is_extended()).into()),
            ("snapshots", number(header.map(|header| header.snapshots.map_or(0, |table| table.count.into())))),
            ("base", backing.into()),
            ("problems", Value::list(header.map(problems).unwrap_or_default().into_iter().map(Value::text))),
        ])
    }
}

fn version(header: &Header) -> u64 {
    match header.version {
        Version::V2 => 2,
        Version::V3 => 3,
    }
}

/// What a header says against its image.
fn problems(header: &Header) -> Vec<&'static str> {
    let told = [
        (features::DIRTY, "it was not closed: its refcounts may be wrong until they are repaired"),
        (features::CORRUPT, "it is marked as corrupt: it can only be read"),
    ];
    told.into_iter().filter(|(bit, _)| header.incompatible & bit != 0).map(|(_, text)| text).collect()
}

/// What a check of an image says, and whether the image is right then but for leaks. `docs/schema/image-check.json` describes
/// the JSON.
pub fn check(image: &Source, repair: bool, json: bool, tell: &mut Tell<'_>) -> Result<(String, bool), ImageError> {
    let path = &image.path;
    let wrong = |error| ImageError::Look { what: "check", error };
    let found = match image.format {
        // One that looks like something else is refused here.
        DiskFormat::Raw => chain::open(path, image.format, image.called, 1).map(|_| None).map_err(wrong)?,
        DiskFormat::Qcow2 => {
            let not_opened = |why| wrong(ChainError { path: path.clone(), why });
            let mut watch = |done, of| {
                tell(done, of);
                ControlFlow::Continue(())
            };
            let found = match repair {
                true => check::repair(&chain::open_to_write(path).map_err(not_opened)?, &mut watch),
                false => {
                    let (file, _) = chain::open_file(path).map_err(not_opened)?;
                    check::check(&file, &mut watch).map(|report| (report, Repair::Right))
                }
            };
            Some(found.map_err(|reason: CheckError| ImageError::Check { path: path.clone(), reason })?)
        }
    };
    let right = found.as_ref().is_none_or(|(report, repair)| report.errors == 0 || *repair == Repair::Done);
    let text = match (json, &found) {
        (true, found) => format!("{}\n", as_json(image, found.as_ref())),
        (false, None) => format!("{}: a raw image has nothing that could be wrong\n", path.display()),
        (false, Some((report, repair))) => as_text(image, report, *repair),
    };
    Ok((text, right))
}

fn as_text(image: &Source, report: &Report, repair: Repair) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let kind = if finding.is_leak() { "leak" } else { "error" };
        let _ = writeln!(text, "{kind}: {finding}");
    }
    let more = report.leaks.saturating_add(report.errors).saturating_sub(report.findings.len() as u64);
    if more > 0 {
        let _ = writeln!(text, "and {more} more");
    }
    let found = match (report.errors, report.leaks) {
        (0, 0) => "no errors".to_owned(),
        (0, leaks) => format!("{leaks} leaked clusters, which cost space and nothing else"),
        (errors, leaks) => {
            format!("{errors} errors and {leaks} leaked clusters; keep a copy before it is written again")
        }
    };
    let _ = writeln!(text, "{}: {found}", image.path.display());
    match repair {
        Repair::Right => {}
        Repair::Done => {
            let _ = writeln!(text, "{}: repaired", image.path.display());
        }
        Repair::Refused => {
            let other = "it has errors that no repair mends; copy what can be read with vmctl create -i";
            let _ = writeln!(text, "{}: not repaired: {other}", image.path.display());
        }
    }
    let Report { allocated, clusters, compressed, .. } = report;
    let _ = writeln!(text, "{allocated} of {clusters} clusters are allocated, {compressed} of them compressed");
    text
}

fn as_json(image: &Source, found: Option<&(Report, Repair)>) -> Value {
    let report = found.map(|(report, _)| report);
    let number = |of: fn(&Report) -> u64| Value::from(report.map(of));
    let finding = |finding: &Finding| {
        let kind = if finding.is_leak() { "leak" } else { "error" };
        Value::Object(vec![("kind", Value::text(kind)), ("text", Value::text(finding))])
    };
    let findings = report.map(|report| report.findings.iter().map(finding).collect()).unwrap_or_default();
    Value::Object(vec![
        ("path", Value::text(image.path.display())),
        ("format", Value::text(image.format.word())),
        ("clusters", number(|report| report.clusters)),
        ("allocated", number(|report| report.allocated)),
        ("compressed", number(|report| report.compressed)),
        ("errors", number(|report| report.errors)),
        ("leaks", number(|report| report.leaks)),
        ("repaired", found.is_some_and(|(_, repair)| *repair == Repair::Done).into()),
        ("findings", Value::List(findings)),
    ])
}
