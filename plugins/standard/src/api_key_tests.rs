use super::*;
use crate::test_support::{Call, Folder};
use portcullis_plugin::Headers;
use proptest::prelude::*;

const KEY: &str = "3f1c9a77d2e84b06a5d0c4e19b8f7263";
const OLD: &str = "old-0f5e1d2c3b4a59687786a5b4c3d2e1f0";
const LATER: &str = "later-8f5e1d2c3b4a59687786a5b4c3d2e1f0";

fn line(id: &str, key: &str, rest: &str) -> String {
    format!("{id} {} owner=billing {rest}\n", hash(key).unwrap())
}

/// The tests' time is 2027-01-15T08:00:00Z.
fn file() -> String {
    [
        "# our keys\n\n".to_owned(),
        line("one", KEY, "scopes=orders:read,orders:write roles=batch"),
        line("old", OLD, "expires=2027-01-15T08:00:00Z"),
        line("later", LATER, "expires=2027-01-15T09:00:01+01:00"),
    ]
    .concat()
}

fn filter(yaml: &str) -> ApiKey {
    let folder = Folder::new();
    folder.write("keys.txt", &file());
    folder.build(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"))
}

fn error(yaml: &str, file: &str) -> String {
    let folder = Folder::new();
    folder.write("keys.txt", file);
    match folder.build::<ApiKey>(yaml) {
        Ok(_) => panic!("{yaml} {file}: accepted"),
        Err(error) => error,
    }
}

fn by_header() -> ApiKey {
    filter("{ file: keys.txt }")
}

fn by_query() -> ApiKey {
    filter("{ query: api_key, file: keys.txt }")
}

fn by_either() -> ApiKey {
    filter("{ header: x-api-key, query: api_key, file: keys.txt }")
}

#[track_caller]
fn refused_for(mut call: Call, filter: &ApiKey) -> ReasonCode {
    let denial = call.denied(filter);
    assert_eq!(denial.status_code(), 401);
    assert!(
        denial.headers().get_str("www-authenticate").is_some_and(|value| value.starts_with("ApiKey realm=\"api.example.test\""))
    );
    assert!(call.exchange.principal().is_none());
    assert_eq!(call.failed_checks().first().map(|(_, reason)| *reason), Some(denial.reason()));
    let shown = format!("{:?} {denial:?}", call.exchange.checks());
    assert!(![KEY, OLD, LATER].iter().any(|key| shown.contains(key)), "{shown}");
    denial.reason()
}

#[test]
fn a_known_key_becomes_the_principal_and_goes_no_further() {
    let mut call = Call::get("/a?b=1").header("X-API-Key", KEY);
    assert!(call.run(&by_header()).is_continue());
    let principal = call.exchange.principal().unwrap();
    assert_eq!(
        (principal.method, &*principal.subject, principal.client_id.as_deref()),
        ("api_key", "billing/one", Some("billing"))
    );
    assert_eq!(
        (principal.scopes.join(" "), principal.roles.join(" ")),
        ("orders:read orders:write".to_owned(), "batch".to_owned())
    );
    assert_eq!(principal.claims["key_id"], "one");
    assert!(principal.expires_at.is_none());
    assert!(call.sent("x-api-key").is_empty());
    let shown = format!("{:?} {:?} {principal:?}", call.request, call.exchange.checks());
    assert!(!shown.contains(KEY), "{shown}");
}

#[test]
fn forward_leaves_the_key_where_it_is() {
    let mut call = Call::get("/?a=1").header("x-api-key", KEY);
    assert!(call.run(&filter("{ file: keys.txt, forward: true }")).is_continue());
    assert_eq!(call.sent("x-api-key"), [KEY]);
    let mut call = Call::get(&format!("/?a=1&api_key={KEY}"));
    assert!(call.run(&filter("{ query: api_key, file: keys.txt, forward: true }")).is_continue());
    assert!(call.request.target().contains(KEY));
}

#[test]
fn no_key_is_missing_and_any_other_is_unknown() {
    assert_eq!(refused_for(Call::get("/"), &by_header()), reason::API_KEY_MISSING);
    assert_eq!(refused_for(Call::get(&format!("/?x-api-key={KEY}&api_key={KEY}")), &by_header()), reason::API_KEY_MISSING);
    assert_eq!(refused_for(Call::get("/").header("x-api-key", KEY), &by_query()), reason::API_KEY_MISSING);
    let upper = KEY.to_uppercase();
    let longer = format!("{KEY}0");
    let hashed = hash(KEY).unwrap();
    let unknown: [&[u8]; 9] = [
        b"",
        upper.as_bytes(),
        longer.as_bytes(),
        &KEY.as_bytes()[1..],
        hashed.as_bytes(),
        hashed.trim_start_matches("sha256:").as_bytes(),
        b"short",
        &[b'a'; 257],
        b"\xff\xfe3f1c9a77d2e84b06a5d0c4e19b8f7263",
    ];
    for key in unknown {
        assert_eq!(refused_for(Call::get("/").header("x-api-key", key), &by_header()), reason::API_KEY_UNKNOWN, "{key:?}");
    }
}

#[test]
fn whoever_reads_why_a_key_is_unknown_knows_which_side_to_look_at() {
    let (mistyped, withdrawn) = (format!("pc_{}", "a".repeat(49)), "0123456789abcdef0123456789abcdef");
    for (key, hint) in [(&*mistyped, "sends the whole key"), (withdrawn, "portcullis apikey hash")] {
        let mut call = Call::get("/").header("x-api-key", key);
        call.denied(&by_header());
        let finding = &call.exchange.checks()[0].finding;
        assert!(finding.hint.as_deref().is_some_and(|said| said.contains(hint)), "{finding:?}");
    }
}

#[test]
fn a_key_ends_when_it_says() {
    assert_eq!(refused_for(Call::get("/").header("x-api-key", OLD), &by_header()), reason::API_KEY_EXPIRED);
    let mut call = Call::get("/").header("x-api-key", LATER);
    assert!(call.run(&by_header()).is_continue());
    assert!(call.exchange.principal().is_some_and(|principal| principal.expires_at.is_some()));
    let mut call = Call::get("/").header("x-api-key", OLD);
    call.denied(&by_header());
    let finding = &call.exchange.checks()[0].finding;
    assert_eq!(finding.observed, "the key billing/old, until 2027-01-15T08:00:00Z");
}

#[test]
fn a_key_that_is_sent_twice_is_no_key() {
    let twice = Call::get("/").header("x-api-key", KEY).header("X-Api-Key", KEY);
    assert_eq!(refused_for(twice, &by_header()), reason::API_KEY_UNKNOWN);
    for call in [Call::get("/").header("x-api-key", KEY).header("x_api_key", "other"), Call::get("/").header("x_api-key", KEY)] {
        assert_eq!(refused_for(call, &by_header()), reason::API_KEY_UNKNOWN, "a look-alike counts");
    }
    for query in [
        format!("api_key={KEY}&api_key={KEY}"),
        format!("api_key={KEY}&api%5Fkey={KEY}"),
        format!("api_key={KEY}&API_KEY=x"),
        format!("api_key={KEY}&api_key"),
    ] {
        assert_eq!(refused_for(Call::get(&format!("/?{query}")), &by_query()), reason::API_KEY_UNKNOWN, "{query}");
    }
    let both = Call::get(&format!("/?api_key={KEY}")).header("x-api-key", KEY);
    assert_eq!(refused_for(both, &by_either()), reason::API_KEY_UNKNOWN);
    assert!(Call::get(&format!("/?api_key={KEY}")).run(&by_either()).is_continue());
    assert!(Call::get("/").header("x-api-key", KEY).run(&by_either()).is_continue());
}

fn by_authorization() -> ApiKey {
    filter("{ authorization: true, file: keys.txt }")
}

fn authorized(value: impl AsRef<[u8]>) -> Call {
    Call::get("/").header("Authorization", value)
}

#[test]
fn a_key_in_authorization_has_its_own_scheme_and_goes_no_further() {
    for value in [format!("ApiKey {KEY}"), format!("apikey {KEY}"), format!("APIKEY   {KEY}")] {
        let mut call = authorized(&value);
        assert_eq!(by_authorization().credential(&call.request, &call.exchange), Credential::Present);
        assert!(call.run(&by_authorization()).is_continue(), "{value}");
        assert_eq!(call.exchange.principal().unwrap().subject.as_ref(), "billing/one");
        assert!(call.sent("authorization").is_empty());
    }
    let mut call = authorized(format!("ApiKey {KEY}"));
    assert!(call.run(&filter("{ authorization: true, file: keys.txt, forward: true }")).is_continue());
    assert_eq!(call.sent("authorization"), [format!("ApiKey {KEY}")]);
    assert!(by_authorization().withhold(&mut call.request).is_ok() && call.sent("authorization").is_empty());
    assert_eq!(
        by_authorization().needs().summary.as_deref(),
        Some("api_key(header Authorization after ApiKey; 3 keys)"),
        "no x-api-key beside it unless it is asked for"
    );
}

#[test]
fn another_scheme_is_no_key_and_is_left_alone() {
    for value in
        [format!("Bearer {KEY}"), format!("ApiKeys {KEY}"), format!("ApiKey-2 {KEY}"), format!("Basic ApiKey {KEY}"), KEY.into()]
    {
        let call = authorized(&value);
        assert_eq!(by_authorization().credential(&call.request, &call.exchange), Credential::Absent, "{value}");
        assert_eq!(refused_for(call, &by_authorization()), reason::API_KEY_MISSING, "{value}");
        let mut call = authorized(&value);
        assert!(call.run(&filter("{ authorization: true, optional: true, file: keys.txt }")).is_continue());
        assert_eq!(call.sent("authorization"), [value]);
    }
    // Only where the configuration says so.
    assert_eq!(refused_for(authorized(format!("ApiKey {KEY}")), &by_header()), reason::API_KEY_MISSING);
    assert_eq!(refused_for(Call::get("/").header("x-api-key", KEY), &by_authorization()), reason::API_KEY_MISSING);
}

#[test]
fn authorization_twice_or_beside_another_key_is_no_key() {
    let everywhere = filter("{ authorization: true, header: x-api-key, query: api_key, file: keys.txt }");
    let optional = filter("{ authorization: true, optional: true, file: keys.txt }");
    for filter in [&by_authorization(), &everywhere, &optional] {
        for second in [format!("ApiKey {KEY}"), format!("ApiKey {LATER}"), "Bearer a.b.c".to_owned(), String::new()] {
            let twice = authorized(format!("ApiKey {KEY}")).header("authorization", &second);
            assert_eq!(refused_for(twice, filter), reason::API_KEY_UNKNOWN, "{second}");
            let turned = authorized(&second).header("authorization", format!("ApiKey {KEY}"));
            assert_eq!(refused_for(turned, filter), reason::API_KEY_UNKNOWN, "{second}");
        }
        for bad in
            ["ApiKey", "ApiKey ", "apikey  ", "ApiKey\tX", "ApiKey=X", "ApiKey,X", "ApiKey:X", "ApiKey X, Bearer y", "ApiKey X y"]
        {
            let bad = bad.replace('X', KEY);
            assert_eq!(refused_for(authorized(&bad), filter), reason::API_KEY_UNKNOWN, "{bad}");
            let mut call = authorized(&bad);
            let _ = call.run(filter);
            assert!(call.sent("authorization").is_empty(), "{bad} goes on to nobody");
        }
    }
    assert_eq!(refused_for(authorized(format!("ApiKey {KEY}")).header("x-api-key", KEY), &everywhere), reason::API_KEY_UNKNOWN);
    let in_query = Call::get(&format!("/?api_key={KEY}")).header("authorization", format!("ApiKey {KEY}"));
    assert_eq!(refused_for(in_query, &everywhere), reason::API_KEY_UNKNOWN);
    assert!(authorized(format!("ApiKey {KEY}")).run(&everywhere).is_continue());
    // A token beside a key is for the filter that reads tokens, and no second key.
    let mut both = Call::get("/").header("x-api-key", KEY).header("authorization", "Bearer a.b.c");
    assert!(both.run(&everywhere).is_continue());
    assert_eq!(both.sent("authorization"), ["Bearer a.b.c"]);
}

#[test]
fn the_parameter_is_taken_out_and_the_others_stay_as_they_are() {
    for (sent, left) in [
        (format!("/a?api_key={KEY}"), "/a"),
        (format!("/a?b=%20&api_key={KEY}&c"), "/a?b=%20&c"),
        (format!("/a?&&api_key={KEY}&"), "/a?&&"),
        (format!("/a?api%5fkey=%33{}&b=1", &KEY[1..]), "/a?b=1"),
        (format!("/a?my_api_key=x&api_key={KEY}"), "/a?my_api_key=x"),
    ] {
        let mut call = Call::get(&sent);
        assert!(call.run(&by_query()).is_continue(), "{sent}");
        assert_eq!(call.request.target(), left);
    }
}

#[test]
fn an_optional_key_may_be_absent_but_not_bad() {
    let optional = filter("{ file: keys.txt, optional: true }");
    let mut call = Call::get("/");
    assert!(call.run(&optional).is_continue() && call.exchange.principal().is_none());
    assert_eq!(refused_for(Call::get("/").header("x-api-key", "x"), &optional), reason::API_KEY_UNKNOWN);
    assert!(!optional.needs().authenticates && by_header().needs().authenticates);
    assert_eq!(by_either().needs().summary.as_deref(), Some("api_key(header x-api-key or query parameter api_key; 3 keys)"));
}

#[test]
fn the_challenge_says_where_a_key_belongs() {
    let challenges = |filter: &ApiKey| -> Vec<String> {
        let headers: Headers = Call::get("/").denied(filter).headers().clone();
        crate::test_support::values(&headers, "www-authenticate")
    };
    assert_eq!(challenges(&by_header()), ["ApiKey realm=\"api.example.test\", in=\"header\", name=\"x-api-key\""]);
    assert_eq!(challenges(&by_either()).len(), 2);
    assert_eq!(challenges(&by_authorization()), ["ApiKey realm=\"api.example.test\""]);
}

#[test]
fn a_bad_line_makes_the_file_unusable_and_is_named() {
    let digest = hash(KEY).unwrap();
    for (bad, says) in [
        ("one".to_owned(), "the second word is not"),
        (format!("one {KEY} owner=a"), "the key itself does not belong here"),
        (format!("one {} owner=a", digest.trim_start_matches("sha256:")), "the second word is not"),
        (format!("one {digest}0 owner=a"), "the second word is not"),
        (format!("one {} owner=a", &digest[..70]), "the second word is not"),
        (format!("one {} owner=a", digest.replace(['a', 'b', 'c', 'd', 'e', 'f'], "+")), "the second word is not"),
        (format!("one {digest}"), "`owner=` is missing"),
        (format!("one {digest} owner="), "the owner is not"),
        (format!("one {digest} owner=a/b"), "the owner is not"),
        (format!("o/ne {digest} owner=a"), "the id is not"),
        (format!("one {digest} owner=a owner=b"), "given twice"),
        (format!("one {digest} owner=a scope=b"), "not one of owner, scopes, roles, expires"),
        (format!("one {digest} owner=a scopes"), "is not `name=value`"),
        (format!("one {digest} owner=a scopes="), "empty item"),
        (format!("one {digest} owner=a roles=x,,y"), "empty item"),
        (format!("one {digest} owner=a expires=2027-01-31"), "RFC 3339"),
        (format!("one {digest} owner=a expires=never"), "RFC 3339"),
        (format!("one {digest} owner=a # a comment"), "is not `name=value`"),
        (line("first", KEY, ""), "the key is that of line 2 too"),
        (line("early", OLD, ""), "the id `early` is that of line 2 too"),
    ] {
        let file = format!("# keys\n{}{bad}\n", line("early", KEY, ""));
        let error = error("{ file: keys.txt }", &file);
        assert!(error.starts_with("file: ") && error.contains("keys.txt:3: ") && error.contains(says), "{bad}: {error}");
        assert!(!error.contains(KEY) && !error.contains(digest.trim_start_matches("sha256:")), "{error}");
    }
    assert!(error("{ file: none.txt }", "").contains("cannot read"));
}

#[test]
fn a_file_without_keys_lets_nobody_pass() {
    let folder = Folder::new();
    folder.write("keys.txt", "# all revoked\n");
    let filter: ApiKey = folder.build("{ file: keys.txt }").unwrap();
    assert_eq!(refused_for(Call::get("/").header("x-api-key", KEY), &filter), reason::API_KEY_UNKNOWN);
    assert_eq!(folder.env().files().len(), 1, "it is watched");
}

#[test]
fn mistakes_in_the_configuration_are_refused() {
    for (yaml, says) in [
        ("{}", "file"),
        ("{ file: keys.txt, header: 'x key' }", "is not a header name"),
        ("{ file: keys.txt, header: Host }", "the gateway itself sets"),
        ("{ file: keys.txt, header: Authorization }", "`authorization: true` takes"),
        ("{ file: keys.txt, header: cookie }", "credentials of another form"),
        ("{ file: keys.txt, query: 'a=b' }", "is not the name of a parameter"),
        ("{ file: keys.txt, query: '' }", "is not the name of a parameter"),
        ("{ file: keys.txt, query: k }", "logs would not know"),
        ("{ file: keys.txt, header: }", "header"),
        ("{ file: keys.txt, headers: a }", "headers"),
    ] {
        let error = error(yaml, "");
        assert!(error.contains(says), "{yaml}: {error}");
    }
}

#[test]
fn a_weak_key_gets_no_hash_and_opens_nothing() {
    assert_eq!(hash("hunter2"), Err(KeyTextError::Short));
    assert_eq!(hash(&"ab".repeat(16)), Err(KeyTextError::NotRandom));
    assert_eq!(hash(&"0123456789abcdef".repeat(17)), Err(KeyTextError::Long));
    assert_eq!(hash(&format!("{KEY} ")), Err(KeyTextError::Characters));
    // SHA-256 of `hunter2` and of nothing, written by hand.
    let folder = Folder::new();
    folder.write(
        "keys.txt",
        "a sha256:f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7 owner=a\n\
         b sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 owner=a\n",
    );
    let filter: ApiKey = folder.build("{ file: keys.txt }").unwrap();
    for key in ["hunter2", ""] {
        assert_eq!(refused_for(Call::get("/").header("x-api-key", key), &filter), reason::API_KEY_UNKNOWN);
    }
}

#[test]
fn the_hash_is_sha_256_as_other_tools_make_it() {
    assert_eq!(
        hash("0123456789abcdef0123456789abcdef").unwrap(),
        "sha256:3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9"
    );
}

proptest! {
    #[test]
    fn no_file_breaks_the_parser(bytes in any::<Vec<u8>>(), text in "[a-f0-9:=, #\n]{0,120}") {
        let _ = Keys::parse(&bytes);
        let _ = Keys::parse(text.as_bytes());
        let _ = Keys::parse(format!("one sha256:{text} owner=a").as_bytes());
    }

    #[test]
    fn no_query_breaks_it_or_takes_a_key_along(before in "[a-c=&%_0-9]{0,20}", after in "[a-c=&%_0-9]{0,20}") {
        let mut call = Call::get(&format!("/?{before}&api_key={KEY}&{after}"));
        let _ = call.run(&by_query());
        prop_assert!(!call.request.target().contains(KEY));
    }
}

#[test]
fn a_key_in_another_place_is_found_and_the_hint_says_where() {
    const OWN: &str = "pc_9nXygT3vK8sQ1bWc7RzLmPq4HdJ6fYtUaXeN2oVgCi5BkES0wZ";
    let hint = |yaml: &str, mut call: Call| {
        let denial = call.denied(&filter(yaml));
        assert_eq!(denial.reason(), reason::API_KEY_MISSING);
        let told = format!("{:?}", call.exchange.checks());
        assert!(!told.contains("9nXyg"), "{told}");
        call.exchange.checks()[0].finding.hint.clone().unwrap()
    };
    let (header, scheme, query) =
        ("{ header: x-api-key, file: keys.txt }", "{ authorization: true, file: keys.txt }", "{ query: key, file: keys.txt }");
    for (yaml, call, place) in [
        (scheme, Call::get("/").header("authorization", format!("Bearer {OWN}")), "`authorization` after another scheme than"),
        (scheme, Call::get("/").header("authorization", OWN), "the header `authorization`;"),
        (scheme, Call::get("/").header("x-api-key", "anything"), "the header `x-api-key`;"),
        (header, Call::get("/").header("authorization", format!("ApiKey {OWN}")), "`authorization` after `ApiKey`"),
        (header, Call::get("/").header("apikey", "anything"), "the header `apikey`;"),
        (header, Call::get("/").header("x-custom", OWN), "the header `x-custom`;"),
        (header, Call::get("/").header("cookie", format!("a=b; session={OWN}")), "a cookie;"),
        (header, Call::get(&format!("/?v={OWN}")), "the query parameter `v`;"),
        (header, Call::get(&format!("/?{OWN}={OWN}")), "a query parameter;"),
        (query, Call::get("/?api_key=x"), "the query parameter `api_key`; it is read from the query parameter `key` only"),
    ] {
        let told = hint(yaml, call);
        assert!(told.starts_with("a key was found in ") && told.contains(place), "{told}");
    }
    let nothing = hint(header, Call::get("/?page=2").header("authorization", "Bearer abc").header("cookie", "a=b"));
    assert_eq!(nothing, "the client sends its key in the header `x-api-key`");
}
