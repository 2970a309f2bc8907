//! `disk PATH [format FORMAT] [{ OPTION ... }]` of a VM (openbsd/vm.conf.md, 10). The options are ours: behind a path a
//! brace can be nothing else, so that no path changes its meaning.

use std::ops::RangeInclusive;

use model::{Disk, DiskFormat, DiskLimits, MAX_DISKS, Rate};

use super::{Parser, Read, Text};
use crate::fault::Fault;
use crate::input::Span;
use crate::keyword::{BANDWIDTH, BURST, Block, IOPS, Keyword};
use crate::lexer::Kind;
use crate::size::{self, SizeError};

/// A number of bytes, how it was written and where.
pub(super) struct Size {
    pub(super) bytes: Result<i64, SizeError>,
    pub(super) text: String,
    pub(super) span: Span,
}

impl Parser<'_> {
    /// After `disk`; `count` has all that were given, `disks` those that are right.
    pub(super) fn disk(&mut self, count: &mut usize, disks: &mut Vec<Disk>) -> Read<()> {
        let text = self.texts("a disk image's path")?;
        let keyword = self.format()?;
        let mut limits = DiskLimits::default();
        if self.token.kind == Kind::Sign(b'{') {
            self.block(Block::Disk, &mut limits, Self::disk_option)?;
        }
        *count = count.saturating_add(1);
        if *count > MAX_DISKS {
            self.error(Fault::TooManyDisks { disk: text.shown(), limit: MAX_DISKS }, text.span);
            return Ok(());
        }
        let (prefix, path) = if keyword.is_some() { (None, &text.bytes[..]) } else { model::split_prefix(&text.bytes) };
        let path = Text { bytes: path.to_vec(), ..text };
        // What is kept is the file that a link leads to: its extension counts.
        let disk = self.existing(&path, "disk").map(|path| Disk { limits, ..Disk::new(path, keyword.or(prefix)) });
        disks.extend(disk);
        Ok(())
    }

    fn format(&mut self) -> Read<Option<DiskFormat>> {
        if !self.taken(Keyword::Format) {
            return Ok(None);
        }
        let word = self.texts("\"raw\" or \"qcow2\"")?;
        let format = DiskFormat::of_word(&word.bytes);
        if format.is_none() && !word.bad {
            self.error(Fault::DiskFormat { word: word.shown() }, word.span);
        }
        Ok(format)
    }

    fn disk_option(&mut self, limits: &mut DiskLimits) -> Read<()> {
        let word = [BANDWIDTH, IOPS].into_iter().find(|word| self.plain_word() == Some(word.as_bytes()));
        let Some(word) = word else { return self.misplaced(Block::Disk) };
        self.advance();
        match word {
            IOPS => limits.iops = self.rate(IOPS, Self::requests)?,
            _ => limits.bandwidth = self.rate(BANDWIDTH, Self::bytes)?,
        }
        Ok(())
    }

    /// `NUMBER [burst NUMBER]`; without a burst it is what a second allows.
    fn rate(
        &mut self,
        what: &'static str,
        number: fn(&mut Self, &'static str) -> Read<Option<u64>>,
    ) -> Read<Option<Rate>> {
        let per_second = number(self, what)?;
        let mut burst = per_second;
        if self.plain_word() == Some(BURST.as_bytes()) {
            self.advance();
            burst = number(self, BURST)?;
        }
        Ok(per_second.zip(burst).and_then(|(per_second, burst)| Rate::new(per_second, burst)))
    }

    fn requests(&mut self, what: &'static str) -> Read<Option<u64>> {
        let (number, span) = self.number("a number of requests")?;
        let right = within(number, DiskLimits::IOPS);
        if right.is_none() {
            let expected = "expected 1 to 1000000000";
            self.error(Fault::RateRange { what, text: number.to_string(), expected }, span);
        }
        Ok(right)
    }

    fn bytes(&mut self, what: &'static str) -> Read<Option<u64>> {
        let Some(Size { bytes, text, span }) = self.size("a size such as 100M")? else { return Ok(None) };
        let right = bytes.map(|bytes| within(bytes, DiskLimits::BANDWIDTH));
        match right {
            Ok(Some(_)) => {}
            Ok(None) => {
                let expected = "expected 64K to 1P; a number alone is bytes";
                self.error(Fault::RateRange { what, text, expected }, span);
            }
            Err(reason) => self.error(Fault::RateSyntax { what, text, reason }, span),
        }
        Ok(right.ok().flatten())
    }

    /// A size; none where its text was bad.
    pub(super) fn size(&mut self, expected: &str) -> Read<Option<Size>> {
        if let Kind::Number(number) = self.token.kind {
            return Ok(Some(Size { bytes: Ok(number), text: number.to_string(), span: self.take().span }));
        }
        let text = self.text(expected)?;
        Ok((!text.bad).then(|| Size { bytes: size::scan(&text.bytes), text: text.shown(), span: text.span }))
    }
}

fn within(number: i64, range: RangeInclusive<u64>) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| range.contains(number))
}
