//! `portcullis check`, `schema` and `demo`.

use assert_cmd::Command;
use portcullis_testkit::{Pki, shared_file};
use serde_json::Value;
use std::path::Path;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments);
    command
}

fn output(command: &mut Command, code: i32) -> String {
    String::from_utf8(command.assert().code(code).get_output().stdout.clone()).unwrap()
}

/// Checks a configuration and gives what is said of it.
fn check(config: &str, code: i32) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.yaml"), config).unwrap();
    output(command(&["check", "-c", "edge.yaml"]).current_dir(&folder), code)
}

fn certificates(folder: &Path) {
    let (servers, clients) = (Pki::new().unwrap(), Pki::new().unwrap());
    servers.server(&["api.example.test"]).unwrap().write_to(folder.join("tls"), "edge").unwrap();
    clients.write_ca(folder.join("tls/clients-ca.pem")).unwrap();
    clients.crl(&[]).unwrap().write_to(folder.join("tls/clients.crl")).unwrap();
}

const BASE: &str = r#"listeners:
  - { name: http, address: 127.0.0.1:0 }
issuers:
  main: { issuer: https://sso.example.test, audiences: [orders] }
pools:
  up: { backends: [{ address: 127.0.0.1:9001 }] }
routes:
  - name: orders
    match: { path: /orders }
    filters:
      - oidc: { issuer: main, scopes: ["orders:read"] }
    pool: up
"#;

/// A mistake is told where it was made, and once: not again wherever what it spoils is needed.
#[test]
fn what_comes_of_a_mistake_is_not_told_as_another() {
    let signed = |assertion: &str| {
        let filters = "filters: [{ client_cert: {} }, { signed_identity: { audience: a } }]";
        format!(
            "{assertion}listeners: [{{ name: http, address: 127.0.0.1:0 }}]\nroutes: [{{ name: a, {filters}, respond: {{ status: 200 }} }}]\n"
        )
    };
    let said = check(&signed("assertion: { issuer: https://edge.example.com, keys: [missing.pem] }\n"), 1);
    assert!(said.contains("missing.pem") && said.matches("error:").count() == 1, "{said}");
    let said = check(&signed(""), 1);
    assert!(said.contains("nothing to sign with") && said.contains("add `assertion"), "{said}");

    let limited = "  - name: limited\n    filters:\n      - oidc: { issuer: other }\n      - rate_limit: { key: principal.sub, rate: 1/s, \
                   tiers: [{ name: gold, when: { issuer: main, roles: [gold] }, rate: 2/s }] }\n    pool: up\n";
    let said =
        check(&format!("{BASE}{limited}").replace("audiences: [orders]", "audiences: [orders], jwks_file: missing.json"), 1);
    assert!(said.contains("missing.json") && said.matches("error:").count() == 1, "{said}");
    let said = check(&format!("{BASE}{limited}"), 1);
    assert!(said.contains("unknown issuer `other`") && said.matches("error:").count() == 1, "{said}");
}

#[test]
fn the_contracts_configurations_hold_and_the_security_of_each_route_is_told() {
    let Some(contract) = shared_file("contract") else { return };
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    for name in ["edge.yaml", "minimal.yaml"] {
        std::fs::copy(contract.join(name), folder.path().join(name)).unwrap();
    }
    let said = output(command(&["check", "-c", "edge.yaml"]).current_dir(&folder), 0);
    for expected in ["orders", "partners", "health", "api:read", "cert(san_dns)", "edge.yaml: the configuration holds"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let said = output(command(&["check", "-c", "minimal.yaml"]).current_dir(&folder), 0);
    assert!(said.contains("nothing: open to anyone"), "{said}");
    let json: Value =
        serde_json::from_str(&output(command(&["check", "-c", "edge.yaml", "--json"]).current_dir(&folder), 0)).unwrap();
    assert_eq!((&json["ok"], json["routes"].as_array().unwrap().len()), (&true.into(), 3));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3, "check writes nothing, not even a log");
}

#[test]
fn hole_examples_that_ship_fail_open() {
    // The only open routes are those that say so by having no filter: nothing that looks like a policy is one in name only.
    let Some(contract) = shared_file("contract/edge.yaml") else { return };
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    std::fs::copy(contract, folder.path().join("edge.yaml")).unwrap();
    let json = output(command(&["check", "-c", "edge.yaml", "--json"]).current_dir(&folder), 0);
    let json: Value = serde_json::from_str(&json).unwrap();
    for route in json["routes"].as_array().unwrap() {
        let open = route["security"].as_array().unwrap().is_empty();
        assert_eq!(open, route["name"] == "health", "{route}");
    }
    let explain = |url: &str| output(command(&["explain", "-c", "edge.yaml", "--url", url]).current_dir(&folder), 1);
    assert!(explain("https://api.example.test/orders/1").starts_with("refused: token.missing"));
    assert!(explain("https://partners.example.test/").starts_with("refused: cert.missing"));
}

#[test]
fn a_misspelt_key_is_refused_with_its_place_and_a_suggestion() {
    assert!(check(BASE, 0).contains("the configuration holds"));
    for (right, wrong, place, suggestion) in [
        ("scopes:", "scope:", "edge.yaml:11:31", "scopes"),
        ("audiences:", "audience:", "edge.yaml:4:45", "audiences"),
        ("backends:", "backend:", "edge.yaml:6:9", "backends"),
        ("- oidc:", "- odic:", "edge.yaml:11:9", "oidc"),
        ("pool: up", "pool: upp", "edge.yaml:12:11", "up"),
        ("path: /orders", "paht: /orders", "edge.yaml:9:14", "path"),
        ("issuer: main", "issuer: mian", "edge.yaml:11:25", "main"),
        ("listeners:", "listener:", "edge.yaml:1:1", "listeners"),
    ] {
        let said = check(&BASE.replacen(right, wrong, 1), 1);
        assert!(said.contains(&format!("--> {place}")), "{wrong}: {said}");
        assert!(said.contains(&format!("did you mean `{suggestion}`")), "{wrong}: {said}");
        let line = wrong.split(':').next().unwrap().trim_start_matches("- ");
        assert!(said.contains(line), "the line itself is shown: {said}");
    }
}

#[test]
fn hole_keys_are_parsed_and_not_enforced() {
    // `issuer=` for `issuers=` accepted any issuer elsewhere; `client-auth` was read and forgotten.
    for (right, wrong) in [
        ("- oidc: { issuer: main, scopes: [\"orders:read\"] }", "- oidc: { scopes: [\"orders:read\"] }"),
        ("- oidc: { issuer: main, scopes: [\"orders:read\"] }", "- oidc: {}"),
        ("- oidc: { issuer: main,", "- oidc: { issuers: [], "),
        ("- oidc: { issuer: main,", "- oidc: { issuer: main, issuers: [main],"),
        ("audiences: [orders]", "audiences: []"),
        ("audiences: [orders]", "algorithms: [ES256]"),
        ("audiences: [orders]", "audiences: [orders], algorithms: []"),
        ("audiences: [orders]", "audiences: [orders], algorithms: [HS256]"),
        ("audiences: [orders]", "audiences: [orders], algorithms: [none]"),
        ("audiences: [orders]", "audiences: [orders], leeway: 10m"),
        ("https://sso.example.test", "http://sso.example.test"),
        ("scopes: [\"orders:read\"]", "scopes: []"),
        ("address: 127.0.0.1:0 }", "address: 127.0.0.1:0, client-auth: { ca: a.pem } }"),
        ("address: 127.0.0.1:0 }", "address: 127.0.0.1:0, client_auth: { ca: a.pem } }"),
        ("pool: up", "pool: up\n    pool: up"),
        ("    pool: up", "    pool: up\n    respond: { status: 200 }"),
        ("    filters:", "    filter:"),
        ("      - oidc", "      - mode: enfroce\n        oidc"),
        ("issuers:", "admin: { address: 0.0.0.0:9090 }\nissuers:"),
        ("issuers:", "access_logs: { path: x }\nissuers:"),
    ] {
        let said = check(&BASE.replacen(right, wrong, 1), 1);
        assert!(said.starts_with("error: "), "{wrong}: {said}");
        assert!(said.contains("--> edge.yaml:"), "{wrong}: {said}");
    }
}

#[test]
fn hole_an_empty_list_means_all() {
    for filter in [
        "client_cert: { san_dns: [] }",
        "client_cert: { subject: [] }",
        "client_cert: { fingerprint_sha256: [] }",
        "ip_allow: {}",
        "oidc: { issuer: main, roles: [] }",
        "oidc: { issuer: main, audiences: [] }",
        "identity_headers: { headers: {} }",
    ] {
        let said = check(&BASE.replace("oidc: { issuer: main, scopes: [\"orders:read\"] }", filter), 1);
        assert!(said.starts_with("error: ") && said.contains("--> edge.yaml:11"), "{filter}: {said}");
    }
    // An empty list of addresses is a list: it allows nobody.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("list.txt"), "# nobody yet\n").unwrap();
    let config = BASE.replace("oidc: { issuer: main, scopes: [\"orders:read\"] }", "ip_allow: { list: list.txt }");
    std::fs::write(folder.path().join("edge.yaml"), config).unwrap();
    let mut explain = command(&["explain", "-c", "edge.yaml", "--url", "http://a.example/orders"]);
    assert!(output(explain.current_dir(&folder), 1).starts_with("refused: ip.denied"));
}

#[test]
fn an_identity_header_without_an_identity_is_not_accepted_in_silence() {
    let headers = "identity_headers: { headers: { x-user: sub } }\n      - oidc: { issuer: main, scopes: [\"orders:read\"] }";
    let said = check(&BASE.replace("oidc: { issuer: main, scopes: [\"orders:read\"] }", headers), 0);
    assert!(said.starts_with("warning: `identity_headers`") && said.contains("--> edge.yaml:11:9"), "{said}");
}

#[test]
fn findings_as_json_have_their_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edge.yaml"), BASE.replace("scopes:", "scope:").replace("pool: up", "pool: upp")).unwrap();
    let json = output(command(&["check", "-c", "edge.yaml", "--json"]).current_dir(&folder), 1);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["ok"], false);
    let findings = json["findings"].as_array().unwrap();
    // All of them at once.
    for (line, column, message) in [(11, 31, "unknown key `scope`"), (12, 11, "unknown pool `upp`")] {
        let finding = findings.iter().find(|finding| finding["message"] == message).unwrap_or_else(|| panic!("{json:#}"));
        assert_eq!(finding["location"], serde_json::json!({ "file": "edge.yaml", "line": line, "column": column }));
        assert_eq!(finding["severity"], "error");
    }
}

