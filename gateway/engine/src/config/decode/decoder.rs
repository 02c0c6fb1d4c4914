//! A node of the tree as a serde deserializer.
//!
//! It is strict: text is any scalar as it is written, but a number or a boolean is only what is not quoted, a struct is
//! never a list, and what is empty is nothing but empty.

use super::Reading;
use super::literal::{Literal, describe, mended};
use super::problem::{DecodeError, plain_words};
use crate::config::document::{Entry, Kind, Node, NodeId, Scalar};
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, Expected, Visitor};

/// A node with where it hangs.
#[derive(Clone, Copy)]
pub(super) struct Decoder<'de, 'r> {
    pub(super) node: &'de Node,
    pub(super) key: Option<&'de Node>,
    pub(super) slot: Option<NodeId>,
    pub(super) reading: &'r Reading,
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
