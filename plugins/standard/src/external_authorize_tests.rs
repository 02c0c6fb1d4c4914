use super::*;
use crate::oidc::Oidc;
use crate::test_support::{Signer, build, env, error, now};
use portcullis_plugin::{Principal, Verdict};
use portcullis_testkit::upstream::Recorded;
use portcullis_testkit::{Answer, Behaviour, Chain, Outcome, Request, Upstream, request, run_async, until};

const TARGET: &str = "https://api.example.test/orders/1?x=1";

async fn service(behaviour: impl Into<Behaviour>) -> Upstream {
    Upstream::builder().behaviour(behaviour).start().await.unwrap()
}

/// `more` are further keys.
fn filter(service: &Upstream, more: &str) -> ExternalAuthorize {
    build(&format!("{{ url: \"http://{}/check?from=edge\", timeout: 10s{more} }}", service.address()))
}

async fn ask(filter: &ExternalAuthorize, request: Request) -> Outcome {
    run_async(filter, request).await
}

fn get() -> Request {
    request("GET", TARGET)
}

fn names(recorded: &Recorded) -> Vec<String> {
    let mut names: Vec<String> = recorded.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn the_service_is_told_what_the_request_is_about_and_nothing_else() {
    let service = service(Answer::new(200)).await;
    let outcome = ask(
        &filter(&service, ""),
        request("PUT", TARGET)
            .client_ip("192.0.2.7")
            .header("authorization", "Bearer secret")
            .header("cookie", "session=secret")
            .header("x-api-key", "secret")
            .header("x-tenant", "acme")
            .header("x-forwarded-uri", "/public")
            .header("x-principal-subject", "admin")
            .chunk("a body"),
    )
    .await;
    outcome.allowed();
    let seen = service.last().unwrap();
    assert_eq!((&*seen.method, &*seen.target, seen.body_len), ("GET", "/check?from=edge", 0));
    let expected = [
        "host",
        "x-decision-id",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-method",
        "x-forwarded-proto",
        "x-forwarded-uri",
    ];
    assert_eq!(names(&seen), expected);
    let told = ["x-forwarded-method", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-uri", "x-forwarded-for"]
        .map(|name| seen.header(name).unwrap());
    assert_eq!(told, ["PUT", "https", "api.example.test", "/orders/1?x=1", "192.0.2.7"]);
    assert_eq!(seen.header("x-decision-id").unwrap(), outcome.exchange.decision_id().to_string());
}

#[tokio::test]
async fn only_what_is_named_is_sent_along_and_a_verified_token_counts_as_authorization() {
    let service = service(Answer::new(200)).await;
    let named = filter(&service, ", request_headers: [authorization, X-Tenant]");
    let client = get().header("x-tenant", "a").header("X-TENANT", "b").header("x_tenant", "look-alike").header("cookie", "c=d");
    ask(&named, client.header("authorization", "Basic eA==")).await.allowed();
    let seen = service.last().unwrap();
    assert_eq!(
        (seen.header_all("x-tenant"), seen.header_all("authorization")),
        (vec!["a".into(), "b".into()], vec!["Basic eA==".into()])
    );
    assert!(!names(&seen).contains(&"x_tenant".to_owned()) && !names(&seen).contains(&"cookie".to_owned()));

    let token = Signer::main().token(serde_json::json!({}));
    let oidc: Arc<dyn Filter> = Arc::new(build::<Oidc>("{ issuer: main }"));
    let chain = Chain::new().with("oidc", Arc::clone(&oidc)).with("external_authorize", Arc::new(named));
    chain.run_async(get().at(now()).bearer(&token)).await.allowed();
    assert_eq!(service.last().unwrap().header("authorization").unwrap(), format!("Bearer {token}"));
    let silent = Chain::new().with("oidc", oidc).with("external_authorize", Arc::new(filter(&service, "")));
    silent.run_async(get().at(now()).bearer(&token)).await.allowed();
    let seen = service.last().unwrap();
    assert!(seen.header("authorization").is_none() && !String::from_utf8_lossy(&seen.head).contains(&token));
    let told = ["x-principal-subject", "x-principal-issuer", "x-principal-method"].map(|name| seen.header(name).unwrap());
    assert_eq!(told, ["alice", "https://main.example.test", "bearer"]);
}

#[tokio::test]
async fn a_subject_or_a_path_cannot_add_a_field() {
    let service = service(Answer::new(200)).await;
    let principal = Principal::new("bearer", "eve\r\nx-principal-method: root é%");
    let hostile = request("GET", "https://api.example.test/a%0d%0ax-admin:%201?q=%0D%0AHost:%20evil").principal(principal);
    ask(&filter(&service, ""), hostile).await.allowed();
    let seen = service.last().unwrap();
    assert_eq!(seen.header_all("x-principal-subject"), ["eve%0D%0Ax-principal-method: root %C3%A9%25"]);
    assert_eq!(seen.header_all("x-principal-method"), ["bearer"]);
    let uri = seen.header("x-forwarded-uri").unwrap();
    assert!(uri.to_ascii_lowercase().contains("%0d%0a") && seen.header("x-admin").is_none(), "{uri}");
    assert_eq!(seen.header_all("host").len(), 1);
}

#[tokio::test]
async fn the_fields_of_an_allowance_are_the_services_alone() {
    let service = service(Answer::new(204).header("X-Plan", "gold").header("x-other", "not asked for")).await;
    let filter = filter(&service, ", response_headers: [x-plan, x-quota]");
    assert_eq!(filter.needs().owned_headers, ["x-plan", "x-quota"]);
    let forged =
        || get().header("X-Plan", "forged").header("x_plan", "forged").header("x-quota", "forged").header("X_QUOTA", "forged");
    let outcome = ask(&filter, forged()).await;
    outcome.allowed();
    assert_eq!(outcome.upstream_headers("x-plan"), ["gold"]);
    for name in ["x_plan", "x-quota", "x_quota", "x-other"] {
        assert!(outcome.upstream_headers(name).is_empty(), "{name}");
    }
    // Also where nobody has stripped them before, and no answer comes.
    service.go_down().await;
    let (mut request, mut exchange) = forged().build().unwrap();
    let Verdict::Wait(waiting) = filter.request(&mut request, &mut exchange) else { panic!("it did not ask") };
    assert!(matches!(waiting.await(&mut request, &mut exchange), Verdict::Deny(_)));
    assert!(request.headers().is_empty());
}

#[tokio::test]
async fn a_field_that_comes_twice_is_no_answer() {
    let service = service(Answer::new(200).header("x-user", "alice").header("x-plan", "gold").header("x-plan", "free")).await;
    let outcome = ask(&filter(&service, ", response_headers: [x-user, x-plan]"), get()).await;
    outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
    assert!(outcome.check("answer").unwrap().finding.observed.contains("more than one `x-plan`"));
    let open = ask(&filter(&service, ", response_headers: [x-user, x-plan], on_failure: allow"), get()).await;
    // It did answer, and nobody can tell what: no outage.
    open.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
}

#[tokio::test]
async fn a_refusal_keeps_its_status_and_the_client_gets_only_named_fields() {
    for status in [401, 403] {
        let answer = Answer::new(status)
            .header("www-authenticate", "Basic realm=\"a\"")
            .header("www-authenticate", "Bearer")
            .header("set-cookie", "secret=1")
            .body("internal details");
        let service = service(answer).await;
        let outcome = ask(&filter(&service, ", deny_headers: [www-authenticate]"), get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_DENIED);
        let Verdict::Deny(denial) = &outcome.verdict else { unreachable!() };
        assert_eq!(denial.status_code(), status);
        let sent: Vec<String> =
            denial.headers().iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect();
        assert_eq!(sent, ["www-authenticate: Basic realm=\"a\"", "www-authenticate: Bearer"]);
        assert_eq!(outcome.check("answer").unwrap().finding.observed, format!("the service answered {status}"));
    }
}

#[tokio::test]
async fn a_401_has_a_challenge_also_if_none_is_handed_on() {
    let service = service(Answer::new(401).header("www-authenticate", "Negotiate")).await;
    let outcome = ask(&filter(&service, ""), get()).await;
    let Verdict::Deny(denial) = &outcome.verdict else { panic!("it passed") };
    let challenges: Vec<&[u8]> = denial.headers().get_all("www-authenticate").collect();
    assert_eq!(challenges, [&b"Bearer realm=\"api.example.test\""[..]]);
}

#[tokio::test]
async fn whatever_is_not_an_answer_lets_nobody_pass() {
    let elsewhere = service(Answer::new(200)).await;
    let location = format!("http://{}/allowed", elsewhere.address());
    let huge_head = Answer::new(200).header("x-filler", "a".repeat(64 << 10));
    let cases: Vec<(&str, Behaviour)> = vec![
        ("the answer is 302", Answer::new(302).header("location", &location).into()),
        ("the answer is 307", Answer::new(307).header("location", &location).into()),
        ("the answer is 304", Answer::new(304).into()),
        ("the answer is 500", Answer::new(500).into()),
        ("the answer is 400", Answer::new(400).into()),
        ("the answer is 404", Answer::new(404).into()),
        ("the answer is 407", Answer::new(407).into()),
        ("the answer is 408", Answer::new(408).into()),
        ("the answer is 429", Answer::new(429).into()),
        ("the answer is 431", Answer::new(431).into()),
        ("cannot be reached", Behaviour::Close),
        ("cannot be reached", Behaviour::raw("SSH-2.0-OpenSSH_9.9\r\n")),
        ("cannot be reached", Behaviour::raw("HTTP/1.1 2000 OK\r\n\r\n")),
        ("cannot be reached", Behaviour::raw("HTTP/1.1 200 OK\r\nx-a: b\r\n")),
        ("cannot be reached", Behaviour::raw("")),
        ("cannot be reached", huge_head.into()),
        // An interim response is none, and switching to another protocol is not what was asked.
        ("cannot be reached", Behaviour::raw("HTTP/1.1 100 Continue\r\n\r\n")),
        ("", Behaviour::raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")),
    ];
    for (observed, behaviour) in cases {
        let service = service(behaviour).await;
        let outcome = ask(&filter(&service, ""), get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        let Verdict::Deny(denial) = &outcome.verdict else { unreachable!() };
        assert_eq!((denial.status_code(), denial.headers().get_str("retry-after")), (503, Some("5")), "{observed}");
        let finding = &outcome.check("answer").unwrap().finding;
        assert!(finding.observed.contains(observed), "{observed}: {}", finding.observed);
        assert!(finding.hint.is_some());

        let open = ask(&filter(&service, ", on_failure: allow"), get()).await;
        // It did answer, though not so that anybody could tell what it means: no outage, and often what the client wants.
        if ["302", "307", "304", "400", "404", "407", "431"].iter().any(|status| observed.ends_with(status)) {
            open.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        } else {
            open.allowed();
        }
        assert!(!open.check("answer").unwrap().ok, "the way past is on the record");
    }
    assert_eq!(elsewhere.count(), 0, "no redirect is followed");
}

#[tokio::test]
async fn no_service_and_a_silent_one_let_nobody_pass() {
    let away = service(Answer::new(200)).await;
    away.go_down().await;
    ask(&filter(&away, ""), get()).await.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
    for behaviour in [Behaviour::Hang, Behaviour::Raw { bytes: b"HTTP/1.1 200 OK\r\nx-slow: ".to_vec(), close: false }] {
        let silent = service(behaviour).await;
        let filter: ExternalAuthorize = build(&format!("{{ url: \"http://{}/\", timeout: 50ms }}", silent.address()));
        let outcome = ask(&filter, get()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        assert!(outcome.check("answer").unwrap().finding.observed.contains("no answer within 50ms"));
        // What was asked in vain is not left open.
        until("the connection to end", || silent.open_connections() == 0).await.unwrap();
        assert_eq!(filter.0.service.free_places(), 100);
    }
}

#[tokio::test]
async fn a_body_is_neither_waited_for_nor_kept() {
    for answer in [
        Answer::new(200).filler(1 << 30),
        Answer::new(200).chunks(["a", "b"], std::time::Duration::from_secs(3600)),
        Answer::new(200).short(10, "a"),
    ] {
        let service = service(answer).await;
        ask(&filter(&service, ""), get()).await.allowed();
    }
    // With a small one, the connection serves the next question.
    let service = service(Answer::new(200).body("fine")).await;
    let filter = filter(&service, "");
    for _ in 0..5 {
        ask(&filter, get()).await.allowed();
        until("the place to be free", || filter.0.service.free_places() == 100).await.unwrap();
    }
    assert!(service.connections() < 5, "{}", service.connections());
    // One that is too large ends its connection long before its end.
    let large = self::service(Answer::new(200).filler(1 << 40)).await;
    ask(&self::filter(&large, ""), get()).await.allowed();
    until("the connection to end", || large.open_connections() == 0).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_the_service_has_closed_costs_no_request() {
    let service = service(Behaviour::script(|recorded| match recorded.header("x-forwarded-uri").as_deref() {
        Some("/first") if recorded.connection == 1 => Answer::new(200).into(),
        _ if recorded.connection == 1 => Behaviour::Close,
        _ => Answer::new(200).into(),
    }))
    .await;
    let filter = filter(&service, "");
    ask(&filter, request("GET", "https://api.example.test/first")).await.allowed();
    ask(&filter, request("GET", "https://api.example.test/second")).await.allowed();
    assert_eq!(service.connections(), 2);
}

#[tokio::test]
async fn a_flood_asks_no_more_than_allowed_at_the_same_time() {
    let service = service(Behaviour::Hang).await;
    let filter = filter(&service, ", max_concurrent: 8");
    let mut waiting = Vec::new();
    let mut refused = 0;
    for _ in 0..1000 {
        let (mut request, mut exchange) = get().build().unwrap();
        let Verdict::Wait(future) = filter.request(&mut request, &mut exchange) else { panic!("it did not ask") };
        let mut future = Box::pin(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Pending => waiting.push(future),
            std::task::Poll::Ready(resume) => {
                assert!(matches!(resume(&mut request, &mut exchange), Verdict::Deny(denial) if denial.status_code() == 503));
                let observed = &exchange.checks().last().unwrap().finding.observed;
                assert_eq!(observed, "8 questions are under way already (`max_concurrent`)");
                refused += 1;
            }
        }
    }
    assert_eq!((waiting.len(), refused), (8, 992));
    // Whoever goes away makes room at once, and ends the question.
    drop(waiting);
    assert_eq!(filter.0.service.free_places(), 8);
    service.behave(Answer::new(200));
    ask(&filter, get()).await.allowed();
}

#[tokio::test]
async fn a_client_that_goes_ends_its_question() {
    let service = service(Behaviour::Hang).await;
    let filter = filter(&service, "");
    let (mut request, mut exchange) = get().build().unwrap();
    let Verdict::Wait(future) = filter.request(&mut request, &mut exchange) else { panic!("it did not ask") };
    let asking = tokio::spawn(async move { drop(future.await) });
    service.wait_for(1).await.unwrap();
    assert_eq!((service.open_connections(), filter.0.service.free_places()), (1, 99));
    asking.abort();
    until("the connection to end", || service.open_connections() == 0).await.unwrap();
    assert_eq!(filter.0.service.free_places(), 100);
}

#[tokio::test]
async fn an_explanation_asks_nobody_and_lets_nobody_pass() {
    let service = service(Answer::new(200)).await;
    for more in ["", ", on_failure: allow"] {
        let outcome = ask(&filter(&service, more), get().explaining()).await;
        outcome.denied_with(reason::AUTHORIZE_EXTERNAL_UNAVAILABLE);
        assert_eq!(outcome.check("answer").unwrap().finding.observed, "not asked");
    }
    assert_eq!((service.count(), service.connections()), (0, 0));
}

#[tokio::test]
async fn what_came_of_it_is_counted() {
    let env = env();
    let service = service(Behaviour::script(|recorded| match recorded.header("x-forwarded-uri").as_deref() {
        Some("/allow") => Answer::new(200).into(),
        Some("/deny") => Answer::new(403).into(),
        _ => Behaviour::Close,
    }))
    .await;
    let yaml = |mode| format!("{{ url: \"http://{}/\", timeout: 10s, on_failure: {mode} }}", service.address());
    for mode in ["deny", "allow"] {
        let filter: ExternalAuthorize = crate::test_support::build_in(&env, &yaml(mode)).unwrap();
        for target in ["allow", "deny", "close"] {
            ask(&filter, request("GET", &format!("https://api.example.test/{target}"))).await;
        }
    }
    let counter = env.counter("portcullis_external_authorizations_total", "", &["service", "outcome"]).unwrap();
    let name = service.address().to_string();
    let counts = ["allow", "deny", "unavailable", "fail_open"].map(|outcome| counter.with_label_values(&[&*name, outcome]).get());
    assert_eq!(counts, [2, 2, 1, 1]);
}

#[test]
fn what_would_be_unsafe_or_without_effect_is_refused_when_the_configuration_is_read() {
    let url = "url: \"https://authz.internal/\"";
    for (yaml, place, says) in [
        ("{ url: \"http://authz.internal/\" }".to_owned(), "url: ", "could let every request pass"),
        ("{ url: \"ftp://localhost/\" }".to_owned(), "url: ", "neither http nor https"),
        ("{ url: \"authz.internal\" }".to_owned(), "url: ", "not the address of a service"),
        ("{ url: \"https://user:hunter2@authz.internal/\" }".to_owned(), "url: ", "credentials"),
        ("{ url: \"https://authz.internal/#a\" }".to_owned(), "url: ", "fragment"),
        (format!("{{ {url}, insecure_http: true }}"), "insecure_http: ", "no effect"),
        ("{ url: \"http://127.0.0.1/\", ca: ca.pem }".to_owned(), "ca: ", "no effect"),
        (format!("{{ {url}, ca: missing.pem }}"), "ca: ", "cannot read"),
        (format!("{{ {url}, timeout: 9ms }}"), "timeout: ", "10ms to 10s"),
        (format!("{{ {url}, timeout: 11s }}"), "timeout: ", "10ms to 10s"),
        (format!("{{ {url}, max_concurrent: 0 }}"), "max_concurrent: ", "1 to 10000"),
        (format!("{{ {url}, request_headers: [x-a, content-length] }}"), "request_headers[1]: ", "frames the message"),
        (format!("{{ {url}, request_headers: [X_Forwarded_Uri] }}"), "request_headers[0]: ", "the gateway itself"),
        (format!("{{ {url}, request_headers: [x-principal-subject] }}"), "request_headers[0]: ", "the gateway itself"),
        (format!("{{ {url}, request_headers: [x-a, X_A] }}"), "request_headers[1]: ", "named twice"),
        (format!("{{ {url}, request_headers: [x-a, x-b], response_headers: [X_B] }}"), "request_headers[1]: ", "nothing to tell"),
        (format!("{{ {url}, response_headers: [authorization] }}"), "response_headers[0]: ", "another meaning"),
        (format!("{{ {url}, response_headers: [X_Forwarded_For] }}"), "response_headers[0]: ", "another meaning"),
        (format!("{{ {url}, response_headers: [\"a b\"] }}"), "response_headers[0]: ", "not a header name"),
        (format!("{{ {url}, deny_headers: [content-type] }}"), "deny_headers[0]: ", "not handed on"),
        (format!("{{ {url}, deny_headers: [x-decision-id] }}"), "deny_headers[0]: ", "every response"),
    ] {
        let error = error::<ExternalAuthorize>(&yaml);
        assert!(error.starts_with(place) && error.contains(says), "{yaml}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    error::<ExternalAuthorize>(&format!("{{ {url}, ca: }}"));
    assert!(error::<ExternalAuthorize>(&format!("{{ {url}, on_failure: open }}")).contains("unknown variant"));
    build::<ExternalAuthorize>("{ url: \"http://10.0.0.1/\", insecure_http: true }");
}

#[test]
fn fail_open_is_said_and_is_no_alternative() {
    let needs = |more| build::<ExternalAuthorize>(&format!("{{ url: \"https://authz.internal:8443/check\"{more} }}")).needs();
    let (closed, open) = (needs(""), needs(", on_failure: allow"));
    assert_eq!(closed.summary.as_deref(), Some("external(authz.internal:8443)"));
    assert_eq!(open.summary.as_deref(), Some("external(authz.internal:8443; fail-open)"));
    assert!(closed.combines && !open.combines);
}
