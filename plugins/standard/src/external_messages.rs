//! The messages of `envoy.service.auth.v3.Authorization/Check`, and what an answer amounts to.
//!
//! The structs have those fields that are told or heeded here, under the numbers of Envoy's files
//! `envoy/service/auth/v3/{external_auth,attribute_context}.proto` and `envoy/config/core/v3/{address,base}.proto`. The tests
//! read and write them with structs that are generated from those files.
//!
//! An answer that allows is believed only if everything it asks for is done: what it asks for beside the headers is looked
//! at, even where the gateway does nothing with it. An answer that refuses does so whatever else is in it.

use crate::external_service::{Answer, Failure, Refusal};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use prost::Message;
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<AttributeContext>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AttributeContext {
    #[prost(message, optional, tag = "1")]
    pub source: Option<Peer>,
    #[prost(message, optional, tag = "2")]
    pub destination: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    pub request: Option<Request>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Peer {
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
    #[prost(string, tag = "4")]
    pub principal: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Address {
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SocketAddress {
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(uint32, optional, tag = "3")]
    pub port_value: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(message, optional, tag = "1")]
    pub time: Option<Timestamp>,
    #[prost(message, optional, tag = "2")]
    pub http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HttpRequest {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub method: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub headers: BTreeMap<String, String>,
    #[prost(string, tag = "4")]
    pub path: String,
    #[prost(string, tag = "5")]
    pub host: String,
    #[prost(string, tag = "6")]
    pub scheme: String,
    #[prost(int64, tag = "9")]
    pub size: i64,
    #[prost(string, tag = "10")]
    pub protocol: String,
}

/// Every field stands in a list of its own, also the members of the `oneof`: of two that contradict each other, a decoder
/// would keep the last without a word.
#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, repeated, tag = "1")]
    status: Vec<Status>,
    #[prost(message, repeated, tag = "2")]
    denied: Vec<DeniedHttpResponse>,
    /// Not decoded yet: its fields are counted first.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    ok: Vec<Bytes>,
    /// What is in it is for the client, and not handed on.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    error: Vec<Bytes>,
}

/// `dynamic_metadata` is 4: it is for Envoy's other filters, and alters nothing of the request.
const OF_CHECK_RESPONSE: [usize; 5] = [1, 2, 3, 4, 5];
/// `dynamic_metadata` was 3.
const OF_OK_RESPONSE: [usize; 6] = [2, 3, 5, 6, 7, 8];

/// `google.rpc.Status`. Its message is for the service's own people.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
}

/// Its body is not handed on.
#[derive(Clone, PartialEq, Message)]
struct DeniedHttpResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<HttpStatus>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpStatus {
    #[prost(int32, tag = "1")]
    code: i32,
}

/// What is only looked at for whether it is there has the type of bytes, which decodes as a message or a text would.
#[derive(Clone, PartialEq, Message)]
struct OkHttpResponse {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    headers_to_remove: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    response_headers_to_add: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    query_parameters_to_set: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    query_parameters_to_remove: Vec<Bytes>,
}

/// Without `append`: a field that is taken stands alone, for the client's own have been removed.
#[derive(Clone, PartialEq, Message)]
struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    header: Option<HeaderValueText>,
    #[prost(int32, tag = "3")]
    append_action: i32,
}

/// `HeaderValue`.
#[derive(Clone, PartialEq, Message)]
struct HeaderValueText {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
    #[prost(bytes = "bytes", tag = "3")]
    raw_value: Bytes,
}

/// Append, add, overwrite or add: all of them set what is not there yet. 3 overwrites what is there, and nothing else.
const SETTING: [i32; 3] = [0, 1, 2];

/// What a `CheckResponse` amounts to.
pub(crate) fn judge(message: Bytes) -> Result<Answer, Failure> {
    let response = CheckResponse::decode(message.clone()).map_err(|_| Failure::Malformed("it is no CheckResponse"))?;
    if let Some(status) = response.status.iter().find(|status| status.code != 0) {
        if response.denied.is_empty() && !response.error.is_empty() {
            return Err(Failure::Failed);
        }
        return Ok(Answer::Denied(refusal(status.code, &response.denied)));
    }
    if !response.error.is_empty() {
        return Err(Failure::Failed);
    }
    if !response.denied.is_empty() {
        return Err(Failure::Contradiction("the status OK and a `denied_response`"));
    }
    match (response.status.len(), response.ok.len()) {
        (1, 0 | 1) => {}
        (0, _) => return Err(Failure::NoStatus),
        _ => return Err(Failure::Contradiction("one of its fields twice")),
    }
    if let Some(field) = unknown(&message, &OF_CHECK_RESPONSE) {
        return Err(Failure::Condition(format!("field {field} of CheckResponse, which is not known here")));
    }
    match response.ok.into_iter().next() {
        Some(ok) => allowance(ok),
        None => Ok(Answer::Allowed(HeaderMap::new())),
    }
}

