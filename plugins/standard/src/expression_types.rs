//! What is known of the values of an expression before there are any: the variables, their members, and which types go
//! together.

/// What is known of a value before there is one. Any of them but `Any` may also be null where a member says so.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    /// Only a request can tell: a claim, and what comes of it.
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    List(&'static Type),
    /// Keys are texts.
    Map(&'static Type),
    Record(&'static Record),
}

/// A value with members known in advance.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) name: &'static str,
    pub(crate) members: &'static [(&'static str, Type)],
}

pub(crate) const TEXTS: Type = Type::List(&Type::Text);

pub(crate) static REQUEST: Record = Record {
    name: "request",
    members: &[
        ("method", Type::Text),
        ("scheme", Type::Text),
        ("host", Type::Text),
        ("path", Type::Text),
        ("query", Type::Map(&Type::Text)),
        ("headers", Type::Map(&Type::Text)),
    ],
};

pub(crate) static PRINCIPAL: Record = Record {
    name: "principal",
    members: &[
        ("method", Type::Text),
        ("sub", Type::Text),
        ("issuer", Type::Text),
        ("client_id", Type::Text),
        ("scopes", TEXTS),
        ("roles", TEXTS),
        ("groups", TEXTS),
        ("claims", Type::Map(&Type::Any)),
    ],
};

pub(crate) static CONNECTION: Record = Record {
    name: "connection",
    members: &[
        ("client_ip", Type::Text),
        ("listener", Type::Text),
        ("tls", Type::Record(&TLS)),
        ("cert", Type::Record(&CERTIFICATE)),
    ],
};

pub(crate) static TLS: Record =
    Record { name: "connection.tls", members: &[("version", Type::Text), ("cipher", Type::Text), ("sni", Type::Text)] };

pub(crate) static CERTIFICATE: Record = Record {
    name: "connection.cert",
    members: &[
        ("subject", Type::Text),
        ("issuer", Type::Text),
        ("serial", Type::Text),
        ("sha256", Type::Text),
        ("san_dns", TEXTS),
        ("san_uri", TEXTS),
        ("san_email", TEXTS),
        ("spiffe_id", Type::Text),
    ],
};

pub(crate) const VARIABLES: &[(&str, Type)] = &[
    ("request", Type::Record(&REQUEST)),
    ("principal", Type::Record(&PRINCIPAL)),
    ("connection", Type::Record(&CONNECTION)),
    ("route", Type::Text),
    ("now", Type::Int),
];

pub(crate) fn is_bool(of: &Type) -> bool {
    matches!(of, Type::Bool | Type::Any)
}

pub(crate) fn is_text(of: &Type) -> bool {
    matches!(of, Type::Text | Type::Any)
}

pub(crate) fn is_number(of: &Type) -> bool {
    matches!(of, Type::Int | Type::Uint | Type::Double | Type::Any)
}

pub(crate) fn is_scalar(of: &Type) -> bool {
    is_bool(of) || is_text(of) || is_number(of)
}

/// Whether values of both types can be equal. Numbers compare across their kinds only by order, so that `1 == 1.0` is
/// no surprise either way.
pub(crate) fn same(a: Type, b: Type) -> bool {
    match (a, b) {
        (Type::Any, _) | (_, Type::Any) => true,
        (Type::List(a), Type::List(b)) | (Type::Map(a), Type::Map(b)) => same(*a, *b),
        _ => std::mem::discriminant(&a) == std::mem::discriminant(&b),
    }
}

/// The one type of all, or `Any`.
pub(crate) fn common(types: &[Type]) -> &'static Type {
    let first = types.first().copied().unwrap_or(Type::Any);
    if !types.iter().all(|other| same(first, *other) && !matches!(other, Type::Any)) {
        return &Type::Any;
    }
    match first {
        Type::Bool => &Type::Bool,
        Type::Int => &Type::Int,
        Type::Uint => &Type::Uint,
        Type::Double => &Type::Double,
        Type::Text => &Type::Text,
        Type::List(Type::Text) => &TEXTS,
        _ => &Type::Any,
    }
}

