//! What `portcullis why` says of requests that were refused on somebody else's word: a proxy's that hands client certificates on,
//! an authorization service's, or that of whoever revoked the token.

use crate::forwarded_cert::{RFC9440, XFCC, element, fields, partner, start, with};
use crate::revocations;
use crate::stage::Call;
use crate::support::edge;
use crate::why_catalogue::{asked, assert_clear, why};
use portcullis_testkit::pki::{Identity, Pki, Usage};
use portcullis_testkit::{Alg, Answer, Provider, TokenSpec, Upstream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_certificate_from_a_proxy_was_refused_knows_what_to_do() {
    for (listeners, header) in [(RFC9440, "Client-Cert"), (XFCC, "X-Forwarded-Client-Cert")] {
        let stage = start(listeners).await;
        let asked_of_the_proxy = if header == "Client-Cert" { "between two colons" } else { "set_current_client_cert_details" };
        let sent = |identity: &Identity| {
            if header == "Client-Cert" { fields(identity) } else { vec![(header, element(identity))] }
        };
        let pki = &stage.clients;
        let leaf = || pki.leaf("Acme").dns("acme.partner.example");
        let revoked = partner(pki);
        pki.crl(&[&revoked]).unwrap().write_to(stage.file("clients.crl")).unwrap();
        stage.gateway.reload().await.unwrap();
        let (good, foreign) = (partner(pki), partner(&Pki::named("Others").unwrap()));
        let twice = || sent(&good).into_iter().chain(sent(&good)).collect();
        type Case<'a> = (&'a str, Vec<(&'a str, String)>, &'a str);
        let cases: Vec<Case<'_>> = vec![
            ("cert.forwarded.missing", Vec::new(), header),
            ("cert.forwarded.invalid", twice(), "2 lines of it"),
            ("cert.forwarded.invalid", vec![(header, "By=x;Hash=y".to_owned())], asked_of_the_proxy),
            ("cert.forwarded.untrusted", sent(&foreign), "CN=Others"),
            ("cert.forwarded.untrusted", sent(&leaf().usage(Usage::Server).issue().unwrap()), "client"),
            ("cert.forwarded.expired", sent(&leaf().expired().issue().unwrap()), "expired"),
            ("cert.forwarded.expired", sent(&leaf().not_yet_valid().issue().unwrap()), "begins in"),
            ("cert.forwarded.revoked", sent(&revoked), &revoked.facts().serial),
            (
                "cert.forwarded.name.mismatch",
                sent(&pki.client("stranger.example").unwrap()),
                "none in the certificate of CN=stranger.example",
            ),
        ];
        for (reason, sent, part) in &cases {
            let response = stage.send(&with(Call::get("/partners"), sent)).await;
            let text = why(&stage, &response, reason).await;
            assert_clear(&text, reason);
            assert!(text.contains(part), "{part}\n{text}");
        }
        // A proxy that was forgotten in `trusted_proxies` looks like a client without one.
        let response = stage.send(&with(Call::get("/partners").from("127.0.0.3"), &sent(&good))).await;
        let text = why(&stage, &response, "cert.missing").await;
        assert_clear(&text, "cert.missing");
        assert!(text.contains("trusted_proxies"), "{text}");
    }
}

const ASKED: &str = r#"
listeners: [{ name: http, address: 127.0.0.1:0 }]
admin: { address: 127.0.0.1:0 }
access_log: { path: access.jsonl }
routes:
  - { name: asked, filters: [{ external_authorize: { url: "http://SERVICE/check", timeout: 10s } }], respond: { status: 200 } }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_service_said_no_knows_whom_to_ask() {
    let service = Upstream::start().await.unwrap();
    let address = service.address().to_string();
    let gateway = edge(ASKED).with("SERVICE", &address).start().await;
    for (status, reason, part) in [
        (401, "authorize.external.denied", "401"),
        (403, "authorize.external.denied", "403"),
        (302, "authorize.external.unavailable", "302"),
    ] {
        service.behave(Answer::new(status).header("x-secret", "hunter2").body("hunter2"));
        let response = gateway.client().await.get("a", "/", &[]).await.unwrap();
        let text = asked(gateway.handle.admin_address().unwrap(), &response).await;
        assert_clear(&text, reason);
        assert!(text.contains(&address) && text.contains(part) && !text.contains("hunter2"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_why_a_revoked_token_was_refused_knows_where_to_look() {
    let provider = Provider::builder().algs(&[Alg::Es256]).start().await.unwrap();
    let upstream = Upstream::start().await.unwrap();
    let setup = edge(revocations::CONFIG).with("ISSUER", provider.issuer()).with("AUDIENCES", "https://api.example.test");
    let setup = setup.with("ALGORITHM", "ES256").with("INTROSPECTION", "").with("BACKEND", upstream.address());
    let gateway = setup.file("revocation-secret", revocations::SECRET).start().await;
    let token = |jti: &str| provider.issue(&TokenSpec::new().alg(Alg::Es256).claim("jti", jti)).unwrap();
    let (by_itself, by_id) = (token("a"), token("b"));
    revocations::revoke(&gateway, &format!("token={by_itself}")).await;
    let issuer = provider.issuer().replace(':', "%3A").replace('/', "%2F");
    revocations::revoke(&gateway, &format!("iss={issuer}&jti=b")).await;
    for (token, what) in [(&by_itself, "the token"), (&by_id, "the token with its `jti`")] {
        let bearer = format!("Bearer {token}");
        let response = gateway.client().await.get("a", "/orders", &[("authorization", &bearer)]).await.unwrap();
        let text = asked(gateway.handle.admin_address().unwrap(), &response).await;
        assert_clear(&text, "token.revoked");
        assert!(text.contains(what) && text.contains("audit log"), "{text}");
        assert!(!text.contains(token.rsplit('.').next().unwrap()) && !text.contains(revocations::SECRET), "{text}");
    }
}
