//! One gRPC call over HTTP/2: a message that goes, a message that comes, and a status that says that it came whole.
//!
//! Every way in which the answer is not exactly one uncompressed message with `grpc-status: 0` behind it is a failure.

use crate::external_messages::judge;
use crate::external_service::{Answer, Failure};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;
use portcullis_identity::outbound::innermost;
use std::pin::pin;

/// The method that is called, as a path.
pub(crate) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The largest message of an answer.
const MOST_MESSAGE: usize = 256 << 10;
/// Before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The message as a body.
pub(crate) fn framed(message: &impl prost::Message) -> Result<Bytes, Failure> {
    let too_long = Failure::Unsendable("the request is too long to be told");
    let length = message.encoded_len();
    let Ok(written) = u32::try_from(length) else { return Err(too_long) };
    let mut body = BytesMut::with_capacity(PREFIX + length);
    body.put_u8(0);
    body.put_u32(written);
    message.encode(&mut body).map_err(|_| too_long)?;
    Ok(body.freeze())
}

/// Reads the answer to its end.
pub(crate) async fn read<B>(response: Response<B>) -> Result<Answer, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: std::error::Error + 'static,
{
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failure::NotGrpc(head.status.as_u16()));
    }
    let mut kinds = head.headers.get_all(CONTENT_TYPE).iter();
    let is_grpc = kinds.next().is_some_and(|kind| matches!(kind.as_bytes(), b"application/grpc" | b"application/grpc+proto"));
    if !is_grpc || kinds.next().is_some() {
        return Err(Failure::Malformed("its content-type is not application/grpc"));
    }
    let mut body = pin!(body);
    let (mut data, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Broken(innermost(&error)))?;
        match frame.into_data() {
            Ok(more) if data.len() + more.len() > PREFIX + MOST_MESSAGE => {
                return Err(Failure::Malformed("it is larger than 256 KiB"));
            }
            Ok(more) => data.extend_from_slice(&more),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
    // The status comes last; without a message, it may stand in the head.
    match (trailers, head.headers.contains_key(GRPC_STATUS)) {
        (Some(trailers), false) => succeeded(&trailers)?,
        (None, true) if data.is_empty() => succeeded(&head.headers)?,
        (None, false) => return Err(Failure::Malformed("it ends without a grpc-status")),
        (_, true) => return Err(Failure::Malformed("its grpc-status comes before its end")),
    }
    judge(message(data.freeze())?)
}

fn succeeded(fields: &HeaderMap) -> Result<(), Failure> {
    let mut values = fields.get_all(GRPC_STATUS).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Failure::Malformed("it has not one grpc-status"));
    };
    let code = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match code.and_then(|code| code.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::GrpcStatus(code)),
        None => Err(Failure::Malformed("its grpc-status is no number")),
    }
}

/// Of a body, the one message in it.
fn message(body: Bytes) -> Result<Bytes, Failure> {
    let malformed = |what| Err(Failure::Malformed(what));
    let Some((&[compressed, a, b, c, d], rest)) = body.split_first_chunk::<PREFIX>() else {
        return malformed(if body.is_empty() { "it has no message" } else { "it ends within its message" });
    };
    if compressed != 0 {
        return malformed("its message is compressed, which nobody asked for");
    }
    let length = u64::from(u32::from_be_bytes([a, b, c, d]));
    match (rest.len() as u64).cmp(&length) {
        std::cmp::Ordering::Less => malformed("it ends within its message"),
        std::cmp::Ordering::Equal => Ok(body.slice(PREFIX..)),
        std::cmp::Ordering::Greater => malformed("something comes after its message"),
    }
}

/// As the gRPC documentation writes a status.
pub(crate) fn status_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("a status that gRPC does not know")
}

#[cfg(test)]
#[path = "external_grpc_tests.rs"]
mod tests;
