//! The data plane of Portcullis as a library. It names no concrete filter.
//!
//! In the order in which a request meets them:
//!
//! - [`listen`]: accept, PROXY protocol, ClientHello, TLS; [`connection`]: what is kept of it
//! - [`drive`]: the connection loop, and the Pingora driver that calls the exchange
//! - [`http1`] and [`normalise`]: one strict reading of each head; [`refusals`]: those that have none
//! - [`exchange`]: what happens to a request; [`owned`], [`forwarded`] and [`forwarded_cert`]: what a client may not say, and
//!   what a proxy may
//! - [`route`], [`chain`] and [`group`]: which filters, and how they run
//! - [`pool`]: which backend
//! - [`rescue`]: refusals and faults as responses, and [`causes`]: what is told of them; [`access_log`], [`audit`], [`metrics`], [`decisions`] and
//!   [`admin`]: the record
//!
//! Around them: [`config`] makes the immutable snapshot that runs, [`gateway`] starts, reloads and stops, [`watch`]
//! notices changed files, `weak_map` holds what outlives a reload, and [`explain`] asks the exchange without a network.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod access_log;
pub mod admin;
pub mod audit;
pub mod causes;
pub mod chain;
pub mod config;
pub mod connection;
pub mod decisions;
pub mod drive;
pub mod exchange;
pub mod explain;
pub mod forwarded;
pub mod forwarded_cert;
pub mod gateway;
pub mod group;
pub mod http1;
pub mod listen;
pub mod metrics;
pub mod normalise;
pub mod owned;
pub mod pool;
pub mod refusals;
pub mod rescue;
pub mod route;
mod spool;
pub mod watch;
mod weak_map;
