//! Expressions in CEL, the Common Expression Language: compiled and checked when they are loaded, then run per request.
//!
//! [`expression_check`](crate::expression_check) judges it, [`expression_facts`](crate::expression_facts) makes the
//! values. An error while it runs, such as a claim that is not there, is no answer: it is never true.

use crate::expression_check::{self, Problem};
use crate::expression_facts;
use crate::expression_reads::Reads;
use crate::expression_refusal::{self, Part};
use crate::expression_syntax::{self, parse};
use cel::common::ast::IdedExpr;
use cel::extractors::This;
use cel::{Context, Env, ExecutionError, Value};
use portcullis_plugin::{ConfigError, Exchange, RequestHead};
use regex::{Regex, RegexBuilder};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// Bytes of an expression.
const MAX_LENGTH: usize = 4096;
/// Bytes of a compiled pattern.
const MAX_PATTERN: usize = 1 << 20;

/// The standard functions without optional values. `matches` is not among them: it would compile its pattern each time.
static FUNCTIONS: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::default().with_optional_support(false).with_stdlib()));

pub(crate) struct Expression {
    source: String,
    root: IdedExpr,
    reads: Reads,
    patterns: Arc<HashMap<String, Regex>>,
    /// The conditions that it joins by `&&`, if it joins any: to say which of them did not hold.
    parts: Vec<Part>,
}

/// What came out of an expression that did not come out true.
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
        let root = parse(source).map_err(|errors| expression_syntax::error(source, &errors))?;
        let located = |problem: Problem| expression_syntax::located(source, problem);
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
        let parts = parts(source, &root);
        Ok(Self { source: source.to_owned(), root, reads, patterns: Arc::new(patterns), parts })
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

    /// Exactly true, or what it was instead. Nothing that a request brought is in that.
    pub(crate) fn holds(&self, request: &RequestHead, exchange: &Exchange) -> Result<(), NotTrue> {
        self.result(&self.root, &self.context(request, exchange)?)
    }

    /// What it was instead of true, of which of its conditions, and the facts that those read. For people, after a refusal.
    pub(crate) fn refusal(&self, request: &RequestHead, exchange: &Exchange) -> String {
        let context = match self.context(request, exchange) {
            Ok(context) => context,
            Err(unclear) => return unclear,
        };
        let mut said = Vec::new();
        let mut reads = Vec::new();
        for part in &self.parts {
            if let Err(instead) = self.result(&part.root, &context) {
                said.push(format!("`{}` is {instead}", shortened(&part.text)));
                reads.push(&part.reads);
            }
        }
        if said.is_empty() {
            said.extend(self.result(&self.root, &context).err());
            reads.push(&self.reads);
        }
        said.push(expression_refusal::observed(reads, request, exchange));
        said.retain(|text| !text.is_empty());
        said.join("; ")
    }

    fn context(&self, request: &RequestHead, exchange: &Exchange) -> Result<Context<'static, 'static>, NotTrue> {
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
        Ok(context)
    }

    fn result(&self, root: &IdedExpr, context: &Context<'_, '_>) -> Result<(), NotTrue> {
        match Value::resolve(root, context) {
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
            // What `.` and `[]` are called differs with how they are written; that null has nothing within it does not.
            ExecutionError::NoSuchOverload(overload)
                if overload.argument_types().first().is_some_and(|of| of.starts_with("null"))
                    && overload.function().starts_with(['.', '_', '[']) =>
            {
                "what is null has no members".to_owned()
            }
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

/// The conditions that are joined by `&&`. None, if where one ends cannot be told without doubt.
fn parts(source: &str, root: &IdedExpr) -> Vec<Part> {
    let conditions = expression_refusal::conditions(root);
    let texts = expression_refusal::split(source);
    if conditions < 2 || texts.len() != conditions {
        return Vec::new();
    }
    let part = |text: &str| {
        let root = parse(text).ok()?;
        expression_check::check_size(&root).ok()?;
        let reads = expression_check::check(&root).ok()?;
        Some(Part { text: text.trim().to_owned(), root, reads })
    };
    texts.into_iter().map(part).collect::<Option<_>>().unwrap_or_default()
}

/// How much of an expression a finding repeats.
const SHOWN: usize = 200;

pub(crate) fn shortened(source: &str) -> String {
    let line = source.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}
