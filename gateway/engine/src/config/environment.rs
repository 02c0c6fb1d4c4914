//! `${NAME}` and `${NAME:-default}` in values.
//!
//! They are replaced after the text has become a tree, so that a value can only ever be a value: it adds no key and ends
//! no list. `$$` is a dollar sign, and a dollar sign before anything but `{` and `$` is itself.

use super::diagnostic::{Secret, Sources};
use super::document::{Fault, Kind, Node, Scalar, Span};
use std::borrow::Cow;

/// Where values come from: `std::env::var`, or a table in tests.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Replaces the references in every value of the tree. Values found are told to `sources`, so that nothing shows them.
pub fn expand(node: &mut Node, environment: &Environment<'_>, sources: &mut Sources, faults: &mut Vec<Fault>) {
    match &mut node.kind {
        Kind::Null { .. } => {}
        Kind::Scalar(scalar) => expand_scalar(scalar, node.span, environment, sources, faults),
        Kind::Sequence(items) => items.iter_mut().for_each(|item| expand(item, environment, sources, faults)),
        Kind::Mapping(entries) => {
            for entry in entries {
                if entry.name().contains("${") {
                    faults.push(Fault::new("a key cannot come from the environment", entry.key.span));
                }
                expand(&mut entry.value, environment, sources, faults);
            }
        }
    }
}

fn expand_scalar(scalar: &mut Scalar, span: Span, environment: &Environment<'_>, sources: &mut Sources, faults: &mut Vec<Fault>) {
    if !scalar.text.contains('$') {
        return;
    }
    match substitute(&scalar.text, environment) {
        Ok(Substituted { text, secrets }) => {
            if !secrets.is_empty() {
                let written = std::mem::take(&mut scalar.text);
                sources.hide(Secret { value: text.clone(), written: written.clone() });
                secrets.into_iter().for_each(|secret| sources.hide(secret));
                scalar.written = Some(written);
            }
            scalar.text = text;
        }
        Err((message, help)) => faults.push(Fault::new(message, span).help(help)),
    }
}

struct Substituted {
    text: String,
    secrets: Vec<Secret>,
}

fn substitute(text: &str, environment: &Environment<'_>) -> Result<Substituted, (String, String)> {
    let mut done = Substituted { text: String::with_capacity(text.len()), secrets: Vec::new() };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        done.text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(reference) = after.strip_prefix('{') {
            let Some(end) = reference.find('}') else {
                return Err(("the reference `${` is never closed".into(), "write `$${` for a text that begins so".into()));
            };
            let written = &reference[..end];
            let value = resolve(written, environment)?;
            done.text.push_str(&value);
            done.secrets.push(Secret { value: value.into_owned(), written: format!("${{{written}}}") });
            rest = &reference[end + 1..];
        } else {
            done.text.push('$');
            rest = after.strip_prefix('$').unwrap_or(after);
        }
    }
    done.text.push_str(rest);
    Ok(done)
}

fn resolve<'t>(reference: &'t str, environment: &Environment<'_>) -> Result<Cow<'t, str>, (String, String)> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let well_formed = !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !default.is_some_and(|default| default.contains("${"));
    if !well_formed {
        return Err((
            format!("`${{{reference}}}` is not a reference to the environment"),
            "write `${NAME}` or `${NAME:-default}`, or `$${` for a text that begins so".into(),
        ));
    }
    // As in a shell, `:-` also stands in for an empty value.
    match (environment(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(Cow::Borrowed(default)),
        (Some(value), _) => Ok(Cow::Owned(value)),
        (None, Some(default)) => Ok(Cow::Borrowed(default)),
        (None, None) => Err((
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: `${{{name}:-default}}`"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, String> {
        let environment = |name: &str| match name {
            "HOST" => Some("db.example.test".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${HOST}".to_owned()),
            _ => None,
        };
        substitute(text, &environment).map(|done| done.text).map_err(|(message, _)| message)
    }

    #[test]
    fn references_are_replaced_once_and_dollar_signs_stay() {
        for (text, expected) in [
            ("${HOST}:5432", "db.example.test:5432"),
            ("${NONE:-localhost}:${EMPTY:-1}", "localhost:1"),
            ("a${EMPTY}b", "ab"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$db.example.test"),
            ("^/orders/[0-9]+$", "^/orders/[0-9]+$"),
            ("$1 and $HOST", "$1 and $HOST"),
            ("${NONE:-a:-b}", "a:-b"),
            ("${TRICKY}", "${HOST}"),
        ] {
            assert_eq!(run(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in ["${NONE}", "${", "${}", "${1A}", "${A-B}", "${HOST:-${EMPTY}}", "${ HOST }", "${HOST:default}"] {
            assert!(run(text).is_err(), "{text}");
        }
    }
}
