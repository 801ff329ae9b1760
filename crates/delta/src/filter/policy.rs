//! The condition of a row security policy, brought into the grammar of filters.
//!
//! Postgres writes it with full names, and policies say more than filters may. Three things bring the usual ones in: what reads
//! no column is evaluated once; names lose the table that they are qualified with, where it is the nearest one;
//! `EXISTS (SELECT ... FROM p WHERE p.e = t.x AND ...)` is `x IN (SELECT e FROM p WHERE ...)`. The rest is for
//! the grammar to accept or refuse.

use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Expr, Ident, InTarget, Query, Select, SelectItem, SetExpr, TableFactor, Value as Literal, VisitMut,
    VisitorMut, visit_expressions, visit_relations,
};

use super::Filter;
use super::parse::{Reader, expression};
use crate::Error;

/// What reads no column of a row comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// A boolean.
    Bool(bool),
    /// Anything else, as its text.
    Text(String),
}

/// Takes SQL that reads no column, and evaluates it.
pub type Evaluate<'a> = &'a mut dyn FnMut(&str) -> Result<Value, Error>;

pub(super) fn parse(text: &str, table: &str, evaluate: Evaluate<'_>) -> Result<Filter, Error> {
    let (mut expr, small) = expression(text)?;
    let mut lowering = Lowering { scopes: vec![table.to_owned()], evaluate };
    if let ControlFlow::Break(error) = expr.visit(&mut lowering) {
        return Err(error);
    }
    Reader { small, depth: 0 }.filter(expr)
}

struct Lowering<'a> {
    /// The table at hand, behind those around it.
    scopes: Vec<String>,
    evaluate: Evaluate<'a>,
}

impl VisitorMut for Lowering<'_> {
    type Break = Error;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Some(inner) = exists_as_in(expr) {
            *expr = inner;
        }
        if let Expr::CompoundIdentifier(parts) = expr
            && let [table, column] = parts.as_slice()
            && self.scopes.last() == Some(&table.value)
        {
            *expr = Expr::Identifier(column.clone());
        }
        if is_constant(expr) {
            match (self.evaluate)(&expr.to_string()) {
                Ok(Value::Null) => *expr = Expr::value(Literal::Null),
                Ok(Value::Bool(value)) => *expr = Expr::value(Literal::Boolean(value)),
                Ok(Value::Text(text)) => *expr = Expr::value(Literal::SingleQuotedString(text)),
                Err(error) => return ControlFlow::Break(error),
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        // A sub-select of any other form is refused by the grammar later; until then no name is its own.
        let name = plain_select(query).and_then(|select| match select.from.as_mut_slice() {
            [item] => match &mut item.relation {
                TableFactor::Table { name, alias, .. } => {
                    let table = name.0.last().and_then(|part| part.as_ident()).map(|ident| ident.value.clone());
                    alias.take().map(|alias| alias.name.value).or(table)
                }
                _ => None,
            },
            _ => None,
        });
        self.scopes.push(name.unwrap_or_default());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }
}

/// Whether it reads no column and no table, and is more than a literal.
fn is_constant(expr: &Expr) -> bool {
    if matches!(expr, Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
        return false;
    }
    let reads = visit_expressions(expr, |inner| match inner {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    reads.is_continue() && visit_relations(expr, |_| ControlFlow::Break(())).is_continue()
}

fn plain_select(query: &mut Query) -> Option<&mut Select> {
    match query.body.as_mut() {
        SetExpr::Select(select) => Some(select),
        _ => None,
    }
}

/// `EXISTS` with exactly one comparison that reaches outside, an equality of two columns, as `IN`.
fn exists_as_in(expr: &Expr) -> Option<Expr> {
    let Expr::Exists { subquery, negated } = expr else { return None };
    let mut query = subquery.clone();
    let select = plain_select(&mut query)?;
    let [item] = select.from.as_slice() else { return None };
    let TableFactor::Table { name, alias, .. } = &item.relation else { return None };
    let table = match alias {
        Some(alias) => alias.name.value.clone(),
        None => name.0.last()?.as_ident()?.value.clone(),
    };
    let mut conditions = Vec::new();
    conjuncts(select.selection.take()?, &mut conditions);
    let place = conditions.iter().position(|condition| link(condition, &table).is_some())?;
    let (inner, outer) = link(&conditions.remove(place), &table)?;
    select.selection = conditions.into_iter().reduce(|left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: BinaryOperator::And,
        right: Box::new(right),
    });
    select.projection = vec![SelectItem::UnnamedExpr(Expr::Identifier(inner))];
    Some(Expr::In {
        expr: Box::new(Expr::CompoundIdentifier(outer)),
        target: InTarget::Subquery(query),
        negated: *negated,
        global: false,
    })
}

fn conjuncts(expr: Expr, into: &mut Vec<Expr>) {
    match expr {
        Expr::Nested(inner) => conjuncts(*inner, into),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(*left, into);
            conjuncts(*right, into);
        }
        other => into.push(other),
    }
}

/// The column of `table` and the column of another one that a condition says are equal.
fn link(condition: &Expr, table: &str) -> Option<(Ident, Vec<Ident>)> {
    let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = condition else { return None };
    let (Expr::CompoundIdentifier(left), Expr::CompoundIdentifier(right)) = (left.as_ref(), right.as_ref()) else {
        return None;
    };
    let is_own = |parts: &[Ident]| parts.len() == 2 && parts[0].value == table;
    match (is_own(left), is_own(right)) {
        (true, false) => Some((left[1].clone(), right.clone())),
        (false, true) => Some((right[1].clone(), left.clone())),
        _ => None,
    }
}
