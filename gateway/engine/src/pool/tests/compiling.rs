use super::*;
use serde_json::json;

fn refused(pool: Value) -> (String, String) {
    let error = Gateway::new().compile(pool).err().expect("refused");
    (error.dotted_path(), error.to_string())
}

#[test]
fn what_cannot_work_is_refused_at_its_place() {
    let one = json!([{ "address": "127.0.0.1:80" }]);
    let with = |key: &str, value: Value| {
        let mut pool = json!({ "backends": one });
        pool[key] = value;
        pool
    };
    for (pool, path, words) in [
        (json!({ "backends": [] }), "backends", "at least one"),
        (json!({ "backends": [{ "address": "127.0.0.1:80", "weight": 0 }] }), "backends[0].weight", "every weight is 0"),
        (json!({ "backends": [{ "address": "a:80" }, { "address": "127.0.0.1" }] }), "backends[1].address", "no port"),
        (json!({ "backends": [{ "address": "A:80" }, { "address": "a:80" }] }), "backends[1].address", "twice"),
        (json!({ "backends": [{ "address": "a:80", "max_requests": 0 }] }), "backends[0].max_requests", "weight: 0"),
        (with("balance", json!("hash")), "balance", "hash_key"),
        (with("hash_key", json!("client")), "hash_key", "does nothing"),
        (json!({ "backends": one, "balance": "hash", "hash_key": "query.a" }), "hash_key", "cannot be hashed"),
        (with("timeouts", json!({ "connect": "0s" })), "timeouts.connect", "longer than 0"),
        (with("timeouts", json!({ "total": "0s" })), "timeouts.total", "longer than 0"),
        (with("resolve_interval", json!("0s")), "resolve_interval", "longer than 0"),
        (with("keepalive", json!("0s")), "keepalive", "longer than 0"),
        (with("host", json!("a b")), "host", "not a host"),
        (with("host", json!("user@a")), "host", "not a host"),
        (with("health", json!({ "interval": "0s" })), "health.interval", "longer than 0"),
        (with("health", json!({ "timeout": "0s" })), "health.timeout", "longer than 0"),
        (with("health", json!({ "healthy_after": 0 })), "health.healthy_after", "at least 1"),
        (with("health", json!({ "unhealthy_after": 0 })), "health.unhealthy_after", "at least 1"),
        (with("health", json!({ "http": { "path": "healthz" } })), "health.http.path", "not a path"),
        (with("health", json!({ "http": { "path": "/a b" } })), "health.http.path", "not a path"),
        (with("health", json!({ "http": { "path": "/", "host": "a\r\nb" } })), "health.http.host", "not a host"),
        (with("health", json!({ "http": { "path": "/", "status": [200, 100] } })), "health.http.status[1]", "200 to 599"),
        (with("health", json!({ "http": { "path": "/", "port": 0 } })), "health.http.port", "1 to 65535"),
        (with("tls", json!({ "server_name": "" })), "tls.server_name", "cannot be verified"),
        (with("tls", json!({ "server_name": "my_app.a.example" })), "tls.server_name", "underscore"),
        (with("tls", json!({ "ca": "none.pem" })), "tls.ca", "cannot read"),
        (json!({ "backends": [{ "address": "my_app.a.example:443" }], "tls": {} }), "backends[0].address", "tls.server_name"),
    ] {
        let (at, text) = refused(pool);
        assert_eq!(at, path, "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn tls_files_that_cannot_be_used_are_refused_without_their_content() {
    let gateway = Gateway::new();
    let (one, other) = (tls::Authority::new("one"), tls::Authority::new("other"));
    let (cert, key) = one.client("gateway");
    let (_, other_key) = other.client("gateway");
    gateway.file("good.pem", &cert);
    gateway.file("good.key", &key);
    gateway.file("other.key", &other_key);
    gateway.file("empty.pem", "");
    gateway.file("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    gateway.file("garbage.key", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
    let pool = |tls: Value| json!({ "backends": [{ "address": "127.0.0.1:80" }], "tls": tls });
    let client = |cert: &str, key: &str| pool(json!({ "client_certificate": { "cert": cert, "key": key } }));
    for (pool, path, words) in [
        (pool(json!({ "ca": "empty.pem" })), "tls.ca", "no certificate"),
        (pool(json!({ "ca": "garbage.pem" })), "tls.ca", "cannot be read"),
        (client("garbage.pem", "good.key"), "tls.client_certificate.cert", "cannot be read"),
        (client("good.pem", "other.key"), "tls.client_certificate.key", "not the one of the certificate"),
        (client("good.pem", "garbage.key"), "tls.client_certificate.key", "no private key that can be used"),
        (client("good.pem", "good.pem"), "tls.client_certificate.key", "no private key that can be used"),
    ] {
        let error = gateway.compile(pool).err().expect("refused");
        assert_eq!(error.dotted_path(), path, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.to_string().contains("c2VjcmV0"));
    }
    assert!(gateway.compile(client("good.pem", "good.key")).is_ok());
}

#[test]
fn every_peer_has_its_limits() {
    let pool = Gateway::new().pool(json!({
        "backends": [{ "address": "127.0.0.1:80" }],
        "timeouts": { "connect": "1s", "read": "2s", "write": "3s", "total": "4s" },
        "keepalive": "5s",
        "retries": 7,
        "host": "inner.example",
    }));
    let peer = select(&pool).unwrap().peer(false).unwrap();
    let secs = |n| Some(Duration::from_secs(n));
    assert_eq!(peer.options.connection_timeout, secs(1));
    assert_eq!(peer.options.total_connection_timeout, secs(1));
    assert_eq!(peer.options.read_timeout, secs(2));
    assert_eq!(peer.options.write_timeout, secs(3));
    assert_eq!(peer.options.idle_timeout, secs(5));
    assert!(peer.options.max_h2_streams > 1 && peer.options.tcp_keepalive.is_some());
    assert_eq!((pool.timeouts().total, pool.retries(), pool.host()), (secs(4), 7, Some("inner.example")));
}

#[test]
fn the_protocol_decides_what_is_offered_and_an_upgrade_needs_http1() {
    use pingora::protocols::tls::ALPN;
    let gateway = Gateway::new();
    gateway.file("ca.pem", &tls::Authority::new("ca").pem());
    for (protocol, tls, offered) in [
        ("auto", false, ALPN::H1),
        ("auto", true, ALPN::H2H1),
        ("http/1.1", true, ALPN::H1),
        ("h2", false, ALPN::H2),
        ("h2", true, ALPN::H2),
    ] {
        let tls = if tls { json!({ "ca": "ca.pem" }) } else { Value::Null };
        let pool = gateway.pool(json!({ "backends": [{ "address": "127.0.0.1:80" }], "protocol": protocol, "tls": tls }));
        let selected = select(&pool).unwrap();
        assert_eq!(selected.peer(false).unwrap().options.alpn, offered);
        assert_eq!(selected.peer(true).unwrap().options.alpn, ALPN::H1);
    }
}

#[test]
fn another_ca_protocol_or_client_certificate_is_another_group_of_connections() {
    let gateway = Gateway::new();
    let (one, other) = (tls::Authority::new("one"), tls::Authority::new("other"));
    let group = |ca: &tls::Authority, protocol: &str| {
        gateway.file("ca.pem", &ca.pem());
        let pool =
            gateway.pool(json!({ "backends": [{ "address": "127.0.0.1:80" }], "tls": { "ca": "ca.pem" }, "protocol": protocol }));
        select(&pool).unwrap().peer(false).unwrap().group_key
    };
    assert_eq!(group(&one, "auto"), group(&one, "auto"));
    assert_ne!(group(&one, "auto"), group(&other, "auto"));
    assert_ne!(group(&one, "auto"), group(&one, "h2"));
}
