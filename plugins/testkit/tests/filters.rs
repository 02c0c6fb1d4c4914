//! Running filters without a socket.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use portcullis_plugin::{
    Body, BodyAccess, Build, ConfigError, Env, Exchange, Filter, FilterError, FilterFactory, FilterTable, Finding, Needs,
    Principal, ReasonCode, Reply, RequestHead, ResponseHead, Resume, Verdict, reason, schemars,
};
use portcullis_testkit::{Chain, Pki, TestEnv, answer, filter, filter_by_name, request, run, run_async};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Does what its configuration says at each stage, and keeps a diary.
#[derive(Default)]
struct Scripted {
    config: Config,
    diary: Arc<Mutex<Vec<String>>>,
}

#[derive(Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    name: String,
    wait: bool,
    request: Option<String>,
    response: Option<String>,
    rewrite: bool,
    read: bool,
    owned: Vec<String>,
    file: Option<String>,
}

const CODE: ReasonCode = ReasonCode::new("acme.refused");

impl Scripted {
    fn note(&self, what: &str) {
        self.diary.lock().unwrap().push(format!("{}{what}", self.config.name));
    }

    fn verdict(script: Option<&str>) -> Verdict {
        match script {
            Some("deny") => Verdict::deny(CODE),
            Some("respond") => Verdict::Respond(Reply::new(302).body("text/plain", "elsewhere")),
            Some("fault") => Verdict::Fault(FilterError::new("broken")),
            _ => Verdict::Continue,
        }
    }
}

impl Filter for Scripted {
    fn request(&self, request: &mut RequestHead, exchange: &mut Exchange) -> Verdict {
        self.note("request");
        let seen = request.headers().contains("x-user");
        exchange.check("spoof", CODE, !seen, || Finding::new("no x-user", "x-user"));
        let _ = request.headers_mut().set("x-seen", self.config.name.as_bytes());
        let script = self.config.request.clone();
        if !self.config.wait {
            return Self::verdict(script.as_deref());
        }
        Verdict::wait(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Box::new(move |request: &mut RequestHead, _: &mut Exchange| {
                let _ = request.headers_mut().set("x-waited", "1");
                Self::verdict(script.as_deref())
            }) as Resume
        })
    }

    fn response(&self, response: &mut ResponseHead, _: &mut Exchange) -> Verdict {
        self.note("response");
        let _ = response.headers_mut().append("x-by", self.config.name.as_bytes());
        Self::verdict(self.config.response.as_deref())
    }

    fn request_body(&self, body: &mut Body<'_>, _: &mut Exchange) -> Verdict {
        self.note(if body.is_last() { "last" } else { "chunk" });
        if self.config.rewrite {
            let upper = body.data().to_ascii_uppercase();
            body.replace(Bytes::from(upper));
        }
        Verdict::Continue
    }

    fn response_body(&self, body: &mut Body<'_>, exchange: &mut Exchange) -> Verdict {
        self.request_body(body, exchange)
    }

    fn done(&self, _: &Exchange) {
        self.note("done");
    }

    fn needs(&self) -> Needs {
        let access = match (self.config.rewrite, self.config.read) {
            (true, _) => BodyAccess::Rewrite,
            (_, true) => BodyAccess::Read,
            _ => BodyAccess::None,
        };
        let owned_headers = self.config.owned.clone();
        Needs { request_body: access, response_body: access, owned_headers, ..Needs::default() }
    }
}

impl Build for Scripted {
    const NAME: &'static str = "scripted";
    const EXAMPLE: &'static str = "{}";
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, ConfigError> {
        if let Some(file) = &config.file {
            env.read(file).map_err(|error| error.at("file"))?;
        }
        env.counter("acme_built_total", "Times built.", &["name"])?.with_label_values(&[&config.name]).inc();
        Ok(Self { config, diary: env.keep("diary", Arc::<Mutex<Vec<String>>>::default).as_ref().clone() })
    }
}

fn get() -> portcullis_testkit::Request {
    request("GET", "https://API.example.test/orders?x=1")
}

