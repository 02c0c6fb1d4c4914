//! Expressions in CEL, the Common Expression Language: compiled and checked when they are loaded, then run per request.
//!
//! [`expression_check`](crate::expression_check) knows the types, [`expression_facts`](crate::expression_facts) makes the
//! values. An error while it runs, such as a claim that is not there, is no answer: it is never true.

use crate::expression_check::{self, Problem, Reads};
use crate::expression_facts;
use cel::common::ast::IdedExpr;
use cel::extractors::This;
use cel::parser::{ParseErrors, PrattParser};
use cel::{Context, Env, ExecutionError, Value};
use portcullis_plugin::{ConfigError, Exchange, RequestHead};
use regex::{Regex, RegexBuilder};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// Bytes of an expression.
const MAX_LENGTH: usize = 4096;
/// Brackets within brackets, for the parser.
const MAX_BRACKETS: u16 = 32;
/// Bytes of a compiled pattern.
const MAX_PATTERN: usize = 1 << 20;

/// The standard functions without optional values. `matches` is not among them: it would compile its pattern each time.
static FUNCTIONS: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::default().with_optional_support(false).with_stdlib()));

pub(crate) struct Expression {
    source: String,
    root: IdedExpr,
    reads: Reads,
    patterns: Arc<HashMap<String, Regex>>,
}

/// What came out of an expression that did not come out true. Shown in decisions: no value of the request is in it.
pub(crate) type NotTrue = String;

impl Expression {
    pub(crate) fn compile(source: &str) -> Result<Self, ConfigError> {
        if source.trim().is_empty() {
            return Err(ConfigError::new("the expression is empty"));
        }
        if source.len() > MAX_LENGTH {
            return Err(ConfigError::new(format!("the expression is longer than {MAX_LENGTH} bytes"))
                .help("split it over several filters: each of them must allow the request"));
        }
        let root = parse(source).map_err(|errors| syntax(&errors))?;
        let located = |problem: Problem| {
            let error = ConfigError::new(format!("{}{}", problem.message, place(source, problem.node)));
            match problem.help {
                Some(help) => error.help(help),
                None => error,
            }
        };
        expression_check::check_size(&root).map_err(located)?;
        let reads = expression_check::check(&root).map_err(located)?;
        let mut patterns = HashMap::new();
        for pattern in &reads.patterns {
            let regex = RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build().map_err(|error| {
                // The library shows the pattern over several lines, and says what is wrong on the last.
                let text = error.to_string();
                let what = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                ConfigError::new(format!("`{pattern}` is no regular expression: {what}"))
            })?;
            patterns.insert(pattern.clone(), regex);
        }
        Ok(Self { source: source.to_owned(), root, reads, patterns: Arc::new(patterns) })
    }

    /// The expression as it was written.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Whether a caller who proved to be somebody could make a difference.
    pub(crate) fn reads_principal(&self) -> bool {
        self.reads.has("principal")
    }

    pub(crate) fn facts(&self) -> impl Iterator<Item = String> {
        self.reads.facts()
    }

    pub(crate) fn reads_request(&self) -> bool {
        self.reads.has("request")
    }

    pub(crate) fn reads_connection(&self) -> bool {
        self.reads.has("connection")
    }

    pub(crate) fn reads_certificate(&self) -> bool {
        self.reads.member("connection", "cert")
    }

    /// Exactly true, or what it was instead.
    pub(crate) fn holds(&self, request: &RequestHead, exchange: &Exchange) -> Result<(), NotTrue> {
        let mut context = Context::with_env(Arc::clone(&FUNCTIONS));
        for (name, value) in expression_facts::variables(&self.reads, request, exchange)? {
            context.add_variable_from_value(name, value);
        }
        if !self.patterns.is_empty() {
            let patterns = Arc::clone(&self.patterns);
            let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| match patterns.get(pattern.as_str()) {
                Some(regex) => Ok(regex.is_match(&text)),
                None => Err(ExecutionError::function_error("matches", "not a pattern of this expression")),
            };
            context.add_function("matches", matches).map_err(|_| "`matches` cannot be called".to_owned())?;
        }
        match Value::resolve(&self.root, &context) {
            Ok(Value::Bool(true)) => Ok(()),
            Ok(Value::Bool(false)) => Err("false".to_owned()),
            Ok(other) => Err(format!("{}, and not true or false", other.type_of())),
            Err(error) => Err(format!("an error: {}", self.explain(&error))),
        }
    }

    /// The library's own words hold the values it met, and those may be secrets: only types and names are repeated.
    fn explain(&self, error: &ExecutionError) -> String {
        match error {
            ExecutionError::NoSuchKey(name) if self.source.contains(name.as_str()) => format!("there is no `{name}`"),
            ExecutionError::NoSuchKey(_) => "there is no such entry".to_owned(),
            ExecutionError::NoSuchOverload(overload) => {
                let types = overload.argument_types().join(", ");
                format!("`{}` does not take ({types})", overload.function().replace(['_', '@'], ""))
            }
            ExecutionError::UnexpectedType { got, want } => format!("a value is {got}, and not {want}"),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "a division by zero".to_owned(),
            ExecutionError::Overflow(..) => "a number became too large".to_owned(),
            ExecutionError::IndexOutOfBounds(_) => "a list is shorter than that".to_owned(),
            ExecutionError::FunctionError { function, .. } => format!("`{function}` cannot be applied"),
            _ => "a value is not of the type that is needed".to_owned(),
        }
    }
}

fn syntax(errors: &ParseErrors) -> ConfigError {
    let Some(first) = errors.errors.first() else { return ConfigError::new("the expression cannot be read") };
    let message = first.msg.lines().next().unwrap_or_default().trim_start_matches("Syntax error: ");
    match first.pos {
        (line, column) if line > 0 => {
            ConfigError::new(format!("the expression cannot be read: {message}, at line {line}, column {column} of it"))
        }
        _ => ConfigError::new(format!("the expression cannot be read: {message}")),
    }
}

/// Of the library's two parsers, the one that needs little stack for what is nested, and stops at a depth.
fn parse(source: &str) -> Result<IdedExpr, ParseErrors> {
    PrattParser::new().max_recursion_depth(MAX_BRACKETS).parse(source)
}

/// `, at line 1, column 9 of the expression`
fn place(source: &str, node: u64) -> String {
    // The parser tells where its nodes were only when it fails. The same text with one bracket too many fails after all of
    // its nodes got the same numbers. The line break ends a comment.
    let Err(errors) = parse(&format!("{source}\n)")) else { return String::new() };
    let start = errors.errors.iter().find_map(|error| error.source_info.as_ref()?.offset_for(node));
    let Some(before) = start.and_then(|(start, _)| source.get(..start as usize)) else { return String::new() };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(", at line {line}, column {column} of the expression")
}
