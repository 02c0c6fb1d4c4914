use super::*;
use envoy_types::ext_authz::v3::pb::{
    self, CheckResponse as Theirs, DeniedHttpResponse as TheirDenied, HeaderValue as TheirValue,
    HeaderValueOption as TheirHeader, HttpResponse, HttpStatus as TheirHttpStatus, OkHttpResponse as TheirOk, QueryParameter,
};
use envoy_types::pb::google::protobuf::{BoolValue, Struct};
use envoy_types::pb::google::rpc;
use proptest::prelude::*;

fn header(name: &str, value: &str) -> TheirHeader {
    #[allow(deprecated)]
    TheirHeader {
        header: Some(TheirValue { key: name.into(), value: value.into(), raw_value: Vec::new() }),
        append: Some(BoolValue { value: true }),
        append_action: 0,
        keep_empty_value: false,
    }
}

fn with_action(name: &str, append_action: i32) -> TheirHeader {
    TheirHeader { append_action, ..header(name, "a") }
}

fn answer(code: Option<i32>, response: Option<HttpResponse>) -> Theirs {
    let status = code.map(|code| rpc::Status { code, message: "a secret".into(), details: Vec::new() });
    Theirs { status, dynamic_metadata: Some(Struct::default()), http_response: response }
}

fn ok(change: impl FnOnce(&mut TheirOk)) -> Theirs {
    let mut ok = TheirOk { headers: vec![header("X-Plan", "gold")], ..TheirOk::default() };
    change(&mut ok);
    answer(Some(0), Some(HttpResponse::OkResponse(ok)))
}

fn denied(status: Option<i32>, headers: Vec<TheirHeader>) -> TheirDenied {
    TheirDenied { status: status.map(|code| TheirHttpStatus { code }), headers, body: "<h1>internal</h1>".into() }
}

fn judged(message: &impl Message) -> Result<Answer, Failure> {
    judge(message.encode_to_vec().into())
}

#[track_caller]
fn allowed(message: &impl Message) -> HeaderMap {
    match judged(message) {
        Ok(Answer::Allowed(fields)) => fields,
        Ok(Answer::Denied(refusal)) => panic!("{refusal}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[track_caller]
fn refused(message: &impl Message) -> Refusal {
    match judged(message) {
        Ok(Answer::Denied(refusal)) => refusal,
        Ok(Answer::Allowed(_)) => panic!("it passed"),
        Err(failure) => panic!("{failure}"),
    }
}

#[track_caller]
fn failure(message: &impl Message) -> Failure {
    judged(message).err().expect("a failure")
}

#[test]
fn a_question_is_read_by_the_structs_of_envoys_own_files() {
    let peer = |address: &str, port, principal: &str| Peer {
        address: Some(Address { socket_address: Some(SocketAddress { address: address.into(), port_value: Some(port) }) }),
        principal: principal.into(),
    };
    let question = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer("192.0.2.7", 0, "spiffe://a/b")),
            destination: Some(peer("::1", 443, "")),
            request: Some(Request {
                time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
                http: Some(HttpRequest {
                    id: "id".into(),
                    method: "PUT".into(),
                    headers: BTreeMap::from([("x-a".into(), "1".into()), ("x-b".into(), "2".into())]),
                    path: "/a?b".into(),
                    host: "h:1".into(),
                    scheme: "https".into(),
                    size: -1,
                    protocol: "HTTP/2".into(),
                }),
            }),
        }),
    };
    let read = pb::CheckRequest::decode(question.encode_to_vec().as_slice()).unwrap();
    // Written again by their structs, nothing has become an unknown field.
    assert_eq!(CheckRequest::decode(read.encode_to_vec().as_slice()).unwrap(), question);
    assert_eq!(read.encoded_len(), question.encoded_len());
    let attributes = read.attributes.unwrap();
    let address = |peer: &envoy_types::pb::envoy::service::auth::v3::attribute_context::Peer| {
        let Some(pb::Address::SocketAddress(socket)) = peer.address.clone().unwrap().address else { panic!("no socket") };
        format!("{} {:?}", socket.address, socket.port_specifier.unwrap())
    };
    let (source, destination) = (attributes.source.unwrap(), attributes.destination.unwrap());
    assert_eq!((address(&source), &*source.principal), ("192.0.2.7 PortValue(0)".into(), "spiffe://a/b"));
    assert_eq!(address(&destination), "::1 PortValue(443)");
    let request = attributes.request.unwrap();
    let time = request.time.unwrap();
    let http = request.http.unwrap();
    assert_eq!((time.seconds, time.nanos), (1_700_000_000, 5));
    assert_eq!((&*http.id, &*http.method, &*http.path, &*http.host), ("id", "PUT", "/a?b", "h:1"));
    assert_eq!((&*http.scheme, http.size, &*http.protocol), ("https", -1, "HTTP/2"));
    assert_eq!((http.headers["x-a"].as_str(), http.headers["x-b"].as_str(), http.headers.len()), ("1", "2", 2));
}