pub(crate) fn describe(of: Type) -> String {
    match of {
        Type::Any => "a value".to_owned(),
        Type::Null => "null".to_owned(),
        Type::Bool => "a truth value".to_owned(),
        Type::Int => "a whole number".to_owned(),
        Type::Uint => "an unsigned number".to_owned(),
        Type::Double => "a decimal number".to_owned(),
        Type::Text => "a text".to_owned(),
        Type::List(_) => "a list".to_owned(),
        Type::Map(_) => "a map".to_owned(),
        Type::Record(record) => format!("`{}`", record.name),
    }
}

/// `_>_` is how the parser calls `>`.
pub(crate) fn misused(function: &str, types: &[Type]) -> String {
    let types: Vec<String> = types.iter().map(|of| describe(*of)).collect();
    let name = if function.starts_with(['_', '!', '-', '@']) { function.replace(['_', '@'], "") } else { function.to_owned() };
    match types.is_empty() {
        true => format!("`{name}` needs a value"),
        false => format!("`{name}` does not take {}", types.join(" and ")),
    }
}

pub(crate) fn member_names(record: &Record) -> String {
    record.members.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Type; 10] = [
        Type::Any,
        Type::Null,
        Type::Bool,
        Type::Int,
        Type::Uint,
        Type::Double,
        Type::Text,
        TEXTS,
        Type::Map(&Type::Any),
        Type::Record(&REQUEST),
    ];

    #[test]
    fn a_value_of_any_type_may_be_equal_to_all_and_others_to_their_own_kind() {
        for (at, a) in ALL.iter().enumerate() {
            for (other, b) in ALL.iter().enumerate() {
                let any = at == 0 || other == 0;
                assert_eq!(same(*a, *b), any || at == other, "{} and {}", describe(*a), describe(*b));
            }
        }
        assert!(same(TEXTS, Type::List(&Type::Any)) && !same(TEXTS, Type::List(&Type::Int)));
        assert!(same(Type::Map(&Type::Any), Type::Map(&Type::Text)) && !same(Type::Map(&Type::Text), TEXTS));
    }

    #[test]
    fn what_several_have_in_common_is_never_more_than_each_has() {
        for (types, kind) in [
            (&[][..], "a value"),
            (&[Type::Text, Type::Text], "a text"),
            (&[Type::Int, Type::Uint], "a value"),
            (&[Type::Text, Type::Any], "a value"),
            (&[TEXTS, TEXTS], "a list"),
            // Of lists, only those of texts have a type of their own here.
            (&[Type::List(&Type::Int), Type::List(&Type::Int)], "a value"),
        ] {
            assert_eq!(describe(*common(types)), kind);
        }
    }

    #[test]
    fn operators_are_called_as_they_are_written() {
        for (function, name) in [("_>_", ">"), ("!_", "!"), ("@in", "in"), ("-_", "-"), ("startsWith", "startsWith")] {
            assert_eq!(misused(function, &[Type::Int, Type::Text]), format!("`{name}` does not take a whole number and a text"));
            assert_eq!(misused(function, &[]), format!("`{name}` needs a value"));
        }
    }

    #[test]
    fn no_member_is_there_twice_and_each_record_is_found_by_its_name() {
        fn walk(prefix: &str, record: &Record) {
            assert_eq!(record.name, prefix);
            for (at, (name, of)) in record.members.iter().enumerate() {
                assert!(record.members.iter().skip(at + 1).all(|(other, _)| other != name), "{prefix}.{name}");
                if let Type::Record(inner) = of {
                    walk(&format!("{prefix}.{name}"), inner);
                }
            }
        }
        for (name, of) in VARIABLES {
            if let Type::Record(record) = of {
                walk(name, record);
            }
        }
    }
}
