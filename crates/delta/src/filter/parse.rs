//! From words to our own tree. What is not named here is refused.

use serde_json::Value as Json;
use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, InTarget,
    ObjectName, ObjectNamePart, UnaryOperator, Value,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use super::tokens::{MAX_NESTING, Tokens, syntax, tokenise};
use super::{Comparison, Const, Containment, Filter, Function, JsonOp, Operand, check};
use crate::Error;

pub(super) const ALLOWED: &str = "Allowed are columns, literals and $n with = <> < <= > >=, IS [NOT] NULL, TRUE, \
     FALSE or DISTINCT FROM, [NOT] IN (...), [NOT] IN (SELECT ...), BETWEEN, LIKE and ILIKE, = ANY(array), -> ->> #> #>> @> <@ ? &&, AND, \
     OR, NOT, lower, upper, length, coalesce, casts of constants, current_setting and current_user.";
pub(super) const HINT_SUBSELECT: &str = "A sub-select is written column [NOT] IN (SELECT column FROM table WHERE ...), with one table, one column of it and nothing else.";
pub(super) const HINT_TIME: &str = "A shape must not change by itself; pass the time as a parameter.";
const HINT_SET: &str = "A shape is a set of rows, without order or number; sort and cut it where it is shown.";
const HINT_CAST: &str =
    "Only constants can be cast, and columns that hold text to text: any other cast may fail on a row.";
const HINT_BOOLEAN: &str = "A condition is a comparison or a bare boolean column; write = TRUE for anything else.";

/// Times that differ from call to call.
const CLOCKS: &[&str] = &[
    "now",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "timeofday",
    "age",
];

pub(super) fn parse(text: &str) -> Result<Filter, Error> {
    let (expr, small) = expression(text)?;
    Reader { small, depth: 0 }.filter(expr)
}

/// The parser's tree of a condition, and whether it is small.
pub(super) fn expression(text: &str) -> Result<(Expr, bool), Error> {
    let Tokens { list, small } = tokenise(text)?;
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect).with_recursion_limit(MAX_NESTING + 20).with_tokens(list);
    let parsed = parser.parse_expr();
    let rest = parser.peek_token();
    match parsed {
        Ok(expr) if rest.token == Token::EOF => Ok((expr, small)),
        Ok(_) => {
            if let Token::Word(word) = &rest.token
                && matches!(
                    word.keyword,
                    Keyword::LIMIT
                        | Keyword::ORDER
                        | Keyword::OFFSET
                        | Keyword::FETCH
                        | Keyword::GROUP
                        | Keyword::HAVING
                )
            {
                return Err(grammar(&word.value.to_ascii_uppercase(), HINT_SET));
            }
            Err(syntax(format!("expected the end of the condition, found {}", cut(&rest.token.to_string()))))
        }
        Err(ParserError::RecursionLimitExceeded) => {
            Err(Error::Limit { what: "nesting of the filter", limit: MAX_NESTING })
        }
        Err(ParserError::ParserError(detail) | ParserError::TokenizerError(detail)) => Err(syntax(cut(&detail))),
    }
}

/// What the grammar does not have.
pub(super) fn grammar(words: &str, hint: &str) -> Error {
    Error::FilterGrammar { words: cut(words), hint: hint.to_owned() }
}

