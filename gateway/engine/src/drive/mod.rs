//! What drives the exchange: the connection loop with the strict parser in front, and the Pingora driver behind it.
//!
//! - [`connection`]: one connection's loop: reads heads under a deadline, judges their form, hands requests on
//! - [`gate`] and [`chunked`]: the stream a request is read from, which ends where the request ends
//! - [`body_watch`]: the deadline for bodies of HTTP/2 requests
//! - [`convert`]: between our heads and Pingora's
//! - [`pingora`]: the only implementation of `ProxyHttp`; its phases call the exchange

pub mod body_watch;
pub mod chunked;
pub mod connection;
pub mod convert;
pub mod gate;
pub mod pingora;