#[test]
fn what_can_never_let_anybody_in_is_warned_of() {
    let oidc = "oidc: { issuer: main, scopes: [\"orders:read\"] }";
    let with = |filters: &str| check(&BASE.replace(oidc, filters), 0);
    for (filters, says) in [
        ("authorize: { allow: [{ roles: [a] }] }", "`authorize` refuses every request: no filter before it finds out"),
        ("rate_limit: { key: principal.sub, rate: 1/s }", "`rate_limit` refuses every request"),
        ("client_cert: {}", "`client_cert` refuses every request: no listener of this route asks for a client certificate"),
        ("oidc: { issuer: main, binding: { require: certificate } }", "`oidc` refuses every request: no listener"),
        ("client_cert_header: { require: true }", "`client_cert_header` refuses every request"),
        ("oidc: { issuer: main }\n      - debug: { allow: [10.0.0.0/8] }", "`debug` sees nothing of what `oidc` refuses"),
    ] {
        let said = with(filters);
        assert!(said.contains(&format!("warning: {says}")) && said.contains("--> edge.yaml:1"), "{filters}\n{said}");
    }
    for filters in [
        "oidc: { issuer: main, optional: true }\n      - authorize: { allow: [{ roles: [a] }] }",
        "authorize: { allow: [{ roles: [a] }, { methods: [GET] }] }",
        "rate_limit: { key: principal.sub, missing: client, rate: 1/s }",
        "rate_limit: { key: client, rate: 1/s }",
        "client_cert: { require: false }",
        "client_cert_header: {}",
        "any_of: [{ oidc: { issuer: main } }, { authorize: { allow: [{ roles: [a] }] } }]",
    ] {
        let said = with(filters);
        assert!(!said.contains("refuses every request"), "{filters}\n{said}");
    }
    assert!(with("client_cert_header: {}").contains("cert handed on; optional"));
    let said = check(&BASE.replace("https://sso.example.test", "https://login.microsoftonline.com/common/v2.0"), 0);
    assert!(said.contains("warning: no token of Entra has `common`") && said.contains("--> edge.yaml:4:19"), "{said}");
}

