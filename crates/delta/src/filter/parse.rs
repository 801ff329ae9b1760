//! From SQL text to the tree. The SQL itself is parsed by `sqlparser`; here is what the grammar keeps of it.

use sqlparser::ast;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use super::{Comparison, Const, Containment, Filter, Function, JsonOp, Operand};
use crate::Error;

/// Tokens beside commas, constants and blanks: the tree is walked recursively, lists are not part of its depth.
const MAX_TOKENS: usize = 4_000;

/// Parentheses within parentheses.
const MAX_DEPTH: usize = 60;

/// Tokens of any kind.
const MAX_TOTAL: usize = 500_000;

const ALLOWED: &str = "Allowed are comparisons, IS NULL, IS TRUE, IS DISTINCT FROM, IN, BETWEEN, LIKE, AND, OR, NOT, \
                       = ANY, JSON and array operators, lower, upper, length, coalesce, casts of constants, \
                       current_setting and current_user.";

fn refuse<T>(words: impl ToString, hint: &str) -> Result<T, Error> {
    let mut words = words.to_string();
    if let Some((cut, _)) = words.char_indices().nth(120) {
        words.truncate(cut);
        words.push('…');
    }
    Err(Error::FilterGrammar { words, hint: hint.to_owned() })
}

fn syntax(error: impl ToString) -> Error {
    let text = error.to_string();
    if text.contains("recursion limit") {
        return Error::Limit { what: "filter nesting", limit: MAX_DEPTH };
    }
    Error::FilterSyntax { detail: text }
}

/// Reads a whole filter.
pub fn filter(text: &str) -> Result<Filter, Error> {
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, text).tokenize().map_err(syntax)?;
    let weighs = |token: &&Token| {
        !matches!(token, Token::Whitespace(_) | Token::Comma | Token::Number(..) | Token::SingleQuotedString(_))
    };
    if tokens.len() > MAX_TOTAL {
        return Err(Error::Limit { what: "filter", limit: MAX_TOTAL });
    }
    if tokens.iter().filter(weighs).count() > MAX_TOKENS {
        return Err(Error::Limit { what: "filter", limit: MAX_TOKENS });
    }
    let mut parser = Parser::new(&dialect).with_recursion_limit(MAX_DEPTH).with_tokens(tokens);
    let expr = parser.parse_expr().map_err(syntax)?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        return refuse(rest.token, "A shape is a set: order and limit the rows at the client, or narrow the filter.");
    }
    let filter = condition(&expr)?;
    filter.check_patterns()?;
    Ok(filter)
}

fn condition(expr: &ast::Expr) -> Result<Filter, Error> {
    use ast::Expr as E;
    let is_bool = |expr: &E, value, negated| Ok(Filter::IsBool { operand: operand(expr)?, value, negated });
    match expr {
        E::Nested(inner) => condition(inner),
        E::UnaryOp { op: ast::UnaryOperator::Not, expr } => Ok(Filter::Not(Box::new(condition(expr)?))),
        E::IsNull(expr) => Ok(Filter::IsNull { operand: operand(expr)?, negated: false }),
        E::IsNotNull(expr) => Ok(Filter::IsNull { operand: operand(expr)?, negated: true }),
        E::IsTrue(expr) => is_bool(expr, true, false),
        E::IsNotTrue(expr) => is_bool(expr, true, true),
        E::IsFalse(expr) => is_bool(expr, false, false),
        E::IsNotFalse(expr) => is_bool(expr, false, true),
        E::IsDistinctFrom(left, right) => distinct(left, right, false),
        E::IsNotDistinctFrom(left, right) => distinct(left, right, true),
        E::In { expr, target: ast::InTarget::List(list), negated, global: false } => {
            let list = list.iter().map(|item| constant(item).map(Operand::Const)).collect::<Result<_, _>>()?;
            Ok(Filter::In { operand: operand(expr)?, list, negated: *negated })
        }
        E::In { target: ast::InTarget::Subquery(_), .. } | E::Exists { .. } | E::Subquery(_) => {
            refuse("a sub-select", "Sub-selects are not part of filters in this version.")
        }
        E::Between { expr, negated, low, high } => Ok(Filter::Between {
            operand: operand(expr)?,
            low: Operand::Const(constant(low)?),
            high: Operand::Const(constant(high)?),
            negated: *negated,
        }),
        E::Like { negated, any: false, expr, pattern, escape_char: None } => like(expr, pattern, false, *negated),
        E::ILike { negated, any: false, expr, pattern, escape_char: None } => like(expr, pattern, true, *negated),
        E::AnyOp { left, compare_op: ast::BinaryOperator::Eq, right, .. } => {
            Ok(Filter::EqAny { operand: operand(left)?, array: constant(right)? })
        }
        E::BinaryOp { left, op, right } => binary(expr, left, op, right),
        _ => Ok(Filter::Bool(operand(expr)?)),
    }
}

