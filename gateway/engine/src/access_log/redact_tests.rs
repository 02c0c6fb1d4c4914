use super::*;
use proptest::prelude::*;

const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJlLWJ5dGVz";

fn q(text: &str) -> String {
    String::from_utf8(query(text.as_bytes()).into_owned()).unwrap()
}

fn p(text: &str) -> String {
    String::from_utf8(path(text.as_bytes()).into_owned()).unwrap()
}

#[test]
fn a_secrets_name_is_found_at_any_length_and_encoding() {
    for filler in [0, 1, 57, 58, 59, 63, 64, 65, 500] {
        let name = format!("{}secret", "x".repeat(filler));
        assert_eq!(q(&format!("{name}=1")), format!("{name}={REDACTED}"));
        let name = format!("{}%73ecret", "-".repeat(filler));
        assert_eq!(q(&format!("{name}=1")), format!("{name}={REDACTED}"));
        let name = format!("{}page", "x".repeat(filler));
        assert_eq!(q(&format!("{name}=1")), format!("{name}=1"));
    }
}

#[test]
fn a_value_under_a_secrets_name_goes() {
    for name in [
        "access_token",
        "id_token",
        "refresh_token",
        "token",
        "code",
        "password",
        "passwd",
        "pwd",
        "secret",
        "client_secret",
        "api_key",
        "apikey",
        "api-key",
        "X-Api-Key",
        "key",
        "sig",
        "signature",
        "assertion",
        "client_assertion",
        "jwt",
        "session",
        "session_id",
        "JSESSIONID",
        "PHPSESSID",
        "sid",
        "otp",
        "pin",
        "ticket",
        "auth",
        "Authorization",
        "X-Amz-Signature",
        "X-Amz-Security-Token",
        "X-Amz-Credential",
        "X-Goog-Signature",
        "SAMLResponse",
        "csrf",
        "code_verifier",
        "user[password]",
        "private_key",
        "%74oken",
        "%2574oken",
        "to%6Ben",
        "TOKEN",
        "t.o.k.e.n",
        "cookie",
    ] {
        assert_eq!(q(&format!("a=1&{name}=x7&b=2")), format!("a=1&{name}=[redacted]&b=2"), "{name}");
        assert_eq!(q(&format!("a=1;{name}=x7")), format!("a=1;{name}=[redacted]"), "{name}");
    }
    assert_eq!(q("token=a=b==&c"), "token=[redacted]&c");
    assert_eq!(q("token=&token&x=1"), "token=&token&x=1");
}

#[test]
fn a_value_with_a_secrets_looks_goes_whatever_its_name() {
    let encoded_jwt = JWT.replace('.', "%2E");
    let twice = JWT.replace('.', "%252E");
    for value in [
        JWT,
        &encoded_jwt,
        &twice,
        "%65yJhbGciOiJSUzI1NiJ9.e30.c2ln",
        "eyJhbGciOiJub25lIn0.eyJhIjoxfQ.",
        "Bearer%20abc",
        "bearer+abc",
        "Basic%20dXNlcjpwYXNz",
        "https%3A%2F%2Fa.example%2Fcb%3Faccess_token%3Dabc%26x%3D1",
        "https%253A%252F%252Fa.example%252Fcb%253Ftoken%253Dabc",
        "%7B%22password%22%3A%22x%22%7D",
        "https%3A%2F%2Fuser%3Ahunter2%40host%2F",
        "https://user:hunter2@host/",
        "9f86d081884c7d659a2feaa0c55ad015",
        "A3TX9ZQ7hj2Kd0PwLmN8",
        "wJalrXUtnFEMI%2FK7MDENG%2FbPxRfiCYEXAMPLEKEY12",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "xkqzvbnmwrtplkjhgfdsaqwertyuiopzxcvbnmlkjh",
        "-----BEGIN%20PRIVATE%20KEY-----",
    ] {
        assert_eq!(q(&format!("x={value}&y=2")), "x=[redacted]&y=2", "{value}");
    }
    assert_eq!(q(JWT), "[redacted]");
    assert_eq!(q(&format!("a&{JWT}=&b")), "a&[redacted]&b");
}

#[test]
fn ordinary_values_stay() {
    for text in [
        "",
        "&",
        "=",
        "&&a=&=b;",
        "page=2&sort=created_at&order=desc",
        "q=rust%20load+balancer&lang=de",
        "id=123e4567-e89b-12d3-a456-426614174000",
        "from=2026-11-21T23:15:07Z&to=2026-11-22",
        "n=12345678901234567890123456789012345",
        "redirect=https%3A%2F%2Fa.example%2Forders%3Fpage%3D2",
        "slug=how-to-move-from-nginx-to-portcullis-in-2026",
        "monkey=1&keyboard=us&codec=h264&passenger=2&signal=9&zipcode=12345&country_code=de",
        "title=InternationalizationAndLocalization",
        "e=eyJ",
        "%",
        "%zz=%",
        "a=%ff%fe",
    ] {
        assert_eq!(q(text), text);
        assert!(matches!(query(text.as_bytes()), Cow::Borrowed(_)), "{text}");
    }
}

