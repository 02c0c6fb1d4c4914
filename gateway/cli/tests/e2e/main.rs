//! The gateway from end to end: a real one on loopback, with an issuer, certificates and upstreams around it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

// What the tests stand on.
mod stage;

// The two files of the contract, through the command.
mod contract;

// Who the caller is.
mod certificates;
mod headers;
mod jose;
mod rotation;
mod tokens;

// What else is asked of a caller.
mod limits;

// What comes back.
mod responses;

// The command.
mod check_cli;
mod explain_cli;
