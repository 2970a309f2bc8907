//! What each role may do: its promise as data, and how a process enters it.
