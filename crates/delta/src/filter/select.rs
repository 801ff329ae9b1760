//! The one form of sub-select that a filter has.

use sqlparser::ast::{
    Expr, GroupByExpr, ObjectNamePart, Query, Select as SqlSelect, SelectFlavor, SelectItem, SetExpr, TableFactor,
    TableWithJoins,
};

use super::parse::{HINT_SUBSELECT, Reader, grammar, name};
use super::{Filter, MAX_DEPTH, Operand, Select};
use crate::Error;

fn refused(words: &str) -> Error {
    grammar(words, HINT_SUBSELECT)
}

impl Reader {
    /// `expr [NOT] IN (query)`
    pub(super) fn in_select(&self, expr: Expr, query: Query, negated: bool) -> Result<Filter, Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::Limit { what: "depth of sub-selects in the filter", limit: MAX_DEPTH });
        }
        match self.operand(expr)? {
            operand @ Operand::Column(_) => {
                Ok(Filter::InSelect { operand, select: Box::new(self.select(query)?), negated })
            }
            other => Err(refused(&format!("{other} IN (SELECT ...)"))),
        }
    }

    fn select(&self, query: Query) -> Result<Select, Error> {
        let bare = query.with.is_none()
            && query.order_by.is_none()
            && query.limit_clause.is_none()
            && query.fetch.is_none()
            && query.locks.is_empty()
            && query.for_clause.is_none()
            && query.settings.is_none()
            && query.format_clause.is_none()
            && query.pipe_operators.is_empty();
        let SetExpr::Select(select) = *query.body else { return Err(refused("a set operation in a sub-select")) };
        if !bare || !is_plain(&select) {
            return Err(refused("more than SELECT, FROM and WHERE in a sub-select"));
        }
        let (mut projection, mut from) = (select.projection.into_iter(), select.from.into_iter());
        let column = match (projection.next(), projection.next()) {
            (Some(SelectItem::UnnamedExpr(Expr::Identifier(column))), None) => name(&column)?,
            _ => return Err(refused("a select list that is not one column")),
        };
        let (schema, table) = match (from.next(), from.next()) {
            (Some(item), None) => table_name(item)?,
            _ => return Err(refused("a FROM that is not one table")),
        };
        let inner = Self { small: self.small, depth: self.depth + 1 };
        let filter = select.selection.map(|expr| inner.filter(expr)).transpose()?;
        Ok(Select { column, schema, table, filter })
    }
}

/// Whether nothing stands in it but a select list, FROM and WHERE.
fn is_plain(select: &SqlSelect) -> bool {
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(by, with) if by.is_empty() && with.is_empty());
    select.optimizer_hints.is_empty()
        && select.distinct.is_none()
        && select.select_modifiers.is_none()
        && select.top.is_none()
        && select.exclude.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.connect_by.is_empty()
        && ungrouped
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.having.is_none()
        && select.named_window.is_empty()
        && select.qualify.is_none()
        && select.value_table_mode.is_none()
        && select.flavor == SelectFlavor::Standard
}

fn table_name(item: TableWithJoins) -> Result<(Option<String>, String), Error> {
    let not_one = || refused("a FROM that is not one table by its name");
    if !item.joins.is_empty() {
        return Err(not_one());
    }
    let TableFactor::Table { name: path, alias: None, args: None, .. } = &item.relation else { return Err(not_one()) };
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(ident) => name(ident),
        ObjectNamePart::Function(_) => Err(not_one()),
    };
    let (schema, table) = match path.0.as_slice() {
        [table] => (None, part(table)?),
        [schema, table] => (Some(part(schema)?), part(table)?),
        _ => return Err(not_one()),
    };
    // Whatever else can stand behind a name (ONLY, TABLESAMPLE, hints) prints as something.
    if item.relation.to_string() == path.to_string() { Ok((schema, table)) } else { Err(not_one()) }
}
