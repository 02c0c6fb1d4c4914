//! The reference pages: every key of the configuration and every reason code, from the types that define them.

use super::schema::{referred, schema, target};
use crate::group::Combination;
use portcullis_plugin::FilterTable;
use portcullis_plugin::reason;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Configuration reference

This page is generated from the types that read the configuration (`portcullis schema reference`); do not edit it.

A configuration is a YAML file, or a folder whose `*.yaml` and `*.yml` are read in the order of their names. Every key is
enforced or refused: an unknown key, a key given twice, and a key with nothing after it are errors. Values may refer to
the environment, as `${NAME}` or `${NAME:-default}`; `$$` is a dollar sign. Relative paths start from the folder of the
configuration file.
";

/// The configuration reference as Markdown.
pub fn reference(table: &FilterTable) -> String {
    let root = schema(table);
    let mut page = Page { root: &root, out: INTRODUCTION.to_owned(), sections: HashMap::new(), scalars: Vec::new() };
    page.object("Top level", "", &root, 2, "");
    page.filters(table);
    page.scalars();
    page.out
}

/// The table of reason codes as Markdown.
pub fn reasons() -> String {
    let mut out = String::from(
        "# Reason codes\n\nThis page is generated from the table in the filter API; do not edit it. The same code stands in the \
         access log, the metrics and `portcullis explain`. A code is never renamed.\n\n\
         | Code | Status | What it means | What to do |\n|---|---|---|---|\n",
    );
    for reason::ReasonInfo { code, status, meaning, remedy } in reason::TABLE {
        let _ = writeln!(out, "| `{code}` | {status} | {} | {} |", cell(meaning), cell(remedy));
    }
    out
}

struct Page<'a> {
    root: &'a Value,
    out: String,
    /// The anchor of each definition that has its section.
    sections: HashMap<&'a str, String>,
    /// Definitions without keys of their own, by the names they are shown under.
    scalars: Vec<&'a str>,
}

impl<'a> Page<'a> {
    /// A section for something with keys, with its example, and then those of what is within it.
    fn object(&mut self, title: &str, path: &str, schema: &'a Value, level: usize, example: &str) {
        let _ = write!(self.out, "\n{} {title}\n\n", "#".repeat(level));
        if let Some(text) = description(schema) {
            let _ = write!(self.out, "{text}\n\n");
        }
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
        if properties.is_empty() {
            let _ = write!(self.out, "It has no keys: write `{{}}`.\n{example}");
            return;
        }
        let mut inner = Vec::new();
        self.out.push_str("| Key | Value | |\n|---|---|---|\n");
        for (key, schema) in properties {
            let value = self.value(schema, &join(path, key), &mut inner);
            let mut text =
                description(schema).or_else(|| description(target(essence(schema), self.root))).unwrap_or_default().to_owned();
            if required.contains(&key.as_str()) {
                text = format!("**Required.** {text}");
            }
            let mut lines = self.choices(schema);
            if !text.is_empty() {
                lines.insert(0, cell(&text));
            }
            let _ = writeln!(self.out, "| `{key}` | {value} | {} |", lines.join("<br>"));
        }
        self.out.push_str(example);
        for (path, schema) in inner {
            self.object(&format!("`{path}`"), &path, schema, 3, "");
        }
    }