#[test]
fn a_mode_within_a_filter_belongs_beside_it() {
    let said = check(&BASE.replace("oidc: { issuer: main,", "oidc: { issuer: main, mode: shadow,"), 1);
    assert!(said.contains("--> edge.yaml:11:31\n") && said.contains("write it beside `oidc`, not within"), "{said}");
    check(&BASE.replace("[\"orders:read\"] }", "[\"orders:read\"] }\n        mode: shadow"), 0);
    // A misspelt key within another is not it.
    let said = check(&BASE.replace("oidc: { issuer: main,", "oidc: { issuer: main, binding: { mode: shadow },"), 1);
    assert!(said.contains("unknown key `mode`") && !said.contains("beside"), "{said}");
}

#[test]
fn what_is_wrong_within_an_expression_has_its_own_place() {
    let filters = |rule: &str| BASE.replace("    pool: up", &format!("      - authorize:\n{rule}    pool: up"));
    for (rule, place, message) in [
        (
            "          expression: |\n            request.path == '/' &&\n              request.methd == 'GET'\n",
            "edge.yaml:15:23",
            "`request` has no member `methd`\n",
        ),
        ("          expression: \"request.method = 'GET'\"\n", "edge.yaml:13:39", "`=` cannot stand here\n"),
        (
            "          expression: >-\n            request.path == '/'\n            && request.method == 5\n",
            "edge.yaml:15:31",
            "never equals a whole number\n",
        ),
        // With escapes, the file has the text otherwise.
        (
            "          expression: 'request.path == ''/'' && request.methd == ''x'''\n",
            "edge.yaml:13:23",
            "`request` has no member `methd`, at line 1, column 32 of the expression\n",
        ),
    ] {
        let said = check(&filters(rule), 1);
        assert!(said.contains(&format!("--> {place}\n")) && said.contains(message), "{rule}\n{said}");
    }
    assert!(check(&filters("          expression: \"request.method = 'GET'\"\n"), 1).contains("did you mean `==`?"));
}

