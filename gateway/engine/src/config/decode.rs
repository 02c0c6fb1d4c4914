//! The tree as typed configuration, through serde, with the place of every finding and as many findings as there are.
//!
//! serde stops at the first error. So the part of the tree that is to blame is left out and the whole read again, until
//! nothing more is found; findings that only come from leaving something out are dropped. Filters are read behind a
//! trait object, which turns errors into strings; what was found first within one reading is therefore also kept beside.

use super::document::{Entry, Fault, Kind, Node, NodeId, Scalar, Span};
use super::filter_entry::FilterEntry;
use portcullis_plugin::FilterTable;
use portcullis_plugin::error::{Segment, closest, unknown_name};
use portcullis_plugin::filter::Pending;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, Unexpected, Visitor};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

/// Nobody mends more at once, and each costs a reading.
const MAX_FAULTS: usize = 50;

/// Reads the tree as a `T`, or says everything that is wrong with it.
///
/// # Errors
/// If the tree is not a `T`.
pub fn decode<T: DeserializeOwned>(node: &Node) -> Result<T, Vec<Fault>> {
    collect(node, None, |decoder| T::deserialize(decoder))
}

/// Reads the configuration of one filter, which `path` leads to, with the type that the table has for its name.
///
/// # Errors
/// If the table has no such filter, or its configuration is not of the filter's type.
pub fn decode_filter(tree: &Node, path: &[Segment], entry: &FilterEntry, table: &FilterTable) -> Result<Pending, Vec<Fault>> {
    let place = tree.nearest(path);
    let written = place.entry(&entry.name);
    let key_span = written.map_or(place.mark(), |entry| entry.key.span);
    let Some(factory) = table.get(&entry.name) else {
        let names: Vec<_> = table.names().collect();
        let error = unknown_name("filter", &entry.name, names.iter().copied());
        let mut fault = Fault::new(error.message(), key_span);
        fault.help = error.help_text().map(str::to_owned);
        return Err(vec![fault]);
    };
    let Some(written) = written else {
        return Err(vec![Fault::new(format!("the configuration of `{}` is missing", entry.name), key_span)]);
    };
    collect(&written.value, Some(&written.key), |decoder| {
        factory.decode(&mut <dyn erased_serde::Deserializer<'_>>::erase(decoder))
    })
}

/// What is wrong with the filters of a tree whose other parts may be wrong too.
pub fn filter_faults(tree: &Node, table: &FilterTable) -> Vec<Fault> {
    let mut faults = Vec::new();
    for section in ["listeners", "routes"] {
        let holders = tree.get(section).map(Node::items).unwrap_or_default();
        for list in holders.iter().filter_map(|holder| holder.get("filters")) {
            for item in list.items() {
                if let Ok(entry) = decode::<FilterEntry>(item)
                    && let Err(found) = decode_filter(item, &[], &entry, table)
                {
                    faults.extend(found);
                }
            }
        }
    }
    faults
}

fn collect<'de, T, E: fmt::Display>(
    node: &'de Node,
    key: Option<&'de Node>,
    mut read: impl FnMut(Decoder<'de, '_>) -> Result<T, E>,
) -> Result<T, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut reading = Reading::default();
    loop {
        let error = match read(Decoder { node, key, slot: None, reading: &reading }) {
            Ok(value) if faults.is_empty() => return Ok(value),
            Ok(_) => return Err(faults),
            Err(error) => error,
        };
        // Every error passes a decoder, which notes it; the string is for an error that a filter made of nothing.
        let problem = reading.first.take().unwrap_or_else(|| {
            let mut problem = Problem::new(error.to_string());
            problem.span = Some(node.mark());
            problem
        });
        let slot = problem.slot;
        if !problem.secondary {
            faults.push(problem.into_fault());
        }
        match slot {
            Some(slot) if faults.len() < MAX_FAULTS && reading.ignored.insert(slot) => {}
            // All were secondary: they then have a cause which was not, so this is never empty in practice. A finding
            // must not turn into success.
            _ if faults.is_empty() => return Err(vec![Fault::new("cannot be read", node.mark())]),
            _ => return Err(faults),
        }
    }
}

/// One pass over a tree.
#[derive(Default)]
struct Reading {
    /// Entries (by key) and list items that were found wrong before.
    ignored: HashSet<NodeId>,
    first: RefCell<Option<Problem>>,
}

