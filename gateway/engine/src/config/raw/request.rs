//! What a listener takes for a request.

use portcullis_plugin::units::{ByteSize, TimeSpan};
use schemars::JsonSchema;
use serde::Deserialize;

/// Bounds that protect the gateway from one client.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once. Default: 20000.
    pub connections: usize,
    /// Bytes of a request head. Default: 32KiB.
    pub header_bytes: ByteSize,
    /// Fields of a request head. Default: 100.
    pub header_fields: usize,
    /// Bytes of a request body; larger is 413. Default: no limit, bodies stream in constant memory.
    pub body: Option<ByteSize>,
    /// From the connection to the end of the TLS handshake, PROXY header included. Default: 10s.
    pub handshake_timeout: TimeSpan,
    /// From the first byte of a request head to its last; then 408. Default: 10s.
    pub header_timeout: TimeSpan,
    /// Between two requests of a connection. Default: 60s.
    pub idle_timeout: TimeSpan,
    /// Between two reads of a request body; then 408, or the end of the stream on HTTP/2. Also the longest silence of a
    /// client that streams (gRPC): raise it where such streams are idle. Default: 30s.
    pub body_timeout: TimeSpan,
    /// For one write of a response to a client that does not read. Default: 30s.
    pub write_timeout: TimeSpan,
    /// HTTP/2 streams at once on a connection. Default: 128.
    pub h2_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            header_bytes: ByteSize(32 << 10),
            header_fields: 100,
            body: None,
            handshake_timeout: TimeSpan::secs(10),
            header_timeout: TimeSpan::secs(10),
            idle_timeout: TimeSpan::secs(60),
            body_timeout: TimeSpan::secs(30),
            write_timeout: TimeSpan::secs(30),
            h2_streams: 128,
        }
    }
}

/// What is done with spellings of a path that servers read differently. What remains is matched, and sent upstream.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Normalise {
    /// `/a/../b`. Default: `resolve`.
    pub dot_segments: DotSegments,
    /// `/a//b`. Default: `merge`.
    pub duplicate_slashes: DuplicateSlashes,
    /// `%2F` and `%5C`. Default: `refuse`.
    pub encoded_slashes: EncodedSlashes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DotSegments {
    #[default]
    Resolve,
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DuplicateSlashes {
    #[default]
    Merge,
    Keep,
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodedSlashes {
    #[default]
    Refuse,
    /// Sent on as they are, and never taken for a slash.
    Keep,
}