#[test]
fn a_request_is_what_it_was_described_to_be() {
    let facts = Pki::new().unwrap().client("orders").unwrap().facts().clone();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let described =
        get().header("x", "y").header("x", b"\xFF").client_ip("::ffff:10.0.0.1").certificate(&facts).at(at).route("r");
    let (head, exchange) = described.principal(Principal::new("bearer", "alice")).build().unwrap();
    assert_eq!((head.host(), head.path(), head.query()), ("api.example.test", "/orders", Some("x=1")));
    assert_eq!(head.headers().get_all("X").collect::<Vec<_>>(), [b"y".as_slice(), b"\xFF"]);
    assert_eq!(exchange.client().to_string(), "10.0.0.1");
    assert_eq!(exchange.certificate().verified().unwrap().subject, "CN=orders,O=Portcullis Test");
    assert_eq!((exchange.now(), exchange.route().map(|route| &**route)), (at, Some("r")));
    assert_eq!(&*exchange.principal().unwrap().subject, "alice");
    assert_eq!(exchange.connection().tls.as_ref().unwrap().sni.as_deref(), Some("api.example.test"));
    assert!(request("GET", "http://a").build().unwrap().1.connection().tls.is_none());
}

#[test]
fn what_no_gateway_would_pass_on_is_an_error() {
    for bad in [
        request("G T", "http://a/"),
        request("GET", "a/b"),
        request("GET", "http:///b"),
        request("GET", "http://a/b c"),
        request("GET", "http://a/b#c"),
        request("GET", "http://a/").header("x y", ""),
        request("GET", "http://a/").header("x", "a\r\nb: c"),
    ] {
        assert!(bad.build().is_err());
    }
}

#[test]
fn stages_run_in_order_and_back() {
    let diary = Arc::new(Mutex::new(Vec::new()));
    let named = |name: &str| {
        let config = Config { name: name.to_owned(), read: name == "b.", ..Config::default() };
        Arc::new(Scripted { config, diary: Arc::clone(&diary) })
    };
    let chain = Chain::new().with("a", named("a.")).with("b", named("b."));
    let outcome = chain.run(get().chunk("one").chunk("two").answered(answer(201).header("x-up", "1").chunk("reply")));
    outcome.allowed();
    assert_eq!(
        *diary.lock().unwrap(),
        ["a.request", "b.request", "b.chunk", "b.last", "b.response", "a.response", "b.last", "a.done", "b.done"]
    );
    assert_eq!((outcome.status(), outcome.response_header("x-up").as_deref()), (201, Some("1")));
    assert_eq!((&outcome.request_body[..], &outcome.response_body[..]), (&b"onetwo"[..], &b"reply"[..]));
    assert_eq!(outcome.upstream_header("x-seen").as_deref(), Some("b."));
}

#[test]
fn after_a_refusal_only_the_filters_that_ran_see_the_response() {
    let diary = Arc::new(Mutex::new(Vec::new()));
    let named = |name: &str, request: Option<&str>| {
        let config = Config { name: name.to_owned(), request: request.map(str::to_owned), ..Config::default() };
        Arc::new(Scripted { config, diary: Arc::clone(&diary) })
    };
    let chain = Chain::new().with("a", named("a.", None)).with("b", named("b.", Some("deny"))).with("c", named("c.", None));
    let outcome = chain.run(get());
    outcome.denied_with(CODE);
    assert_eq!(outcome.status(), 403);
    assert_eq!(*diary.lock().unwrap(), ["a.request", "b.request", "b.response", "a.response", "a.done", "b.done"]);
}

#[test]
fn every_verdict_has_its_response() {
    let scripted = |text: &str| filter::<Scripted>(text).unwrap();
    run(&scripted("request: deny"), get()).denied_with(CODE);
    let outcome = run(&scripted("request: respond"), get());
    assert_eq!(&outcome.responded(302).response_body[..], b"elsewhere");
    assert_eq!(run(&scripted("request: fault"), get()).faulted().status(), 500);
    let outcome = run(&scripted("response: deny"), get());
    assert!(outcome.is_allowed());
    assert_eq!((outcome.status(), outcome.response_verdict.is_continue()), (403, false));
}

#[test]
fn a_filter_may_wait() {
    let waiting = filter::<Scripted>("{ wait: true, request: deny }").unwrap();
    let outcome = run(&waiting, get());
    outcome.denied_with(CODE);
    assert_eq!(outcome.upstream_header("x-waited").as_deref(), Some("1"));
}

