//! The probe's one exchange: a question with a file, an answer.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use proto::probe::{ToParent, ToProbe};
use proto::{Channel, Failure, Received};

use super::answer::answer;
use super::positioned::Positioned;
use crate::ending::Fatal;

/// How long the parent may be silent: it asks at once, so this is for one that has hung.
const SILENCE: Duration = Duration::from_secs(30);

/// Answers one question.
pub fn serve(mut parent: Channel<ToParent, ToProbe>) -> Result<(), Fatal> {
    let Received::Message(question, mut files) = parent.recv_within(SILENCE)? else { return Ok(()) };
    // The channel has counted the descriptors: one.
    let Some(file) = files.pop() else { return Ok(()) };
    parent.send(&look(question, file), vec![])?;
    Ok(()) // one packet always finds room in an empty socket
}

pub(super) fn look(question: ToProbe, file: OwnedFd) -> ToParent {
    match Positioned::new(File::from(file)) {
        Ok(mut file) => answer(question, &mut file),
        Err(error) => ToParent::Failed(Failure::io("can't be examined", &error)),
    }
}
