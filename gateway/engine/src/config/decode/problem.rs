//! What is wrong with a value, in the words of people who write configurations.

use crate::config::document::{Fault, NodeId, Span};
use portcullis_plugin::error::closest;
use serde::de::{self, Expected, Unexpected};
use std::fmt;

#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) span: Option<Span>,
    /// The smallest entry or item that holds it.
    pub(super) slot: Option<NodeId>,
    /// It may come from something left out.
    pub(super) secondary: bool,
    /// The key that is missing.
    pub(super) missing: Option<&'static str>,
    /// It comes from what is written, not from what was expected of it.
    pub(super) quotes_value: bool,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, span: None, slot: None, secondary: false, missing: None, quotes_value: false }
    }

    pub(super) fn into_fault(self) -> Fault {
        Fault { message: self.message, help: self.help, span: self.span, related: Vec::new() }
    }
}

/// The error of [`Decoder`].
#[derive(Debug)]
pub(super) struct DecodeError(pub(super) Box<Problem>);

impl DecodeError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(message)))
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // The standard library's own words, which name neither what is wrong nor what is right.
        match message.to_string().as_str() {
            "invalid socket address syntax" => Self::new("this is not an IP address with a port")
                .help("such as `127.0.0.1:8080`, `0.0.0.0:8080` or `[::1]:8080`"),
            "invalid IP address syntax" => Self::new("this is not an IP address").help("such as `10.0.0.1` or `2001:db8::1`"),
            message => {
                let mut error = Self::new(message);
                error.0.quotes_value = true;
                error
            }
        }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let error = Self::new(format!("expected {}, found {}", plain_words(expected), found(&unexpected)));
        match unexpected {
            Unexpected::Bool(_) | Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => {
                error.help("if it is meant as text, write it in quotes")
            }
            _ => error,
        }
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match unexpected {
            Unexpected::Signed(value) if value < 0 => "a negative number",
            Unexpected::Unsigned(0) => "0",
            Unexpected::Signed(_) | Unexpected::Unsigned(_) => "a number that is too large",
            other => found(&other),
        };
        Self::new(format!("expected {}, found {found}", plain_words(expected)))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}, found {length} items", plain_words(expected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::new(format!("unknown value `{variant}`")).help(suggestion(variant, expected));
        error.0.quotes_value = true;
        error
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let error = Self::new(format!("unknown key `{field}`"));
        if expected.is_empty() { error.help("there are no keys here") } else { error.help(suggestion(field, expected)) }
    }

    fn missing_field(field: &'static str) -> Self {
        let mut error = Self::new(format!("the key `{field}` is missing"));
        error.0.missing = Some(field);
        error
    }
}

fn suggestion(word: &str, known: &[&str]) -> String {
    match closest(word, known) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known: {}", known.join(", ")),
    }
}

/// What serde expects, in the words of people who write configurations.
pub(super) fn plain_words(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a boolean" => "true or false".into(),
        "a string" => "text".into(),
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" | "u64" | "usize" => "a whole number from 0".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a sequence" => "a list".into(),
        "a map" => "keys with values".into(),
        text if text.starts_with("struct ") => "keys with values".into(),
        text if text.starts_with("nonzero ") || text.starts_with("a nonzero ") => "a whole number from 1".into(),
        text => text.into(),
    }
}

/// Never the text itself: it may be a secret, and its line is shown anyway.
fn found(unexpected: &Unexpected<'_>) -> &'static str {
    match unexpected {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Char(_) | Unexpected::Str(_) | Unexpected::Bytes(_) => "text",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map => "keys with values",
        _ => "something else",
    }
}
