//! The whole gateway over real sockets, through its public handle: one process, port 0, nothing outside of this machine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

mod drain;
mod embed;
mod filters;
mod hostile;
mod messages;
mod pools;
mod preflight;
mod protocols;
mod reload;
mod slow;
mod upstream_tls;
