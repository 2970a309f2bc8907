//! What a terminal shows: while a command waits its line again and again, with the seconds, of which nothing else gets any; and
//! texts from elsewhere.

use std::io::Write;
use std::time::{Duration, Instant};

use proto::client::Reply;

use crate::conversation::{Conversation, TalkError};

/// Between two looks of the line: a person reads seconds.
const TICK: Duration = Duration::from_secs(1);

/// Back to the beginning of the line, and nothing on it (ECMA-48: CR, EL).
const ERASE: &str = "\r\x1b[K";

/// The next answer. On a lively screen `line` is shown with the seconds that it takes, then gone from it.
pub fn reply(
    conversation: &mut Conversation,
    lively: bool,
    err: &mut dyn Write,
    line: &str,
) -> Result<Reply, TalkError> {
    if !lively {
        return conversation.reply();
    }
    let began = Instant::now();
    let reply = conversation.reply_within(TICK, || {
        let _ = write!(err, "{ERASE}{line}{} s", began.elapsed().as_secs()).and_then(|()| err.flush());
    });
    let _ = write!(err, "{ERASE}").and_then(|()| err.flush());
    reply
}

/// A failure's first word, in red where colours are seen.
pub fn coloured(lively: bool, word: &str) -> String {
    if lively { format!("\x1b[31m{word}\x1b[m") } else { word.to_owned() }
}

/// Text from elsewhere as a terminal may have it: what could command it is replaced.
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}
