//! Judgements on single values that all parts share.

use crate::config::findings::Findings;
use portcullis_plugin::ConfigError;
use portcullis_plugin::units::TimeSpan;
use std::collections::HashMap;

pub(super) fn unique_names<'a>(names: impl Iterator<Item = &'a str>, what: &str, findings: &mut Findings) {
    let mut seen = HashMap::new();
    for (index, name) in names.enumerate() {
        findings.within(index, |findings| check_name("name", name, findings));
        if let Some(first) = seen.insert(name, index) {
            let message = format!("there are two {what}s named `{name}`");
            findings.error(ConfigError::new(message).help(format!("the other is number {}", first + 1)).at("name").at(index));
        }
    }
}

/// Names appear in metrics, logs and on terminals.
pub(super) fn check_name(key: &str, name: &str, findings: &mut Findings) {
    if name.trim().is_empty() {
        findings.refuse(key, "a name must not be empty", "it appears in metrics and logs");
    } else if name.len() > 128 || name.chars().any(char::is_control) {
        findings.refuse(key, "the name is not printable, or longer than 128 bytes", "it appears in metrics and logs");
    }
}

pub(super) fn not_empty(key: &str, value: &str, findings: &mut Findings) {
    if value.is_empty() {
        findings.refuse(key, format!("`{key}` is empty"), "give it a value, or remove it");
    }
}

pub(super) fn at_least_one(key: &str, value: usize, findings: &mut Findings) {
    if value == 0 {
        findings.refuse(key, format!("`{key}` must be at least 1"), "leave it out for the default");
    }
}

pub(super) fn takes_time(key: &str, value: TimeSpan, findings: &mut Findings) {
    if value.get().is_zero() {
        findings.refuse(key, format!("`{key}` must be longer than 0"), "leave it out for the default");
    }
}

pub(super) fn absolute_path(key: &str, path: &str, findings: &mut Findings) {
    let clean = path.bytes().all(|b| b.is_ascii_graphic()) && !path.contains('#');
    if !path.starts_with('/') || !clean {
        findings.refuse(
            key,
            format!("`{path}` is not a path"),
            "write it as it stands in a request: it begins with `/`, and spaces and non-ASCII are percent-encoded",
        );
    }
}

/// RFC 9110, section 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