#[test]
fn a_token_or_a_session_in_a_path_goes() {
    for (given, expected) in [
        ("/reset/token=abc123".to_owned(), "/reset/token=[redacted]"),
        ("/password=hunter2/x".to_owned(), "/password=[redacted]/x"),
        ("/a=b/c".to_owned(), "/a=b/c"),
        (format!("/reset/{JWT}/confirm"), "/reset/[redacted]/confirm"),
        (format!("/reset/{}", JWT.replace('e', "%65")), "/reset/[redacted]"),
        (format!("/reset/x{JWT}"), "/reset/[redacted]"),
        ("/app;jsessionid=A1B2/page".into(), "/app;jsessionid=[redacted]/page"),
        ("/app;v=1;token=A1B2;w=2".into(), "/app;v=1;token=[redacted];w=2"),
        ("http://user:hunter2@host/a".into(), "http://[redacted]@host/a"),
        ("user:hunter2@host:443".into(), "[redacted]@host:443"),
    ] {
        assert_eq!(p(&given), expected, "{given}");
    }
}

#[test]
fn a_key_in_a_path_goes_wherever_it_begins() {
    // As `portcullis apikey new` makes them, and as others do.
    let own = "pc_9nXygT3vK8sQ1bWc7RzLmPq4HdJ6fYtUaXeN2oVgCi5BkES0wZrMjDh";
    for key in [
        own,
        &own[..40],
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "github_pat_11ABCDEFG0abcdefghijkl_0123456789",
        "glpat-x_Y-zA1bC2dE3fG4hI5j",
        "sk_live_51H8abcdefghijkLMN",
        "sk-ant-api03-abc_def-ghi0123456789",
        "sk-abcdEFGH0123456789abcdEFGH",
        "xoxb-123456789012-1234567890123-AbCdEf",
    ] {
        for (before, after) in [("", ""), ("x", ""), ("id=", ""), ("v1.", "/orders"), ("key:", ".json")] {
            let path = p(&format!("/key/{before}{key}{after}"));
            let rest = after.strip_prefix(".json").unwrap_or(after);
            assert_eq!(path, format!("/key/[redacted]{rest}"), "{before}{key}{after}");
        }
        assert_eq!(p(&format!("/{}", key.replace('_', "%5F").replace('-', "%252d"))), "/[redacted]");
        assert_eq!(p(&format!("/a;v={key};w=1")), "/a;[redacted];w=1");
        assert_eq!(q(&format!("x={key}")), "x=[redacted]");
    }
}

#[test]
fn ordinary_paths_stay() {
    for text in [
        "",
        "/",
        "/orders/1",
        "/a%20b/c",
        "/app;v=1/x",
        "/users/123e4567-e89b-12d3-a456-426614174000",
        "*",
        "/assets/app.9f86d081884c7d659a2feaa0c55ad015.js",
        "/eyJ/x",
        "/pc_settings/pc_1",
        "/sk-SK/how-to-move-from-nginx-to-portcullis",
        "/sk-how-to-move-from-nginx-to-portcullis",
        "/npm_modules_are_listed_here_with_names",
        "/docs/ghp_tokens-and-what-they-are-good-for",
        "http://host/a",
        "/@scope/package",
        "/a;/b;;",
        "/mail/a@b.example",
        "%",
        "host:443",
    ] {
        assert_eq!(p(text), text);
        assert!(matches!(path(text.as_bytes()), Cow::Borrowed(_)), "{text}");
    }
}

#[test]
fn what_crosses_the_limit_is_left_out_whole() {
    let secret = "A3TX9ZQ7hj2Kd0PwLmN8";
    for at in MAX_INPUT - 30..MAX_INPUT + 10 {
        let filler = "a".repeat(at - 3);
        assert!(!q(&format!("{filler}&x={secret}&y=1")).contains("A3T"), "{at}");
        assert!(!p(&format!("/{filler}/eyJhbGciOiJSUzI1NiJ9.e30.c2ln/y")).contains("eyJ"), "{at}");
    }
    assert_eq!(q(&secret.repeat(MAX_INPUT)), "…");
    assert_eq!(q(&"a=1&".repeat(MAX_INPUT)).len(), MAX_INPUT - 1 + "…".len());
}

proptest! {
    #[test]
    fn no_bytes_trip_it_and_a_token_never_survives(before in "[ -~]{0,40}", after in proptest::collection::vec(any::<u8>(), 0..40)) {
        let text = [before.as_bytes(), JWT.as_bytes(), &after].concat();
        for out in [path(&text), query(&text)] {
            prop_assert!(memchr::memmem::find(&out, JWT.as_bytes()).is_none());
        }
    }

    #[test]
    fn what_is_clean_stays_clean(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let once = query(&bytes).into_owned();
        prop_assert_eq!(query(&once).into_owned(), once.clone());
        let once = path(&bytes).into_owned();
        prop_assert_eq!(path(&once).into_owned(), once.clone());
    }
}
