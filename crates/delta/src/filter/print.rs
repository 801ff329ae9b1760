//! The canonical text of a filter: what it prints parses to the same filter.

use std::fmt::{self, Display, Formatter, Write as _};

use serde_json::Value;

use super::{Comparison, Const, Containment, Filter, Function, JsonOp, Operand, Select};

impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(parts) => chain(f, parts, true),
            Self::Or(parts) => chain(f, parts, false),
            Self::Not(part) => match part.as_ref() {
                simple @ Self::Bool(_) => write!(f, "NOT {simple}"),
                other => write!(f, "NOT ({other})"),
            },
            Self::Compare { op, left, right } => write!(f, "{left} {} {right}", op.symbol()),
            Self::IsNull { operand, negated } => write!(f, "{operand} IS {}NULL", not(*negated)),
            Self::IsBool { operand, value, negated } => {
                write!(f, "{operand} IS {}{}", not(*negated), boolean(*value))
            }
            Self::IsDistinct { left, right, negated } => {
                write!(f, "{left} IS {}DISTINCT FROM {right}", not(*negated))
            }
            Self::In { operand, list, negated } => {
                write!(f, "{operand} {}IN (", not(*negated))?;
                separated(f, list)?;
                f.write_char(')')
            }
            Self::Between { operand, low, high, negated } => {
                write!(f, "{operand} {}BETWEEN {low} AND {high}", not(*negated))
            }
            Self::Like { operand, pattern, insensitive, negated } => {
                let word = if *insensitive { "ILIKE" } else { "LIKE" };
                write!(f, "{operand} {}{word} {pattern}", not(*negated))
            }
            Self::EqAny { operand, array } => write!(f, "{operand} = ANY({array})"),
            Self::Contains { op, left, right } => {
                write!(f, "{left} {} ", op.symbol())?;
                // Of the same precedence as the operator, and both associate to the left.
                if matches!(right, Operand::Json { .. }) { write!(f, "({right})") } else { right.fmt(f) }
            }
            Self::Bool(operand) => operand.fmt(f),
            Self::InSelect { operand, select, negated } => write!(f, "{operand} {}IN ({select})", not(*negated)),
        }
    }
}

impl Display for Select {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("SELECT ")?;
        identifier(f, &self.column)?;
        f.write_str(" FROM ")?;
        if let Some(schema) = &self.schema {
            identifier(f, schema)?;
            f.write_char('.')?;
        }
        identifier(f, &self.table)?;
        match &self.filter {
            Some(filter) => write!(f, " WHERE {filter}"),
            None => Ok(()),
        }
    }
}

/// `AND` or `OR` of the parts; a chain inside a chain of its kind is written flat.
fn chain(f: &mut Formatter<'_>, parts: &[Filter], and: bool) -> fmt::Result {
    match parts {
        [] => return f.write_str(boolean(and)),
        [only] => return only.fmt(f),
        _ => {}
    }
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(if and { " AND " } else { " OR " })?;
        }
        match part {
            Filter::Or(inner) if and && inner.len() > 1 => write!(f, "({part})")?,
            Filter::And(inner) if !and && inner.len() > 1 => write!(f, "({part})")?,
            _ => part.fmt(f)?,
        }
    }
    Ok(())
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(name) => identifier(f, name),
            Self::Const(value) => value.fmt(f),
            Self::Json { op, base, path } => write!(f, "{base} {} {path}", op.symbol()),
            Self::Call { function: Function::Text, args } => match args.as_slice() {
                [of @ Self::Json { .. }] => write!(f, "({of})::text"),
                [of] => write!(f, "{of}::text"),
                _ => Err(fmt::Error),
            },
            Self::Call { function, args } => {
                write!(f, "{}(", function.name())?;
                separated(f, args)?;
                f.write_char(')')
            }
        }
    }
}

impl Display for Const {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Bool(value) => f.write_str(boolean(*value)),
            Self::Number(text) => f.write_str(text),
            Self::Text(text) => string(f, text),
            Self::Param(n) => write!(f, "${n}"),
            Self::Json(Value::Array(items)) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
                f.write_str("ARRAY[")?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    scalar(f, item)?;
                }
                f.write_char(']')
            }
            Self::Json(value) => scalar(f, value),
            // A cast binds tighter than a sign.
            Self::Cast { value, to } if matches!(value.as_ref(), Self::Number(n) if n.starts_with('-')) => {
                write!(f, "({value})::{to}")
            }
            Self::Cast { value, to } => write!(f, "{value}::{to}"),
            Self::Setting { name, missing_ok } => {
                f.write_str("current_setting(")?;
                string(f, name)?;
                f.write_str(if *missing_ok { ", TRUE)" } else { ")" })
            }
            Self::CurrentUser => f.write_str("current_user"),
        }
    }
}

fn scalar(f: &mut Formatter<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Null => f.write_str("NULL"),
        Value::Bool(value) => f.write_str(boolean(*value)),
        Value::Number(number) => write!(f, "{number}"),
        Value::String(text) => string(f, text),
        nested => string(f, &nested.to_string()),
    }
}

fn separated(f: &mut Formatter<'_>, list: &[Operand]) -> fmt::Result {
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

fn string(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "'{}'", text.replace('\'', "''"))
}

fn identifier(f: &mut Formatter<'_>, name: &str) -> fmt::Result {
    let plain = name.bytes().next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if plain && !RESERVED.contains(&name) { f.write_str(name) } else { write!(f, "\"{}\"", name.replace('"', "\"\"")) }
}

fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

fn boolean(value: bool) -> &'static str {
    if value { "TRUE" } else { "FALSE" }
}

impl Comparison {
    /// The operator as Postgres writes it.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Ne => "<>",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }
}

impl Containment {
    /// The operator as Postgres writes it.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Contains => "@>",
            Self::ContainedBy => "<@",
            Self::Overlaps => "&&",
            Self::HasKey => "?",
        }
    }
}

impl JsonOp {
    /// The operator as Postgres writes it.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Get => "->",
            Self::GetText => "->>",
            Self::Path => "#>",
            Self::PathText => "#>>",
        }
    }
}

impl Function {
    /// The function's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Upper => "upper",
            Self::Length => "length",
            Self::Coalesce => "coalesce",
            Self::Text => "text",
        }
    }
}

/// Words that mean something else when they are not quoted, to Postgres or to our parser.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "ceil",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "convert",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "floor",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "struct",
    "substring",
    "substr",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "try_cast",
    "try_convert",
    "safe_cast",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];
