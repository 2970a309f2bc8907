//! What the parent may say in which order. Pure.
//!
//! ```text
//! Unnamed --Become--> Named --Open--> Named ... --End--> over
//!    '---End--> over
//! ```

use model::UserPath;
use proto::opener::{Asker, ToOpener, What};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take the rights of this user, for good.
    Become(Asker),
    /// Open it as `asker`, and answer.
    Open {
        /// The request's.
        index: u8,
        /// What it is to be.
        what: What,
        /// Where.
        path: UserPath,
    },
    /// End.
    End,
}

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
    /// Takes the parent's next message.
    pub fn handle(&mut self, message: ToOpener) -> Result<Action, OutOfTurn> {
        match (*self, message) {
            (_, ToOpener::End) => Ok(Action::End),
            (Conversation::Unnamed, ToOpener::Become(asker)) => {
                *self = Conversation::Named;
                Ok(Action::Become(asker))
            }
            (Conversation::Named, ToOpener::Open { index, what, path }) => Ok(Action::Open { index, what, path }),
            (Conversation::Unnamed, ToOpener::Open { .. }) => Err(OutOfTurn::Unnamed),
            (Conversation::Named, ToOpener::Become(_)) => Err(OutOfTurn::SecondAsker),
        }
    }
}
