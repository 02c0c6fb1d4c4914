//! Client certificates that a trusted proxy hands on in a header, and what becomes of them.

use crate::stage::{Call, Stage};
use portcullis::config::inspect::inspect;
use portcullis_testkit::dpop::hash;
use portcullis_testkit::pki::{Identity, Pki, Usage};
use portcullis_testkit::{Alg, TokenSpec};
use serde_json::json;

/// Proxies come from 127.0.0.1, strangers from elsewhere.
pub const CONFIG: &str = r#"
trusted_proxies: [127.0.0.1]
issuers:
  main: { issuer: "{ISSUER}", audiences: [https://api.example.test] }
routes:
  - name: partners
    match: { path: /partners }
    filters:
      - client_cert: { san_dns: ["*.partner.example"] }
      - identity_headers: { headers: { x-cert-sha256: cert.sha256, x-caller: "cert:{sub}" } }
    pool: up
  - name: onward
    match: { path: /onward }
    filters: [{ client_cert_header: { format: xfcc, by: "spiffe://edge", cert: true, chain: true } }]
    pool: up
  - name: rfc
    match: { path: /rfc }
    filters: [{ client_cert_header: { chain: true } }]
    pool: up
  - name: token
    match: { path: /token }
    filters: [{ oidc: { issuer: main } }]
    pool: up
  - name: open
    match: { path: /open }
    filters: [{ identity_headers: { headers: { x-cert-sha256: cert.sha256 } } }]
    pool: up
"#;

pub const RFC9440: &str = "
listeners:
  - name: http
    address: 127.0.0.1:0
    h2c: true
    client_cert: { from_header: client-cert, ca: clients-ca.pem, crl: clients.crl }
    limits: { header_bytes: 200KiB }
";

pub const XFCC: &str = "
listeners:
  - name: http
    address: 127.0.0.1:0
    client_cert: { from_header: x-forwarded-client-cert, ca: clients-ca.pem, crl: clients.crl, bound_tokens: true }
    limits: { header_bytes: 200KiB }
";

pub const ALL: [&str; 3] = ["client-cert", "client-cert-chain", "x-forwarded-client-cert"];

pub async fn start(listeners: &str) -> Stage {
    Stage::builder().listeners(listeners).algs(&[Alg::Es256]).start(CONFIG).await
}

pub fn partner(pki: &Pki) -> Identity {
    pki.leaf("Acme").dns("acme.partner.example").issue().unwrap()
}

/// The certificates in PEM, each with its frame.
pub fn pems(identity: &Identity) -> Vec<&str> {
    identity.cert_pem().split_inclusive("-----END CERTIFICATE-----\n").collect()
}

pub fn byte_sequence(pem: &str) -> String {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    format!(":{base64}:")
}

pub fn encoded(pem: &str) -> String {
    pem.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").replace(' ', "%20").replace('\n', "%0A")
}

/// What Envoy would append.
pub fn element(identity: &Identity) -> String {
    let (cert, chain) = (encoded(pems(identity)[0]), encoded(identity.cert_pem()));
    let sha256 = &identity.facts().sha256;
    format!(
        "By=spiffe://proxy;Hash={sha256};Cert=\"{cert}\";Chain=\"{chain}\";Subject=\"CN=Acme,O=\\\"Quoted\\\"\";URI=;DNS=acme.partner.example"
    )
}

/// The fields of a proxy, in the way of RFC 9440.
pub fn fields(identity: &Identity) -> Vec<(&'static str, String)> {
    let mut items = pems(identity).into_iter().map(byte_sequence);
    let mut fields = vec![("Client-Cert", items.next().unwrap())];
    let chain = items.collect::<Vec<_>>().join(", ");
    if !chain.is_empty() {
        fields.push(("Client-Cert-Chain", chain));
    }
    fields
}

pub fn with<'a>(call: Call<'a>, fields: &[(&str, String)]) -> Call<'a> {
    fields.iter().fold(call, |call, (name, value)| call.field(name, value))
}

