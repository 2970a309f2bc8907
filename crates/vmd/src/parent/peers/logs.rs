//! What children write to their standard error, which is a pipe to the parent.

use sys::event::Interest;
use sys::log::Source;
use sys::logpipe::LogPipe;

use crate::parent::edge::{Edge, Token};

impl Edge {
    pub(in crate::parent) fn watch_log(&mut self, source: Source, log: LogPipe) {
        self.next_log += 1;
        if let Err(error) = self.events.add(&log, Token::Log(self.next_log), Interest::Read) {
            log::warn!("log of {}: {error}", source.name);
        }
        self.logs.insert(self.next_log, (source, log));
    }

    /// Prints what has been written to log pipes so far.
    pub(in crate::parent) fn drain_logs(&mut self) {
        let numbers: Vec<u64> = self.logs.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.log_ready(number));
    }

    pub(in crate::parent) fn log_ready(&mut self, number: u64) {
        let Some((source, log)) = self.logs.get_mut(&number) else { return };
        let ended = log.read(&mut |line| print_line(source, &line));
        if !matches!(ended, Ok(false)) {
            if let Some((_, log)) = self.logs.remove(&number) {
                self.events.remove(&log);
            }
        }
    }
}

fn print_line(source: &Source, line: &sys::logpipe::Line) {
    let (origin, text) = line.origin(&source.name);
    sys::log::relay(line.level, source, origin, format_args!("{text}"));
}
