//! The filter over gRPC, with a server that follows a script. Messages are made and read by structs of Envoy's own files.

use super::*;
use crate::external_scripted::{Act, GRPC, Scripted, framed};
use crate::oidc::Oidc;
use crate::test_support::{Signer, build, error, now};
use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{Address, CheckResponse, HttpStatusCode};
use envoy_types::ext_authz::v3::{CheckResponseExt, DeniedHttpResponseBuilder, OkHttpResponseBuilder, ToHttpResponse};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use envoy_types::pb::google::rpc;
use h2::Reason;
use portcullis_plugin::Principal;
use portcullis_testkit::{Chain, Outcome, Pki, Request, request, run_async, until};
use prost::Message;

const TARGET: &str = "https://api.example.test/orders/1?x=1";

fn answer(code: i32, response: Option<impl ToHttpResponse>) -> Act {
    let mut answer = CheckResponse::new();
    answer.status = Some(rpc::Status { code, ..rpc::Status::default() });
    if let Some(response) = response {
        answer.set_http_response(response);
    }
    Act::Message(answer.encode_to_vec().into())
}

fn yes() -> Act {
    answer(0, None::<OkHttpResponseBuilder>)
}

fn yes_with(fields: &[(&str, &str)]) -> Act {
    let mut ok = OkHttpResponseBuilder::new();
    for (name, value) in fields {
        ok.add_header(*name, *value, None, false);
    }
    answer(0, Some(ok))
}

fn no(status: HttpStatusCode, fields: &[(&str, &str)]) -> Act {
    let mut denied = DeniedHttpResponseBuilder::new();
    denied.set_http_status(status).set_body("internal details");
    for (name, value) in fields {
        denied.add_header(*name, *value, None, false);
    }
    answer(7, Some(denied))
}

/// `more` are further keys.
fn filter(service: &Scripted, more: &str) -> ExternalAuthorize {
    build(&format!("{{ url: \"http://{}\", protocol: grpc, timeout: 10s{more} }}", service.address()))
}

async fn ask(filter: &ExternalAuthorize, request: Request) -> Outcome {
    run_async(filter, request).await
}

fn get() -> Request {
    request("GET", TARGET)
}

fn http(service: &Scripted) -> HttpRequest {
    service.last().message.attributes.unwrap().request.unwrap().http.unwrap()
}

fn told(service: &Scripted, name: &str) -> Option<String> {
    http(service).headers.get(name).cloned()
}

fn socket(peer: &Peer) -> String {
    let Some(Address::SocketAddress(socket)) = peer.address.clone().unwrap().address else { panic!("no socket address") };
    format!("{} {:?}", socket.address, socket.port_specifier.unwrap())
}

#[tokio::test]
async fn the_service_is_told_what_the_request_is_about_and_nothing_else() {
    let service = Scripted::always(yes());
    let outcome = ask(
        &filter(&service, ""),
        request("PUT", TARGET)
            .client_ip("192.0.2.7")
            .header("authorization", "Bearer secret")
            .header("cookie", "session=secret")
            .header("x-tenant", "acme")
            .header("x-principal-subject", "admin")
            .chunk("a body"),
    )
    .await;
    outcome.allowed();
    let asked = service.last();
    let uri = format!("http://{}/envoy.service.auth.v3.Authorization/Check", service.address());
    assert_eq!((&*asked.method, &*asked.uri), ("POST", &*uri));
    let fields = ["content-type", "te", "grpc-timeout"].map(|name| asked.fields[name].to_str().unwrap());
    // The fourth is the length.
    assert_eq!((fields, asked.fields.len()), (["application/grpc", "trailers", "10000m"], 4));

    let attributes = asked.message.attributes.clone().unwrap();
    assert!(!format!("{:?}", asked.message).contains("secret"));
    let (source, destination) = (attributes.source.unwrap(), attributes.destination.unwrap());
    // The connection is another proxy's, and the port is that one's.
    assert_eq!((socket(&source), &*source.principal, &*source.certificate), ("192.0.2.7 PortValue(0)".into(), "", ""));
    assert!(!socket(&destination).contains("192.0.2.7"));
    assert!(attributes.context_extensions.is_empty() && attributes.metadata_context.is_none());
    let told = attributes.request.unwrap();
    let now = outcome.exchange.now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(told.time.map(|time| (time.seconds as u64, time.nanos as u32)), Some((now.as_secs(), now.subsec_nanos())));
    let told = told.http.unwrap();
    let decision_id = outcome.exchange.decision_id().to_string();
    assert_eq!((&*told.method, &*told.path, &*told.host), ("PUT", "/orders/1?x=1", "api.example.test"));
    assert_eq!((&*told.scheme, &*told.protocol, told.size, &told.id), ("https", "HTTP/1.1", -1, &decision_id));
    assert_eq!((&*told.query, &*told.fragment, &*told.body, told.raw_body.len()), ("", "", "", 0));
    assert_eq!(told.headers, [("x-decision-id".to_owned(), decision_id)].into());
}

