//! What the parent may say in which order. Pure.
//!
//! ```text
//! Unnamed --Become--> Named --Open--> Named ... --End--> over
//!    '---End--> over
//! ```

use proto::opener::ToOpener;

/// The parent's messages came in an order that has no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfTurn {
    /// Nothing may be opened with root's rights before it is said whose are meant.
    #[error("asked to open a file before being told for which user")]
    Unnamed,
    /// Rights are taken once.
    #[error("asked to become a second user; an opener serves one")]
    SecondAsker,
}

/// Where the conversation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conversation {
    /// Nobody has said yet which user asks.
    #[default]
    Unnamed,
    /// It is.
    Named,
}

impl Conversation {
    /// Takes the parent's next message, and gives it back if it is in turn.
    pub fn handle(&mut self, message: ToOpener) -> Result<ToOpener, OutOfTurn> {
        match (*self, &message) {
            (Conversation::Unnamed, ToOpener::Become(_)) => *self = Conversation::Named,
            (Conversation::Unnamed, ToOpener::Open { .. }) => return Err(OutOfTurn::Unnamed),
            (Conversation::Named, ToOpener::Become(_)) => return Err(OutOfTurn::SecondAsker),
            (Conversation::Named, ToOpener::Open { .. }) | (_, ToOpener::End) => {}
        }
        Ok(message)
    }
}
