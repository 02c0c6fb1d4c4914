//! Configurations of `tests/config`, each with what is said about it in the `.txt` of the same name: findings, or that it
//! is good. `UPDATE_EXPECTED=1 cargo nextest run` writes those files anew; read the difference.

use super::check::{check, check_filter_order};
use super::decode::{decode_example, decode_filter};
use super::diagnostic::Diagnostics;
use super::findings::Findings;
use super::load::{Loaded, Loader, load_str};
use super::{reference, schema};
use portcullis_plugin::error::Segment;
use portcullis_plugin::units::{Network, TimeSpan};
use portcullis_plugin::{Build, ConfigError, Env, Filter, FilterFactory, FilterTable, Needs};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SECRET: &str = "hunter2-is-the-password";

struct Allow;
impl Filter for Allow {}

/// Lets only some networks in.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct AllowConfig {
    /// Who may pass.
    allow: Vec<Network>,
    #[serde(default)]
    deny: Vec<Network>,
}

impl Build for Allow {
    const NAME: &'static str = "ip_allow";
    const EXAMPLE: &'static str = "allow: [10.0.0.0/8]";
    type Config = AllowConfig;
    fn build(_: AllowConfig, _: &Env) -> Result<Self, ConfigError> {
        Ok(Self)
    }
}

struct Limit;
impl Filter for Limit {}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct LimitConfig {
    /// How long.
    per: TimeSpan,
    /// How many | how often.
    rate: u32,
    deep: Option<Deep>,
    #[serde(default)]
    extra: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Deep {
    kind: Kind,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Slow,
    /// Not slow.
    Fast,
}

impl Build for Limit {
    const NAME: &'static str = "limit";
    const EXAMPLE: &'static str = "per: 1s\nrate: 5";
    type Config = LimitConfig;
    fn build(_: LimitConfig, _: &Env) -> Result<Self, ConfigError> {
        Ok(Self)
    }
}

fn table() -> FilterTable {
    FilterTable::new([FilterFactory::of::<Allow>(), FilterFactory::of::<Limit>()])
}

fn environment(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some(SECRET.to_owned()),
        "TINY" => Some("q9".to_owned()),
        "HOST" => Some("backend.example.test".to_owned()),
        "WEIGHT" => Some("3".to_owned()),
        _ => None,
    }
}

/// Everything that is said about a configuration.
fn judge(path: &Path) -> (Option<Loaded>, Diagnostics) {
    let table = table();
    match Loader::new(&environment).filters(&table).load(path) {
        Err(diagnostics) => (None, diagnostics),
        Ok(loaded) => {
            let mut findings = Findings::default();
            check(&loaded.raw, &mut findings);
            let mut diagnostics = loaded.diagnostics(&findings);
            for (index, route) in loaded.raw.routes.iter().enumerate() {
                for (position, entry) in route.filters.iter().enumerate() {
                    let path: [Segment; 4] = ["routes".into(), index.into(), "filters".into(), position.into()];
                    if let Err(faults) = decode_filter(&loaded.tree, &path, entry, &table) {
                        diagnostics.extend(faults.into_iter().map(|fault| loaded.fault(fault)));
                    }
                }
            }
            (Some(loaded), diagnostics)
        }
    }
}

fn folder() -> PathBuf {
    // Tests run in the folder of their package; relative, so that the expected texts hold on every machine.
    PathBuf::from("tests/config")
}

