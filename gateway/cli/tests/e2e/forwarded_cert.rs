//! Client certificates that a trusted proxy hands on in a header: whose word counts, what it may say, and what clients say
//! in its name.

use crate::stage::{Call, HOST, Stage};
use portcullis::config::inspect::inspect;
use portcullis_testkit::dpop::hash;
use portcullis_testkit::pki::{Identity, Pki, Usage, client_config};
use portcullis_testkit::{Alg, Client, Http2Client, TokenSpec};
use serde_json::json;

/// Proxies come from 127.0.0.1, strangers from elsewhere.
const CONFIG: &str = r#"
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

const RFC9440: &str = "
listeners:
  - name: http
    address: 127.0.0.1:0
    h2c: true
    client_cert: { from_header: client-cert, ca: clients-ca.pem, crl: clients.crl }
    limits: { header_bytes: 200KiB }
";

const XFCC: &str = "
listeners:
  - name: http
    address: 127.0.0.1:0
    client_cert: { from_header: x-forwarded-client-cert, ca: clients-ca.pem, crl: clients.crl, bound_tokens: true }
    limits: { header_bytes: 200KiB }
";

const ALL: [&str; 3] = ["client-cert", "client-cert-chain", "x-forwarded-client-cert"];

async fn start(listeners: &str) -> Stage {
    Stage::builder().listeners(listeners).algs(&[Alg::Es256]).start(CONFIG).await
}

fn partner(pki: &Pki) -> Identity {
    pki.leaf("Acme").dns("acme.partner.example").issue().unwrap()
}

/// The certificates in PEM, each with its frame.
fn pems(identity: &Identity) -> Vec<&str> {
    identity.cert_pem().split_inclusive("-----END CERTIFICATE-----\n").collect()
}

fn byte_sequence(pem: &str) -> String {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    format!(":{base64}:")
}

fn encoded(pem: &str) -> String {
    pem.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").replace(' ', "%20").replace('\n', "%0A")
}

/// What Envoy would append.
fn element(identity: &Identity) -> String {
    let (cert, chain) = (encoded(pems(identity)[0]), encoded(identity.cert_pem()));
    let sha256 = &identity.facts().sha256;
    format!(
        "By=spiffe://proxy;Hash={sha256};Cert=\"{cert}\";Chain=\"{chain}\";Subject=\"CN=Acme,O=\\\"Quoted\\\"\";URI=;DNS=acme.partner.example"
    )
}

/// The fields of a proxy, in the way of RFC 9440.
fn fields(identity: &Identity) -> Vec<(&'static str, String)> {
    let mut items = pems(identity).into_iter().map(byte_sequence);
    let mut fields = vec![("Client-Cert", items.next().unwrap())];
    let chain = items.collect::<Vec<_>>().join(", ");
    if !chain.is_empty() {
        fields.push(("Client-Cert-Chain", chain));
    }
    fields
}

fn with<'a>(call: Call<'a>, fields: &[(&str, String)]) -> Call<'a> {
    fields.iter().fold(call, |call, (name, value)| call.field(name, value))
}

