use super::*;
use crate::ip_allow::IpAllow;
use crate::test_support::{Call, build, error, values};
use portcullis_plugin::{Finding, Principal, reason};

const FOR_OFFICE: &str = "{ allow: [192.0.2.0/24] }";

/// A call that another filter has refused.
fn refused(client: &str) -> Call {
    let mut call = Call::get("/").client(client);
    let filter = build::<IpAllow>("{ allow: [10.0.0.0/8] }");
    call.denied(&filter);
    call
}

fn shown(call: &mut Call, filter: &Debug) -> Vec<String> {
    values(&call.response(filter, &[]), HEADER)
}

#[test]
fn the_failed_checks_are_shown_to_a_named_network_and_to_nobody_else() {
    let filter = build::<Debug>(FOR_OFFICE);
    assert_eq!(
        shown(&mut refused("192.0.2.9"), &filter),
        ["\"ip_allow allow\";reason=\"ip.denied\";expected=\"one of 10.0.0.0/8\";observed=\"192.0.2.9\""]
    );
    assert_eq!(shown(&mut refused("198.51.100.9"), &filter), [""; 0]);
    assert_eq!(shown(&mut Call::get("/").client("192.0.2.9"), &filter), [""; 0], "nothing failed");
}

#[test]
fn an_upstream_does_not_speak_for_the_gateway() {
    let filter = build::<Debug>(FOR_OFFICE);
    for client in ["192.0.2.9", "198.51.100.9"] {
        let headers = Call::get("/").client(client).response(&filter, &[("X-Decision-Checks", "forged"), ("x-other", "kept")]);
        assert!(!headers.contains(HEADER) && headers.contains("x-other"));
    }
}

#[test]
fn an_expression_is_about_a_caller_who_is_known() {
    let filter = build::<Debug>("{ allow: '\"developers\" in principal.groups' }");
    let mut developer = Principal::new("bearer", "alice");
    developer.groups = vec!["developers".into()];
    assert_eq!(shown(&mut refused("192.0.2.9").principal(developer), &filter).len(), 1);
    assert_eq!(shown(&mut refused("192.0.2.9").principal(Principal::new("bearer", "bob")), &filter), [""; 0]);
    assert_eq!(shown(&mut refused("192.0.2.9"), &filter), [""; 0], "nobody is known");
    let open = build::<Debug>("{ allow: 'principal == null' }");
    assert_eq!(shown(&mut refused("192.0.2.9"), &open), [""; 0], "it would be everybody");
}

#[test]
fn what_was_observed_cannot_break_out_of_its_string_or_fill_the_response() {
    let filter = build::<Debug>(FOR_OFFICE);
    let mut call = Call::get("/").client("192.0.2.9");
    call.exchange.driver_enter("oidc");
    let hostile = "a\"; x=\\\r\nset-cookie: a=b\u{202e}";
    call.exchange.check("issuer", reason::TOKEN_ISSUER_MISMATCH, false, || Finding::new("https://a", hostile));
    assert_eq!(
        shown(&mut call, &filter),
        ["\"oidc issuer\";reason=\"token.issuer.mismatch\";expected=\"https://a\";observed=\"a\\\"; x=\\\\??set-cookie: a=b?\""]
    );
    for _ in 0..50 {
        call.exchange.check("long", reason::TOKEN_MALFORMED, false, || Finding::new("x".repeat(9000), "y"));
    }
    let shown = shown(&mut call, &filter).remove(0);
    assert!(shown.len() <= MAX_HEADER && shown.ends_with('"'), "{} bytes", shown.len());
}

#[test]
fn what_would_show_everything_to_everybody_is_refused() {
    for (yaml, part) in [
        ("{ allow: [0.0.0.0/0] }", "everybody"),
        ("{ allow: [10.0.0.0/8, '::/0'] }", "everybody"),
        ("{ allow: [128.0.0.0/1, 0.0.0.0/1] }", "everybody"),
        ("{ allow: [0.0.0.0/2, 64.0.0.0/2, 128.0.0.0/2, 192.0.0.0/2] }", "everybody"),
        ("{ allow: ['::/1', '8000::/1'] }", "everybody"),
        ("{ allow: ['2000::/3'] }", "everybody"),
        ("{ allow: [] }", "nobody"),
        ("{ allow: 10.0.0.0/8 }", "`[10.0.0.0/8]`"),
        ("{ allow: 'true' }", "who is calling"),
        ("{ allow: 'request.headers[\"x-debug\"] == \"1\"' }", "`request`"),
        ("{ allow: 'principal.grops' }", "grops"),
        ("{}", "allow"),
    ] {
        let error = error::<Debug>(yaml);
        assert!(error.contains(part), "{yaml}: {error}");
    }
}