    /// What may stand after a key. Whatever has keys of its own gets a section.
    fn value(&mut self, schema: &'a Value, path: &str, inner: &mut Vec<(String, &'a Value)>) -> String {
        let schema = essence(schema);
        if let Some(name) = referred(schema) {
            if name == "FilterEntry" {
                return "[filter](#filters)".to_owned();
            }
            let definition = target(schema, self.root);
            if definition.get("properties").is_some() {
                let known = self.sections.get(name).cloned();
                let anchor = known.unwrap_or_else(|| {
                    self.sections.insert(name, anchor(path));
                    inner.push((path.to_owned(), definition));
                    anchor(path)
                });
                return format!("[keys](#{anchor})");
            }
            if definition.get("pattern").is_some() {
                if !self.scalars.contains(&name) {
                    self.scalars.push(name);
                }
                return format!("[{}](#values)", spaced(name));
            }
            return self.value(definition, path, inner);
        }
        if let Some(alternatives) = schema.get("anyOf").and_then(Value::as_array) {
            let mut texts: Vec<String> = Vec::new();
            for alternative in alternatives {
                let path = if alternative.get("items").is_some() { path } else { path.trim_end_matches("[]") };
                let text = self.value(alternative, path, inner);
                if !texts.contains(&text) {
                    texts.push(text);
                }
            }
            return texts.join(" or ");
        }
        if schema.get("properties").is_some() {
            inner.push((path.to_owned(), schema));
            return format!("[keys](#{})", anchor(path));
        }
        if schema.get("oneOf").is_some() || schema.get("enum").is_some() || schema.get("const").is_some() {
            return "one of".to_owned();
        }
        match type_of(schema) {
            "array" => match schema.get("items") {
                Some(items) => format!("list of {}", self.value(items, &format!("{path}[]"), inner)),
                None => "list".to_owned(),
            },
            "object" => match schema.get("additionalProperties") {
                Some(values) if values.is_object() => format!("name: {}", self.value(values, &join(path, "NAME"), inner)),
                _ => "keys with values".to_owned(),
            },
            "string" => "text".to_owned(),
            "integer" => "whole number".to_owned(),
            "number" => "number".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            _ => "any value".to_owned(),
        }
    }

    /// The words that may be given, with what they mean.
    fn choices(&self, schema: &Value) -> Vec<String> {
        let mut schema = target(essence(schema), self.root);
        if let Some(items) = schema.get("items") {
            schema = target(items, self.root);
        }
        let mut texts = Vec::new();
        let mut add = |value: &Value, text: Option<&str>| {
            // A number among words is one of them without its quotes.
            let Some(word) = value.as_str() else { return };
            texts.push(match text {
                Some(text) => format!("`{word}`: {}", cell(text)),
                None => format!("`{word}`"),
            });
        };
        let one_of = schema.get("oneOf").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for part in one_of.iter().chain([schema]) {
            let words = part.get("enum").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            words.iter().for_each(|word| add(word, None));
            if let Some(word) = part.get("const") {
                add(word, description(part));
            }
        }
        texts
    }

    fn filters(&mut self, table: &FilterTable) {
        self.out.push_str(
            "\n## Filters\n\nAn entry of a list of `filters` has one filter's name as its key, and may have `mode`: `enforce` (the \
             default), `shadow` (evaluated, counted and logged, but without effect) or `off`.\n",
        );
        for combination in Combination::ALL {
            let _ = write!(self.out, "\n### `{}`\n\n{}\n", combination.name(), combination.description());
        }
        for factory in table.iter() {
            let name = factory.name;
            let definition = self.root.get("$defs").and_then(|defs| defs.get(format!("filter_{name}")));
            let written = factory.example.trim_end();
            let value = if written.starts_with('{') && !written.contains('\n') {
                format!(" {written}\n")
            } else {
                std::iter::once("\n".to_owned()).chain(written.lines().map(|line| format!("    {line}\n"))).collect()
            };
            let example = format!("\n```yaml\n- {name}:{value}```\n");
            match definition {
                Some(definition) => self.object(&format!("`{name}`"), name, definition, 3, &example),
                None => {
                    let _ = write!(self.out, "\n### `{name}`\n{example}");
                }
            }
        }
    }

    fn scalars(&mut self) {
        self.out.push_str("\n## Values\n\n| Value | |\n|---|---|\n");
        for name in &self.scalars {
            let text = self.root.get("$defs").and_then(|defs| defs.get(name)).and_then(description).unwrap_or_default();
            let _ = writeln!(self.out, "| {} | {} |", spaced(name), cell(text));
        }
    }
}

/// Without the `null` that stands for a key which is left out.
fn essence(schema: &Value) -> &Value {
    let is_null = |schema: &&Value| schema.get("type").and_then(Value::as_str) == Some("null");
    let mut alternatives = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    let nullable = alternatives.clone().any(|alternative| is_null(&alternative));
    match alternatives.find(|alternative| !is_null(alternative)) {
        Some(alternative) if nullable => alternative,
        _ => schema,
    }
}

fn type_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(name)) => name,
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or_default(),
        _ => "",
    }
}

fn description(schema: &Value) -> Option<&str> {
    schema.get("description").and_then(Value::as_str)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The anchor that Markdown renderers make of a heading.
fn anchor(title: &str) -> String {
    title.to_lowercase().chars().filter(|c| c.is_alphanumeric() || *c == '_' || *c == '-').collect()
}

/// `TimeSpan` as `time span`.
fn spaced(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(c.to_lowercase());
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}