fn distinct(left: &ast::Expr, right: &ast::Expr, negated: bool) -> Result<Filter, Error> {
    Ok(Filter::IsDistinct { left: operand(left)?, right: operand(right)?, negated })
}

fn like(expr: &ast::Expr, pattern: &ast::Expr, insensitive: bool, negated: bool) -> Result<Filter, Error> {
    let pattern = Operand::Const(constant(pattern)?);
    Ok(Filter::Like { operand: operand(expr)?, pattern, insensitive, negated })
}

fn binary(whole: &ast::Expr, left: &ast::Expr, op: &ast::BinaryOperator, right: &ast::Expr) -> Result<Filter, Error> {
    use ast::BinaryOperator as B;
    let comparison = match op {
        B::And | B::Or => return chain(whole, op),
        B::Eq => Comparison::Eq,
        B::NotEq => Comparison::Ne,
        B::Lt => Comparison::Lt,
        B::LtEq => Comparison::Le,
        B::Gt => Comparison::Gt,
        B::GtEq => Comparison::Ge,
        _ => {
            let op = match op {
                B::AtArrow => Containment::Contains,
                B::ArrowAt => Containment::ContainedBy,
                B::PGOverlap => Containment::Overlaps,
                B::Question => Containment::HasKey,
                _ => return Ok(Filter::Bool(operand(whole)?)),
            };
            return Ok(Filter::Contains { op, left: operand(left)?, right: operand(right)? });
        }
    };
    Ok(Filter::Compare { op: comparison, left: operand(left)?, right: operand(right)? })
}

/// `a AND b AND c` is one list, however long: the parser nests it to the left.
fn chain(whole: &ast::Expr, op: &ast::BinaryOperator) -> Result<Filter, Error> {
    let (mut parts, mut rest) = (Vec::new(), whole);
    while let ast::Expr::BinaryOp { left, op: next, right } = rest {
        if next != op {
            break;
        }
        parts.push(condition(right)?);
        rest = left;
    }
    parts.push(condition(rest)?);
    parts.reverse();
    Ok(if *op == ast::BinaryOperator::And { Filter::And(parts) } else { Filter::Or(parts) })
}

fn name(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn operand(expr: &ast::Expr) -> Result<Operand, Error> {
    use ast::BinaryOperator as B;
    use ast::Expr as E;
    match expr {
        E::Nested(inner) => operand(inner),
        E::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("current_user") => {
            Ok(Operand::Const(Const::CurrentUser))
        }
        E::Identifier(ident) => Ok(Operand::Column(name(ident))),
        E::CompoundIdentifier(_) => refuse(expr, "Name columns without their table: a filter is about one table."),
        E::BinaryOp { left, op, right } => {
            let op = match op {
                B::Arrow => JsonOp::Get,
                B::LongArrow => JsonOp::GetText,
                B::HashArrow => JsonOp::Path,
                B::HashLongArrow => JsonOp::PathText,
                _ => return refuse(expr, ALLOWED),
            };
            Ok(Operand::Json { op, base: Box::new(operand(left)?), path: constant(right)? })
        }
        E::Function(call) => function(expr, call),
        E::Cast { expr: inner, .. } if matches!(operand(inner), Ok(ref inner) if !matches!(inner, Operand::Const(_))) => {
            refuse(expr, "A cast of a column may fail on a row: cast the constant instead.")
        }
        _ => constant(expr).map(Operand::Const),
    }
}

fn function(whole: &ast::Expr, call: &ast::Function) -> Result<Operand, Error> {
    let called = call.name.to_string().to_lowercase();
    let function = match called.as_str() {
        "lower" => Function::Lower,
        "upper" => Function::Upper,
        "length" => Function::Length,
        "coalesce" => Function::Coalesce,
        _ => return constant(whole).map(Operand::Const),
    };
    let args = arguments(whole, call)?.into_iter().map(operand).collect::<Result<_, _>>()?;
    Ok(Operand::Call { function, args })
}

/// The plain arguments of a call without any clause.
fn arguments<'a>(whole: &ast::Expr, call: &'a ast::Function) -> Result<Vec<&'a ast::Expr>, Error> {
    let plain = call.over.is_none() && call.filter.is_none() && call.within_group.is_empty();
    match &call.args {
        ast::FunctionArguments::List(list) if plain && list.duplicate_treatment.is_none() && list.clauses.is_empty() => {
            list.args
                .iter()
                .map(|arg| match arg {
                    ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => Ok(expr),
                    _ => refuse(whole, ALLOWED),
                })
                .collect()
        }
        ast::FunctionArguments::None if plain => Ok(Vec::new()),
        _ => refuse(whole, ALLOWED),
    }
}