fn assert_nothing_handed_on(stage: &Stage) {
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
async fn a_stranger_is_not_believed_and_nothing_of_it_goes_on() {
    for listeners in [RFC9440, XFCC] {
        let stage = start(listeners).await;
        let victim = partner(&stage.clients);
        let mut sent = fields(&victim);
        sent.push(("X-Forwarded-Client-Cert", element(&victim)));
        stage.judge(&with(Call::get("/partners").from("127.0.0.3"), &sent)).await.refused(403, "cert.missing");
        // Nor is one who says that a proxy stands between.
        let call = with(Call::get("/partners").from("127.0.0.3").field("X-Forwarded-For", "127.0.0.1"), &sent);
        stage.judge(&call).await.refused(403, "cert.missing");
        for target in ["/open", "/onward", "/rfc"] {
            stage.judge(&with(Call::get(target).from("127.0.0.3"), &sent)).await.allowed(200);
            assert_nothing_handed_on(&stage);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_spelling_of_the_headers_is_stripped_on_every_route_also_where_nobody_reads_them() {
    const PLAIN: &str = "
listeners:
  - { name: http, address: 127.0.0.1:0, h2c: true }
";
    let plain = "trusted_proxies: [127.0.0.1]\nroutes: [{ name: plain, match: { path: / }, pool: up }]\n";
    let stage = Stage::builder().listeners(PLAIN).algs(&[Alg::Es256]).start(plain).await;
    let mut http2 = Http2Client::connect(stage.http()).await.unwrap();
    for name in [
        "Client-Cert",
        "CLIENT-CERT",
        "client_cert",
        "client.cert",
        "Client-Cert-Chain",
        "client_cert_chain",
        "client-cert_chain",
    ] {
        for from in ["127.0.0.1", "127.0.0.3"] {
            let call = Call::get("/").from(from).field(name, ":AAAA:").field(name, b"\xff");
            stage.judge(&call).await.allowed(200);
            assert_nothing_handed_on(&stage);
        }
        assert_eq!(http2.get(HOST, "/", &[(&*name.to_ascii_lowercase(), ":AAAA:")]).await.unwrap().status, 200);
        assert_nothing_handed_on(&stage);
    }
    for from in ["127.0.0.1", "127.0.0.3"] {
        let xfcc = || Call::get("/").from(from).field("X-Forwarded-Client-Cert", "By=x").field("x-forwarded-client-cert", "By=y");
        stage.judge(&xfcc()).await.allowed(200);
        assert_nothing_handed_on(&stage);
        // What servers may take for it is refused, as for all of `X-Forwarded-*`.
        stage.judge(&xfcc().field("x_forwarded_client_cert", "By=z")).await.refused(400, "request.ambiguous");
        for nominated in ["client-cert", "Client-Cert-Chain", "close, client_cert", "x-forwarded-client-cert"] {
            stage.judge(&xfcc().field("Connection", nominated)).await.refused(400, "request.ambiguous");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_read_in_two_ways_gives_no_identity() {
    let stage = start(RFC9440).await;
    let (mine, victim) = (partner(&stage.clients), partner(&stage.clients));
    let good = byte_sequence(pems(&mine)[0]);
    let other = byte_sequence(pems(&victim)[0]);
    let inner = good.trim_matches(':').to_owned();
    let line = |value: &str| vec![("Client-Cert", value.to_owned())];
    let cases = vec![
        // The client's own, and then the proxy's.
        vec![("Client-Cert", other.clone()), ("Client-Cert", good.clone())],
        vec![("Client-Cert", good.clone()), ("client-cert", good.clone())],
        vec![("Client-Cert", good.clone()), ("Client-Cert-Chain", other.clone()), ("Client-Cert-Chain", other.clone())],
        line(&format!("{other}, {good}")),
        line(""),
        line("::"),
        line(":"),
        line(&inner),
        line(&format!(":{inner}")),
        line(&format!("{good};a=1")),
        line(&format!(":{}:", inner.trim_end_matches('=').replacen('M', "-", 1))),
        line(&format!(":{inner}====:")),
        line(&format!(": {inner}:")),
        line(&encoded(pems(&mine)[0])),
        vec![("Client-Cert-Chain", good.clone())],
        vec![("Client-Cert", good.clone()), ("Client-Cert-Chain", String::new())],
        vec![("Client-Cert", good.clone()), ("Client-Cert-Chain", format!("{other},"))],
        vec![("Client-Cert", good.clone()), ("Client-Cert-Chain", vec![other.as_str(); 10].join(", "))],
        // More than a chain may have, of one certificate and of several.
        line(&format!(":{}:", "AAAA".repeat(12_000))),
        vec![("Client-Cert", good.clone()), ("Client-Cert-Chain", vec![format!(":{}:", "AAAA".repeat(3000)); 4].join(","))],
    ];
    for sent in &cases {
        stage.judge(&with(Call::get("/partners"), sent)).await.refused(403, "cert.forwarded.invalid");
    }
    // Whole, but no certificate.
    stage.judge(&with(Call::get("/partners"), &line(":AAAA:"))).await.refused(403, "cert.forwarded.untrusted");
    assert_eq!(stage.upstream.count(), 0);
    for sent in &cases {
        stage.judge(&with(Call::get("/open"), sent)).await.allowed(200);
        assert_eq!(stage.upstream.last().unwrap().header("x-cert-sha256"), None);
        assert_nothing_handed_on(&stage);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_envoys_header_only_the_element_of_the_proxy_itself_counts() {
    let stage = start(XFCC).await;
    let (mine, victim) = (partner(&stage.clients), partner(&stage.clients));
    let sha256 = |identity: &Identity| identity.facts().sha256.clone();
    let call = |value: String| Call::get("/partners").field("X-Forwarded-Client-Cert", value);
    // A client forges the first element, and the proxy appends its own.
    for forged in [element(&victim), format!("Cert=\"{}\"", encoded(pems(&victim)[0])), format!("Subject=\",{}\"", "Cert=x")] {
        for between in [",", ", "] {
            stage.judge(&call(format!("{forged}{between}{}", element(&mine)))).await.allowed(200);
            assert_eq!(stage.upstream.last().unwrap().header_all("x-cert-sha256"), [sha256(&mine)]);
        }
    }
    let (cert, other) = (encoded(pems(&mine)[0]), encoded(pems(&victim)[0]));
    let proxy = element(&mine);
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for broken in [
        // The proxy's element names no certificate: nobody else's is taken instead.
        format!("{},Hash={}", element(&victim), sha256(&mine)),
        // A quote that is left open, to swallow the proxy's element.
        format!("Cert=\"{other}\";Subject=\",{proxy}"),
        format!("Cert=\"{other}\";Subject=\"\\,{proxy}"),
        format!("{proxy},"),
        format!(",{proxy}"),
        format!("Cert=\"{other}\";{proxy}"),
        format!("Cert=\"{cert}\";Chain=\"{other}\""),
        format!("Cert=\"{cert}{other}\""),
        format!("Hash={};Cert=\"{cert}\"", sha256(&victim)),
        format!("Cert=\"{}\"", encoded(&format!("{}{key}", pems(&mine)[0]))),
        format!("Cert=\"{}\"", cert.replace("%2B", "+").replace("%0A", "%0")),
        "Cert=\"\"".to_owned(),
        "Cert=\"AAAA\"".to_owned(),
        String::new(),
        format!("Cert=\"{}\"", "A".repeat(180_000)),
    ] {
        stage.judge(&call(broken)).await.refused(403, "cert.forwarded.invalid");
    }
    let twice = call(element(&victim)).field("x-forwarded-client-cert", element(&mine));
    stage.judge(&twice).await.refused(403, "cert.forwarded.invalid");
    // The other header is not the one that is read here.
    stage.judge(&with(Call::get("/partners"), &fields(&victim))).await.refused(403, "cert.forwarded.missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxys_own_certificate_is_never_its_clients() {
    const MTLS: &str = "
listeners:
  - name: https
    address: 127.0.0.1:0
    tls:
      certificates: [{ cert: edge.pem, key: edge.key }]
      client_auth: { ca: proxies-ca.pem, mode: require }
    client_cert: { from_header: client-cert, ca: clients-ca.pem, crl: clients.crl }
";
    let proxies = Pki::named("Proxies").unwrap();
    let proxy = proxies.leaf("Proxy").dns("proxy.partner.example").issue().unwrap();
    let files = [("proxies-ca.pem", &*proxies.ca_pem())];
    let stage = Stage::builder().listeners(MTLS).algs(&[Alg::Es256]).start_with_files(CONFIG, &files).await;
    let identity = partner(&stage.clients);
    let call = |target: &str| Call::get(target).over_tls(Some(&proxy));
    // Though it has a name that the route asks for.
    let judged = stage.judge(&call("/partners")).await;
    judged.refused(403, "cert.forwarded.missing");
    assert_eq!(judged.line["tls"]["client_cert_sha256"], proxy.facts().sha256, "the connection is the proxy's");
    let judged = stage.judge(&with(call("/partners"), &fields(&identity))).await;
    judged.allowed(200);
    assert_eq!(stage.upstream.last().unwrap().header_all("x-cert-sha256"), [identity.facts().sha256.clone()]);
    assert_eq!(judged.line["tls"]["client_cert_sha256"], proxy.facts().sha256);
    // What the proxies' CA issued is nothing in the header, and the clients' CA opens no connection.
    stage.judge(&with(call("/partners"), &fields(&proxy))).await.refused(403, "cert.forwarded.untrusted");
    let tls = client_config(&[&stage.servers], Some(&identity), &["http/1.1"]).unwrap();
    if let Ok(mut client) = Client::connect_tls(stage.https(), HOST, tls).await {
        client.get(HOST, "/open", &[]).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_connects_itself_is_who_its_handshake_says() {
    const DIRECT: &str = "
listeners:
  - name: https
    address: 127.0.0.1:0
    tls:
      certificates: [{ cert: edge.pem, key: edge.key }]
      client_auth: { ca: clients-ca.pem }
    client_cert: { from_header: client-cert, ca: clients-ca.pem }
";
    let config = CONFIG.replace("[127.0.0.1]", "[192.0.2.1]");
    let stage = Stage::builder().listeners(DIRECT).algs(&[Alg::Es256]).start(&config).await;
    let (mine, victim) = (partner(&stage.clients), partner(&stage.clients));
    stage.judge(&with(Call::get("/partners").over_tls(Some(&mine)), &fields(&victim))).await.allowed(200);
    assert_eq!(stage.upstream.last().unwrap().header_all("x-cert-sha256"), [mine.facts().sha256.clone()]);
    stage.judge(&with(Call::get("/partners").over_tls(None), &fields(&victim))).await.refused(403, "cert.missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_that_names_no_source_relays_nobody_that_is_trusted() {
    const PROXY: &str = "
listeners:
  - name: http
    address: 127.0.0.1:0
    proxy_protocol: { trust: [127.0.0.1] }
    client_cert: { from_header: client-cert, ca: clients-ca.pem }
";
    let stage = start(PROXY).await;
    let identity = partner(&stage.clients);
    for (line, status, reason) in [
        ("PROXY TCP4 127.0.0.1 127.0.0.1 4711 80\r\n", 200, None),
        ("PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n", 403, Some("cert.missing")),
        ("PROXY UNKNOWN\r\n", 403, Some("cert.missing")),
    ] {
        let mut client = Client::connect(stage.http()).await.unwrap();
        client.send(line).await.unwrap();
        let response = client.request(with(Call::get("/partners"), &fields(&identity)).bytes()).await.unwrap();
        assert_eq!(response.status, status, "{line}");
        assert_eq!(stage.line(&response).await["reason"].as_str(), reason, "{line}");
    }
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
    assert_eq!(seen.header_all("x-forwarded-client-cert"), [expected.clone()]);
    assert!(seen.header("client-cert").is_none());
    // A gateway behind this one can read it.
    let next = start(XFCC).await;
    std::fs::copy(stage.file("clients-ca.pem"), next.file("clients-ca.pem")).unwrap();
    std::fs::copy(stage.file("clients.crl"), next.file("clients.crl")).unwrap();
    next.gateway.reload().await.unwrap();
    next.judge(&Call::get("/partners").field("X-Forwarded-Client-Cert", expected)).await.allowed(200);
    assert_eq!(next.upstream.last().unwrap().header_all("x-cert-sha256"), [sha256.clone()]);
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
