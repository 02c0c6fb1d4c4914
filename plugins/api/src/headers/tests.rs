use super::*;

#[test]
fn a_value_is_one_byte_for_byte() {
    for len in [1, 7, 8, 9, 16, 21] {
        for at in 0..len {
            for byte in 0..=255 {
                let mut value = vec![b'x'; len];
                value[at] = byte;
                assert_eq!(is_value(&value), is_value_byte(byte), "{byte} at {at} of {len}");
                value[0] = b'\t';
                assert_eq!(is_value(&value), at == 0 || is_value_byte(byte), "{byte} at {at} of {len}, behind a tab");
            }
        }
    }
}

#[test]
fn controls_are_counted_wherever_they_are() {
    for byte in 0..=255 {
        for at in [0, 15, 127, 128, 300, 511] {
            let mut bytes = [b'x'; 512];
            bytes[at] = byte;
            assert_eq!(count_controls(&bytes), usize::from(!is_value_byte(byte)), "{byte} at {at}");
        }
    }
    assert_eq!(count_controls(&[0; 1000]), 1000);
}

fn written(headers: &Headers, skip: impl FnMut(&[u8]) -> bool) -> String {
    let mut out = Vec::new();
    headers.driver_write_lines(&mut out, Lengths::ALL, skip);
    String::from_utf8(out).unwrap()
}

#[test]
fn lines_are_written_as_they_came_and_others_anew() {
    let section = b"A: 1\r\nB:2\r\nC:  3\r\nD: 4 \r\nE: 5\r\nF: 6\r\n";
    let mut fields = ReadFields::new(section, 10);
    for (name, value) in [(0..1, 3..4), (6..7, 8..9), (11..12, 15..16), (18..19, 21..22), (25..26, 28..29), (31..32, 34..35)] {
        fields.add(name, value).unwrap();
    }
    let mut headers = fields.finish(section.len(), 0).unwrap();
    assert_eq!(written(&headers, |_| false), "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\nF: 6\r\n");
    assert_eq!(written(&headers, |name| name == b"E"), "A: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nF: 6\r\n");
    headers.set("c", "new").unwrap();
    headers.remove("f");
    headers.append("G", "").unwrap();
    assert_eq!(written(&headers, |_| false), "A: 1\r\nB: 2\r\nD: 4\r\nE: 5\r\nc: new\r\nG: \r\n");
    assert_eq!(written(&headers, |_| true), "");
}

#[test]
fn only_what_is_within_a_head_is_read_from_it() {
    let section = b"A: 1\r\nB: 2\r\n\r\nsecret";
    let fields = || ReadFields::new(section, 1);
    assert_eq!(fields().add(0..1, 3..99), Err(HeaderError::Value));
    assert_eq!(fields().add(90..99, 100..101), Err(HeaderError::Name));
    assert_eq!(fields().add(3..4, 0..1), Err(HeaderError::Value));
    let mut fields = fields();
    fields.add(6..7, 9..10).unwrap();
    assert_eq!(fields.add(0..1, 3..4), Err(HeaderError::TooMany));
    assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"B"[..], &b"2"[..])]);
    let headers = fields.finish(12, 0).unwrap();
    assert_eq!((headers.get("b"), headers.len()), (Some(&b"2"[..]), 1));
    let mut beyond = ReadFields::new(section, 1);
    beyond.add(6..7, 9..10).unwrap();
    assert!(beyond.finish(11, 0).is_err());
}

#[test]
fn only_names_of_the_lengths_are_looked_at() {
    let long = "x".repeat(70);
    let lengths = Lengths::of(&["te", &long]);
    assert_eq!(
        [0, 1, 2, 3, 62, 63, 64, 70, 999].map(|length| lengths.has(length)),
        [false, false, true, false, false, true, true, true, true]
    );
    assert!(Lengths::ALL.has(0) && !Lengths::NONE.has(63));
    let mut headers = sample();
    headers.driver_strip(Lengths::of(&["x-user", "content-length"]), |name| !is_named(name, b"accept"));
    assert_eq!(headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["Accept"]);
    assert_eq!(headers.len(), 1);
    let mut out = Vec::new();
    headers.driver_write_lines(&mut out, Lengths::of(&["te"]), |_| true);
    assert_eq!(out, b"Accept: a\r\n");
}

#[test]
fn names_are_compared_whole() {
    for (name, lower, same) in [
        (&b"Content-Length"[..], &b"content-length"[..], true),
        (b"CONTENT-LENGTH", b"content-length", true),
        (b"Content_Length", b"content-length", false),
        (b"Content-Lengt", b"content-length", false),
        (b"Content-Lengths", b"content-length", false),
        (b"tE", b"te", true),
        (b"td", b"te", false),
    ] {
        assert_eq!(is_named(name, lower), same, "{}", name.escape_ascii());
    }
}

#[test]
fn a_field_that_did_not_fit_is_not_written_with_the_next() {
    let mut headers = Headers::with_limit(2);
    headers.append("a", "1").unwrap();
    headers.append("b", "2").unwrap();
    assert_eq!(headers.append("secret", "3"), Err(HeaderError::TooMany));
    headers.remove("a");
    headers.append("c", "4").unwrap();
    assert_eq!(written(&headers, |_| false), "b: 2\r\nc: 4\r\n");
}

fn sample() -> Headers {
    let mut headers = Headers::new();
    headers.append("Accept", "a").unwrap();
    headers.append("X-User", "one").unwrap();
    headers.append("x-user", "two").unwrap();
    headers.driver_append("Content-Length", b"3").unwrap();
    headers
}

#[test]
fn names_compare_without_case_and_keep_order() {
    let headers = sample();
    assert_eq!(headers.get("ACCEPT"), Some(&b"a"[..]));
    assert_eq!(headers.get_all("X-USER").collect::<Vec<_>>(), [b"one", b"two"]);
    assert_eq!(headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["Accept", "X-User", "x-user", "Content-Length"]);
}

#[test]
fn set_replaces_all_and_remove_counts() {
    let mut headers = sample();
    headers.set("x-user", "three").unwrap();
    assert_eq!(headers.get_all("x-user").count(), 1);
    assert_eq!((headers.len(), headers.remove("x-user"), headers.len()), (3, 1, 2));
}

#[test]
fn framing_is_out_of_reach() {
    let mut headers = sample();
    assert_eq!(headers.set("content-length", "9"), Err(HeaderError::Framing));
    assert_eq!(headers.append("Transfer-Encoding", "chunked"), Err(HeaderError::Framing));
    assert_eq!(headers.remove("Content-Length"), 0);
    headers.retain(|_, _| false);
    assert_eq!(headers.get("content-length"), Some(&b"3"[..]));
}

#[test]
fn nothing_can_be_injected() {
    let mut headers = Headers::new();
    for value in ["a\r\nx: y", "a\nb", "a\0", "\x7f"] {
        assert_eq!(headers.set("x", value), Err(HeaderError::Value));
    }
    for name in ["", "a b", "a:", "a\r\n", "é"] {
        assert_eq!(headers.set(name, "v"), Err(HeaderError::Name));
    }
}

#[test]
fn the_number_of_fields_is_limited() {
    let mut headers = Headers::with_limit(1);
    headers.append("a", "").unwrap();
    assert_eq!(headers.append("b", ""), Err(HeaderError::TooMany));
    headers.set("a", "again").unwrap();
}

#[test]
fn debug_shows_no_value() {
    let mut headers = Headers::new();
    headers.set("authorization", "Bearer secret").unwrap();
    assert!(!format!("{headers:?}").contains("secret"));
}
