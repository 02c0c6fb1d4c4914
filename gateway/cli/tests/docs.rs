//! Every configuration in the README and in the docs is one that `check` accepts.
//!
//! A piece of one (a filter, an issuer, a pool) is put into a configuration that has the rest.
#![allow(clippy::unwrap_used)]

use portcullis::config::inspect::inspect;
use portcullis_testkit::{Pki, TestEnv};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What a piece may refer to, for each part of a configuration that it does not have itself.
const REST: &[(&str, &str)] = &[
    ("listeners", "listeners:\n  - { name: rest, address: \"127.0.0.1:0\" }\n"),
    ("routes", "routes:\n  - { name: rest, pool: orders }\n"),
    ("pools", "pools:\n  orders: { backends: [{ address: \"127.0.0.1:9001\" }] }\n"),
    ("issuers", "issuers:\n  main: { issuer: \"https://sso.example.com\", audiences: [api] }\n"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    for folder in ["docs/guide", "docs/decisions"] {
        pages.extend(std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    pages
}

/// The YAML blocks of a page, each with its line.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        match (&mut open, line) {
            (None, "```yaml") => open = Some((at + 2, String::new())),
            (Some(_), "```") => found.extend(open.take()),
            (Some((_, block)), line) => writeln!(block, "{line}").unwrap(),
            (None, _) => {}
        }
    }
    found
}

fn whole(block: &str) -> String {
    let mut text = block.to_owned();
    if block.starts_with("- ") {
        let indented: String = block.lines().map(|line| format!("      {line}\n")).collect();
        text = format!("routes:\n  - name: piece\n    pool: orders\n    filters:\n{indented}");
    }
    if block.starts_with("filters:") {
        let indented: String = block.lines().map(|line| format!("    {line}\n")).collect();
        text = format!("routes:\n  - name: piece\n    pool: orders\n{indented}");
    }
    for (key, rest) in REST {
        if !text.lines().any(|line| line.starts_with(&format!("{key}:"))) {
            text.push_str(rest);
        }
    }
    text
}

#[tokio::test]
async fn every_configuration_in_the_docs_holds() {
    let env = TestEnv::new().unwrap();
    let pki = Pki::new().unwrap();
    let server = pki.server(&["api.example.com"]).unwrap();
    std::fs::create_dir(env.folder().join("tls")).unwrap();
    server.write_to(env.folder().join("tls"), "edge").unwrap();
    for name in ["clients-ca.pem", "internal-ca.pem"] {
        env.file(&format!("tls/{name}"), pki.ca_pem()).unwrap();
    }
    pki.crl(&[]).unwrap().write_to(env.folder().join("tls/clients.crl")).unwrap();
    env.file("lists/partners.txt", "192.0.2.0/24\n").unwrap();
    env.file("secrets/edge", "0123456789abcdef0123456789abcdef\n").unwrap();
    env.file("api-keys.txt", "# none\n").unwrap();
    env.file("audit.key", "0123456789abcdef0123456789abcdef\n").unwrap();
    // A server's key is as good as any for signing assertions.
    env.file("keys/assertion.pem", server.key_pem()).unwrap();
    env.file("keys/2027.pem", pki.server(&["next.example.com"]).unwrap().key_pem()).unwrap();

    let mut checked = 0;
    for page in pages() {
        for (line, block) in blocks(&std::fs::read_to_string(&page).unwrap()) {
            let file = env.file("edge.yaml", whole(&block)).unwrap();
            if let Err(diagnostics) = inspect(&file, &portcullis::filters(), None) {
                panic!("{}:{line}:\n{}", page.display(), diagnostics.render(false));
            }
            checked += 1;
        }
    }
    assert!(checked >= 7, "the docs have configurations: {checked}");
}