#[test]
fn each_configuration_is_judged_as_expected() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    paths.push(folder().join("folder"));
    paths.sort();
    assert!(paths.len() > 40);
    let mut different = Vec::new();
    for path in paths {
        let (_, diagnostics) = judge(&path);
        let text = if diagnostics.is_empty() {
            "good\n".to_owned()
        } else {
            // Also for programs and log lines, where a slip would be seen by nobody.
            let lines: String = diagnostics.items().iter().map(|item| format!("{item}\n")).collect();
            diagnostics.to_json();
            assert_eq!(lines.lines().count(), diagnostics.items().len(), "one line each:\n{lines}");
            assert!(!diagnostics.render(true).contains(SECRET) && !diagnostics.to_json().to_string().contains(SECRET));
            format!("{}\n{lines}", diagnostics.render(false))
        };
        assert!(!text.contains(SECRET), "{text}");
        let expected = path.with_extension("txt");
        if update {
            std::fs::write(&expected, &text).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != text {
            different.push(format!("{}\n{text}", path.display()));
        }
    }
    assert!(different.is_empty(), "not as expected:\n\n{}", different.join("\n\n"));
}

#[test]
fn good_configurations_say_what_they_mean() {
    let (loaded, diagnostics) = judge(&folder().join("good.yaml"));
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let raw = loaded.unwrap().raw;
    assert_eq!(raw.listeners[0].name, "0123");
    assert_eq!(raw.listeners[1].tls.as_ref().unwrap().certificates[0].cert, "tls/edge.pem");
    assert_eq!(raw.pools["plain"].backends[0].address, "backend.example.test:80");
    assert_eq!(raw.pools["plain"].backends[0].weight, 3);
    assert_eq!(raw.routes[0].matches.query["debug"], "true");
    assert_eq!(raw.routes[0].respond.as_ref().unwrap().body, "costs $5, or nothing\n");
}

#[test]
fn a_folder_is_read_in_name_order_and_watched() {
    let (loaded, diagnostics) = judge(&folder().join("folder"));
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let loaded = loaded.unwrap();
    let names: Vec<_> = loaded.raw.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["http", "more"]);
    assert_eq!(loaded.base, folder().join("folder"));
    let watched = |name: &str| loaded.files.iter().any(|file| file.ends_with(name));
    assert!(watched("folder") && watched("30-more.yaml") && watched("parts/pools.yaml"));
    assert!(!watched("notes.txt") && !watched(".hidden.yaml"));
}

#[test]
fn what_failed_to_load_is_watched_too() {
    let (_, diagnostics) = judge(&folder().join("include_missing.yaml"));
    for name in ["include_missing.yaml", "none.yaml", "parts"] {
        assert!(diagnostics.files().iter().any(|file| file.ends_with(name)), "{name}");
    }
    let missing = judge(&folder().join("no-such-file.yaml")).1;
    assert!(missing.to_string().starts_with("cannot read tests/config/no-such-file.yaml: "), "{missing}");
}

#[test]
fn the_contracts_configurations_load_unchanged() {
    let shared = std::env::var_os("SHARED_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from)
        .join("contract");
    if !shared.is_dir() {
        assert!(std::env::var_os("CI").is_none(), "{} is missing", shared.display());
        eprintln!("skipped: {} is missing", shared.display());
        return;
    }
    for name in ["edge.yaml", "minimal.yaml"] {
        let loaded = Loader::new(&|_| None).load(&shared.join(name)).unwrap_or_else(|found| panic!("{}", found.render(false)));
        let mut findings = Findings::default();
        check(&loaded.raw, &mut findings);
        assert!(
            findings.errors().is_empty() && findings.warnings().is_empty(),
            "{}",
            loaded.diagnostics(&findings).render(false)
        );
    }
}

#[test]
fn a_finding_of_the_compile_step_gets_its_place() {
    let text = "listeners: []\nroutes:\n  - name: a\n    filters:\n      - limit:\n          per: 1s\n          rate: 5\n";
    let loaded = load_str("edge.yaml", text, Path::new(".")).unwrap();
    let at = |error: ConfigError| loaded.error(&error.at(0).at("filters").at(0).at("routes")).to_string();
    assert!(at(ConfigError::new("bad").at("per").at("limit")).starts_with("edge.yaml:6:16: bad"));
    assert!(at(ConfigError::new("bad").at("absent").at("limit")).starts_with("edge.yaml:5:9: bad"));
    assert!(at(ConfigError::new("bad").at("limit")).starts_with("edge.yaml:5:9: bad"));
    let json = loaded.error(&ConfigError::new("bad").at("listeners")).to_json();
    assert_eq!(json["path"], "listeners");
    assert_eq!((&json["location"]["line"], &json["location"]["column"]), (&1.into(), &1.into()));
}

#[test]
fn a_large_list_of_networks_is_no_problem() {
    let networks: Vec<String> = (0..100_000).map(|n| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255)).collect();
    let text = format!("trusted_proxies:\n  - {}\n", networks.join("\n  - "));
    let loaded = load_str("edge.yaml", &text, Path::new(".")).unwrap();
    assert_eq!(loaded.raw.trusted_proxies.len(), 100_000);
}

