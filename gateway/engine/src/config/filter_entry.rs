//! One entry of a list of filters: a filter's name as its key, and how its verdict counts.

use portcullis_plugin::Mode;
use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess};
use std::borrow::Cow;
use std::fmt;

/// Which filter, and its mode. The filter's own configuration stays in the document until `compile` decodes it with
/// the filter's type, so that this module need not know the table of filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterEntry {
    pub name: String,
    pub mode: Mode,
}

impl<'de> Deserialize<'de> for FilterEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = FilterEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a filter's name with its configuration, such as `ip_allow: { allow: [10.0.0.0/8] }`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FilterEntry, A::Error> {
                let (mut name, mut mode): (Option<String>, _) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    if key == "mode" {
                        mode = Some(map.next_value()?);
                    } else if let Some(first) = &name {
                        return Err(de::Error::custom(format!("one entry has one filter, and this has `{first}` and `{key}`")));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        name = Some(key);
                    }
                }
                let name = name.ok_or_else(|| de::Error::custom("the entry names no filter"))?;
                Ok(FilterEntry { name, mode: mode.unwrap_or_default() })
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl JsonSchema for FilterEntry {
    fn schema_name() -> Cow<'static, str> {
        "FilterEntry".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        // `schema` replaces this by one alternative for each filter of the table.
        schemars::json_schema!({ "type": "object" })
    }
}
