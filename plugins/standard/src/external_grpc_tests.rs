use super::*;
use http::HeaderValue;
use hyper::body::Frame;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// An allowance: `status { }`.
const OK: &[u8] = b"\0\0\0\0\x02\x0a\x00";

/// A body that comes in pieces.
struct Pieces(VecDeque<Result<Frame<Bytes>, std::io::Error>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(self.0.pop_front())
    }
}

fn fields(status: &[&str]) -> HeaderMap {
    status.iter().map(|status| (GRPC_STATUS, HeaderValue::from_str(status).unwrap())).collect()
}

/// `trailers` are values of `grpc-status`.
fn response(pieces: &[&[u8]], trailers: Option<&[&str]>) -> Response<Pieces> {
    let data = pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
    let trailers = trailers.map(|status| Ok(Frame::trailers(fields(status))));
    let mut response = Response::new(Pieces(data.chain(trailers).collect()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

async fn failure(response: Response<Pieces>) -> String {
    match read(response).await {
        Err(failure) => failure.to_string(),
        Ok(Answer::Allowed(_)) => panic!("it passed"),
        Ok(Answer::Denied(refusal)) => panic!("{refusal}"),
    }
}

#[tokio::test]
async fn one_message_and_a_status_behind_it_are_an_answer_in_whatever_pieces() {
    let each: Vec<&[u8]> = OK.chunks(1).collect();
    for pieces in [&[OK][..], &[&OK[..3], &OK[3..]], &[b"", OK, b""], &each] {
        for kind in ["application/grpc", "application/grpc+proto"] {
            let mut response = response(pieces, Some(&["0"]));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            // Flag 0 says that this message is not compressed, whatever others could be.
            response.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
            assert!(matches!(read(response).await, Ok(Answer::Allowed(fields)) if fields.is_empty()));
        }
    }
}

#[tokio::test]
async fn whatever_is_not_one_message_with_its_status_is_a_failure() {
    let compressed = [b"\x01", &OK[1..]].concat();
    let odd = [b"\x02", &OK[1..]].concat();
    let large = [&b"\0\xff\xff\xff\xff"[..], &vec![0; MOST_MESSAGE]].concat();
    let filler = vec![0; MOST_MESSAGE];
    type Case<'a> = (&'a str, &'a [&'a [u8]], Option<&'a [&'a str]>);
    let cases: &[Case<'_>] = &[
        ("without a grpc-status", &[OK], None),
        ("without a grpc-status", &[], None),
        ("not one grpc-status", &[OK], Some(&[])),
        ("not one grpc-status", &[OK], Some(&["0", "0"])),
        ("not one grpc-status", &[OK], Some(&["0", "7"])),
        ("no number", &[OK], Some(&["OK"])),
        ("no number", &[OK], Some(&[""])),
        ("no number", &[OK], Some(&["+0"])),
        ("no number", &[OK], Some(&["-0"])),
        ("no number", &[OK], Some(&["0, 0"])),
        ("no number", &[OK], Some(&["4294967296"])),
        ("grpc-status 7, PERMISSION_DENIED", &[OK], Some(&["7"])),
        ("grpc-status 12, UNIMPLEMENTED", &[], Some(&["12"])),
        ("grpc-status 14, UNAVAILABLE", &[OK], Some(&["14"])),
        ("grpc-status 17, a status that gRPC does not know", &[OK], Some(&["17"])),
        ("no message", &[], Some(&["0"])),
        ("ends within", &[&OK[..4]], Some(&["0"])),
        ("ends within", &[&OK[..6]], Some(&["0"])),
        ("ends within", &[b"\0\xff\xff\xff\xff\x0a\x00"], Some(&["0"])),
        ("comes after", &[OK, b"\0"], Some(&["0"])),
        ("comes after", &[OK, OK], Some(&["0"])),
        ("comes after", &[b"\0\0\0\0\0", OK], Some(&["0"])),
        ("compressed", &[&compressed], Some(&["0"])),
        ("compressed", &[&odd], Some(&["0"])),
        ("larger than", &[&large, b"\0"], Some(&["0"])),
        ("larger than", &[OK, &filler, &filler], Some(&["0"])),
        ("no CheckResponse", &[b"\0\0\0\0\x01\xff"], Some(&["0"])),
        ("no CheckResponse", &[b"\0\0\0\0\x02\x0a\x7f"], Some(&["0"])),
        ("no `status`", &[b"\0\0\0\0\0"], Some(&["0"])),
    ];
    for (says, pieces, trailers) in cases {
        let failure = failure(response(pieces, *trailers)).await;
        assert!(failure.contains(says), "{says}: {failure}");
    }
    let mut broken = response(&[OK], None);
    broken.body_mut().0.push_back(Err(std::io::Error::other("reset")));
    assert_eq!(failure(broken).await, "cannot be reached: reset");
}

#[tokio::test]
async fn what_is_not_grpc_is_no_answer() {
    for status in [100, 204, 206, 302, 404, 415, 503] {
        let mut response = response(&[OK], Some(&["0"]));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        assert_eq!(failure(response).await, format!("the answer is an HTTP {status} and not gRPC"));
    }
    for kinds in [
        &[][..],
        &["application/json"],
        &["application/grpc+json"],
        &["application/grpc-web"],
        &["application/grpcx"],
        &["application/grpc", "text/html"],
    ] {
        let mut response = response(&[OK], Some(&["0"]));
        response.headers_mut().remove(CONTENT_TYPE);
        for kind in kinds {
            response.headers_mut().append(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        assert!(failure(response).await.contains("content-type"), "{kinds:?}");
    }
}

#[tokio::test]
async fn a_status_in_the_head_stands_alone() {
    for (status, says) in [("7", "grpc-status 7"), ("0", "no message"), ("x", "no number")] {
        let mut response = response(&[], None);
        response.headers_mut().extend(fields(&[status]));
        assert!(failure(response).await.contains(says), "{status}");
    }
    for trailers in [None, Some(&["0"][..])] {
        let mut response = response(&[OK], trailers);
        response.headers_mut().extend(fields(&["0"]));
        assert!(failure(response).await.contains("before its end"));
    }
}

#[test]
fn a_question_is_framed() {
    use crate::external_messages::CheckRequest;
    let empty = CheckRequest { attributes: None };
    assert_eq!(framed(&empty).unwrap(), b"\0\0\0\0\0"[..]);
    let one = CheckRequest { attributes: Some(crate::external_messages::AttributeContext::default()) };
    assert_eq!(framed(&one).unwrap(), b"\0\0\0\0\x02\x0a\0"[..]);
}

proptest! {
    /// Only a frame that is one message, whole and uncompressed, may allow.
    #[test]
    fn bytes_that_are_no_whole_message_never_allow(body in any::<Vec<u8>>(), status in "[0-9]{0,2}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(read(response(&[&body], Some(&[&status]))));
        if let Ok(Answer::Allowed(_)) = answer {
            prop_assert!(status.parse::<u32>() == Ok(0) && body[0] == 0);
            prop_assert_eq!(body.len(), PREFIX + u32::from_be_bytes([body[1], body[2], body[3], body[4]]) as usize);
        }
    }

    /// Of an allowance, no other length and no other prefix is one.
    #[test]
    fn an_allowance_with_another_prefix_is_none(prefix in any::<[u8; 5]>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = [&prefix[..], &OK[5..]].concat();
        let answer = runtime.block_on(read(response(&[&body], Some(&["0"]))));
        prop_assert_eq!(matches!(answer, Ok(Answer::Allowed(_))), prefix == OK[..5]);
    }
}