#[test]
fn a_configuration_that_is_not_there_or_no_yaml_is_a_finding() {
    let folder = tempfile::tempdir().unwrap();
    command(&["check", "-c", "nowhere.yaml"]).current_dir(&folder).assert().failure();
    assert!(check("listeners: [", 1).contains("edge.yaml:1"));
    command(&["check"]).assert().code(2);
    command(&["frobnicate"]).assert().code(2);
    command(&["run", "-c", "nowhere.yaml"]).current_dir(&folder).assert().code(2);
}

#[test]
fn the_schema_is_json_and_knows_every_key_of_the_contract() {
    let schema: Value = serde_json::from_str(&output(&mut command(&["schema"]), 0)).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for key in ["listeners", "admin", "trusted_proxies", "access_log", "issuers", "pools", "routes"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
    let text = schema.to_string();
    for filter in ["ip_allow", "oidc", "identity_headers", "client_cert"] {
        assert!(text.contains(&format!("\"{filter}\"")), "{filter}");
    }
    assert!(output(&mut command(&["schema", "reference"]), 0).contains("proxy_protocol"));
}

#[test]
fn the_table_of_reasons_has_every_code_of_the_contract() {
    let Some(contract) = shared_file("contract/README.md") else { return };
    let contract = std::fs::read_to_string(contract).unwrap();
    let section = contract.split("## Reason codes").nth(1).unwrap().split("## ").next().unwrap();
    let codes: Vec<&str> = section.split('`').skip(1).step_by(2).collect();
    assert!(codes.len() >= 30, "{codes:?}");
    let table = output(&mut command(&["schema", "reasons"]), 0);
    for code in codes {
        assert!(table.contains(&format!("`{code}`")), "{code}");
    }
}

#[test]
fn the_demo_runs_with_nothing_else_installed() {
    let folder = tempfile::tempdir().unwrap();
    let said = output(command(&["demo", "--once", "--port", "0"]).env("PATH", "").env("TMPDIR", folder.path()), 0);
    assert!(!said.contains("unexpected:"), "{said}");
    for expected in ["refused: token.expired", "refused: token.audience.mismatch", "refused: cert.revoked", "allowed"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "it leaves nothing behind");
}

#[test]
fn a_group_is_summed_up_and_what_cannot_stand_in_one_is_refused_where_it_stands() {
    let with = |filters: &str| BASE.replace("      - oidc: { issuer: main, scopes: [\"orders:read\"] }\n", filters);
    let said = check(
        &with(
            "      - any_of: [{ all_of: [{ ip_allow: { allow: [10.0.0.0/8] } }, { oidc: { issuer: main } }] }, { client_cert: {} }]\n",
        ),
        0,
    );
    assert!(said.contains("any of (all of (ip(allow 1), token(main)), cert)"), "{said}");
    let deep = "{ any_of: [{ client_cert: {} }, { any_of: [{ client_cert: {} }, { any_of: [{ client_cert: {} }, { client_cert: {} }] }] }] }";
    for (filter, place, what) in [
        ("any_of: [{ oidc: { issuer: main } }]", "11:9", "takes 2 to 8"),
        ("any_of: [{ client_cert: {} }, { oidc: { issuer: main, optional: true } }]", "11:41", "cannot be a member"),
        ("any_of: [{ client_cert: {} }, { rate_limit: { key: client, rate: 1/s } }]", "11:41", "cannot be a member"),
        ("any_of: [{ client_cert: {} }, { client_cert: {}, mode: shadow }]", "11:64", "no mode of its own"),
        ("any_of: [{ client_cert: {} }, { oidc: { isuer: main } }]", "11:49", "did you mean `issuer`"),
        ("any_of: [{ client_cert: {} }, { oidcc: {} }]", "11:41", "did you mean `oidc`"),
        ("any_of: { oidc: { issuer: main } }", "11:", "any_of"),
        ("anyof: []", "11:9", "did you mean `any_of`"),
        (&format!("all_of: [{{ client_cert: {{}} }}, {deep}]"), "11:", "at most 3 deep"),
    ] {
        let said = check(&with(&format!("      - {filter}\n")), 1);
        assert!(said.contains(&format!("edge.yaml:{place}")) && said.contains(what), "{filter}: {said}");
    }
}