/// Enough of a text to recognise it.
fn cut(text: &str) -> String {
    const MOST: usize = 100;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

pub(super) struct Reader {
    pub(super) small: bool,
    /// How many sub-selects it stands in.
    pub(super) depth: usize,
}

impl Reader {
    pub(super) fn filter(&self, expr: Expr) -> Result<Filter, Error> {
        Ok(match expr {
            Expr::Nested(inner) => self.filter(*inner)?,
            Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), left, right } => {
                self.chain(op, *left, *right)?
            }
            Expr::BinaryOp { op, left, right } => self.binary(op, *left, *right)?,
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => Filter::Not(Box::new(self.filter(*expr)?)),
            Expr::IsNull(of) => Filter::IsNull { operand: self.operand(*of)?, negated: false },
            Expr::IsNotNull(of) => Filter::IsNull { operand: self.operand(*of)?, negated: true },
            Expr::IsTrue(of) => Filter::IsBool { operand: self.operand(*of)?, value: true, negated: false },
            Expr::IsNotTrue(of) => Filter::IsBool { operand: self.operand(*of)?, value: true, negated: true },
            Expr::IsFalse(of) => Filter::IsBool { operand: self.operand(*of)?, value: false, negated: false },
            Expr::IsNotFalse(of) => Filter::IsBool { operand: self.operand(*of)?, value: false, negated: true },
            Expr::IsDistinctFrom(left, right) => {
                Filter::IsDistinct { left: self.operand(*left)?, right: self.operand(*right)?, negated: false }
            }
            Expr::IsNotDistinctFrom(left, right) => {
                Filter::IsDistinct { left: self.operand(*left)?, right: self.operand(*right)?, negated: true }
            }
            Expr::In { expr, target: InTarget::List(list), negated, global: false } => {
                if list.is_empty() {
                    return Err(syntax("IN needs at least one value"));
                }
                Filter::In { operand: self.operand(*expr)?, list: self.operands(list)?, negated }
            }
            Expr::In { expr, target: InTarget::Subquery(query), negated, global: false } => {
                self.in_select(*expr, *query, negated)?
            }
            Expr::In { .. } => return Err(grammar("IN", "Write IN (value, ...) or = ANY($1).")),
            Expr::Between { expr, negated, low, high } => Filter::Between {
                operand: self.operand(*expr)?,
                low: self.operand(*low)?,
                high: self.operand(*high)?,
                negated,
            },
            Expr::Like { negated, any, expr, pattern, escape_char } => {
                self.like(negated, any, false, *expr, *pattern, escape_char.is_some())?
            }
            Expr::ILike { negated, any, expr, pattern, escape_char } => {
                self.like(negated, any, true, *expr, *pattern, escape_char.is_some())?
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                let operand = self.operand(*left)?;
                let hint = "The array is a constant; for an array column write column @> $1.";
                let array = self.constant(*right, hint)?;
                check::array(&array)?;
                Filter::EqAny { operand, array }
            }
            other => match self.operand(other)? {
                bare @ (Operand::Column(_) | Operand::Const(Const::Bool(_) | Const::Null)) => Filter::Bool(bare),
                value => return Err(grammar(&format!("{value} as a condition"), HINT_BOOLEAN)),
            },
        })
    }

    /// Takes a left-deep chain apart without recursion: it may have thousands of parts.
    fn chain(&self, op: BinaryOperator, left: Expr, right: Expr) -> Result<Filter, Error> {
        let and = op == BinaryOperator::And;
        let mut reversed = vec![right];
        let mut spine = left;
        loop {
            match spine {
                Expr::BinaryOp { op: inner, left, right } if inner == op => {
                    reversed.push(*right);
                    spine = *left;
                }
                first => {
                    reversed.push(first);
                    break;
                }
            }
        }
        let mut parts = Vec::with_capacity(reversed.len());
        for expr in reversed.into_iter().rev() {
            match self.filter(expr)? {
                Filter::And(inner) if and => parts.extend(inner),
                Filter::Or(inner) if !and => parts.extend(inner),
                part => parts.push(part),
            }
        }
        Ok(if and { Filter::And(parts) } else { Filter::Or(parts) })
    }

    fn binary(&self, op: BinaryOperator, left: Expr, right: Expr) -> Result<Filter, Error> {
        let comparison = match op {
            BinaryOperator::Eq => Some(Comparison::Eq),
            BinaryOperator::NotEq => Some(Comparison::Ne),
            BinaryOperator::Lt => Some(Comparison::Lt),
            BinaryOperator::LtEq => Some(Comparison::Le),
            BinaryOperator::Gt => Some(Comparison::Gt),
            BinaryOperator::GtEq => Some(Comparison::Ge),
            _ => None,
        };
        if let Some(op) = comparison {
            return Ok(Filter::Compare { op, left: self.operand(left)?, right: self.operand(right)? });
        }
        // As Postgres writes LIKE.
        let like = match op {
            BinaryOperator::PGLikeMatch => Some((false, false)),
            BinaryOperator::PGILikeMatch => Some((true, false)),
            BinaryOperator::PGNotLikeMatch => Some((false, true)),
            BinaryOperator::PGNotILikeMatch => Some((true, true)),
            _ => None,
        };
        if let Some((insensitive, negated)) = like {
            return self.like(negated, false, insensitive, left, right, false);
        }
        let containment = match op {
            BinaryOperator::AtArrow => Containment::Contains,
            BinaryOperator::ArrowAt => Containment::ContainedBy,
            BinaryOperator::PGOverlap => Containment::Overlaps,
            BinaryOperator::Question => Containment::HasKey,
            BinaryOperator::Arrow
            | BinaryOperator::LongArrow
            | BinaryOperator::HashArrow
            | BinaryOperator::HashLongArrow => return Err(grammar(&format!("{op} as a condition"), HINT_BOOLEAN)),
            _ => return Err(grammar(&format!("operator {op}"), ALLOWED)),
        };
        Ok(Filter::Contains { op: containment, left: self.operand(left)?, right: self.operand(right)? })
    }

    fn like(
        &self,
        negated: bool,
        any: bool,
        insensitive: bool,
        expr: Expr,
        pattern: Expr,
        escape: bool,
    ) -> Result<Filter, Error> {
        if any {
            return Err(grammar("LIKE ANY", "Write one LIKE for each pattern, with OR."));
        }
        if escape {
            return Err(grammar("ESCAPE", "Escape with a backslash, as LIKE does by itself."));
        }
        let operand = self.operand(expr)?;
        let pattern = self.constant(pattern, "A LIKE pattern must be a constant, as one from a row may fail.")?;
        check::pattern(&pattern)?;
        Ok(Filter::Like { operand, pattern: Operand::Const(pattern), insensitive, negated })
    }

    fn operands(&self, list: Vec<Expr>) -> Result<Vec<Operand>, Error> {
        list.into_iter().map(|item| self.operand(item)).collect()
    }

    /// A constant where nothing else will do.
    fn constant(&self, expr: Expr, hint: &str) -> Result<Const, Error> {
        match self.operand(expr)? {
            Operand::Const(value) => Ok(value),
            other => Err(grammar(&other.to_string(), hint)),
        }
    }

    pub(super) fn operand(&self, expr: Expr) -> Result<Operand, Error> {
        Ok(match expr {
            Expr::Nested(inner) => self.operand(*inner)?,
            Expr::Identifier(ident) => Operand::Column(name(&ident)?),
            Expr::CompoundIdentifier(parts) => {
                let words = parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
                return Err(grammar(&words, "Name the column alone: a filter reads one table."));
            }
            Expr::Value(value) => Operand::Const(literal(value.value)?),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match self.operand(*expr)? {
                Operand::Const(Const::Number(digits)) => {
                    Operand::Const(Const::Number(match digits.strip_prefix('-') {
                        Some(positive) => positive.to_owned(),
                        None => format!("-{digits}"),
                    }))
                }
                Operand::Const(Const::Cast { .. }) => {
                    return Err(grammar("-", "A cast binds tighter than a sign; write (-1)::type."));
                }
                _ => return Err(grammar("operator -", ALLOWED)),
            },
            Expr::BinaryOp { op, left, right } => {
                let op = match op {
                    BinaryOperator::Arrow => JsonOp::Get,
                    BinaryOperator::LongArrow => JsonOp::GetText,
                    BinaryOperator::HashArrow => JsonOp::Path,
                    BinaryOperator::HashLongArrow => JsonOp::PathText,
                    other => return Err(grammar(&format!("operator {other} inside an expression"), ALLOWED)),
                };
                let path = self.constant(*right, "The key, index or path of a JSON operator must be a constant.")?;
                Operand::Json { op, base: Box::new(self.operand(*left)?), path }
            }
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, format: None } => {
                match self.operand(*expr)? {
                    Operand::Const(value) => Operand::Const(cast(value, &data_type)?),
                    of if data_type == DataType::Text => Operand::Call { function: Function::Text, args: vec![of] },
                    other => return Err(grammar(&other.to_string(), HINT_CAST)),
                }
            }
            Expr::TypedString(typed) if !typed.uses_odbc_syntax => {
                Operand::Const(cast(literal(typed.value.value)?, &typed.data_type)?)
            }
            Expr::Array(array) => Operand::Const(Const::Json(Json::Array(
                array.elem.into_iter().map(|item| self.element(item)).collect::<Result<_, _>>()?,
            ))),
            Expr::Function(call) => {
                let plain = !call.uses_odbc_syntax
                    && call.parameters == FunctionArguments::None
                    && call.within_group.is_empty()
                    && call.filter.is_none()
                    && call.null_treatment.is_none()
                    && call.over.is_none();
                self.call(&call.name, call.args, plain)?
            }
            Expr::Subquery(_) | Expr::Exists { .. } => return Err(grammar("SELECT", HINT_SUBSELECT)),
            other => return Err(grammar(&self.words(&other), ALLOWED)),
        })
    }

    /// An element of `ARRAY[...]`.
    fn element(&self, expr: Expr) -> Result<Json, Error> {
        let hint = "ARRAY[...] takes plain literals; write IN ($1, $2), or = ANY($1) with an array as the value.";
        match self.constant(expr, hint)? {
            Const::Null => Ok(Json::Null),
            Const::Bool(value) => Ok(Json::Bool(value)),
            Const::Text(text) => Ok(Json::String(text)),
            Const::Number(text) => text.parse().map(Json::Number).map_err(|_| grammar(&text, ALLOWED)),
            other => Err(grammar(&format!("{other} in ARRAY[...]"), hint)),
        }
    }

    fn call(&self, function: &ObjectName, args: FunctionArguments, plain: bool) -> Result<Operand, Error> {
        let [ObjectNamePart::Identifier(ident)] = function.0.as_slice() else {
            return Err(grammar(&function.to_string(), ALLOWED));
        };
        let called = name(ident)?;
        if CLOCKS.contains(&called.as_str()) {
            return Err(grammar(&called, HINT_TIME));
        }
        let args = match args {
            // Quoted it is a column, which the parser knows to tell.
            FunctionArguments::None if called == "current_user" => return Ok(Operand::Const(Const::CurrentUser)),
            FunctionArguments::List(list) if plain && list.duplicate_treatment.is_none() && list.clauses.is_empty() => {
                list.args
            }
            _ => return Err(grammar(&called, ALLOWED)),
        };
        let function = match called.as_str() {
            "lower" => Function::Lower,
            "upper" => Function::Upper,
            "length" => Function::Length,
            "coalesce" => Function::Coalesce,
            "current_setting" => return self.setting(args),
            _ => return Err(grammar(&format!("{called}()"), ALLOWED)),
        };
        if args.is_empty() || (args.len() != 1 && function != Function::Coalesce) {
            return Err(grammar(&format!("{called}() with {} arguments", args.len()), ALLOWED));
        }
        let args = args.into_iter().map(|arg| self.operand(argument(arg)?)).collect::<Result<_, _>>()?;
        Ok(Operand::Call { function, args })
    }

    fn setting(&self, args: Vec<FunctionArg>) -> Result<Operand, Error> {
        let hint = "Write current_setting('app.name') or current_setting('app.name', true).";
        let given = args.into_iter().map(|arg| self.constant(argument(arg)?, hint)).collect::<Result<Vec<_>, _>>()?;
        let (name, missing_ok) = match given.as_slice() {
            [Const::Text(name)] => (name.clone(), false),
            [Const::Text(name), Const::Bool(missing_ok)] => (name.clone(), *missing_ok),
            _ => return Err(grammar("current_setting() with other arguments", hint)),
        };
        Ok(Operand::Const(Const::Setting { name, missing_ok }))
    }

    /// What to show of an expression. Printing recurses: only where it cannot be deep.
    fn words(&self, expr: &Expr) -> String {
        if self.small { expr.to_string() } else { "an expression".to_owned() }
    }
}