#[tokio::test]
async fn only_what_is_named_is_told_along_and_so_is_who_is_calling() {
    let service = Scripted::always(yes());
    let named = filter(&service, ", request_headers: [authorization, X-Tenant, cookie]");
    let client = get().header("X-TENANT", "a").header("x-tenant", "b").header("x_tenant", "look-alike").header("x-other", "c");
    let client = client.header("cookie", "a=b").header("cookie", "c=d").header("authorization", "Basic eA==");
    ask(&named, client).await.allowed();
    let headers = http(&service).headers;
    assert_eq!((&*headers["x-tenant"], &*headers["cookie"], &*headers["authorization"]), ("a,b", "a=b; c=d", "Basic eA=="));
    assert_eq!(headers.len(), 4, "{headers:?}");

    let token = Signer::main().token(serde_json::json!({}));
    let oidc: Arc<dyn Filter> = Arc::new(build::<Oidc>("{ issuer: main }"));
    let chain = Chain::new().with("oidc", Arc::clone(&oidc)).with("external_authorize", Arc::new(named));
    chain.run_async(get().at(now()).bearer(&token)).await.allowed();
    assert_eq!(told(&service, "authorization"), Some(format!("Bearer {token}")));
    let silent = Chain::new().with("oidc", oidc).with("external_authorize", Arc::new(filter(&service, "")));
    silent.run_async(get().at(now()).bearer(&token)).await.allowed();
    assert!(!format!("{:?}", service.last().message).contains(&token));
    let who = ["x-principal-subject", "x-principal-issuer", "x-principal-method"].map(|name| told(&service, name).unwrap());
    assert_eq!(who, ["alice", "https://main.example.test", "bearer"]);

    let pki = Pki::new().unwrap();
    let with_uri = pki.leaf("device").uri("spiffe://example.test/device").dns("device.example.test").issue().unwrap();
    let with_dns = pki.leaf("device").dns("device.example.test").issue().unwrap();
    let plain = pki.leaf("device").issue().unwrap();
    for (identity, principal) in
        [(&with_uri, "spiffe://example.test/device"), (&with_dns, "device.example.test"), (&plain, &*plain.facts().subject)]
    {
        ask(&filter(&service, ""), get().certificate(identity.facts())).await.allowed();
        assert_eq!(service.last().message.attributes.unwrap().source.unwrap().principal, principal);
    }
    // One that is not believed is nobody's.
    ask(&filter(&service, ""), get().certificate_refused(reason::CERT_EXPIRED)).await.allowed();
    assert_eq!(service.last().message.attributes.unwrap().source.unwrap().principal, "");
}

#[tokio::test]
async fn a_subject_or_a_path_says_nothing_more() {
    let service = Scripted::always(yes());
    let principal = Principal::new("bearer", "eve\r\nx-principal-method: root é%");
    ask(&filter(&service, ""), request("GET", "https://api.example.test/a?q=%0D%0AHost:%20evil").principal(principal))
        .await
        .allowed();
    assert_eq!(told(&service, "x-principal-subject").unwrap(), "eve%0D%0Ax-principal-method: root %C3%A9%25");
    assert_eq!(told(&service, "x-principal-method").unwrap(), "bearer");
    assert_eq!(http(&service).path, "/a?q=%0D%0AHost:%20evil");
}

