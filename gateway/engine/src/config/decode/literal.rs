//! What a scalar is where its type is not said.

use crate::config::document::Scalar;

/// What a plain scalar is where no type is asked for. Only the spellings that JSON also has: `0123`, `0x1F`, `1_000` and
/// `yes` are text.
pub(super) enum Literal {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

impl Literal {
    pub(super) fn of(text: &str) -> Self {
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

pub(super) fn describe(scalar: &Scalar) -> &'static str {
    match Literal::of(&scalar.text) {
        _ if !scalar.may_be_literal() => "text in quotes",
        Literal::Bool(_) => "true or false",
        Literal::Unsigned(_) | Literal::Signed(_) | Literal::Float(_) => "a number",
        Literal::Text => "text",
    }
}

pub(super) fn mended(scalar: &Scalar, expected: &str) -> Option<&'static str> {
    let is_bool = expected == "true or false";
    let is_number = expected.contains("number");
    match Literal::of(&scalar.text) {
        Literal::Bool(_) if is_bool && !scalar.plain => Some("write it without quotes"),
        Literal::Unsigned(_) | Literal::Signed(_) if is_number && !scalar.plain => Some("write it without quotes"),
        _ if is_bool => Some("write `true` or `false`"),
        _ => None,
    }
}