fn argument(arg: FunctionArg) -> Result<Expr, Error> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
        _ => Err(grammar("a named argument or *", ALLOWED)),
    }
}

/// Postgres folds ASCII letters only, whatever the locale, when the encoding has more than one byte.
pub(super) fn name(ident: &Ident) -> Result<String, Error> {
    match ident.quote_style {
        Some('"') if ident.value.is_empty() => Err(syntax("zero-length quoted identifier")),
        Some(_) => Ok(ident.value.clone()),
        None => Ok(ident.value.to_ascii_lowercase()),
    }
}

fn literal(value: Value) -> Result<Const, Error> {
    Ok(match value {
        Value::Null => Const::Null,
        Value::Boolean(value) => Const::Bool(value),
        Value::Number(text, false) => {
            Const::Number(number(&text).ok_or_else(|| grammar(&text, "Write numbers in decimal notation."))?)
        }
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => text_literal(text)?,
        Value::DollarQuotedString(quoted) => text_literal(quoted.value)?,
        Value::Placeholder(text) => {
            let digits = text.strip_prefix('$').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            match digits.and_then(|digits| digits.parse().ok()) {
                Some(0) => return Err(Error::Params { message: "there is no parameter $0".to_owned() }),
                Some(n) => Const::Param(n),
                None if digits.is_some_and(|digits| !digits.is_empty()) => {
                    return Err(Error::Params { message: format!("there is no parameter {}", cut(&text)) });
                }
                None => return Err(grammar(&text, "Parameters are written $1, $2 and so on.")),
            }
        }
        other => return Err(grammar(&other.to_string(), "Write strings as '...', E'...' or $$...$$.")),
    })
}