fn constant(expr: &ast::Expr) -> Result<Const, Error> {
    use ast::Expr as E;
    match expr {
        E::Nested(inner) => constant(inner),
        E::Value(value) => literal(expr, &value.value),
        E::UnaryOp { op: ast::UnaryOperator::Minus, expr: inner } => match constant(inner)? {
            Const::Number(text) if !text.starts_with('-') => Ok(Const::Number(format!("-{text}"))),
            _ => refuse(expr, "Arithmetic is not part of filters: pass the result."),
        },
        E::Cast { kind: ast::CastKind::DoubleColon | ast::CastKind::Cast, expr: inner, data_type, format: None } => {
            cast(constant(inner)?, data_type)
        }
        E::TypedString(typed) => cast(literal(expr, &typed.value.value)?, &typed.data_type),
        E::Array(array) => {
            let values = array.elem.iter().map(|item| element(item, constant(item)?)).collect::<Result<_, _>>()?;
            Ok(Const::Json(serde_json::Value::Array(values)))
        }
        E::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("current_user") => {
            Ok(Const::CurrentUser)
        }
        E::Function(call) => setting(expr, call),
        E::Identifier(_) => refuse(expr, "Only a constant can stand here."),
        E::Subquery(_) => refuse("a sub-select", "Sub-selects are not part of filters in this version."),
        E::BinaryOp { .. } => refuse(expr, "Arithmetic is not part of filters: pass the result."),
        _ => refuse(expr, ALLOWED),
    }
}

fn setting(whole: &ast::Expr, call: &ast::Function) -> Result<Const, Error> {
    const CLOCKS: &[&str] = &[
        "now", "current_timestamp", "current_date", "current_time", "localtime", "localtimestamp", "clock_timestamp",
        "statement_timestamp", "transaction_timestamp", "timeofday", "random", "age",
    ];
    let called = call.name.to_string().to_lowercase();
    if CLOCKS.contains(&called.as_str()) {
        return refuse(whole, "A shape does not depend on time: pass the moment as a parameter.");
    }
    if called == "current_user" {
        return Ok(Const::CurrentUser);
    }
    if called != "current_setting" {
        return refuse(whole, ALLOWED);
    }
    let args = arguments(whole, call)?.into_iter().map(constant).collect::<Result<Vec<_>, _>>()?;
    match args.as_slice() {
        [Const::Text(name)] => Ok(Const::Setting { name: name.clone(), missing_ok: false }),
        [Const::Text(name), Const::Bool(missing_ok)] => {
            Ok(Const::Setting { name: name.clone(), missing_ok: *missing_ok })
        }
        _ => refuse(whole, "Write current_setting('app.name') or current_setting('app.name', true)."),
    }
}

fn element(expr: &ast::Expr, value: Const) -> Result<serde_json::Value, Error> {
    Ok(match value {
        Const::Null => serde_json::Value::Null,
        Const::Bool(value) => value.into(),
        // Array elements are read from text by the column's type.
        Const::Number(text) | Const::Text(text) => text.into(),
        _ => return refuse(expr, "Pass the whole array as one parameter."),
    })
}

fn cast(value: Const, to: &ast::DataType) -> Result<Const, Error> {
    let to = to.to_string().to_lowercase();
    if to.bytes().all(|b| b.is_ascii_alphanumeric() || b"_ []".contains(&b)) {
        Ok(Const::Cast { value: Box::new(value), to })
    } else {
        refuse(to, "Cast to a type by its plain name.")
    }
}

fn literal(expr: &ast::Expr, value: &ast::Value) -> Result<Const, Error> {
    Ok(match value {
        ast::Value::Null => Const::Null,
        ast::Value::Boolean(value) => Const::Bool(*value),
        ast::Value::Number(text, false) => Const::Number(text.clone()),
        ast::Value::SingleQuotedString(text) | ast::Value::EscapedStringLiteral(text) => {
            if text.contains('\0') {
                return refuse("a zero byte", "Text has no zero bytes.");
            }
            Const::Text(text.clone())
        }
        ast::Value::DollarQuotedString(text) => Const::Text(text.value.clone()),
        ast::Value::Placeholder(text) => match text.strip_prefix('$').and_then(|n| n.parse().ok()) {
            Some(n) if n > 0 => Const::Param(n),
            _ => return refuse(text, "Parameters are written $1, $2, …"),
        },
        _ => return refuse(expr, ALLOWED),
    })
}
