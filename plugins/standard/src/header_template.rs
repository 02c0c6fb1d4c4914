//! The value of an identity header: one fact about the caller, or a text with facts in it.
//!
//! `user:{sub}@{iss}` is a template: a name in braces stands for the fact of that name, `{{` and `}}` for a brace. It is
//! read when the configuration is loaded; a request only has it written.
//!
//! **No value can pose as the text around it.** Of a value in a template, letters, digits and those of `-._~` stay as they
//! are that the template's own text does not have; every other byte is percent-encoded (RFC 3986, section 2.1). Between two
//! facts there must be a character that no value keeps, so that a reader finds where the first one ends. The items of a list
//! are joined by `,`, which therefore cannot stand in the text of a template with a fact that may be a list.

use crate::text::{TextError, textual};
use portcullis_plugin::attribute::ValueWriter;
use portcullis_plugin::{Attribute, Exchange};
use std::fmt;
use std::str::FromStr;

/// Texts beyond this are no header of anybody's, but a mistake.
const LONGEST: usize = 1024;
const MOST_FACTS: usize = 16;
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    Fact(Attribute),
    Template(Template),
}

textual!(
    HeaderValue,
    "A fact about the verified caller: a claim's name, `claims.a.b`, `cert.subject` and the like. Or a text with such names in braces, as `user:{sub}@{iss}`; `{{` and `}}` are braces."
);

impl FromStr for HeaderValue {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(['{', '}']) {
            text.parse().map(Self::Template)
        } else {
            text.parse()
                .map(Self::Fact)
                .map_err(|error: portcullis_plugin::attribute::UnknownAttribute| TextError::new(error.to_string()))
        }
    }
}

impl HeaderValue {
    /// Whether any of it comes from a verified identity.
    pub(crate) fn is_identity(&self) -> bool {
        match self {
            Self::Fact(attribute) => attribute.is_identity(),
            Self::Template(template) => template.facts().any(Attribute::is_identity),
        }
    }
}

impl fmt::Display for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fact(attribute) => attribute.fmt(f),
            Self::Template(template) => write!(f, "`{}`", template.source),
        }
    }
}

/// A text with facts in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
    text_len: usize,
    kept: Kept,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Fact(Attribute),
}

impl Template {
    fn facts(&self) -> impl Iterator<Item = &Attribute> {
        self.parts.iter().filter_map(|part| match part {
            Part::Fact(attribute) => Some(attribute),
            Part::Text(_) => None,
        })
    }

    /// The value for this request.
    ///
    /// # Errors
    /// The first fact that is not known: the whole has no value then.
    pub(crate) fn write(&self, exchange: &Exchange) -> Result<String, &Attribute> {
        let mut out = String::with_capacity(self.text_len + 32 * (self.parts.len() / 2 + 1));
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Fact(attribute) => {
                    if !attribute.write(exchange, &mut Encoder { out: &mut out, kept: self.kept }) {
                        return Err(attribute);
                    }
                }
            }
        }
        Ok(out)
    }
}

impl FromStr for Template {
    type Err = TextError;

    fn from_str(source: &str) -> Result<Self, Self::Err> {
        if source.len() > LONGEST {
            return Err(TextError::new(format!("a template has at most {LONGEST} bytes, not {}", source.len())));
        }
        let parts = parts(source)?;
        let kept = Kept::beside(parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Fact(_) => None,
        }));
        let text_len = parts.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 0 }).sum();
        let template = Self { source: source.to_owned(), parts, text_len, kept };
        template.check()?;
        Ok(template)
    }
}