#[tokio::test]
async fn what_cannot_be_told_lets_nobody_pass() {
    let service = Scripted::always(yes());
    // A client chooses this: it would be the way past a service that would have refused.
    for more in ["", ", on_failure: allow"] {
        let filter = filter(&service, &format!(", request_headers: [x-tenant]{more}"));
        let outcome = ask(&filter, get().header("x-tenant", b"caf\xe9")).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        let finding = &outcome.check("answer").unwrap().finding;
        assert!(finding.observed.contains("not UTF-8"), "{}", finding.observed);
        assert_eq!(finding.hint.as_deref(), Some("the client's request is at fault"));
    }
    assert_eq!(service.questions(), 0);
}

#[tokio::test]
async fn the_fields_of_an_allowance_are_the_services_alone() {
    let service = Scripted::always(yes_with(&[("X-Plan", "gold"), ("x-other", "not asked for")]));
    let filter = filter(&service, ", response_headers: [x-plan, x-quota]");
    let forged =
        || get().header("X-Plan", "forged").header("x_plan", "forged").header("x-quota", "forged").header("X_QUOTA", "forged");
    let outcome = ask(&filter, forged()).await;
    outcome.allowed();
    assert_eq!(outcome.upstream_headers("x-plan"), ["gold"]);
    for name in ["x_plan", "x-quota", "x_quota", "x-other"] {
        assert!(outcome.upstream_headers(name).is_empty(), "{name}");
    }
    service.act(yes_with(&[("x-plan", "gold"), ("X-Plan", "free")]));
    let outcome = ask(&filter, forged()).await;
    outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
    assert!(outcome.check("answer").unwrap().finding.observed.contains("more than one `x-plan`"));
}