#[test]
fn ok_allows_with_the_headers_it_has() {
    assert!(allowed(&answer(Some(0), None)).is_empty());
    let raw = TheirHeader {
        header: Some(TheirValue { key: "x-raw".into(), value: String::new(), raw_value: b"\xe9".to_vec() }),
        ..header("", "")
    };
    let fields = allowed(&ok(|ok| {
        ok.headers.extend([
            header("x-twice", "1"),
            header("X-Twice", "2"),
            raw,
            with_action("x-add", 1),
            with_action("x-set", 2),
        ]);
    }));
    assert_eq!(fields["x-plan"], "gold");
    assert_eq!(fields["x-raw"], b"\xe9"[..]);
    assert_eq!((&fields["x-add"], &fields["x-set"]), (&HeaderValue::from_static("a"), &HeaderValue::from_static("a")));
    // Both are there, so that whoever takes it sees that there are two.
    assert_eq!(fields.get_all("x-twice").iter().count(), 2);
}

#[test]
fn an_allowance_under_a_condition_is_none() {
    let conditions: [(&str, Theirs); 9] = [
        ("that `authorization` is removed", ok(|ok| ok.headers_to_remove = vec!["Authorization".into()])),
        ("that a field is removed", ok(|ok| ok.headers_to_remove = vec!["a secret\n".into()])),
        ("response_headers_to_add", ok(|ok| ok.response_headers_to_add = vec![header("set-cookie", "a=b")])),
        (
            "another query",
            ok(|ok| ok.query_parameters_to_set = vec![QueryParameter { key: "secret".into(), value: "secret".into() }]),
        ),
        ("another query", ok(|ok| ok.query_parameters_to_remove = vec!["secret".into()])),
        ("that `x-user` is set in a way", ok(|ok| ok.headers.push(with_action("x-user", 3)))),
        ("that `x-user` is set in a way", ok(|ok| ok.headers.push(with_action("x-user", 4)))),
        ("that `x-user` is set in a way", ok(|ok| ok.headers.push(with_action("x-user", -1)))),
        // Also an empty element is one.
        ("another query", ok(|ok| ok.query_parameters_to_set = vec![QueryParameter::default()])),
    ];
    for (says, message) in conditions {
        let failure = failure(&message);
        assert!(matches!(failure, Failure::Condition(_)) && failure.refuses(), "{failure}");
        assert!(failure.to_string().contains(says) && !failure.to_string().contains("secret"), "{failure}");
    }
    // What the field means that a later version adds, nobody here can know.
    let plain = ok(|_| {}).encode_to_vec();
    for unknown in [&b"\x32\x00"[..], b"\x30\x01", b"\x31\0\0\0\0\0\0\0\0", b"\x35\0\0\0\0", b"\x33\x34", b"\xfa\x01\x01a"] {
        let failure = judge([&plain, unknown].concat().into()).err().unwrap();
        assert!(matches!(failure, Failure::Condition(_)), "{failure}");
    }
    // status { }, ok_response { 9: "" }
    let failure = judge(Bytes::from_static(b"\x0a\x00\x1a\x02\x4a\x00")).err().unwrap();
    assert_eq!(failure, Failure::Condition("field 9 of OkHttpResponse, which is not known here".into()));
}

/// A table of headers has a most, and the service's answer has not.
#[test]
fn more_headers_than_fit_are_no_panic() {
    let many = || (0..30_000).map(|at| header(&format!("x-{at}"), "")).collect::<Vec<_>>();
    assert!(matches!(failure(&ok(|ok| ok.headers = many())), Failure::Malformed(_)));
    // A refusal stays one.
    let refusal = refused(&answer(Some(7), Some(HttpResponse::DeniedResponse(denied(Some(401), many())))));
    assert_eq!(refusal.status, 401);
}

#[test]
fn what_contradicts_itself_allows_nothing() {
    let nothing = failure(&answer(None, None));
    assert!(nothing == Failure::NoStatus && nothing.refuses());
    assert_eq!(judge(Bytes::new()).err(), Some(Failure::NoStatus));
    assert_eq!(failure(&answer(None, Some(HttpResponse::OkResponse(TheirOk::default())))), Failure::NoStatus);
    let both = failure(&answer(Some(0), Some(HttpResponse::DeniedResponse(denied(Some(403), Vec::new())))));
    assert!(matches!(both, Failure::Contradiction(_)) && both.refuses());
    // The last of a `oneof` wins where one decodes it as that: a refusal cannot be hidden behind an allowance.
    let refusal = answer(Some(0), Some(HttpResponse::DeniedResponse(denied(None, Vec::new())))).encode_to_vec();
    let allowance = ok(|_| {}).encode_to_vec();
    for message in
        [[&refusal[..], &allowance].concat(), [&allowance[..], &refusal].concat(), [&allowance[..], &allowance].concat()]
    {
        assert!(judge(message.into()).err().unwrap().refuses());
    }
    // And of two statuses, the one that refuses.
    let no = answer(Some(7), None).encode_to_vec();
    for message in [[&no[..], &allowance].concat(), [&allowance[..], &no].concat()] {
        assert!(matches!(judge(message.into()), Ok(Answer::Denied(refusal)) if refusal.status == 403));
    }
    let error = |code| answer(Some(code), Some(HttpResponse::ErrorResponse(denied(Some(200), Vec::new()))));
    assert_eq!((failure(&error(0)), failure(&error(13))), (Failure::Failed, Failure::Failed));
}

