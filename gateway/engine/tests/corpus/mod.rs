//! Reads `tests/hostile.txt`: the same requests for the parser and, over sockets, for the whole gateway.

/// One line of the corpus.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub outcome: Outcome,
    /// The bytes to send.
    pub raw: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Refused {
        status: u16,
        reason: String,
    },
    /// What the upstream must see.
    Forwarded {
        target: String,
        /// Empty if it must not see a `Host`.
        host: String,
    },
    /// The gateway waits for more.
    Partial,
}

/// All cases. A line that cannot be read is a mistake in the corpus, so it panics.
pub fn load() -> Vec<Case> {
    let text = include_str!("../hostile.txt");
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(case).collect()
}

fn case(line: &str) -> Case {
    let mut parts = line.splitn(3, " | ");
    let (Some(name), Some(outcome), Some(raw)) = (parts.next(), parts.next(), parts.next()) else {
        panic!("not `name | outcome | raw`: {line}");
    };
    let words: Vec<&str> = outcome.split(' ').collect();
    let outcome = match words[..] {
        ["partial"] => Outcome::Partial,
        ["ok", target, host] => Outcome::Forwarded {
            target: String::from_utf8(unescape(target)).expect("a target is ASCII"),
            host: if host == "-" { String::new() } else { host.to_owned() },
        },
        [status, reason] => Outcome::Refused { status: status.parse().expect("a status"), reason: reason.to_owned() },
        _ => panic!("not an outcome: {outcome}"),
    };
    Case { name: name.to_owned(), outcome, raw: unescape(raw) }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let kind = escape.chars().next().expect("an escape");
        rest = &escape[1..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).expect("two hexadecimal digits"));
                rest = &rest[2..];
            }
            '{' => {
                let (repeated, after) = rest.split_once('}').expect("a closing brace");
                let (times, what) = repeated.split_once(':').expect("a number and a colon");
                bytes.extend(unescape(what).repeat(times.parse().expect("a number")));
                rest = after;
            }
            other => panic!("no escape: \\{other}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
