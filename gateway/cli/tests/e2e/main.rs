//! The gateway from end to end: a real one on loopback, with an issuer, certificates and upstreams around it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

// What the tests stand on: a gateway with its folder, its log and its metrics; a stage with an issuer beside it; and a
// service that is asked over gRPC.
mod authorization_service;
mod stage;
mod support;

// Hostile requests, as the engine's own tests have them.
#[path = "../../../engine/tests/corpus/mod.rs"]
mod corpus;

// The two files of the contract, through the command.
mod contract;

// What is spoken, and how badly.
mod drivers;
mod hostile;
mod http2;
mod http2_ends;
mod http2_messages;
mod messages;
mod parked;
mod preflight;
mod protocols;
mod slow;

// Who the caller is.
mod assertions;
mod bound_tokens;
mod certificates;
mod combined;
mod forwarded_cert;
mod forwarded_cert_attacks;
mod headers;
mod introspection;
mod jose;
mod key_cache;
mod keys;
mod kinds;
mod providers;
mod revocations;
mod rotation;
mod tokens;

// What else is asked of a caller.
mod external;
mod external_grpc;
mod filters;
mod limits;
mod quotas;

// What comes back.
mod responses;

// Where requests go.
mod pools;
mod upstream_tls;

// How a gateway lives.
mod drain;
mod embed;
mod reload;

// The command.
mod audit_cli;
mod check_cli;
mod explain_cli;
mod replay_cli;
mod test_cli;
mod why_backends;
mod why_catalogue;
mod why_cli;
mod why_told;