#[derive(Debug, Clone)]
struct Problem {
    message: String,
    help: Option<String>,
    span: Option<Span>,
    /// The smallest entry or item that holds it.
    slot: Option<NodeId>,
    /// It may come from something left out.
    secondary: bool,
    /// The key that is missing.
    missing: Option<&'static str>,
    /// It comes from what is written, not from what was expected of it.
    quotes_value: bool,
}

impl Problem {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, span: None, slot: None, secondary: false, missing: None, quotes_value: false }
    }

    fn into_fault(self) -> Fault {
        Fault { message: self.message, help: self.help, span: self.span, related: Vec::new() }
    }
}

/// The error of [`Decoder`].
#[derive(Debug)]
struct DecodeError(Box<Problem>);

impl DecodeError {
    fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(message)))
    }

    fn help(mut self, help: impl Into<String>) -> Self {
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
fn plain_words(expected: &dyn Expected) -> String {
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

/// A node with where it hangs.
#[derive(Clone, Copy)]
struct Decoder<'de, 'r> {
    node: &'de Node,
    key: Option<&'de Node>,
    slot: Option<NodeId>,
    reading: &'r Reading,
}

impl<'de, 'r> Decoder<'de, 'r> {
    fn child(self, node: &'de Node, key: Option<&'de Node>, slot: NodeId) -> Self {
        Self { node, key, slot: Some(slot), reading: self.reading }
    }

    /// Gives an error that has none the place of this node, and notes it.
    fn settle(&self, mut error: DecodeError) -> DecodeError {
        let problem = &mut error.0;
        if problem.span.is_some() {
            return error;
        }
        problem.span = Some(match (&self.node.kind, self.key) {
            (Kind::Null { implicit: true }, Some(key)) => key.span,
            _ => self.node.mark(),
        });
        problem.slot = self.slot;
        problem.secondary = match problem.missing {
            Some(key) => self.node.entry(key).is_some(),
            None => self.has_ignored(),
        };
        if let Kind::Scalar(Scalar { text, written: Some(written), .. }) = &self.node.kind
            && problem.quotes_value
        {
            problem.message = hide(&problem.message, text, written);
            // A suggestion would be made from the value.
            problem.help = Some("the value comes from the environment and is not shown".to_owned());
        }
        self.reading.first.borrow_mut().get_or_insert_with(|| problem.as_ref().clone());
        error
    }

    fn has_ignored(&self) -> bool {
        let ignored = &self.reading.ignored;
        !ignored.is_empty()
            && match &self.node.kind {
                Kind::Sequence(items) => items.iter().any(|item| ignored.contains(&item.id)),
                Kind::Mapping(entries) => entries.iter().any(|entry| ignored.contains(&entry.key.id)),
                _ => false,
            }
    }

    /// The node is not what `expected` says.
    fn mismatch(&self, expected: &str) -> DecodeError {
        let key = self.key.and_then(Node::scalar).map(|scalar| scalar.text.as_str());
        self.settle(match (&self.node.kind, key) {
            (Kind::Null { implicit: true }, Some(key)) => DecodeError::new(format!("`{key}:` is empty")).help(match expected {
                "keys with values" => "give it keys with values (`{}` for none), or remove the key".to_owned(),
                _ => format!("give it {expected}, or remove the key"),
            }),
            (Kind::Null { implicit: true }, None) => DecodeError::new(format!("expected {expected}, found nothing")),
            (Kind::Null { implicit: false }, _) => DecodeError::new(format!("expected {expected}, found null")),
            (Kind::Scalar(scalar), _) => {
                let error = DecodeError::new(format!("expected {expected}, found {}", describe(scalar)));
                match mended(scalar, expected) {
                    Some(help) => error.help(help),
                    None => error,
                }
            }
            (Kind::Sequence(_), _) => DecodeError::new(format!("expected {expected}, found a list")),
            (Kind::Mapping(_), _) => DecodeError::new(format!("expected {expected}, found keys with values")),
        })
    }

    fn settled<T>(&self, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
        result.map_err(|error| self.settle(error))
    }

    fn any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Null { implicit: true } => Err(self.mismatch(&plain_words(&visitor as &dyn Expected))),
            Kind::Null { implicit: false } => visitor.visit_unit(),
            Kind::Scalar(scalar) if scalar.plain => match Literal::of(&scalar.text) {
                Literal::Bool(value) => visitor.visit_bool(value),
                Literal::Unsigned(value) => visitor.visit_u64(value),
                Literal::Signed(value) => visitor.visit_i64(value),
                Literal::Float(value) => visitor.visit_f64(value),
                Literal::Text => visitor.visit_borrowed_str(&scalar.text),
            },
            Kind::Scalar(scalar) => visitor.visit_borrowed_str(&scalar.text),
            Kind::Sequence(items) => self.list(items, visitor),
            Kind::Mapping(entries) => self.mapping(entries, visitor),
        }
    }

    fn list<V: Visitor<'de>>(self, items: &'de [Node], visitor: V) -> Result<V::Value, DecodeError> {
        let mut access = Items { parent: self, items: items.iter() };
        let value = visitor.visit_seq(&mut access)?;
        match access.items.next() {
            Some(extra) => Err(self.child(extra, None, extra.id).settle(DecodeError::new("one item too many"))),
            None => Ok(value),
        }
    }

    fn mapping<V: Visitor<'de>>(self, entries: &'de [Entry], visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_map(Entries { parent: self, entries: entries.iter(), current: None })
    }

    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let literal = match &self.node.kind {
            Kind::Scalar(scalar) if scalar.may_be_literal() => Literal::of(&scalar.text),
            _ => Literal::Text,
        };
        match literal {
            Literal::Unsigned(value) => visitor.visit_u64(value),
            Literal::Signed(value) => visitor.visit_i64(value),
            _ => Err(self.mismatch(&plain_words(&visitor as &dyn Expected))),
        }
    }

    fn text<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Scalar(scalar) => visitor.visit_borrowed_str(&scalar.text),
            _ => Err(self.mismatch(&plain_words(&visitor as &dyn Expected))),
        }
    }
}

