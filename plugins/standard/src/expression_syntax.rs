//! From the text of an expression to its tree; and what is wrong with it, where, and in words that people write.

use crate::expression_check::Problem;
use cel::common::ast::IdedExpr;
use cel::parser::{ParseErrors, PrattParser};
use portcullis_plugin::ConfigError;

/// Brackets within brackets, for the parser.
const MAX_BRACKETS: u16 = 32;

/// Of the library's two parsers, the one that needs little stack for what is nested, and stops at a depth.
pub(crate) fn parse(source: &str) -> Result<IdedExpr, ParseErrors> {
    PrattParser::new().max_recursion_depth(MAX_BRACKETS).parse(source)
}

/// What the checker found, at its place.
pub(crate) fn located(source: &str, problem: Problem) -> ConfigError {
    let error = ConfigError::new(problem.message);
    let error = match problem.help {
        Some(help) => error.help(help),
        None => error,
    };
    match start_of(source, problem.node) {
        Some(start) => placed(error, source, name_at(source, start)),
        None => error,
    }
}

/// A member's node begins at its dot; what is wrong is the name behind it.
fn name_at(source: &str, start: usize) -> usize {
    match source.get(start..).and_then(|rest| rest.strip_prefix('.')) {
        Some(rest) => source.len() - rest.trim_start().len(),
        None => start,
    }
}

/// What the parser found. It stops at the first thing that it does not know, so what comes after is a consequence.
pub(crate) fn error(source: &str, errors: &ParseErrors) -> ConfigError {
    let Some(first) = errors.errors.first() else { return ConfigError::new("the expression cannot be read") };
    let message = first.msg.lines().next().unwrap_or_default().trim_start_matches("Syntax error: ");
    let Some(start) = byte_at(source, first.pos) else {
        return ConfigError::new(format!("the expression cannot be read: {message}"));
    };
    // `<>` is where it begins, and not at the sign that the parser stumbles over.
    let before = source.get(..start).unwrap_or_default();
    let on_sign = source.get(start..).is_some_and(|rest| rest.starts_with(is_sign));
    let start = if on_sign { before.trim_end_matches(is_sign).len() } else { start };
    let token = token(source.get(start..).unwrap_or_default());
    let what = match token {
        "" => "it ends where a value or a bracket should come".to_owned(),
        token if message.contains("input") || message == "unexpected token" => format!("`{token}` cannot stand here"),
        _ => message.to_owned(),
    };
    let error = ConfigError::new(format!("the expression cannot be read: {what}"));
    // A word before a word: the first was read as a name.
    let word = before.trim_end().rsplit(|c: char| !c.is_alphanumeric()).next().filter(|word| word.eq_ignore_ascii_case("not"));
    let error = match meant(word.unwrap_or(token)) {
        Some(meant) => error.help(format!("did you mean `{meant}`?")),
        None => error,
    };
    placed(error, source, start)
}

/// What other languages write, and CEL otherwise.
fn meant(token: &str) -> Option<&'static str> {
    Some(match token {
        "=" | "===" | "eq" | "is" => "==",
        "<>" | "!==" | "ne" => "!=",
        "&" | "and" | "AND" => "&&",
        "|" | "or" | "OR" => "||",
        "not" | "NOT" | "Not" => "!",
        "=~" => "text.matches('pattern')",
        "IN" => "in",
        "None" | "nil" | "NULL" => "null",
        _ => return None,
    })
}

/// A word, or a run of signs; else the one character that is there.
fn token(rest: &str) -> &str {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let Some(first) = rest.chars().next() else { return "" };
    let end = match first {
        c if is_word(c) => rest.find(|c| !is_word(c)),
        c if is_sign(c) => rest.find(|c| !is_sign(c)),
        c => Some(c.len_utf8()),
    };
    rest.get(..end.unwrap_or(rest.len())).unwrap_or_default()
}

fn is_sign(c: char) -> bool {
    "=!<>&|~".contains(c)
}

fn placed(error: ConfigError, source: &str, start: usize) -> ConfigError {
    let Some(before) = source.get(..start) else { return error };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    error.within(start, format!("at line {line}, column {column} of the expression"))
}

/// The parser counts lines and bytes, from 1.
fn byte_at(source: &str, (line, column): (isize, isize)) -> Option<usize> {
    let (line, column) = (usize::try_from(line).ok()?.checked_sub(1)?, usize::try_from(column).ok()?.checked_sub(1)?);
    let before: usize = source.split_inclusive('\n').take(line).map(str::len).sum();
    source.is_char_boundary(before + column).then_some(before + column)
}

fn start_of(source: &str, node: u64) -> Option<usize> {
    // The parser tells where its nodes were only when it fails. The same text with one bracket too many fails after all of
    // its nodes got the same numbers. The line break ends a comment.
    let errors = parse(&format!("{source}\n)")).err()?;
    let (start, _) = errors.errors.iter().find_map(|error| error.source_info.as_ref()?.offset_for(node))?;
    usize::try_from(start).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(source: &str) -> String {
        error(source, &parse(source).unwrap_err()).to_string()
    }

    #[test]
    fn what_another_language_writes_is_known() {
        for (source, says) in [
            ("request.method = 'GET'", "`=` cannot stand here, at line 1, column 16 of the expression (did you mean `==`?)"),
            ("a == 'b' and c", "`and` cannot stand here, at line 1, column 10 of the expression (did you mean `&&`?)"),
            ("a ==\n  'b' or c", "`or` cannot stand here, at line 2, column 7 of the expression (did you mean `||`?)"),
            ("a === 'b'", "(did you mean `==`?)"),
            ("a <> 'b'", "(did you mean `!=`?)"),
            ("not a", "(did you mean `!`?)"),
            ("a =~ 'b'", "(did you mean `text.matches('pattern')`?)"),
            ("'é' == a b", "`b` cannot stand here, at line 1, column 10"),
            ("a ==", "it ends where a value or a bracket should come, at line 1, column 5"),
            ("(a", "it ends where a value or a bracket should come, at line 1, column 3"),
            ("a)", "`)` cannot stand here, at line 1, column 2"),
        ] {
            assert!(refused(source).contains(says), "{source}: {}", refused(source));
        }
    }

    #[test]
    fn nothing_of_the_parsers_own_words_is_left_of_the_common_mistakes() {
        for source in ["a = b", "a b", "(a", "a)", "a ? b", "[a, b", "a == 'b", "a & b", "{a: }", "a.", ".", "a..b", "!"] {
            let told = refused(source);
            assert!(!told.contains("EOF") && !told.contains("mismatched") && told.contains("at line 1"), "{source}: {told}");
        }
    }
}
