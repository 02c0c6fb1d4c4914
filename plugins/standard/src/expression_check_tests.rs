use super::*;
use crate::expression_syntax::parse;

fn read(source: &str) -> Vec<String> {
    let root = parse(source).unwrap_or_else(|errors| panic!("{source}: {errors}"));
    check_size(&root).unwrap();
    let mut facts: Vec<_> = check(&root).unwrap_or_else(|problem| panic!("{source}: {}", problem.message)).facts().collect();
    facts.sort_unstable();
    facts
}

fn refused(source: &str) -> String {
    let root = parse(source).unwrap_or_else(|errors| panic!("{source}: {errors}"));
    match check_size(&root).and_then(|()| check(&root)) {
        Ok(_) => panic!("{source}: accepted"),
        Err(problem) => format!("{} ({})", problem.message, problem.help.unwrap_or_default()),
    }
}

#[test]
fn only_what_is_read_is_read() {
    for (source, facts) in [
        ("true", &[][..]),
        ("route == 'a' && now > 5", &["now", "route"]),
        ("request.path == '/'", &["request", "request.path"]),
        ("request.query.a == '1' && request.query['b'] == '2'", &["request", "request.query.a", "request.query.b"]),
        ("'a' in request.headers", &["request", "request.headers.a"]),
        ("has(principal.claims.a)", &["principal", "principal.claims.a"]),
        ("connection.cert.san_dns.exists(n, n == route)", &["connection", "connection.cert", "connection.cert.san_dns", "route"]),
    ] {
        assert_eq!(read(source), facts, "{source}");
    }
}

/// A map that is passed on may be read at any name: all of it then has to be there, or a rule about who may not pass would
/// be met by what was left out.
#[test]
fn what_is_done_to_a_map_as_a_whole_reads_it_as_a_whole() {
    for source in [
        "size(request.query) == 0",
        "request.query.exists(name, name == 'a')",
        "request.query[route] == 'a'",
        "[request.query][0].a == '1'",
        "(true ? request.query : request.headers)['a'] == '1'",
        "route in request.query",
    ] {
        assert!(read(source).contains(&"request.query".to_owned()), "{source}");
    }
}

#[test]
fn credentials_cannot_be_read_by_name_however_the_name_is_written() {
    for hidden in HIDDEN_HEADERS {
        for source in [
            format!("request.headers['{hidden}'] == 'a'"),
            format!("'{hidden}' in request.headers"),
            format!("request.headers[\"{hidden}\"].startsWith('B')"),
        ] {
            assert!(refused(&source).contains("cannot read"), "{source}");
        }
        let upper = hidden.to_ascii_uppercase();
        assert!(refused(&format!("request.headers['{upper}'] == 'a'")).contains("lower-case"));
    }
}

#[test]
fn every_function_is_known_to_the_checker() {
    for function in FUNCTIONS {
        assert!(!refused(&format!("{function}() == 1")).contains("unknown function"), "{function}");
    }
    assert!(refused("siez(route) == 1").contains("did you mean `size`?"));
    assert!(refused("format(route)").contains("known: all, bool"));
}

#[test]
fn a_branch_that_is_never_taken_is_checked_too() {
    for source in ["true || reqest.path == '/'", "false && request.pth == '/'", "true ? true : route == 1"] {
        assert!(!refused(source).is_empty());
    }
}

#[test]
fn a_large_tree_is_refused_before_anything_recurses_into_it() {
    let wide = vec!["route == 'a'"; MAX_NODES].join(" || ");
    assert!(parse(&wide).is_ok_and(|root| check_size(&root).is_err()));
    let nested = format!("{} > 0", vec!["1"; 5 * MAX_DEPTH].join(" + "));
    let root = parse(&nested).unwrap();
    assert!(check_size(&root).unwrap_err().message.contains("deep"));
}
