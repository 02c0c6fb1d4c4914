//! The JSON Schema of configurations, so that editors complete and check what the gateway will read.

use super::raw::Config;
use crate::group::{Combination, MAX_MEMBERS};
use portcullis_plugin::{FilterTable, Mode};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

const ENTRY: &str = "FilterEntry";
const PREFIX: &str = "#/$defs/";

/// The schema (JSON Schema 2020-12) of a configuration whose filters are those of `table`.
pub fn schema(table: &FilterTable) -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mode = generator.subschema_for::<Mode>().to_value();
    let filters: Vec<(&str, Value)> =
        table.iter().map(|factory| (factory.name, factory.schema(&mut generator).to_value())).collect();
    let mut root = generator.into_root_schema_for::<Config>().to_value();
    root["title"] = json!("Portcullis configuration");
    let names: Vec<(String, String)> = filters.iter().filter_map(|(name, schema)| rename(name, schema)).collect();
    let entry = entry_schema(&filters, &mode, &root);
    if let Some(defs) = root.get_mut("$defs").and_then(Value::as_object_mut) {
        defs.insert(ENTRY.to_owned(), entry);
        let renamed = std::mem::take(defs);
        defs.extend(renamed.into_iter().map(|(name, schema)| (new_name(&name, &names).unwrap_or(name), schema)));
    }
    rename_references(&mut root, &names);
    allow_unquoted(&mut root);
    root
}

/// One alternative for each filter: its name as the key, and `mode`.
fn entry_schema(filters: &[(&str, Value)], mode: &Value, root: &Value) -> Value {
    let alternatives: Vec<Value> = filters
        .iter()
        .map(|(name, schema)| {
            let mut properties = Map::new();
            properties.insert((*name).to_owned(), schema.clone());
            properties.insert("mode".to_owned(), mode.clone());
            let mut alternative = json!({
                "type": "object",
                "properties": properties,
                "required": [name],
                "additionalProperties": false
            });
            if let Some(text) = target(schema, root).get("description") {
                alternative["description"] = text.clone();
            }
            alternative
        })
        .collect();
    // An empty `anyOf` is not a valid schema, and there are no groups of nothing.
    if alternatives.is_empty() {
        return json!({ "not": {} });
    }
    let groups = Combination::ALL.into_iter().map(|combination| {
        let members = json!({
            "type": "array",
            "items": { "$ref": format!("{PREFIX}{ENTRY}") },
            "minItems": 2,
            "maxItems": MAX_MEMBERS,
            "description": combination.description()
        });
        json!({
            "type": "object",
            "properties": { combination.name(): members, "mode": mode },
            "required": [combination.name()],
            "additionalProperties": false,
            "description": combination.description()
        })
    });
    json!({ "anyOf": alternatives.into_iter().chain(groups).collect::<Vec<_>>() })
}

/// Words that look like numbers, such as the TLS version `1.2`, may be written without quotes.
fn allow_unquoted(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let words = map.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
            let numbers: Vec<Value> = words.filter_map(|word| word.parse().ok().map(Value::Number)).collect();
            if let (false, Some(words)) = (numbers.is_empty(), map.get_mut("enum").and_then(Value::as_array_mut)) {
                words.extend(numbers);
                map.insert("type".to_owned(), json!(["string", "number"]));
            }
            map.values_mut().for_each(allow_unquoted);
        }
        Value::Array(items) => items.iter_mut().for_each(allow_unquoted),
        _ => {}
    }
}

/// What a schema is or refers to.
pub(super) fn target<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match referred(schema).and_then(|name| root.get("$defs")?.get(name)) {
        Some(definition) => definition,
        None => schema,
    }
}

pub(super) fn referred(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(PREFIX)
}

/// Filters' types are mostly called `Config`: their definitions are called after the filter instead.
fn rename(filter: &str, schema: &Value) -> Option<(String, String)> {
    Some((referred(schema)?.to_owned(), format!("filter_{filter}")))
}

fn new_name(name: &str, names: &[(String, String)]) -> Option<String> {
    names.iter().find(|(old, _)| old == name).map(|(_, new)| new.clone())
}

fn rename_references(value: &mut Value, names: &[(String, String)]) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let renamed = match value.as_str().and_then(|text| text.strip_prefix(PREFIX)) {
                    Some(name) if key == "$ref" => new_name(name, names),
                    _ => None,
                };
                match renamed {
                    Some(new) => *value = Value::String(format!("{PREFIX}{new}")),
                    None => rename_references(value, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_references(item, names)),
        _ => {}
    }
}
