//! Whole requests: a gateway on this thread, so that its allocations are counted, a client that makes none, and a backend on a
//! thread of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use divan::{AllocProfiler, Bencher};
use portcullis::{Gateway, Handle};
use portcullis_micro::{HOST, browser_head};
use portcullis_testkit::{Alg, Provider, TokenSpec};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const AUDIENCE: &str = "https://api.bench.test";

/// Answers every request with 1 KiB, and allocates only on its own thread.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\nServer: bench\r\n\r\n{}", "x".repeat(1024));
                let mut space = [0; 4096];
                while stream.read(&mut space).is_ok_and(|len| len > 0) {
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    address
}

struct Stage {
    runtime: Runtime,
    _gateway: Handle,
    client: TcpStream,
    head: Vec<u8>,
    space: Vec<u8>,
}

impl Stage {
    fn new(filters: &str, log: &str, head: &[u8], token: bool) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (gateway, client, head) = runtime.block_on(async {
            let mut head = head.to_vec();
            let provider = Provider::builder().audience(AUDIENCE).algs(&[Alg::Es256]).start().await.unwrap();
            if token {
                let token = provider.issue(&TokenSpec::new().alg(Alg::Es256)).unwrap();
                head.truncate(head.len() - 2);
                head.extend_from_slice(format!("Authorization: Bearer {token}\r\n\r\n").as_bytes());
            }
            let config = format!(
                "listeners: [{{ name: http, address: 127.0.0.1:0 }}]\n\
                 access_log: {log}\n\
                 issuers: {{ main: {{ issuer: {}, audiences: [\"{}\"] }} }}\n\
                 pools: {{ up: {{ backends: [{{ address: {} }}] }} }}\n\
                 routes: [{{ name: all, filters: [{filters}], pool: up }}]\n",
                provider.issuer(),
                AUDIENCE,
                backend(),
            );
            let gateway = Gateway::builder().config_text(config).start().await.unwrap();
            let has_keys = |line: &str| line.starts_with("portcullis_issuer_keys{") && !line.ends_with(" 0");
            let keys = || !token || gateway.metrics().lines().any(has_keys);
            portcullis_testkit::until("the issuer's keys", keys).await.unwrap();
            let client = TcpStream::connect(gateway.address("http").unwrap()).await.unwrap();
            (gateway, client, head)
        });
        let mut stage = Self { runtime, _gateway: gateway, client, head, space: vec![0; 16 << 10] };
        // The first has keys to fetch, connections to make and buffers to reserve.
        for _ in 0..100 {
            stage.request();
        }
        stage
    }

    /// One request, and its whole answer.
    fn request(&mut self) -> &[u8] {
        let Self { runtime, client, head, space, .. } = self;
        let len = runtime.block_on(async {
            client.write_all(head).await.unwrap();
            let mut len = 0;
            while !space[..len].ends_with(b"xxxxxxxx") {
                let read = client.read(&mut space[len..]).await.unwrap();
                len += read;
                assert!(read > 0 && space.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&space[..len]));
            }
            len
        });
        &self.space[..len]
    }
}

const NO_LOG: &str = "{ path: /dev/null }";

#[divan::bench]
fn plain(bencher: Bencher) {
    let head = format!("GET /orders HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n");
    let mut stage = Stage::new("", NO_LOG, head.as_bytes(), false);
    bencher.bench_local(|| stage.request().len());
}

#[divan::bench]
fn twenty_fields(bencher: Bencher) {
    let mut stage = Stage::new("", NO_LOG, &browser_head(), false);
    bencher.bench_local(|| stage.request().len());
}

#[divan::bench]
fn chain(bencher: Bencher) {
    let filters =
        "{ ip_allow: { allow: [127.0.0.0/8] } }, { oidc: { issuer: main } }, { identity_headers: { headers: { x-user: sub } } }";
    let mut stage = Stage::new(filters, NO_LOG, &browser_head(), true);
    bencher.bench_local(|| stage.request().len());
}