#[tokio::test]
async fn an_allowance_under_a_condition_lets_nobody_pass() {
    let service = Scripted::always(yes());
    // The service has answered, so that nothing has failed that could be open.
    for more in ["", ", on_failure: allow"] {
        let filter = filter(&service, more);
        service.act(answer(0, {
            let mut ok = OkHttpResponseBuilder::new();
            ok.remove_header("authorization");
            Some(ok)
        }));
        let outcome = ask(&filter, get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        assert!(outcome.check("answer").unwrap().finding.observed.contains("that `authorization` is removed"));
        service.act(answer(0, Some(DeniedHttpResponseBuilder::new())));
        ask(&filter, get()).await.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        service.act(Act::Message(Bytes::new()));
        ask(&filter, get()).await.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        // The client's own would go on in the place of what the service says.
        service.act(yes_with(&[("x-user", "alice")]));
        ask(&filter, get()).await.allowed();
        for name in ["x-user", "X-User", "x_user"] {
            let outcome = ask(&filter, get().header(name, "admin")).await;
            outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
            assert!(outcome.check("answer").unwrap().finding.observed.contains("the request's `x-user` is replaced"));
        }
        service.act(yes_with(&[("Host", "internal.example.test")]));
        let outcome = ask(&filter, get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        assert!(outcome.check("answer").unwrap().finding.observed.contains("the request's `host` is replaced"));
    }
}

#[tokio::test]
async fn a_refusal_keeps_its_status_and_the_client_gets_only_named_fields() {
    let service = Scripted::always(yes());
    for more in ["", ", on_failure: allow"] {
        let filter = filter(&service, &format!(", deny_headers: [retry-after, www-authenticate]{more}"));
        for (named, status) in [
            (HttpStatusCode::Unauthorized, 401),
            (HttpStatusCode::Forbidden, 403),
            (HttpStatusCode::TooManyRequests, 429),
            (HttpStatusCode::BadGateway, 502),
            // Never one with which nothing would be refused.
            (HttpStatusCode::Ok, 403),
            (HttpStatusCode::Found, 403),
            (HttpStatusCode::Continue, 403),
            (HttpStatusCode::Empty, 403),
        ] {
            service.act(no(named, &[("Retry-After", "7"), ("set-cookie", "secret=1"), ("location", "/login")]));
            let outcome = ask(&filter, get()).await;
            outcome.denied_with(reason::AUTHORIZE_EXTERNAL_DENIED);
            let Verdict::Deny(denial) = &outcome.verdict else { unreachable!() };
            assert_eq!((denial.status_code(), denial.headers().get_str("retry-after")), (status, Some("7")), "{named:?}");
            let challenge = (status == 401).then_some("Bearer realm=\"api.example.test\"");
            assert_eq!(denial.headers().get_str("www-authenticate"), challenge);
            assert_eq!(denial.headers().len(), 1 + usize::from(status == 401));
            let finding = &outcome.check("answer").unwrap().finding;
            assert!(finding.observed.starts_with("the service answered 7, PERMISSION_DENIED, with "), "{}", finding.observed);
            assert!(finding.expected.starts_with("OK of 127.0.0.1:") && !finding.observed.contains("internal"));
        }
    }
}

#[tokio::test]
async fn whatever_is_not_an_answer_lets_nobody_pass() {
    let whole = |head: Vec<(&'static str, &'static str)>, status: u16, trailers| {
        let body = framed(b"\x0a\x00");
        Act::Pieces { status, head, body, trailers }
    };
    let ok = || Some(vec![("grpc-status", "0")]);
    let cases = [
        ("grpc-status 14", Act::Head(vec![GRPC, ("grpc-status", "14"), ("grpc-message", "secret")])),
        ("grpc-status 7", Act::Head(vec![GRPC, ("grpc-status", "7")])),
        ("no message", Act::Head(vec![GRPC, ("grpc-status", "0")])),
        ("without a grpc-status", Act::Head(vec![GRPC])),
        ("grpc-status 2", whole(vec![GRPC], 200, Some(vec![("grpc-status", "2")]))),
        ("without a grpc-status", whole(vec![GRPC], 200, None)),
        ("not one grpc-status", whole(vec![GRPC], 200, Some(vec![("x-a", "b")]))),
        ("before its end", whole(vec![GRPC, ("grpc-status", "0")], 200, None)),
        ("content-type", whole(vec![("content-type", "text/html")], 200, ok())),
        ("an HTTP 302", whole(vec![GRPC, ("location", "http://127.0.0.1/")], 302, ok())),
        ("an HTTP 404", whole(vec![GRPC], 404, ok())),
        ("an HTTP 429", whole(vec![GRPC], 429, ok())),
        ("an HTTP 503", whole(vec![GRPC], 503, ok())),
        ("cannot be reached", Act::Reset(Reason::INTERNAL_ERROR)),
        ("cannot be reached", Act::Reset(Reason::REFUSED_STREAM)),
        ("cannot be reached", Act::HalfAndReset(Reason::NO_ERROR)),
        ("cannot be reached", Act::HalfAndReset(Reason::CANCEL)),
        ("cannot be reached", Act::GoAway(Reason::NO_ERROR)),
        ("cannot be reached", Act::GoAway(Reason::ENHANCE_YOUR_CALM)),
        ("cannot be reached", Act::Close),
    ];
    for (observed, act) in cases {
        let service = Scripted::always(act);
        let outcome = ask(&filter(&service, ""), get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        let Verdict::Deny(denial) = &outcome.verdict else { unreachable!() };
        assert_eq!((denial.status_code(), denial.headers().get_str("retry-after")), (503, Some("5")), "{observed}");
        let finding = &outcome.check("answer").unwrap().finding;
        assert!(finding.observed.contains(observed) && !finding.observed.contains("secret"), "{observed}: {}", finding.observed);

        let open = ask(&filter(&service, ", on_failure: allow"), get()).await;
        // Somebody did answer, and a client may have brought that about.
        if ["an HTTP 302", "an HTTP 404"].contains(&observed) {
            open.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        } else {
            open.allowed();
        }
        assert!(!open.check("answer").unwrap().ok, "the way past is on the record");
    }
}

#[tokio::test]
async fn what_speaks_no_http2_lets_nobody_pass() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let text = |text: &'static str| text.as_bytes();
    for (observed, spoken) in [
        ("what comes is not HTTP/2: ", text("HTTP/1.1 400 Bad Request\r\n\r\n")),
        ("what comes is not HTTP/2: ", text("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 0\r\n\r\n")),
        ("what comes is not HTTP/2: ", text("SSH-2.0-OpenSSH_9.9\r\n")),
        ("cannot be reached: ", text("")),
    ] {
        let port = portcullis_testkit::Port::reserve().unwrap();
        let listener = port.listen().unwrap();
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                stream.write_all(spoken).await.unwrap();
                // Until the other side has read it: closed at once, it could be lost.
                if !spoken.is_empty() {
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            }
        });
        let filter =
            build::<ExternalAuthorize>(&format!("{{ url: \"http://{}\", protocol: grpc, timeout: 10s }}", port.address()));
        let outcome = ask(&filter, get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        let finding = &outcome.check("answer").unwrap().finding;
        assert!(finding.observed.starts_with(observed), "{}", finding.observed);
        assert_eq!(finding.hint.as_deref().unwrap().contains("`protocol: http`"), observed.contains("HTTP/2"));
        server.abort();
        let _ = server.await;
        let outcome = ask(&filter, get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        assert!(outcome.check("answer").unwrap().finding.observed.starts_with("cannot be reached: "));
    }
}

#[tokio::test]
async fn silence_lets_nobody_pass_and_the_next_question_takes_another_connection() {
    for act in [Act::Silence, Act::HalfAndSilence] {
        let service = Scripted::always(act);
        let filter: ExternalAuthorize =
            build(&format!("{{ url: \"http://{}\", protocol: grpc, timeout: 100ms }}", service.address()));
        let outcome = ask(&filter, get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        assert_eq!(outcome.check("answer").unwrap().finding.observed, "no answer within 100ms (`timeout`)");
        until("the stream to be reset", || service.resets() == [Reason::CANCEL]).await.unwrap();
        assert_eq!(filter.0.service.free_places(), 100);
        service.act(yes());
        ask(&filter, get()).await.allowed();
        assert_eq!(service.connections(), 2);
        until("the first connection to end", || service.open_connections() == 1).await.unwrap();
    }
}

#[tokio::test]
async fn many_questions_share_a_connection() {
    let service = Scripted::always(yes_with(&[("x-plan", "gold")]));
    let filter = Arc::new(filter(&service, ", response_headers: [x-plan]"));
    let mut all = tokio::task::JoinSet::new();
    for number in 0..100 {
        let filter = Arc::clone(&filter);
        all.spawn(async move {
            let (mut request, mut exchange) = request("GET", &format!("https://api.example.test/{number}")).build().unwrap();
            let Verdict::Wait(waiting) = filter.request(&mut request, &mut exchange) else { panic!("it did not ask") };
            assert!(waiting.await(&mut request, &mut exchange).is_continue());
            assert_eq!(request.headers().get_str("x-plan"), Some("gold"));
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_eq!((service.questions(), service.connections()), (100, 1));
    let mut paths: Vec<_> =
        service.asked().into_iter().map(|asked| asked.message.attributes.unwrap().request.unwrap().http.unwrap().path).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), 100);
}

#[tokio::test]
async fn a_connection_that_the_service_ends_costs_no_request() {
    for ending in [Act::GoAway(Reason::NO_ERROR), Act::Close, Act::Reset(Reason::REFUSED_STREAM)] {
        let service = Scripted::start(move |_, question| if question == 2 { ending.clone() } else { yes() });
        let filter = filter(&service, "");
        for _ in 0..3 {
            ask(&filter, get()).await.allowed();
        }
        // The second question was put twice.
        assert_eq!(service.questions(), 4);
    }
}

#[tokio::test]
async fn a_flood_asks_no_more_than_allowed_and_whoever_goes_ends_its_stream_alone() {
    let service = Scripted::start(|_, question| if question == 1 { yes() } else { Act::Silence });
    let filter = filter(&service, ", max_concurrent: 8");
    ask(&filter, get()).await.allowed();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let (mut request, mut exchange) = get().build().unwrap();
        let Verdict::Wait(future) = filter.request(&mut request, &mut exchange) else { panic!("it did not ask") };
        waiting.push(tokio::spawn(async move { drop(future.await) }));
    }
    until("eight questions", || service.questions() == 9).await.unwrap();
    for _ in 0..100 {
        let outcome = ask(&filter, get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        assert!(outcome.check("answer").unwrap().finding.observed.starts_with("8 questions are under way"));
    }
    waiting.pop().unwrap().abort();
    until("its stream to be reset", || service.resets().len() == 1).await.unwrap();
    until("its place to be free", || filter.0.service.free_places() == 1).await.unwrap();
    service.act(yes());
    ask(&filter, get()).await.allowed();
    // The others still wait, on the same connection.
    assert_eq!((service.connections(), service.resets().len()), (1, 1));
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    until("all to be reset", || service.resets() == [Reason::CANCEL; 8]).await.unwrap();
}

#[tokio::test]
async fn many_that_go_away_end_nobody_elses_question() {
    let service = Scripted::start(|_, question| if question == 1 { yes() } else { Act::Silence });
    let filter = filter(&service, ", max_concurrent: 9");
    ask(&filter, get()).await.allowed();
    let question = || {
        let (mut request, mut exchange) = get().build().unwrap();
        let Verdict::Wait(future) = filter.request(&mut request, &mut exchange) else { panic!("it did not ask") };
        tokio::spawn(async move { future.await(&mut request, &mut exchange).is_continue() })
    };
    let other = question();
    // A server that takes this for an attack ends the connection, and with it the question of somebody else.
    for round in 1..=100 {
        let gone: Vec<_> = (0..8).map(|_| question()).collect();
        until("the questions", || service.questions() >= round).await.unwrap();
        gone.iter().for_each(tokio::task::JoinHandle::abort);
        until("their places to be free", || filter.0.service.free_places() == 8).await.unwrap();
    }
    let before = service.connections();
    // As if it did.
    service.script(|connection, _| if connection == 1 { Act::GoAway(Reason::ENHANCE_YOUR_CALM) } else { yes() });
    ask(&filter, get()).await.allowed();
    assert!(other.await.unwrap(), "put again on another connection");
    assert!(before < service.connections());
}

#[tokio::test]
async fn an_explanation_asks_nobody() {
    let service = Scripted::always(yes());
    let outcome = ask(&filter(&service, ", on_failure: allow"), get().explaining()).await;
    outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
    let finding = &outcome.check("answer").unwrap().finding;
    assert_eq!((&*finding.expected, &*finding.observed), (&*format!("OK or a refusal of {}", service.address()), "not asked"));
    assert_eq!(service.connections(), 0);
}

#[test]
fn a_service_over_grpc_has_no_path_and_is_shown_as_such() {
    for (url, place, says) in [
        ("https://authz.internal/check", "url: ", "no path"),
        ("https://authz.internal/?a=b", "url: ", "no path"),
        ("https://authz.internal/envoy.service.auth.v3.Authorization/Check", "url: ", "no path"),
        ("http://authz.internal:9000", "url: ", "could let every request pass"),
        ("grpc://authz.internal:9000", "url: ", "neither http nor https"),
    ] {
        let error = error::<ExternalAuthorize>(&format!("{{ url: \"{url}\", protocol: grpc }}"));
        assert!(error.starts_with(place) && error.contains(says), "{url}: {error}");
    }
    assert!(error::<ExternalAuthorize>("{ url: \"https://a\", protocol: grpcs }").contains("unknown variant"));
    let summary = |more: &str| {
        build::<ExternalAuthorize>(&format!("{{ url: \"https://authz.internal:9000\", protocol: grpc{more} }}")).needs().summary
    };
    assert_eq!(summary("").as_deref(), Some("external(grpc authz.internal:9000)"));
    assert_eq!(summary(", on_failure: allow").as_deref(), Some("external(grpc authz.internal:9000; fail-open)"));
    build::<ExternalAuthorize>("{ url: \"https://authz.internal:9000/\", protocol: grpc }");
    build::<ExternalAuthorize>("{ url: \"http://10.0.0.1:9000\", protocol: grpc, insecure_http: true }");
}
