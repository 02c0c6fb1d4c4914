//! Checks a CEL expression when it is loaded: names, types, and that its cost has a bound.
//!
//! The interpreter itself knows types only as it meets them, and would find a misspelt member when the first request
//! reaches it. Here every branch is looked at, also one that no sample request would take.
//!
//! What bounds the cost: a few hundred nodes, no loop within a loop, no list or map built by the expression but literal
//! lists, and patterns that are literals, compiled once.

use crate::expression_reads::{HIDDEN_HEADERS, Names, Reads};
use crate::expression_types::{
    Type, VARIABLES, common, describe, is_bool, is_number, is_scalar, is_text, member_names, misused, same,
};
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use portcullis_plugin::error::closest;

/// Nodes of the whole expression.
const MAX_NODES: usize = 600;
/// Nodes within `exists`, `all` or `exists_one`, which run once an item.
const MAX_LOOP_NODES: usize = 80;
/// Nodes above one another. The interpreter recurses.
const MAX_DEPTH: usize = 40;

const FUNCTIONS: &[&str] = &[
    "all",
    "bool",
    "contains",
    "double",
    "endsWith",
    "exists",
    "exists_one",
    "has",
    "int",
    "matches",
    "size",
    "startsWith",
    "string",
    "uint",
];

/// What is wrong, and at which node.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) node: u64,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Problem {
    fn new(node: u64, message: impl Into<String>) -> Self {
        Self { node, message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Refuses what is too large. Without recursion, because it comes before anything that recurses.
pub(crate) fn check_size(root: &IdedExpr) -> Result<(), Problem> {
    let mut waiting = vec![(root, 1)];
    let mut nodes = 0;
    while let Some((node, depth)) = waiting.pop() {
        nodes += 1;
        if nodes > MAX_NODES {
            return Err(Problem::new(node.id, format!("the expression has more than {MAX_NODES} parts")));
        }
        if depth > MAX_DEPTH {
            return Err(Problem::new(node.id, format!("the expression is nested more than {MAX_DEPTH} deep")));
        }
        let mut push = |child| waiting.push((child, depth + 1));
        match &node.expr {
            Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).for_each(&mut push),
            Expr::Select(select) => push(&select.operand),
            Expr::List(list) => list.elements.iter().for_each(&mut push),
            Expr::Comprehension(c) => {
                [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result].into_iter().for_each(&mut push);
            }
            // The last three are refused as they are, whatever is in them.
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Map(_) | Expr::Struct(_) => {}
        }
    }
    Ok(())
}

/// Checks an expression that [`check_size`] has passed, and says what it reads.
pub(crate) fn check(root: &IdedExpr) -> Result<Reads, Problem> {
    let mut checker = Checker { reads: Reads::default(), item: None };
    match checker.type_of(root)? {
        Type::Bool | Type::Any => Ok(checker.reads),
        other => Err(Problem::new(root.id, format!("the expression is {}, and not true or false", describe(other)))),
    }
}

struct Checker {
    reads: Reads,
    /// The name and type of the item in the loop that is being looked at.
    item: Option<(String, Type)>,
}

impl Checker {
    fn type_of(&mut self, node: &IdedExpr) -> Result<Type, Problem> {
        match &node.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Ok(Type::Bool),
                LiteralValue::Int(_) => Ok(Type::Int),
                LiteralValue::UInt(_) => Ok(Type::Uint),
                LiteralValue::Double(_) => Ok(Type::Double),
                LiteralValue::String(_) => Ok(Type::Text),
                LiteralValue::Null => Ok(Type::Null),
                LiteralValue::Bytes(_) => {
                    Err(Problem::new(node.id, "nothing here is compared with bytes").help("leave the `b` out"))
                }
            },
            Expr::Ident(name) => self.variable(node.id, name),
            Expr::Select(select) => self.select(node.id, select),
            Expr::List(list) => {
                let mut types = Vec::new();
                for element in &list.elements {
                    types.push(self.value(element)?);
                }
                Ok(Type::List(common(&types)))
            }
            Expr::Call(call) => self.call(node.id, call),
            Expr::Comprehension(comprehension) => self.comprehension(node.id, comprehension),
            Expr::Map(_) => {
                Err(Problem::new(node.id, "a map cannot be written here").help("compare with a list, or with values"))
            }
            Expr::Struct(_) | Expr::Unspecified => Err(Problem::new(node.id, "there are no messages to make here")),
        }
    }

    /// The type of a part that is used as a value: a record is only there for its members.
    fn value(&mut self, node: &IdedExpr) -> Result<Type, Problem> {
        match self.type_of(node)? {
            Type::Record(record) => Err(Problem::new(node.id, format!("`{}` is no value", record.name))
                .help(format!("name a member of it ({}), or compare it with null", member_names(record)))),
            other => Ok(other),
        }
    }

    fn variable(&mut self, node: u64, name: &str) -> Result<Type, Problem> {
        if let Some((_, item)) = self.item.as_ref().filter(|(item, _)| item == name) {
            return Ok(*item);
        }
        let Some((name, known)) = VARIABLES.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = VARIABLES.iter().map(|(name, _)| *name).collect();
            let problem = Problem::new(node, format!("unknown variable `{name}`"));
            return Err(match closest(name, &names) {
                Some(meant) => problem.help(format!("did you mean `{meant}`?")),
                None => problem.help(format!(
                    "known: {}; a name with `-` is written in brackets: request.headers[\"x-env\"]",
                    names.join(", ")
                )),
            });
        };
        self.reads.names.insert(("", *name));
        Ok(*known)
    }

    fn select(&mut self, node: u64, select: &SelectExpr) -> Result<Type, Problem> {
        if let Some(item) = self.entry(node, &select.operand, Some(&select.field))? {
            return Ok(if select.test { Type::Bool } else { item });
        }
        match self.type_of(&select.operand)? {
            Type::Record(record) => {
                let Some((member, known)) = record.members.iter().find(|(member, _)| *member == select.field) else {
                    let names: Vec<&str> = record.members.iter().map(|(name, _)| *name).collect();
                    let problem = Problem::new(node, format!("`{}` has no member `{}`", record.name, select.field));
                    return Err(match closest(&select.field, &names) {
                        Some(meant) => problem.help(format!("did you mean `{meant}`?")),
                        None => problem.help(format!("it has {}", names.join(", "))),
                    });
                };
                if select.test {
                    return Err(
                        Problem::new(node, format!("`{}.{member}` is always there", record.name)).help("compare it with null")
                    );
                }
                self.reads.names.insert((record.name, *member));
                // Whatever else is done with a map, it may be to read any entry of it.
                if matches!(known, Type::Map(_)) {
                    self.names(member).all = true;
                }
                Ok(*known)
            }
            Type::Map(item) => Ok(if select.test { Type::Bool } else { *item }),
            Type::Any => Ok(if select.test { Type::Bool } else { Type::Any }),
            other => Err(Problem::new(node, format!("{} has no member `{}`", describe(other), select.field))),
        }
    }

    /// The type of the entry `name` of one of the maps of a request, if `map` is one: only that entry is then read.
    fn entry(&mut self, node: u64, map: &IdedExpr, name: Option<&str>) -> Result<Option<Type>, Problem> {
        let Expr::Select(SelectExpr { operand, field, test: false }) = &map.expr else { return Ok(None) };
        let (Expr::Ident(root), Some(name)) = (&operand.expr, name) else { return Ok(None) };
        let (record, member, item) = match (root.as_str(), field.as_str()) {
            ("request", "query") => ("request", "query", Type::Text),
            ("request", "headers") => ("request", "headers", Type::Text),
            ("principal", "claims") => ("principal", "claims", Type::Any),
            _ => return Ok(None),
        };
        if member == "headers" {
            check_header(node, name)?;
        }
        self.reads.names.extend([("", record), (record, member)]);
        self.names(member).some.insert(name.to_owned());
        Ok(Some(item))
    }

    fn names(&mut self, member: &str) -> &mut Names {
        match member {
            "query" => &mut self.reads.query,
            "headers" => &mut self.reads.headers,
            _ => &mut self.reads.claims,
        }
    }

    fn call(&mut self, node: u64, call: &CallExpr) -> Result<Type, Problem> {
        let args: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        match (call.func_name.as_str(), args.as_slice()) {
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => return self.equality(node, left, right),
            (operators::IN, [item, container]) => return self.membership(node, item, container),
            (operators::INDEX, [container, index]) => return self.index(node, container, index),
            _ => {}
        }
        let mut types = Vec::new();
        for arg in &args {
            types.push(self.value(arg)?);
        }
        let wrong = || Err(Problem::new(node, misused(&call.func_name, &types)));
        match (call.func_name.as_str(), types.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [a, b]) if is_bool(a) && is_bool(b) => Ok(Type::Bool),
            (operators::LOGICAL_NOT, [a]) if is_bool(a) => Ok(Type::Bool),
            (operators::CONDITIONAL, [test, a, b]) if is_bool(test) => Ok(*common(&[*a, *b])),
            (operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS, [a, b])
                if (is_number(a) && is_number(b)) || (is_text(a) && is_text(b)) =>
            {
                Ok(Type::Bool)
            }
            (operators::ADD, [a, b]) if (is_number(a) && is_number(b) && same(*a, *b)) || (is_text(a) && is_text(b)) => {
                Ok(*common(&[*a, *b]))
            }
            (operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO, [a, b])
                if is_number(a) && is_number(b) && same(*a, *b) =>
            {
                Ok(*common(&[*a, *b]))
            }
            (operators::NEGATE, [a @ (Type::Int | Type::Double | Type::Any)]) => Ok(*a),
            ("size", [Type::Text | Type::List(_) | Type::Map(_) | Type::Any]) => Ok(Type::Int),
            ("contains" | "startsWith" | "endsWith", [a, b]) if call.target.is_some() && is_text(a) && is_text(b) => {
                Ok(Type::Bool)
            }
            ("matches", [a, _]) if call.target.is_some() && is_text(a) => match call.args.first().map(|arg| &arg.expr) {
                Some(Expr::Literal(LiteralValue::String(pattern))) => {
                    self.reads.patterns.insert(pattern.inner().to_owned());
                    Ok(Type::Bool)
                }
                _ => Err(Problem::new(node, "the pattern of `matches` is not a literal text")
                    .help("patterns are compiled when the configuration is loaded, never from what a request brings")),
            },
            ("string", [a]) if call.target.is_none() && is_scalar(a) => Ok(Type::Text),
            ("int", [a]) if call.target.is_none() && (is_number(a) || is_text(a)) => Ok(Type::Int),
            ("uint", [a]) if call.target.is_none() && (is_number(a) || is_text(a)) => Ok(Type::Uint),
            ("double", [a]) if call.target.is_none() && (is_number(a) || is_text(a)) => Ok(Type::Double),
            ("bool", [a]) if call.target.is_none() && (is_bool(a) || is_text(a)) => Ok(Type::Bool),
            ("map" | "filter", _) => Err(no_lists(node)),
            (name, _) if FUNCTIONS.contains(&name) || !name.starts_with(|c: char| c.is_ascii_alphabetic()) => wrong(),
            (name, _) => {
                let problem = Problem::new(node, format!("unknown function `{name}`"));
                Err(match closest(name, FUNCTIONS) {
                    Some(meant) => problem.help(format!("did you mean `{meant}`?")),
                    None => problem.help(format!("known: {}", FUNCTIONS.join(", "))),
                })
            }
        }
    }

    fn equality(&mut self, node: u64, left: &IdedExpr, right: &IdedExpr) -> Result<Type, Problem> {
        let (a, b) = (self.type_of(left)?, self.type_of(right)?);
        match (a, b) {
            (Type::Null, _) | (_, Type::Null) => Ok(Type::Bool),
            (Type::Record(_), _) => self.value(left),
            (_, Type::Record(_)) => self.value(right),
            _ if same(a, b) => Ok(Type::Bool),
            _ => Err(Problem::new(node, format!("{} never equals {}", describe(a), describe(b)))
                .help("to look for one value among several, write `value in list`")),
        }
    }

    fn membership(&mut self, node: u64, item: &IdedExpr, container: &IdedExpr) -> Result<Type, Problem> {
        let item_type = self.value(item)?;
        if self.entry(node, container, literal(item))?.is_some() {
            return Ok(Type::Bool);
        }
        match self.value(container)? {
            Type::Any => Ok(Type::Bool),
            Type::List(of) if same(item_type, *of) => Ok(Type::Bool),
            Type::List(of) => Err(Problem::new(
                node,
                format!("{} is never in a list whose items are each {}", describe(item_type), describe(*of)),
            )),
            Type::Map(_) if is_text(&item_type) => Ok(Type::Bool),
            other => Err(Problem::new(node, misused(operators::IN, &[item_type, other]))
                .help("to look for a text within a text, write `text.contains(part)`")),
        }
    }

    fn index(&mut self, node: u64, container: &IdedExpr, index: &IdedExpr) -> Result<Type, Problem> {
        if let Some(item) = self.entry(node, container, literal(index))? {
            return Ok(item);
        }
        let (container_type, index_type) = (self.value(container)?, self.value(index)?);
        match (container_type, index_type) {
            (Type::Any, _) => Ok(Type::Any),
            (Type::List(of), Type::Int | Type::Any) => Ok(*of),
            (Type::Map(of), Type::Text | Type::Any) => Ok(*of),
            (container, index) => Err(Problem::new(node, misused(operators::INDEX, &[container, index]))),
        }
    }

    /// `exists`, `all` and `exists_one`, as the parser has expanded them.
    fn comprehension(&mut self, node: u64, comprehension: &ComprehensionExpr) -> Result<Type, Problem> {
        if self.item.is_some() {
            return Err(
                Problem::new(node, "a loop within a loop").help("its cost would grow with the square of what a client sends")
            );
        }
        // `map` and `filter` collect into a list; the others into a truth or a count.
        let body = match (&comprehension.accu_init.expr, &comprehension.loop_step.expr) {
            (Expr::List(_), _) => return Err(no_lists(node)),
            (Expr::Literal(LiteralValue::Boolean(_)), Expr::Call(step)) => step.args.get(1),
            (Expr::Literal(LiteralValue::Int(_)), Expr::Call(step)) => step.args.first(),
            _ => None,
        };
        let Some(body) = body.filter(|_| comprehension.iter_var2.is_none()) else {
            return Err(Problem::new(node, "this kind of loop is not known here").help("known: exists, all, exists_one"));
        };
        let name = &comprehension.iter_var;
        if VARIABLES.iter().any(|(known, _)| known == name) {
            return Err(Problem::new(node, format!("`{name}` already has a meaning")).help("name the item otherwise"));
        }
        let item = match self.value(&comprehension.iter_range)? {
            Type::List(of) => *of,
            Type::Map(_) => Type::Text,
            Type::Any => Type::Any,
            other => return Err(Problem::new(node, format!("{} has no items", describe(other)))),
        };
        if count(body) > MAX_LOOP_NODES {
            return Err(Problem::new(node, format!("the loop's condition has more than {MAX_LOOP_NODES} parts")));
        }
        self.item = Some((name.clone(), item));
        let found = self.value(body);
        self.item = None;
        match found? {
            Type::Bool | Type::Any => Ok(Type::Bool),
            other => Err(Problem::new(body.id, format!("the loop's condition is {}, and not true or false", describe(other)))),
        }
    }
}

fn check_header(node: u64, name: &str) -> Result<(), Problem> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        let lower = name.to_ascii_lowercase();
        return Err(
            Problem::new(node, format!("no header is named `{name}` here")).help(format!("names are lower-case: `{lower}`"))
        );
    }
    if HIDDEN_HEADERS.contains(&name) {
        return Err(Problem::new(node, format!("an expression cannot read `{name}`"))
            .help("it holds a credential; use `principal`, which is what was verified"));
    }
    if name == "host" {
        return Err(Problem::new(node, "the headers have no `host`").help("write request.host"));
    }
    Ok(())
}

fn no_lists(node: u64) -> Problem {
    Problem::new(node, "`map` and `filter` make lists as long as a client likes").help("use `exists`, `all` or `exists_one`")
}

/// Nodes of a part that is known to be small enough to recurse into.
fn count(node: &IdedExpr) -> usize {
    1 + match &node.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).map(count).sum(),
        Expr::Select(select) => count(&select.operand),
        Expr::List(list) => list.elements.iter().map(count).sum(),
        _ => 0,
    }
}

fn literal(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "expression_check_tests.rs"]
mod tests;