fn text_literal(text: String) -> Result<Const, Error> {
    if text.contains('\0') { Err(syntax("a NUL character")) } else { Ok(Const::Text(text)) }
}

/// The number in JSON's notation, so that it can stand in JSON and prints the same ever after.
fn number(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let (mantissa, exponent) = lower.split_once('e').map_or((lower.as_str(), None), |(m, e)| (m, Some(e)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let mut out = if whole.is_empty() { "0".to_owned() } else { whole.to_owned() };
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    if let Some(exponent) = exponent {
        let (sign, power) = match exponent.strip_prefix('-') {
            Some(power) => ("-", power),
            None => ("+", exponent.strip_prefix('+').unwrap_or(exponent)),
        };
        if power.is_empty() || !digits(power) {
            return None;
        }
        out.push('e');
        out.push_str(sign);
        out.push_str(power);
    }
    Some(out)
}

fn cast(value: Const, data_type: &DataType) -> Result<Const, Error> {
    let to = data_type.to_string().to_ascii_lowercase();
    let element = to.strip_suffix("[]").unwrap_or(&to);
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b' ');
    if element.is_empty() || !element.bytes().all(plain) {
        return Err(grammar(&format!("type {to}"), "Cast to a type by its plain name, without length or schema."));
    }
    check::cast(&value, &to)?;
    Ok(Const::Cast { value: Box::new(value), to })
}
