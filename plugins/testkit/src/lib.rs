#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

// Filters, with no socket.
pub mod exchange;
pub mod filters;
pub mod run;

// Certificates and tokens, with no socket.
pub mod hostile;
pub mod keys;
pub mod pki;
pub mod token;

// The neighbours of a gateway: the provider, the upstreams, the clients.
pub mod client;
pub mod frames;
pub mod http2;
pub mod op;
pub mod other;
pub mod provider;
pub mod upstream;
pub mod websocket;

mod error;
mod message;
mod port;
mod wait;

pub use client::{Client, Response};
pub use error::Error;
pub use exchange::{Answer as UpstreamAnswer, Request, answer, request};
pub use filters::{TestEnv, filter, filter_by_name};
pub use hostile::Hostile;
pub use http2::{Http2Client, Http2Upstream};
pub use op::{RealProvider, shared_dir, shared_file};
pub use other::OtherProvider;
pub use pki::{Identity, Pki};
pub use port::Port;
pub use provider::Provider;
pub use run::{Chain, Outcome, run, run_async};
pub use token::{Alg, Rotation, SignWith, Tamper, TokenIssuer, TokenSpec};
pub use upstream::{Answer, Behaviour, Upstream};
pub use wait::{PATIENCE, until, within};