#[tokio::test]
async fn within_a_runtime_too() {
    let waiting = filter::<Scripted>("{ wait: true }").unwrap();
    run_async(&waiting, get()).await.allowed();
    // One that does not wait needs no runtime.
    run(&filter::<Scripted>("{}").unwrap(), get()).allowed();
}

#[test]
fn owned_headers_are_stripped_in_every_spelling() {
    let owning = filter::<Scripted>("owned: [x-user]").unwrap();
    let outcome =
        run(&owning, get().header("X-User", "a").header("x_user", "b").header("x-user", b"\xA0").header("x-users", "c"));
    assert!(outcome.checks.is_empty(), "the filter saw a spoofed header");
    assert_eq!(outcome.upstream_headers("x-users"), ["c"]);
    assert!(outcome.upstream_header("x_user").is_none());
    let outcome = run(&filter::<Scripted>("{}").unwrap(), get().header("x-user", "a"));
    assert_eq!(outcome.check("spoof").unwrap().reason, CODE);
}

#[test]
fn passed_checks_are_kept_when_explaining() {
    let scripted = filter::<Scripted>("{}").unwrap();
    assert!(run(&scripted, get()).checks.is_empty());
    assert!(run(&scripted, get().explaining()).check("spoof").unwrap().ok);
}

#[test]
fn bodies_are_rewritten_piece_by_piece() {
    let outcome =
        run(&filter::<Scripted>("rewrite: true").unwrap(), get().chunk("a").chunk("b").answered(answer(200).chunk("c")));
    assert_eq!((&outcome.request_body[..], &outcome.response_body[..]), (&b"AB"[..], &b"C"[..]));
}

#[test]
#[should_panic(expected = "refused")]
fn allowed_is_a_demand() {
    run(&filter::<Scripted>("request: deny").unwrap(), get()).allowed();
}

#[test]
#[should_panic(expected = "acme.refused")]
fn denied_with_names_the_other_reason() {
    run(&filter::<Scripted>("request: deny").unwrap(), get()).denied_with(reason::IP_DENIED);
}

#[test]
fn a_configuration_is_read_as_the_gateway_reads_it() {
    let refusal = |text: &str| filter::<Scripted>(text).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refusal("requset: deny").contains("requset"));
    assert!(refusal("wait: yes").contains("scripted"), "`yes` is no boolean");
    assert!(refusal("file: missing.txt").contains("missing.txt"));
    assert!(filter::<Scripted>("{ \"wait\": true }").is_ok(), "JSON is YAML");

    let table = FilterTable::new([FilterFactory::of::<Scripted>()]);
    let env = TestEnv::new().unwrap();
    run(&*filter_by_name(&table, "scripted", "request: deny", env.env()).unwrap(), get()).denied_with(CODE);
    assert!(filter_by_name(&table, "scripted", "requset: deny", env.env()).is_err());
    assert!(filter_by_name(&table, "other", "{}", env.env()).is_err());
}

#[test]
fn surroundings_have_files_metrics_and_state_over_reloads() {
    let env = TestEnv::new().unwrap();
    env.file("lists/a.txt", "10.0.0.0/8\n").unwrap();
    let first = env.reload(|env| env.filter::<Scripted>("{ name: a, file: lists/a.txt }").unwrap());
    run(&first, get());
    assert_eq!(env.metric("acme_built_total", &[("name", "a")]), Some(1.0));
    assert_eq!(env.metric("acme_built_total", &[("name", "b")]), None);
    let second = env.reload(|env| env.filter::<Scripted>("name: a").unwrap());
    assert!(Arc::ptr_eq(&first.diary, &second.diary), "kept over a reload");
    assert_eq!(env.metric("acme_built_total", &[("name", "a")]), Some(2.0));
    assert_eq!(env.env().files().len(), 1);

    let state = |env: &TestEnv| env.env().keep("state", Mutex::<u32>::default);
    let before = env.reload(state);
    env.reload(|_| ());
    assert!(!Arc::ptr_eq(&before, &env.reload(state)), "dropped by the reload that did not ask for it");
}