#[test]
fn a_refusal_is_one_whatever_else_it_says() {
    for (status, becomes) in
        [(None, 403), (Some(0), 403), (Some(401), 401), (Some(403), 403), (Some(429), 429), (Some(451), 451), (Some(503), 503)]
    {
        let refusal = refused(&answer(Some(7), Some(HttpResponse::DeniedResponse(denied(status, Vec::new())))));
        assert_eq!((refusal.status.as_u16(), refusal.replaced), (becomes, None), "{status:?}");
        assert_eq!(refusal.to_string(), format!("the service answered 7, PERMISSION_DENIED, with {becomes} for the client"));
    }
    for status in [-1, 1, 99, 100, 101, 200, 204, 299, 302, 304, 399, 600, 999, 1000, 65_736, i32::MAX, i32::MIN] {
        let refusal = refused(&answer(Some(16), Some(HttpResponse::DeniedResponse(denied(Some(status), Vec::new())))));
        assert_eq!((refusal.status, refusal.replaced), (StatusCode::FORBIDDEN, Some(status)));
        assert!(refusal.to_string().ends_with("which refuses nothing: 403 instead"), "{refusal}");
    }
    for code in [1, 7, 16, 17, -1, i32::MIN, i32::MAX] {
        assert_eq!(refused(&answer(Some(code), None)).status, 403);
        // With what an allowance would have, too.
        let mixed = answer(Some(code), Some(HttpResponse::OkResponse(TheirOk::default())));
        assert!(!refused(&mixed).to_string().contains("secret"));
    }
    let headers = vec![header("retry-after", "7"), header("a b", "c"), header("x", "a\r\nb"), header("", "")];
    let refusal = refused(&answer(Some(8), Some(HttpResponse::DeniedResponse(denied(Some(429), headers)))));
    assert_eq!((refusal.fields.len(), &refusal.fields["retry-after"]), (1, &HeaderValue::from_static("7")));
}

#[test]
fn a_header_that_none_can_send_allows_nothing() {
    let both = TheirValue { key: "x-a".into(), value: "a".into(), raw_value: b"b".to_vec() };
    let both = TheirHeader { header: Some(both), ..header("", "") };
    for bad in [header("a b", "c"), header("", "c"), header(":path", "/"), header("x", "a\nb"), header("x", "\0"), both] {
        assert!(matches!(failure(&ok(|ok| ok.headers.push(bad))), Failure::Malformed(_)));
    }
    assert!(matches!(failure(&ok(|ok| ok.headers.push(TheirHeader::default()))), Failure::Malformed(_)));
}

proptest! {
    /// Of any bytes, those that allow are an allowance for Envoy's own structs, too.
    #[test]
    fn nothing_allows_that_envoys_own_files_do_not_read_as_ok(bytes in any::<Vec<u8>>()) {
        if let Ok(Answer::Allowed(_)) = judge(bytes.clone().into()) {
            let read = Theirs::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(read.status.unwrap().code, 0);
        }
    }

    /// Nor does a message that was damaged become an allowance with other fields than the one it was.
    #[test]
    fn a_damaged_refusal_allows_only_if_it_reads_as_ok(at in 0usize..64, byte in any::<u8>(), status in 400i32..600) {
        let mut bytes = answer(Some(7), Some(HttpResponse::DeniedResponse(denied(Some(status), Vec::new())))).encode_to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(Answer::Allowed(_)) = judge(bytes.clone().into()) {
            let read = Theirs::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(read.status.unwrap().code, 0);
            prop_assert!(!matches!(read.http_response, Some(HttpResponse::DeniedResponse(_))));
        }
    }

    #[test]
    fn a_message_that_is_cut_off_allows_nothing_more(length in 0usize..200) {
        let whole = ok(|ok| ok.headers_to_remove = vec!["authorization".into()]).encode_to_vec();
        // The condition is at the end; what is before it may not stand alone.
        let cut = length.min(whole.len() - 1);
        if let Ok(Answer::Allowed(fields)) = judge(whole[..cut].to_vec().into()) {
            prop_assert!(fields.is_empty());
        }
    }
}
