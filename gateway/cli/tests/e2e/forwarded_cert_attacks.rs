//! Whose word counts about a client certificate, and what clients say in a proxy's name.

use crate::forwarded_cert::{
    CONFIG, RFC9440, XFCC, assert_nothing_handed_on, byte_sequence, element, encoded, fields, partner, pems, start, with,
};
use crate::stage::{Call, HOST, Stage};
use portcullis_testkit::pki::{Identity, Pki, client_config};
use portcullis_testkit::{Alg, Client, Http2Client};

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
        vec![("Client-Cert", good.clone()), ("Client-Cert-Chain", [other.as_str(); 10].join(", "))],
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