/// What a plain scalar is where no type is asked for. Only the spellings that JSON also has: `0123`, `0x1F`, `1_000` and
/// `yes` are text.
enum Literal {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

impl Literal {
    fn of(text: &str) -> Self {
        match text {
            "true" => return Self::Bool(true),
            "false" => return Self::Bool(false),
            _ => {}
        }
        let digits = text.strip_prefix('-').unwrap_or(text);
        let whole = digits.bytes().take_while(u8::is_ascii_digit).count();
        if whole == 0 || (whole > 1 && digits.starts_with('0')) {
            return Self::Text;
        }
        let rest = &digits[whole..];
        if rest.is_empty() {
            if let Ok(value) = text.parse() {
                return Self::Unsigned(value);
            }
            return text.parse().map_or(Self::Text, Self::Signed);
        }
        let float = rest.starts_with(['.', 'e', 'E']) && rest.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
        match text.parse::<f64>() {
            Ok(value) if float && value.is_finite() => Self::Float(value),
            _ => Self::Text,
        }
    }
}

fn describe(scalar: &Scalar) -> &'static str {
    match Literal::of(&scalar.text) {
        _ if !scalar.may_be_literal() => "text in quotes",
        Literal::Bool(_) => "true or false",
        Literal::Unsigned(_) | Literal::Signed(_) | Literal::Float(_) => "a number",
        Literal::Text => "text",
    }
}

fn mended(scalar: &Scalar, expected: &str) -> Option<&'static str> {
    let is_bool = expected == "true or false";
    let is_number = expected.contains("number");
    match Literal::of(&scalar.text) {
        Literal::Bool(_) if is_bool && !scalar.plain => Some("write it without quotes"),
        Literal::Unsigned(_) | Literal::Signed(_) if is_number && !scalar.plain => Some("write it without quotes"),
        _ if is_bool => Some("write `true` or `false`"),
        _ => None,
    }
}

/// `message` without the value, however short; in a short value's place only where it is quoted, since it could be part
/// of any word.
fn hide(message: &str, value: &str, written: &str) -> String {
    let quoted = message.replace(&format!("`{value}`"), &format!("`{written}`"));
    if value.len() < 3 { quoted } else { quoted.replace(value, written) }
}

macro_rules! settled {
    ($($name:ident => $how:ident;)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.settled(self.$how(visitor))
        })*
    };
}

impl<'de> Deserializer<'de> for Decoder<'de, '_> {
    type Error = DecodeError;

