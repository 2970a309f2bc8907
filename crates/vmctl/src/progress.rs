//! What a terminal shows: while a command waits, what for, and for how long; and texts from elsewhere. Nobody waits in silence,
//! and for a daemon that hangs not for ever.

use std::io::Write;
use std::time::{Duration, Instant};

use proto::client::Reply;

use crate::conversation::{Conversation, SILENCE, TalkError};

/// Between two looks of the line: a person reads seconds.
const TICK: Duration = Duration::from_secs(1);

/// Back to the beginning of the line, and nothing on it (ECMA-48: CR, EL).
const ERASE: &str = "\r\x1b[K";

/// How a command waits for its answers.
pub struct Watch<'a> {
    /// Whether `err` is a terminal that shows progress.
    pub lively: bool,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// What is waited for.
    pub line: &'a str,
    /// Whether that stands on the screen already.
    pub told: bool,
    /// When to give up; never, where the answer comes when something ends.
    pub limit: Option<Duration>,
}

impl Watch<'_> {
    /// The next answer. On a lively screen the line is shown with the seconds that it takes, then gone from it; elsewhere it is
    /// told once that there is none yet.
    pub fn reply(&mut self, conversation: &mut Conversation) -> Result<Reply, TalkError> {
        let began = Instant::now();
        let reply = conversation.reply(TICK, || {
            let taken = began.elapsed();
            match self.limit {
                Some(limit) if taken >= limit => return Err(TalkError::Silent(limit)),
                _ => self.tell(taken),
            }
            Ok(())
        });
        if self.lively {
            let _ = write!(self.err, "{ERASE}").and_then(|()| self.err.flush());
        }
        reply
    }

    fn tell(&mut self, taken: Duration) {
        let told = match self.lively {
            true => write!(self.err, "{ERASE}{}: {} s", self.line, taken.as_secs()),
            false if self.told || taken < SILENCE => return,
            false => {
                self.told = true;
                writeln!(self.err, "vmctl: {}: waiting for vmd", self.line)
            }
        };
        let _ = told.and_then(|()| self.err.flush()); // that nobody reads it changes nothing
    }
}

/// How far something has come that takes its time, on a lively screen.
pub struct Meter<'a> {
    /// Whether `err` is a terminal that shows progress.
    pub lively: bool,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// What is done.
    pub line: &'a str,
    /// When it was last told, and at first when it began.
    pub told: Instant,
}

impl Meter<'_> {
    /// So much of it is done.
    pub fn tell(&mut self, done: u64, of: u64) {
        if !self.lively || self.told.elapsed() < TICK {
            return;
        }
        self.told = Instant::now();
        let percent = u128::from(done.min(of)) * 100 / u128::from(of.max(1));
        let _ = write!(self.err, "{ERASE}{}: {percent} %", self.line).and_then(|()| self.err.flush());
    }

    /// It is over: the line goes.
    pub fn end(&mut self) {
        if self.lively {
            let _ = write!(self.err, "{ERASE}").and_then(|()| self.err.flush());
        }
    }
}

/// A failure's first word, in red where colours are seen.
pub fn coloured(lively: bool, word: &str) -> String {
    if lively { format!("\x1b[31m{word}\x1b[m") } else { word.to_owned() }
}

/// Text from elsewhere as a terminal may have it: what could command it is replaced.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use proto::client::{Request, ToClient, ToControl, VERSION};
    use proto::{Channel, Received};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

    use super::*;

    /// A daemon that greets one client, takes its request, and then says nothing until the client has left.
    fn hangs(listener: &OwnedFd) {
        let socket = rustix::net::accept_with(listener, SocketFlags::CLOEXEC).expect("a client");
        let mut client: Channel<ToClient, ToControl> = Channel::new(socket);
        client.recv_within(Duration::from_secs(20)).expect("a greeting");
        client
            .send(&ToClient::Hello { version: VERSION, release: model::Text::default() }, Vec::new())
            .expect("greeted");
        while !matches!(client.recv_within(Duration::from_secs(20)), Ok(Received::Closed) | Err(_)) {}
    }

    #[test]
    fn a_meter_shows_each_second_how_much_is_done_and_then_nothing() {
        let mut err = Vec::new();
        let long_ago = Instant::now().checked_sub(TICK).expect("the machine is up for longer");
        let mut meter = Meter { lively: true, err: &mut err, line: "copying a", told: long_ago };
        meter.tell(u64::MAX / 2, u64::MAX);
        meter.tell(u64::MAX, u64::MAX);
        meter.end();
        assert_eq!(String::from_utf8(err).expect("text"), "\r\x1b[Kcopying a: 49 %\r\x1b[K");
        let mut err = Vec::new();
        let mut meter = Meter { lively: false, err: &mut err, line: "copying a", told: long_ago };
        meter.tell(1, 0);
        meter.end();
        assert_eq!(err, b"", "nothing where no terminal shows it");
    }

    #[test]
    fn a_daemon_that_hangs_is_given_up_at_the_limit() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("socket");
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let listener = rustix::net::socket_with(kind.0, kind.1, kind.2, None).expect("a socket");
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).expect("an address")).expect("bound");
        rustix::net::listen(&listener, 1).expect("listens");
        let daemon = std::thread::spawn(move || hangs(&listener));

        let mut conversation = Conversation::open(&path, || {}).expect("greeted");
        conversation.ask(Request::Reload, Vec::new()).expect("asked");
        let mut err = Vec::new();
        let limit = Some(Duration::from_secs(3));
        let mut watch = Watch { lively: false, err: &mut err, line: "reload", told: false, limit };
        let said = watch.reply(&mut conversation).expect_err("nothing was answered").to_string();
        assert_eq!(said, "vmd has not answered for 3 s: it hangs, or waits for a disk or a mount; see its log");
        assert_eq!(String::from_utf8(err).expect("text"), "vmctl: reload: waiting for vmd\n");
        drop(conversation);
        daemon.join().expect("no panic");
    }
}
