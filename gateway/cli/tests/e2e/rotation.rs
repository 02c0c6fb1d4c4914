//! Keys that change and an issuer that goes away, while requests come in.

use crate::stage::{Call, HOST, Stage, assert_refusal};
use portcullis::explain::explain;
use portcullis_testkit::provider::{Endpoint, Fault};
use portcullis_testkit::token::{Alg, Rotation, SignWith, TokenSpec};
use portcullis_testkit::{Client, until, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const CONFIG: &str = r#"
issuers:
  main:
    issuer: "{ISSUER}"
    audiences: [https://api.example.test]
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - oidc: { issuer: main }
      - identity_headers: { headers: { x-user: sub } }
    pool: up
"#;

fn spec() -> TokenSpec {
    TokenSpec::new().alg(Alg::Es256)
}

fn call(token: &str) -> Call<'static> {
    Call::get("/orders/1").bearer(token)
}

impl Stage {
    fn token(&self, spec: &TokenSpec) -> String {
        self.provider.issue(spec).unwrap()
    }

    /// What the wire and the log say about a token: the status and the reason, which must be one story.
    async fn try_token(&self, token: &str) -> (u16, String) {
        let (response, line) = self.log(&call(token)).await;
        assert_eq!(line["status"], response.status);
        if response.status != 200 {
            assert_refusal(&response);
        }
        (response.status, line["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// Tries until the token is accepted. It may be refused for `meanwhile` until then, and for nothing else.
    async fn accepted_in_the_end(&self, spec: &TokenSpec, meanwhile: &str) {
        let tries = async {
            loop {
                match self.try_token(&self.token(spec)).await {
                    (200, _) => return,
                    (_, reason) => assert_eq!(reason, meanwhile),
                }
            }
        };
        within("a good token is accepted", tries).await.unwrap();
    }
}

/// Clients that send fresh tokens without a pause.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<(u16, String)>>>,
}

impl Load {
    /// `rotations` is changed around each hard cut: a token from before one that arrives after it is not good any more,
    /// and is not counted.
    fn start(stage: &Arc<Stage>, rotations: &Arc<AtomicU64>) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = |_| {
            let (stage, rotations, stop, sent) = (Arc::clone(stage), Arc::clone(rotations), Arc::clone(&stop), Arc::clone(&sent));
            tokio::spawn(async move {
                let mut client = Client::connect(stage.http()).await.unwrap();
                let mut failed = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let before = rotations.load(Ordering::SeqCst);
                    let bearer = format!("Bearer {}", stage.token(&spec()));
                    let response = client.get(HOST, "/orders/1", &[("authorization", &bearer)]).await.unwrap();
                    if response.status != 200 && rotations.load(Ordering::SeqCst) == before {
                        let line = stage.line(&response).await;
                        failed.push((response.status, line["reason"].to_string()));
                    }
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                failed
            })
        };
        let tasks = (0..4).map(task).collect();
        Self { stop, sent, tasks }
    }

    async fn more(&self, requests: u64) {
        let until_now = self.sent.load(Ordering::SeqCst);
        until("more requests", || self.sent.load(Ordering::SeqCst) >= until_now + requests).await.unwrap();
    }

    /// The refusals of good requests.
    async fn end(self) -> Vec<(u16, String)> {
        self.stop.store(true, Ordering::SeqCst);
        let mut failed = Vec::new();
        for task in self.tasks {
            failed.extend(task.await.unwrap());
        }
        failed
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load_by_overlap_and_by_hard_cut_without_a_refused_good_request() {
    let stage = Arc::new(Stage::builder().algs(&[Alg::Es256]).start(CONFIG).await);
    let rotations = Arc::new(AtomicU64::new(0));
    let load = Load::start(&stage, &rotations);
    load.more(40).await;
    let old = stage.token(&spec());
    stage.provider.rotate(Rotation::Overlap);
    load.more(40).await;
    assert_eq!(stage.try_token(&old).await.0, 200, "the old key is still published");
    rotations.fetch_add(1, Ordering::SeqCst);
    stage.provider.rotate(Rotation::HardCut);
    rotations.fetch_add(1, Ordering::SeqCst);
    load.more(40).await;
    assert_eq!(stage.try_token(&old).await, (401, "token.kid.unknown".to_owned()));
    assert_eq!(load.end().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hard_cut_during_an_outage_refuses_no_good_request_once_the_issuer_has_answered_again() {
    let stage = Arc::new(Stage::builder().algs(&[Alg::Es256]).start(CONFIG).await);
    stage.accepted_in_the_end(&spec(), "").await;
    let known = stage.token(&spec());
    stage.provider.fault(Endpoint::Jwks, Fault::Status(500), None);
    stage.provider.fault(Endpoint::Discovery, Fault::Status(500), None);
    stage.provider.rotate(Rotation::HardCut);
    for _ in 0..5 {
        assert_eq!(stage.try_token(&stage.token(&spec())).await, (503, "issuer.unavailable".to_owned()));
        assert_eq!(stage.try_token(&known).await.0, 200, "known keys go on deciding");
    }
    stage.provider.heal();
    stage.accepted_in_the_end(&spec(), "issuer.unavailable").await;
    let load = Load::start(&stage, &Arc::default());
    load.more(60).await;
    assert_eq!(load.end().await, []);
    assert_eq!(stage.try_token(&known).await, (401, "token.kid.unknown".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_a_known_kid_is_never_refreshed() {
    let stage = Stage::start(CONFIG).await;
    stage.accepted_in_the_end(&spec(), "").await;
    let old = stage.token(&spec());
    stage.provider.rotate(Rotation::SameKid);
    stage.accepted_in_the_end(&spec(), "token.signature.invalid").await;
    assert_eq!(stage.try_token(&old).await, (401, "token.signature.invalid".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_no_refetch_on_an_unknown_kid() {
    let stage = Stage::start(CONFIG).await;
    assert_eq!(stage.try_token(&stage.token(&spec())).await.0, 200);
    stage.provider.rotate(Rotation::Overlap);
    // The very first one: whoever brings the new key waits for it, and is not refused.
    assert_eq!(stage.try_token(&stage.token(&spec())).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_an_unknown_kid_triggers_a_fetch_without_a_budget() {
    let stage = Stage::start(CONFIG).await;
    assert_eq!(stage.try_token(&stage.token(&spec())).await.0, 200);
    let before = stage.provider.jwks_fetches();
    let bearers: Vec<_> = (0..100).map(|at| stage.token(&spec().kid(&format!("made-up-{at}")))).collect();
    let mut client = Client::connect(stage.http()).await.unwrap();
    for bearer in &bearers {
        let response = client.get(HOST, "/orders/1", &[("authorization", &format!("Bearer {bearer}"))]).await.unwrap();
        assert_eq!(response.status, 401);
    }
    let caused = stage.provider.jwks_fetches() - before;
    // Three at once; even a slow machine earns few more at one in ten seconds.
    assert!((1..=10).contains(&caused), "{caused} fetches for 100 tokens");
    assert_eq!(stage.try_token(&stage.token(&spec())).await.0, 200);
    stage.assert_kept_secret(&bearers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_a_providers_outage_is_answered_as_401() {
    let stage = Stage::start(CONFIG).await;
    assert_eq!(stage.try_token(&stage.token(&spec())).await.0, 200);
    stage.provider.go_down().await;
    stage.provider.rotate(Rotation::Overlap);
    let unknown = stage.token(&spec());
    let known = |spec: TokenSpec| stage.token(&spec.sign_with(SignWith::Generation(0)));
    let expect = [
        (known(spec().subject("bob")), 200, ""),
        (unknown.clone(), 503, "issuer.unavailable"),
        (known(spec().expires_in(-3600)), 401, "token.expired"),
        (known(spec().audience("https://other.example")), 401, "token.audience.mismatch"),
        (stage.token(&spec().expires_in(-3600)), 401, "token.expired"),
        (stage.token(&spec().sign_with(SignWith::Foreign).header("kid", "es256-0")), 401, "token.signature.invalid"),
        ("no-token".to_owned(), 401, "token.malformed"),
        (unknown.clone(), 503, "issuer.unavailable"),
    ];
    let inspection = stage.inspect_online();
    for (token, status, reason) in expect {
        if status == 200 {
            // An explanation has no keys from before, and says so.
            assert_eq!(stage.try_token(&token).await, (status, reason.to_owned()));
            let explained = explain(inspection.snapshot(), &call(&token).query()).await.unwrap();
            assert_eq!((explained.status, explained.reason), (Some(503), Some("issuer.unavailable")));
        } else if reason != "token.signature.invalid" {
            stage.judge_by(&inspection, &call(&token)).await.refused(status, reason);
        } else {
            assert_eq!(stage.try_token(&token).await, (status, reason.to_owned()));
        }
    }
    let (response, line) = stage.log(&call(&unknown)).await;
    assert_eq!((response.header("www-authenticate"), response.header("retry-after").is_some()), (None, true));
    assert_eq!(line["verdict"], "error");
    let labels = [("route", "orders"), ("filter", "oidc"), ("reason", "issuer.unavailable")];
    assert!(stage.metric("portcullis_verdicts_total", &labels) >= 3.0);
    until("known keys are counted", || stage.metric("portcullis_issuer_keys", &[("issuer", "main")]) > 0.0).await.unwrap();
    stage.provider.come_back().unwrap();
    within("the issuer's return", async { while stage.try_token(&unknown).await.0 != 200 {} }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_never_answered_is_503_and_its_first_answer_opens_the_door() {
    let stage = Stage::builder().issuer_down().start(CONFIG).await;
    assert_eq!(stage.try_token(&stage.token(&spec())).await, (503, "issuer.unavailable".to_owned()));
    assert_eq!(stage.try_token("nonsense").await, (401, "token.malformed".to_owned()));
    let (response, _) = stage.log(&Call::get("/orders/1")).await;
    assert_eq!(response.status, 401, "without a token, the issuer has no part in it");
    stage.provider.come_back().unwrap();
    stage.accepted_in_the_end(&spec(), "issuer.unavailable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_a_reload_while_the_provider_is_down_empties_the_keys() {
    let stage = Stage::start(CONFIG).await;
    assert_eq!(stage.try_token(&stage.token(&spec())).await.0, 200);
    stage.provider.go_down().await;
    stage.rewrite(&format!("{CONFIG}  - {{ name: new, match: {{ path_exact: /new }}, respond: {{ status: 204 }} }}\n"));
    assert_eq!(stage.gateway.reload().await.unwrap(), 2);
    assert_eq!(stage.send(&Call::get("/new")).await.status, 204);
    assert_eq!(stage.try_token(&stage.token(&spec().subject("bob"))).await.0, 200);
    // Also with settings of the issuer that say nothing about where its keys come from.
    stage.rewrite(&CONFIG.replace("[https://api.example.test]", "[https://api.example.test, https://more.example.test]"));
    assert_eq!(stage.gateway.reload().await.unwrap(), 3);
    assert_eq!(stage.try_token(&stage.token(&spec().audience("https://more.example.test"))).await.0, 200);
    assert_eq!(stage.try_token(&stage.token(&spec().audience("https://other.example.test"))).await.0, 401);
    // A reload that does not compile changes nothing.
    stage.rewrite("routes: [{ name: broken, pool: nowhere }]");
    stage.gateway.reload().await.unwrap_err();
    assert_eq!(stage.gateway.generation(), 3);
    assert_eq!(stage.try_token(&stage.token(&spec())).await.0, 200);
    assert_eq!(stage.metric("portcullis_config_last_reload_success", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_a_fetch_that_answers_500_or_html_is_stored_as_an_empty_key_set() {
    let faults = [
        Fault::Status(500),
        Fault::Html,
        Fault::CutOff,
        Fault::EmptyObject,
        Fault::NoKeys,
        Fault::Huge(8 << 20),
        Fault::Redirect("http://127.0.0.1:9/keys".to_owned()),
    ];
    let config = CONFIG.replace("audiences:", "refetch_interval: 1ms\n    audiences:");
    let stage = Stage::builder().algs(&[Alg::Es256]).start(&config).await;
    assert_eq!(stage.try_token(&stage.token(&spec())).await.0, 200);
    for fault in faults {
        stage.provider.serve_garbage(fault.clone());
        let fetches = stage.provider.jwks_fetches();
        // A key id that nobody knows makes the gateway ask, as soon as its backoff lets it.
        let asked = async {
            while stage.provider.jwks_fetches() == fetches {
                let made_up = stage.token(&spec().kid(&format!("made-up-{}", next())));
                assert_eq!(stage.try_token(&made_up).await, (503, "issuer.unavailable".to_owned()), "{fault:?}");
            }
        };
        within("a fetch", asked).await.unwrap();
        assert_eq!(stage.try_token(&stage.token(&spec().subject("bob"))).await.0, 200, "{fault:?}");
        let keys = || stage.metric("portcullis_issuer_keys", &[("issuer", "main")]);
        until("the keys are still counted", || keys() > 0.0).await.unwrap();
        // And the next good answer counts again.
        stage.provider.heal();
        stage.provider.rotate(Rotation::Overlap);
        stage.accepted_in_the_end(&spec(), "issuer.unavailable").await;
    }
}

/// Something new each time; not random, which nobody needs here.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hole_every_request_waits_behind_one_slow_fetch() {
    let slow = "max_wait: 5m\n    timeout: 5m\n    audiences:";
    let stage = Arc::new(Stage::start(&CONFIG.replace("audiences:", slow)).await);
    assert_eq!(stage.try_token(&stage.token(&spec())).await.0, 200);
    stage.provider.fault(Endpoint::Jwks, Fault::Hang, None);
    let fetches = stage.provider.jwks_fetches();
    let waiting = {
        let stage = Arc::clone(&stage);
        tokio::spawn(async move { stage.send(&call(&stage.token(&spec().kid("new")))).await.status })
    };
    until("the slow fetch", || stage.provider.jwks_fetches() > fetches).await.unwrap();
    for at in 0..20 {
        let token = stage.token(&spec().subject(&format!("user-{at}")));
        assert_eq!(stage.try_token(&token).await.0, 200);
    }
    assert!(!waiting.is_finished(), "it still waits, and nobody waited for it");
    waiting.abort();
}