fn refusal(code: i32, denied: &[DeniedHttpResponse]) -> Refusal {
    let given = denied.iter().filter_map(|denied| denied.status.as_ref()).map(|status| status.code).rfind(|code| *code != 0);
    // A refusal stays one: never a status with which the client would have got what it asked for, or be sent elsewhere.
    let status = given
        .and_then(|code| u16::try_from(code).ok())
        .and_then(|code| StatusCode::from_u16(code).ok())
        .filter(|status| status.is_client_error() || status.is_server_error());
    let mut fields = HeaderMap::new();
    for header in denied.iter().flat_map(|denied| &denied.headers) {
        // One that cannot be sent is left out.
        if let Ok((name, value)) = field(header) {
            // Nor is one too many.
            let _ = fields.try_append(name, value);
        }
    }
    Refusal {
        status: status.unwrap_or(StatusCode::FORBIDDEN),
        code: Some(code),
        replaced: given.filter(|_| status.is_none()),
        fields,
    }
}

fn allowance(ok: Bytes) -> Result<Answer, Failure> {
    let condition = |what: &str| Err(Failure::Condition(what.to_owned()));
    if let Some(field) = unknown(&ok, &OF_OK_RESPONSE) {
        return condition(&format!("field {field} of OkHttpResponse, which is not known here"));
    }
    let ok = OkHttpResponse::decode(ok).map_err(|_| Failure::Malformed("its `ok_response` is none"))?;
    if let Some(name) = ok.headers_to_remove.first() {
        // A name that is none is not shown: it may be anything.
        return condition(&match HeaderName::from_bytes(name) {
            Ok(name) => format!("that `{name}` is removed (`headers_to_remove`)"),
            Err(_) => "that a field is removed (`headers_to_remove`)".to_owned(),
        });
    }
    if !ok.response_headers_to_add.is_empty() {
        return condition("fields for the client (`response_headers_to_add`)");
    }
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        return condition("another query (`query_parameters_to_set`, `query_parameters_to_remove`)");
    }
    let mut fields = HeaderMap::new();
    for header in &ok.headers {
        let (name, value) = field(header).map_err(Failure::Malformed)?;
        if !SETTING.contains(&header.append_action) {
            return condition(&format!("that `{name}` is set in a way that is not known here (`append_action`)"));
        }
        fields.try_append(name, value).map_err(|_| Failure::Malformed("it has too many headers"))?;
    }
    Ok(Answer::Allowed(fields))
}

fn field(header: &HeaderValueOption) -> Result<(HeaderName, HeaderValue), &'static str> {
    let header = header.header.as_ref().ok_or("one of its headers has no name")?;
    let name = HeaderName::from_bytes(header.key.as_bytes()).map_err(|_| "one of its headers has a name that is none")?;
    let value = match (header.value.is_empty(), header.raw_value.is_empty()) {
        (_, true) => HeaderValue::from_str(&header.value),
        (true, false) => HeaderValue::from_bytes(&header.raw_value),
        (false, false) => return Err("one of its headers has two values"),
    };
    Ok((name, value.map_err(|_| "one of its headers has a value that none can have")?))
}

/// The first field of a message whose number is not one of these. The message can be decoded.
fn unknown(mut message: &[u8], known: &[usize]) -> Option<usize> {
    while message.has_remaining() {
        // A key is written as a length is: as a varint.
        let key = prost::decode_length_delimiter(&mut message).ok()?;
        let (number, wire_type) = (key >> 3, key & 7);
        let skipped = match wire_type {
            0 => prost::decode_length_delimiter(&mut message).map(|_| 0),
            1 => Ok(8),
            2 => prost::decode_length_delimiter(&mut message),
            5 => Ok(4),
            // Groups, which these messages do not have.
            _ => return Some(number),
        };
        match skipped.ok().and_then(|length| message.split_at_checked(length)) {
            Some((_, rest)) if known.contains(&number) => message = rest,
            _ => return Some(number),
        }
    }
    None
}

#[cfg(test)]
#[path = "external_messages_tests.rs"]
mod tests;
