//! Connections over real sockets, in one process.

mod certificates;
mod client_auth;
mod harness;
mod lifecycle;
mod pki;
mod proxy;
mod tls;