pub fn assert_nothing_handed_on(stage: &Stage) {
    let seen = stage.upstream.last().unwrap();
    let folded = |name: &str| name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    assert!(!seen.headers.iter().any(|(name, _)| ALL.contains(&&*folded(name))), "{:?}", seen.headers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_in_the_header_is_judged_as_one_of_the_handshake() {
    for xfcc in [false, true] {
        let stage = start(if xfcc { XFCC } else { RFC9440 }).await;
        let pki = &stage.clients;
        let middle = pki.intermediate("Middle").unwrap();
        let acme = || pki.leaf("Acme").dns("acme.partner.example");
        let revoked = partner(pki);
        pki.crl(&[&revoked]).unwrap().write_to(stage.file("clients.crl")).unwrap();
        stage.gateway.reload().await.unwrap();
        let foreign = Pki::named("Clients").unwrap();
        let cases: Vec<(&str, Option<Identity>, Option<&str>)> = vec![
            ("good", Some(partner(pki)), None),
            ("of an intermediate CA, with it", Some(partner(&middle)), None),
            ("none", None, Some("cert.forwarded.missing")),
            ("expired", Some(acme().expired().issue().unwrap()), Some("cert.forwarded.expired")),
            ("not yet valid", Some(acme().not_yet_valid().issue().unwrap()), Some("cert.forwarded.expired")),
            ("revoked", Some(revoked), Some("cert.forwarded.revoked")),
            ("of a foreign CA of the same name", Some(partner(&foreign)), Some("cert.forwarded.untrusted")),
            ("for servers", Some(acme().usage(Usage::Server).issue().unwrap()), Some("cert.forwarded.untrusted")),
            ("of another name", Some(pki.client("acme").unwrap()), Some("cert.forwarded.name.mismatch")),
        ];
        let inspection = stage.inspect();
        for (name, identity, reason) in &cases {
            let sent = match identity {
                Some(identity) if xfcc => vec![("X-Forwarded-Client-Cert", element(identity))],
                Some(identity) => fields(identity),
                None => Vec::new(),
            };
            // Twice: the second judgement is one that was kept.
            for _ in 0..2 {
                let judged = stage.judge_by(&inspection, &with(Call::get("/partners"), &sent)).await;
                match (reason, identity) {
                    (None, Some(identity)) => {
                        judged.allowed(200);
                        let seen = stage.upstream.last().unwrap();
                        assert_eq!(seen.header_all("x-cert-sha256"), [identity.facts().sha256.clone()], "{name}");
                        assert_eq!(seen.header_all("x-caller"), ["cert:CN%3DAcme%2CO%3DPortcullis%20Test"], "{name}");
                        assert_eq!(judged.line["principal"]["method"], "certificate");
                        assert_nothing_handed_on(&stage);
                    }
                    (reason, _) => {
                        judged.refused(403, reason.unwrap());
                        let hinted =
                            judged.explanation["checks"].as_array().unwrap().iter().any(|check| check["hint"].is_string());
                        assert!(hinted || name.starts_with("of another"), "{name}: {}", judged.explanation);
                    }
                }
            }
            stage.judge_by(&inspection, &with(Call::get("/open"), &sent)).await.allowed(200);
            let verified = matches!(reason, None | Some("cert.forwarded.name.mismatch"));
            assert_eq!(stage.upstream.last().unwrap().header("x-cert-sha256").is_some(), verified, "{name}");
            assert_nothing_handed_on(&stage);
        }
        // The leaf is good, but what leads to the CA is missing.
        let deep = partner(&middle);
        let alone = if xfcc {
            ("X-Forwarded-Client-Cert", format!("Cert=\"{}\"", encoded(pems(&deep)[0])))
        } else {
            ("Client-Cert", byte_sequence(pems(&deep)[0]))
        };
        stage.judge(&with(Call::get("/partners"), &[alone])).await.refused(403, "cert.forwarded.untrusted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_revocation_list_counts_for_judgements_that_were_kept() {
    let stage = start(RFC9440).await;
    let identity = partner(&stage.clients);
    let call = || with(Call::get("/partners"), &fields(&identity));
    stage.judge(&call()).await.allowed(200);
    stage.clients.crl(&[&identity]).unwrap().write_to(stage.file("clients.crl")).unwrap();
    stage.gateway.reload().await.unwrap();
    stage.judge(&call()).await.refused(403, "cert.forwarded.revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_token_takes_a_proxys_word_only_where_the_configuration_does() {
    for (listeners, believed) in [(RFC9440, false), (XFCC, true)] {
        let stage = start(listeners).await;
        let (mine, other) = (partner(&stage.clients), partner(&stage.clients));
        let cnf = json!({ "x5t#S256": hash(mine.chain()[0].as_ref()) });
        let token = stage.provider.issue(&TokenSpec::new().alg(Alg::Es256).claim("cnf", cnf)).unwrap();
        let call = |identity: &Identity| {
            let call = with(Call::get("/token").bearer(&token), &fields(identity));
            call.field("X-Forwarded-Client-Cert", element(identity))
        };
        let judged = stage.judge(&call(&mine)).await;
        if believed {
            judged.allowed(200);
        } else {
            judged.refused(401, "token.binding.mismatch");
            assert!(judged.explanation.to_string().contains("bound_tokens"), "{}", judged.explanation);
        }
        stage.judge(&call(&other)).await.refused(401, "token.binding.mismatch");
        stage.judge(&Call::get("/token").bearer(&token)).await.refused(401, "token.binding.mismatch");
        let stranger = with(Call::get("/token").bearer(&token).from("127.0.0.3"), &fields(&mine));
        stage.judge(&stranger).await.refused(401, "token.binding.mismatch");
        stage.assert_kept_secret(&[token]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_on_is_handed_on_again_with_its_chain() {
    let stage = start(RFC9440).await;
    let middle = stage.clients.intermediate("Middle").unwrap();
    let identity = partner(&middle);
    let sent = fields(&identity);
    stage.judge(&with(Call::get("/rfc"), &sent)).await.allowed(200);
    let seen = stage.upstream.last().unwrap();
    assert_eq!(
        (seen.header_all("client-cert"), seen.header_all("client-cert-chain")),
        (vec![sent[0].1.clone()], vec![sent[1].1.clone()])
    );
    stage.judge(&with(Call::get("/onward"), &sent)).await.allowed(200);
    let seen = stage.upstream.last().unwrap();
    let (cert, chain) = (encoded(pems(&identity)[0]), encoded(identity.cert_pem()));
    let sha256 = &identity.facts().sha256;
    let expected = format!(
        "By=spiffe://edge;Hash={sha256};Cert=\"{cert}\";Chain=\"{chain}\";Subject=\"CN=Acme,O=Portcullis Test\";DNS=acme.partner.example"
    );
    assert_eq!(seen.header_all("x-forwarded-client-cert"), std::slice::from_ref(&expected));
    assert!(seen.header("client-cert").is_none());
    // A gateway behind this one can read it.
    let next = start(XFCC).await;
    std::fs::copy(stage.file("clients-ca.pem"), next.file("clients-ca.pem")).unwrap();
    std::fs::copy(stage.file("clients.crl"), next.file("clients.crl")).unwrap();
    next.gateway.reload().await.unwrap();
    next.judge(&Call::get("/partners").field("X-Forwarded-Client-Cert", expected)).await.allowed(200);
    assert_eq!(next.upstream.last().unwrap().header_all("x-cert-sha256"), std::slice::from_ref(sha256));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listeners_filter_hands_it_on_too_and_a_subject_cannot_break_out() {
    const LISTENER: &str = "
listeners:
  - name: http
    address: 127.0.0.1:0
    client_cert: { from_header: client-cert, ca: clients-ca.pem }
    filters: [{ client_cert_header: { format: xfcc } }]
";
    let stage = start(LISTENER).await;
    let hostile = stage.clients.leaf("a\\\",Cert=\"b\";By=c, \u{e4}").issue().unwrap();
    let call = with(Call::get("/open"), &fields(&hostile)).field("X-Forwarded-Client-Cert", "Cert=forged");
    stage.judge(&call).await.allowed(200);
    let subject = "Subject=\"CN=a\\5C\\22\\2CCert=\\22b\\22\\3BBy=c\\2C \\C3\\A4,O=Portcullis Test\"";
    let seen = stage.upstream.last().unwrap().header_all("x-forwarded-client-cert");
    assert_eq!(seen, [format!("Hash={};{subject}", hostile.facts().sha256)]);
}

#[tokio::test]
async fn a_listener_that_trusts_nobody_cannot_take_certificates_from_a_header() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::named("Clients").unwrap();
    pki.write_ca(folder.path().join("clients-ca.pem")).unwrap();
    let path = folder.path().join("edge.yaml");
    let write = |trusted: &str| {
        let listener = "{ name: http, address: \"127.0.0.1:0\", client_cert: { from_header: client-cert, ca: clients-ca.pem } }";
        let text = format!("{trusted}listeners:\n  - {listener}\nroutes:\n  - {{ name: a, respond: {{ status: 200 }} }}\n");
        std::fs::write(&path, text).unwrap();
        inspect(&path, &portcullis_plugins::table(), None).map(|_| ()).map_err(|found| found.render(false))
    };
    let error = write("").unwrap_err();
    assert!(error.contains("no proxy is trusted") && error.contains("edge.yaml:2:"), "{error}");
    write("trusted_proxies: [10.0.0.0/8]\n").unwrap();
}
