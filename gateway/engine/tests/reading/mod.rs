//! Reads bytes as the gateway does, and checks what must hold for any bytes. Shared with the fuzz target.

use portcullis_engine::http1::{self, HeadLimits, Parsed, Parser};
use portcullis_engine::normalise::{self, BodyLength, Framing, Policy, Refusal};
use portcullis_plugin::{RequestHead, Scheme};

pub const LIMITS: HeadLimits = HeadLimits { bytes: 32 << 10, fields: 100 };

/// What becomes of the first head in `raw`: `None` if it is not whole.
pub fn read(raw: &[u8]) -> Result<Option<(RequestHead, Framing, usize)>, Refusal> {
    finish(http1::parse(raw, &LIMITS)?)
}

/// The same, with the bytes arriving `step` at a time.
pub fn read_piecemeal(raw: &[u8], step: usize) -> Result<Option<(RequestHead, Framing, usize)>, Refusal> {
    let mut parser = Parser::default();
    let mut parsed = Parsed::Partial;
    let mut end = 0;
    while matches!(parsed, Parsed::Partial) && end < raw.len() {
        end = raw.len().min(end + step);
        parsed = parser.parse(&raw[..end], &LIMITS)?;
    }
    finish(parsed)
}

fn finish(parsed: Parsed) -> Result<Option<(RequestHead, Framing, usize)>, Refusal> {
    match parsed {
        Parsed::Partial => Ok(None),
        Parsed::Complete { head, len } => {
            let (head, framing) = normalise::http1(head, Scheme::Http, &Policy::default())?;
            Ok(Some((head, framing, len)))
        }
    }
}

pub type Fields = Vec<(String, Vec<u8>)>;

/// All fields, with names in lower case and without `Content-Length`, which the framing tells.
pub fn fields(head: &RequestHead) -> Fields {
    let owned = |(name, value): (&str, &[u8])| (name.to_ascii_lowercase(), value.to_vec());
    head.headers().iter().map(owned).filter(|(name, _)| name != "content-length").collect()
}

/// Panics if the gateway could be fooled by `raw`, or fool the one behind it.
pub fn check(raw: &[u8]) {
    let whole = read(raw);
    for step in [1, 7, 1000] {
        match (&whole, read_piecemeal(raw, step)) {
            (Ok(None), Ok(None)) => {}
            (Ok(Some((head, framing, len))), Ok(Some((head2, framing2, len2)))) => {
                assert_eq!((framing, len), (&framing2, &len2));
                assert_same(head, &head2);
            }
            (Err(refusal), Err(refusal2)) => assert_eq!(refusal, &refusal2),
            (whole, piecemeal) => panic!("whole: {whole:?}; in pieces: {piecemeal:?}"),
        }
        if raw.len() > 4096 {
            break;
        }
    }
    let Ok(Some((head, framing, len))) = whole else { return };
    assert!(len <= raw.len() && len <= LIMITS.bytes);
    check_head(&head, &framing);
    check_written(&head, &framing);
}

/// What filters and the upstream rely on.
fn check_head(head: &RequestHead, framing: &Framing) {
    let (path, target) = (head.path(), head.target());
    assert!(path == "*" || path.starts_with('/') && !path.contains("//"), "{path}");
    assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
    assert!(target.bytes().all(|b| b.is_ascii_graphic() && b != b'#'), "{target}");
    assert_eq!(head.host(), head.host().to_ascii_lowercase());
    for (name, _) in head.headers().iter() {
        let name = name.to_ascii_lowercase();
        assert!(
            !["host", "connection", "transfer-encoding", "upgrade", "keep-alive", "te", "expect"].contains(&name.as_str()),
            "{name}"
        );
        assert!(name != "content-length" || matches!(framing.body, BodyLength::Exact(_)));
    }
    assert!(head.headers().get_all("authorization").count() <= 1);
    assert!(head.headers().get_all("cookie").count() <= 1);
    assert!(!framing.upgrade || framing.body == BodyLength::None);
}

/// What is written is read again as the same, and written again to the letter.
fn check_written(head: &RequestHead, framing: &Framing) {
    let mut written = Vec::new();
    http1::write_head(head, framing, &mut written);
    // Adding `Host: ` and the like may carry a full head over the limit; behind the gateway there is none.
    let limits = HeadLimits { bytes: usize::MAX, fields: usize::MAX / 2 };
    let Ok(Parsed::Complete { head: raw, len }) = http1::parse(&written, &limits) else {
        panic!("not a head: {}", written.escape_ascii());
    };
    assert_eq!(len, written.len());
    let (again, framing_again) = normalise::http1(raw, head.scheme(), &Policy::default())
        .unwrap_or_else(|refusal| panic!("{refusal}: {}", written.escape_ascii()));
    assert_eq!(&framing_again, framing);
    assert_same(head, &again);
    let mut rewritten = Vec::new();
    http1::write_head(&again, &framing_again, &mut rewritten);
    assert_eq!(rewritten, written);
}

fn assert_same(one: &RequestHead, other: &RequestHead) {
    assert_eq!((one.method(), one.version()), (other.method(), other.version()));
    assert_eq!((one.authority(), one.target()), (other.authority(), other.target()));
    assert_eq!(fields(one), fields(other));
}
