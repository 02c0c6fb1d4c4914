//! What a route asks of a claim: `tenant: acme`, `realm.level: [2, 3]`, `email_verified: true`.

use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// A value that a claim may have. A text is not the number or the truth value that it spells.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scalar {
    Text(String),
    Number(serde_json::Number),
    Bool(bool),
}

impl Scalar {
    fn matches(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(expected), Value::String(text)) => expected == text,
            (Self::Number(expected), Value::Number(number)) => expected == number,
            (Self::Bool(expected), Value::Bool(flag)) => expected == flag,
            _ => false,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Number(number) => number.fmt(f),
            Self::Bool(flag) => flag.fmt(f),
        }
    }
}

/// One value, or a list of which any will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyOf(Vec<Scalar>);

impl AnyOf {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl de::Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a whole number, true or false")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(flag))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
        // JSON reads a number without a sign as unsigned, and the two kinds never compare equal.
        Ok(Scalar::Number(u64::try_from(number).map_or_else(|_| number.into(), Into::into)))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number.into()))
    }
}

impl<'de> Deserialize<'de> for AnyOf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = AnyOf;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a whole number, true, false, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AnyOf, E> {
                ScalarVisitor.visit_str(text).map(|one| AnyOf(vec![one]))
            }

            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<AnyOf, E> {
                ScalarVisitor.visit_bool(flag).map(|one| AnyOf(vec![one]))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<AnyOf, E> {
                ScalarVisitor.visit_i64(number).map(|one| AnyOf(vec![one]))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<AnyOf, E> {
                ScalarVisitor.visit_u64(number).map(|one| AnyOf(vec![one]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<AnyOf, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(AnyOf(all))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for AnyOf {
    fn schema_name() -> Cow<'static, str> {
        "ClaimValues".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let scalar = ["string", "integer", "boolean"];
        schemars::json_schema!({
            "description": "A value, or a list of which any will do.",
            "anyOf": [{ "type": scalar }, { "type": "array", "minItems": 1, "items": { "type": scalar } }]
        })
    }
}

/// A claim, and the values that it may have.
pub(crate) struct ClaimRule {
    name: String,
    /// The way to a member, if the name has dots.
    way: Vec<String>,
    values: AnyOf,
    pub(crate) expected: String,
}

impl ClaimRule {
    /// `None` if the name could name no claim.
    pub(crate) fn new(name: String, values: AnyOf) -> Option<Self> {
        let way: Vec<String> = name.split('.').map(str::to_owned).collect();
        // The name of a claim may be a URL, whose dots are no way; such a name is only looked up as a whole.
        let way = if way.iter().any(String::is_empty) || name.contains("://") { Vec::new() } else { way };
        if name.is_empty() {
            return None;
        }
        let expected = format!("{name} one of {}", crate::text::first_few(&values.0, values.0.len()));
        Some(Self { name, way, values, expected })
    }

    pub(crate) fn is_of(&self, name: &str) -> bool {
        self.name == name
    }

    /// A claim of the whole name wins over the way to a member.
    fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        claims.get(&self.name).or_else(|| {
            let (first, rest) = self.way.split_first()?;
            rest.iter().try_fold(claims.get(first)?, |value, key| value.get(key))
        })
    }

    /// Whether the claim has one of the values; of a list, one item is enough.
    pub(crate) fn holds(&self, claims: &Map<String, Value>) -> bool {
        let any = |value: &Value| self.values.0.iter().any(|expected| expected.matches(value));
        match self.find(claims) {
            Some(Value::Array(items)) => items.iter().any(any),
            Some(value) => any(value),
            None => false,
        }
    }

    /// What the claim is, short enough for a log.
    pub(crate) fn observed(&self, claims: &Map<String, Value>) -> String {
        const LONGEST: usize = 80;
        match self.find(claims) {
            None => "no such claim".to_owned(),
            Some(Value::Object(_)) => "an object".to_owned(),
            Some(value) => {
                let text = value.to_string();
                match text.char_indices().nth(LONGEST) {
                    Some((end, _)) => format!("{}…", &text[..end]),
                    None => text,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(name: &str, values: &str, claims: Value) -> bool {
        let values: AnyOf = crate::test_support::read(values).unwrap();
        ClaimRule::new(name.to_owned(), values).unwrap().holds(claims.as_object().unwrap())
    }

    #[test]
    fn values_have_a_type() {
        assert!(
            holds("a", "x", json!({ "a": "x" })) && holds("a", "7", json!({ "a": 7 })) && holds("a", "-7", json!({ "a": -7 }))
        );
        assert!(holds("a", "true", json!({ "a": true })) && holds("a", "[x, 7]", json!({ "a": 7 })));
        for (values, claims) in [
            ("x", json!({ "a": "X" })),
            ("x", json!({ "a": "xy" })),
            ("7", json!({ "a": "7" })),
            ("'7'", json!({ "a": 7 })),
            ("true", json!({ "a": "true" })),
            ("'true'", json!({ "a": true })),
            ("x", json!({ "b": "x" })),
            ("x", json!({ "a": { "x": true } })),
            ("x", json!({ "a": null })),
            ("x", json!({ "a": [["x"]] })),
        ] {
            assert!(!holds("a", values, claims.clone()), "{values} in {claims}");
        }
    }

    #[test]
    fn of_a_list_one_item_is_enough() {
        assert!(holds("a", "[x, y]", json!({ "a": ["z", "y"] })) && !holds("a", "[x, y]", json!({ "a": ["z"] })));
        assert!(!holds("a", "x", json!({ "a": [] })));
    }

    #[test]
    fn a_way_leads_to_a_member_and_a_whole_name_wins() {
        assert!(holds("a.b", "x", json!({ "a": { "b": "x" } })));
        assert!(!holds("a.b", "x", json!({ "a.b": "other", "a": { "b": "x" } })));
        assert!(holds("https://a.example/t", "x", json!({ "https://a.example/t": "x" })));
        assert!(!holds("https://a.example/t", "x", json!({ "https://a": { "example/t": "x" } })));
    }

    #[test]
    fn what_is_observed_is_short() {
        let rule = ClaimRule::new("a".into(), AnyOf(vec![])).unwrap();
        let observed = rule.observed(json!({ "a": "é".repeat(500) }).as_object().unwrap());
        assert!(observed.chars().count() < 90 && observed.ends_with('…'));
        assert!(crate::test_support::read::<AnyOf>("1.5").is_err() && crate::test_support::read::<AnyOf>("{ a: b }").is_err());
    }
}