    settled! {
        deserialize_any => any;
        deserialize_i8 => number;
        deserialize_i16 => number;
        deserialize_i32 => number;
        deserialize_i64 => number;
        deserialize_u8 => number;
        deserialize_u16 => number;
        deserialize_u32 => number;
        deserialize_u64 => number;
        deserialize_char => text;
        deserialize_str => text;
        deserialize_string => text;
        deserialize_identifier => text;
        deserialize_bytes => text;
        deserialize_byte_buf => text;
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Scalar(scalar) if scalar.may_be_literal() => match Literal::of(&scalar.text) {
                Literal::Bool(value) => self.settled(visitor.visit_bool(value)),
                _ => Err(self.mismatch("true or false")),
            },
            _ => Err(self.mismatch("true or false")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Scalar(scalar) if scalar.may_be_literal() => match Literal::of(&scalar.text) {
                Literal::Float(value) => self.settled(visitor.visit_f64(value)),
                _ => self.settled(self.number(visitor)),
            },
            _ => Err(self.mismatch("a number")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Null { implicit: false } => self.settled(visitor.visit_none()),
            // Nothing written is not the same as nothing meant: `tls:` with its content lost must not turn TLS off.
            Kind::Null { implicit: true } => Err(self.mismatch("a value")),
            _ => self.settled(visitor.visit_some(self)),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Null { implicit: false } => self.settled(visitor.visit_unit()),
            _ => Err(self.mismatch("null")),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        self.settled(visitor.visit_newtype_struct(self))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Sequence(items) => self.settled(self.list(items, visitor)),
            _ => Err(self.mismatch("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Mapping(entries) => self.settled(self.mapping(entries, visitor)),
            _ => Err(self.mismatch(&plain_words(&visitor as &dyn Expected))),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let access = match &self.node.kind {
            Kind::Scalar(scalar) => Variant { parent: self, name: &scalar.text, entry: None },
            Kind::Mapping(entries) if entries.len() == 1 => match entries.first() {
                Some(entry) => Variant { parent: self, name: entry.name(), entry: Some(entry) },
                None => return Err(self.mismatch(&one_of(variants))),
            },
            _ => return Err(self.mismatch(&one_of(variants))),
        };
        self.settled(visitor.visit_enum(access))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }
}

fn one_of(variants: &[&str]) -> String {
    format!("one of {}", variants.join(", "))
}

struct Items<'de, 'r> {
    parent: Decoder<'de, 'r>,
    items: std::slice::Iter<'de, Node>,
}

impl<'de> de::SeqAccess<'de> for &mut Items<'de, '_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let ignored = &self.parent.reading.ignored;
        let Some(item) = self.items.find(|item| !ignored.contains(&item.id)) else { return Ok(None) };
        let decoder = self.parent.child(item, None, item.id);
        decoder.settled(seed.deserialize(decoder)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'de, 'r> {
    parent: Decoder<'de, 'r>,
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'de, '_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let ignored = &self.parent.reading.ignored;
        self.current = self.entries.find(|entry| !ignored.contains(&entry.key.id));
        let Some(entry) = self.current else { return Ok(None) };
        let decoder = self.parent.child(&entry.key, None, entry.key.id);
        decoder.settled(seed.deserialize(decoder)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some(entry) = self.current.take() else { return Err(de::Error::custom("a value was asked for before its key")) };
        let decoder = self.parent.child(&entry.value, Some(&entry.key), entry.key.id);
        decoder.settled(seed.deserialize(decoder))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

struct Variant<'de, 'r> {
    parent: Decoder<'de, 'r>,
    name: &'de str,
    entry: Option<&'de Entry>,
}

impl<'de, 'r> de::EnumAccess<'de> for Variant<'de, 'r> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DecodeError> {
        let name: StrDeserializer<'de, DecodeError> = de::IntoDeserializer::into_deserializer(self.name);
        let decoder = match self.entry {
            Some(entry) => self.parent.child(&entry.key, None, entry.key.id),
            None => self.parent,
        };
        let value = decoder.settled(seed.deserialize(name))?;
        Ok((value, self))
    }
}

impl<'de> Variant<'de, '_> {
    fn content(&self) -> Result<Self, DecodeError> {
        match self.entry {
            Some(entry) => Ok(Self {
                parent: self.parent.child(&entry.value, Some(&entry.key), entry.key.id),
                name: self.name,
                entry: self.entry,
            }),
            None => Err(self.parent.settle(DecodeError::new(format!("`{}` needs a value", self.name)))),
        }
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de, '_> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match self.entry {
            Some(_) => Err(self.parent.settle(DecodeError::new(format!("`{}` takes no value", self.name)))),
            None => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        let decoder = self.content()?.parent;
        decoder.settled(seed.deserialize(decoder))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.content()?.parent.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DecodeError> {
        self.content()?.parent.deserialize_map(visitor)
    }
}