#[test]
fn a_filter_that_reads_identity_too_early_is_warned_of() {
    let authenticates = Needs { authenticates: true, ..Needs::default() };
    let reads = Needs { reads_identity: true, ..Needs::default() };
    let warnings = |already, order: &[(&'static str, &Needs)]| {
        let mut findings = Findings::default();
        check_filter_order(already, order.iter().copied(), &mut findings);
        findings.warnings().len()
    };
    assert_eq!(warnings(false, &[("headers", &reads), ("oidc", &authenticates)]), 1);
    assert_eq!(warnings(false, &[("oidc", &authenticates), ("headers", &reads)]), 0);
    assert_eq!(warnings(true, &[("headers", &reads), ("oidc", &authenticates)]), 0);
    // A client certificate may be all that is read.
    assert_eq!(warnings(false, &[("headers", &reads)]), 0);
}

#[test]
fn a_filters_example_is_read_as_a_configuration_is() {
    assert!(table().iter().all(|factory| decode_example(factory).is_ok()));
    let mut wrong = FilterFactory::of::<Limit>();
    wrong.example = "per: 1s\nrat: 5";
    let faults = decode_example(&wrong).err().unwrap();
    let messages: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(messages, ["unknown key `rat`", "the key `rate` is missing"]);
}

#[test]
fn the_schema_knows_each_filter_and_refuses_unknown_keys() {
    let schema = schema::schema(&table());
    let entry = &schema["$defs"]["FilterEntry"]["anyOf"];
    assert_eq!(entry[0]["properties"]["ip_allow"]["$ref"], "#/$defs/filter_ip_allow");
    assert_eq!(entry[0]["required"][0], "ip_allow");
    assert_eq!(entry[0]["properties"]["mode"]["$ref"], "#/$defs/Mode");
    assert_eq!(schema["$defs"]["TlsVersion"]["enum"], serde_json::json!(["1.2", "1.3", 1.2, 1.3]));
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let mut objects = 0;
    visit(&schema, &mut |value| {
        if value.get("properties").is_some_and(serde_json::Value::is_object) {
            assert_eq!(value["additionalProperties"], false, "{value}");
            objects += 1;
        }
        if let Some(name) = value.get("$ref").and_then(|name| name.as_str()) {
            assert!(schema.pointer(name.trim_start_matches('#')).is_some(), "{name} leads nowhere");
        }
    });
    assert!(objects > 20);
    assert_eq!(schema::schema(&FilterTable::default())["$defs"]["FilterEntry"], serde_json::json!({ "not": {} }));
}

fn visit(value: &serde_json::Value, see: &mut impl FnMut(&serde_json::Value)) {
    see(value);
    match value {
        serde_json::Value::Object(map) => map.values().for_each(|value| visit(value, see)),
        serde_json::Value::Array(items) => items.iter().for_each(|value| visit(value, see)),
        _ => {}
    }
}

#[test]
fn the_reference_has_every_key_and_no_dead_link() {
    let page = reference::reference(&table());
    for part in [
        "| `header_bytes` | [byte size](#values) |",
        "### `limit`",
        "- ip_allow:\n    allow: [10.0.0.0/8]",
        "How many \\| how often.",
    ] {
        assert!(page.contains(part), "{part} is missing in:\n{page}");
    }
    let anchors: Vec<String> = page
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title.chars().filter(|c| c.is_alphanumeric() || "_- ".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect();
    for link in page.split("](#").skip(1) {
        let target = link.split(')').next().unwrap();
        assert!(anchors.iter().any(|anchor| anchor == target), "{target} is not in {anchors:?}");
    }
    // Each key of each struct of the raw configuration stands in some table.
    let schema = schema::schema(&table());
    visit(&schema, &mut |value| {
        for key in value.get("properties").and_then(|keys| keys.as_object()).into_iter().flat_map(|keys| keys.keys()) {
            assert!(page.contains(&format!("`{key}`")), "{key}");
        }
    });
    assert!(reference::reasons().contains("| `token.expired` | 401 |"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_loading_panic(text in "\\PC{0,200}") {
        said(&text);
    }

    #[test]
    fn no_text_of_yaml_pieces_makes_loading_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        said(&pieces.concat());
    }

    #[test]
    fn no_change_of_a_good_file_makes_loading_panic(at in 0usize..1100, remove in 0usize..40, insert in prop::sample::select(PIECES)) {
        let mut text: Vec<char> = std::fs::read_to_string(folder().join("good.yaml")).unwrap().chars().collect();
        let at = at.min(text.len());
        let end = (at + remove).min(text.len());
        text.splice(at..end, insert.chars());
        said(&text.into_iter().collect::<String>());
    }

    #[test]
    fn no_bytes_make_loading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let _ = Loader::new(&environment).load(file.path()).map_err(|found| found.render(true));
    }
}

const PIECES: &[&str] = &[
    "listeners",
    "routes",
    "pools",
    "name",
    "filters",
    "limit",
    ":",
    ": ",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "\"",
    "'",
    "&a ",
    "*a",
    "|\n",
    ">-\n",
    "# x",
    "\t",
    "---\n",
    "...\n",
    "!!str ",
    "!x ",
    "? ",
    "<<",
    "${SECRET}",
    "${",
    "$$",
    "~",
    "null",
    "1",
    "1.5",
    "true",
    "1s",
    "%",
    "@",
    "\u{feff}",
    "\0",
    "\u{85}",
    "é",
    "\r",
    "\\",
];

/// Loads a text and shows what is wrong with it in every way.
fn said(text: &str) {
    let table = table();
    let found = match Loader::new(&environment).filters(&table).load_str("edge.yaml", text, Path::new("tests/config")) {
        Ok(loaded) => {
            let mut findings = Findings::default();
            check(&loaded.raw, &mut findings);
            loaded.diagnostics(&findings)
        }
        Err(found) => {
            assert!(found.has_errors());
            found
        }
    };
    assert_eq!(found.to_string().lines().count(), found.items().len());
    found.render(false);
    found.render(true);
    found.to_json();
}

#[test]
fn a_line_with_a_password_in_an_address_is_not_shown() {
    for (value, shown) in [
        ("http://bob:s3cretpw@sso.test/jwks", false),
        // What should have been percent-encoded ends the authority for whoever reads it by the rules.
        ("https://bob:s3cretpw/x@sso.test/jwks", false),
        ("https://bob:s3cretpw?x@sso.test/jwks", false),
        ("https://bob:s3cretpw x@sso.test/jwks", false),
        ("https:bob:s3cretpw@sso.test/jwks", false),
        ("https://sso.test/jwks?key=s3cretpw", false),
        ("https://sso.test/a", true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("edge.yaml");
        std::fs::write(&file, format!("issuers: {{ main: {{ isuer: \"{value}\" }} }}\n")).unwrap();
        let found = Loader::new(&|_| None).load(&file).map(|_| ()).unwrap_err().render(false);
        assert!(found.contains("isuer") && found.contains("edge.yaml:1:"), "{found}");
        assert_eq!(found.contains(value), shown, "{found}");
    }
}
