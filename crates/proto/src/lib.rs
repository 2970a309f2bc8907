//! What processes say to each other, one file per pair of peers, and the socket that carries it.
#![forbid(unsafe_code)]