/// Text and facts in turn. Neighbouring pieces of text are one.
fn parts(source: &str) -> Result<Vec<Part>, TextError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut text = String::new();
    let mut rest = source;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        text.push_str(before);
        let place = source.len() - brace.len() + 1;
        let doubled = ["{{", "}}"].into_iter().find(|doubled| brace.starts_with(doubled));
        if let Some(doubled) = doubled {
            text.push_str(&doubled[..1]);
            rest = &brace[2..];
            continue;
        }
        let Some(inner) = brace.strip_prefix('{') else {
            return Err(TextError::new(format!(
                "the `}}` at byte {place} of `{source}` closes nothing: write `}}}}` for a brace"
            )));
        };
        let Some(end) = inner.find(['{', '}']).filter(|end| inner[*end..].starts_with('}')) else {
            return Err(TextError::new(format!(
                "the `{{` at byte {place} of `{source}` is not closed: write `{{{{` for a brace"
            )));
        };
        let (name, after) = (&inner[..end], &inner[end + 1..]);
        let attribute = name.parse::<Attribute>();
        let attribute = attribute.map_err(|error| TextError::new(format!("in `{source}`, at byte {place}: {error}")))?;
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(Part::Fact(attribute));
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

impl Template {
    /// What a reader could not take apart again is refused.
    fn check(&self) -> Result<(), TextError> {
        let source = &self.source;
        let refuse = |problem: String| Err(TextError::new(format!("`{source}`: {problem}")));
        match self.facts().count() {
            0 => {
                return refuse(
                    "no fact about the caller stands in it; for a fixed header there is the filter `headers`".to_owned(),
                );
            }
            1..=MOST_FACTS => {}
            more => return refuse(format!("a template has at most {MOST_FACTS} facts, not {more}")),
        }
        let joined = self.parts.windows(2).any(|pair| matches!(pair, [Part::Fact(_), Part::Fact(_)]));
        let between = self.parts.windows(3).any(|three| match three {
            [Part::Fact(_), Part::Text(text), Part::Fact(_)] => text.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            _ => false,
        });
        if joined || between {
            return refuse(
                "between two facts there must be a character such as `:` or `@`, to tell where the first one ends".to_owned(),
            );
        }
        for part in &self.parts {
            let Part::Text(text) = part else { continue };
            if let Some(bad) = text.chars().find(|c| *c == '%' || !(*c == ' ' || c.is_ascii_graphic())) {
                return refuse(format!(
                    "{bad:?} cannot stand in the text: visible ASCII and spaces can, but for `%`, which readers decode"
                ));
            }
            if text.contains(',')
                && let Some(list) = self.facts().find(|fact| fact.may_be_list())
            {
                return refuse(format!("`{list}` may be a list, whose items are joined by `,`; so the text can have no comma"));
            }
        }
        let begins = matches!(self.parts.first(), Some(Part::Text(text)) if text.starts_with(' '));
        if begins || matches!(self.parts.last(), Some(Part::Text(text)) if text.ends_with(' ')) {
            return refuse("a header loses spaces at its ends".to_owned());
        }
        Ok(())
    }
}

/// Which bytes of a value stay as they are: a bit for each of ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept(u128);

impl Kept {
    /// Letters and digits, and of `-._~` what no text has.
    fn beside<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        let own = |byte: u8| texts.clone().any(|text| text.as_bytes().contains(&byte));
        let kept = |byte: &u8| byte.is_ascii_alphanumeric() || (b"-._~".contains(byte) && !own(*byte));
        Self((0..128_u8).filter(kept).fold(0, |bits, byte| bits | 1 << byte))
    }

    fn has(self, byte: u8) -> bool {
        byte.is_ascii() && self.0 >> byte & 1 == 1
    }
}

struct Encoder<'a> {
    out: &'a mut String,
    kept: Kept,
}

impl fmt::Write for Encoder<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.kept.has(byte) { self.out.push(char::from(byte)) } else { push_encoded(self.out, byte) }
        }
        Ok(())
    }
}

impl ValueWriter for Encoder<'_> {
    fn next_item(&mut self) {
        self.out.push(',');
    }
}

/// `%` and the byte in hexadecimal.
pub(crate) fn push_encoded(out: &mut String, byte: u8) {
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

#[cfg(test)]
#[path = "header_template_tests.rs"]
mod tests;
