//! What drives the exchange: the connection loop with the strict parser in front, and two drivers behind it.
//!
//! - [`connection`]: one connection's loop: reads heads under a deadline, judges their form, hands requests on
//! - [`gate`] and [`chunked`]: the stream a request is read from, which ends where the request ends
//! - [`http2`]: the same of an HTTP/2 connection
//! - [`judge`]: the exchange's verdict on the head, with which both drivers begin
//! - [`which`]: the driver of each request
//! - [`direct`]: to backends that speak HTTP/1, without Pingora's proxy; [`timer`] is its clock
//! - [`lent`] and [`spare`]: what a thread lends to requests, so that they need no allocation
//! - [`lot`]: where connections wait that have waited for a while
//! - [`stop`]: the wait for the end of the gateway
//! - [`convert`]: between our heads and Pingora's
//! - [`pingora`]: the only implementation of `ProxyHttp`; its phases call the exchange

pub mod chunked;
pub mod connection;
pub mod convert;
pub mod direct;
pub mod gate;
pub mod http2;
pub mod judge;
mod lent;
pub mod lot;
pub mod pingora;
mod spare;
mod stop;
pub mod timer;
pub mod which;
