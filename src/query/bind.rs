//! From a filter's tree to SQL with typed parameters. No text of the filter is ever pasted into a query:
//! identifiers are resolved against the tracked table and quoted, values are bound as the column's type,
//! operators are those of the type's own ordering, named with their schema.

use std::ffi::CString;

use pgrx::pg_sys;
use serde_json::Value;
use syncline_delta::Error;
use syncline_delta::filter::{Comparison, Const, Containment, Filter, Function, JsonOp, Operand, Select};

use super::{ALIAS, Bound, Level, Member, Node};
use crate::catalog::Tracked;
use crate::error::Result;
use crate::past::Key;
use crate::pg::function::{self, input};
use crate::pg::relation::{self, Attribute, quoted};
use crate::pg::spi::Param;
use crate::pg::{types, version};

/// Binds a folded filter to a tracked table; `levels` are the tables of its sub-selects, the outer before the inner.
pub fn bind(filter: Option<&Filter>, table: &Tracked, levels: Vec<Tracked>) -> Result<Bound> {
    let mut output = Output { params: Vec::new(), fingerprint: String::new(), tables: levels.into_iter(), levels: 0 };
    let node = Binder { table, output: &mut output }.condition(filter)?;
    let Output { params, fingerprint, levels, .. } = output;
    if levels > 0 && table.is_secured {
        logs_inserts(table)?;
    }
    let key = Key::of(&table.relation)?;
    Ok(Bound { node, params, fingerprint, levels, key })
}

/// What binding a condition and its levels comes to.
struct Output {
    params: Vec<Param>,
    fingerprint: String,
    tables: std::vec::IntoIter<Tracked>,
    levels: usize,
}

struct Binder<'a> {
    table: &'a Tracked,
    output: &'a mut Output,
}

/// An expression over a row, with the base type of its values.
struct Typed {
    sql: String,
    typid: pg_sys::Oid,
    collation: pg_sys::Oid,
}

fn mismatch(what: &str, typid: pg_sys::Oid) -> Error {
    Error::rule("42804", format!("{what} does not fit type {}", types::name(typid)))
}

/// Whether values of the type are points in time, or are made of them.
fn holds_time(typid: pg_sys::Oid) -> bool {
    if typid == pg_sys::InvalidOid {
        return false;
    }
    // SAFETY: syscache look-ups; InvalidOid for what a type is not.
    let (category, parts) = unsafe {
        let base = pg_sys::getBaseType(typid);
        let (mut category, mut preferred) = (0, false);
        pg_sys::get_type_category_preferred(base, &mut category, &mut preferred);
        let parts =
            [pg_sys::get_element_type(base), pg_sys::get_range_subtype(base), pg_sys::get_multirange_range(base)];
        (category as u8, parts)
    };
    category == b'D' || parts.into_iter().any(holds_time)
}

fn is_text(typid: pg_sys::Oid) -> bool {
    [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID, pg_sys::NAMEOID].contains(&typid)
}

impl Binder<'_> {
    fn condition(&mut self, filter: Option<&Filter>) -> Result<Node> {
        match filter {
            None => Ok(Node::Own("TRUE".to_owned())),
            Some(filter) => self.node(filter),
        }
    }

    /// A filter in its normal form: no NOT stands over a sub-select.
    fn node(&mut self, filter: &Filter) -> Result<Node> {
        let mut all = |parts: &[Filter]| parts.iter().map(|part| self.node(part)).collect::<Result<Vec<_>>>();
        Ok(match filter {
            Filter::InSelect { operand, select, negated } => self.member(operand, select, *negated)?,
            own if own.selects().is_empty() => Node::Own(self.filter(own)?),
            Filter::And(parts) => Node::And(all(parts)?),
            Filter::Or(parts) => Node::Or(all(parts)?),
            _ => return Err(Error::rule("XX000", "a filter with sub-selects is not in its normal form")),
        })
    }

    fn member(&mut self, operand: &Operand, select: &Select, negated: bool) -> Result<Node> {
        let Operand::Column(name) = operand else { return Err(Error::rule("XX000", "a sub-select without a column")) };
        let column = self.column(name)?;
        let nullable = self.nullable(name);
        let missing = || Error::rule("XX000", "a sub-select without its table");
        let outer = self.table.relation.attribute(name).map(types::column).ok_or_else(missing)?;
        let tracked = self.output.tables.next().ok_or_else(missing)?;
        let number = self.output.levels;
        self.output.levels += 1;
        let mut inner = Binder { table: &tracked, output: self.output };
        let member = inner.column(&select.column)?;
        if (member.typid, member.collation) != (column.typid, column.collation) {
            return Err(mismatch(&format!("column \"{}\" of the sub-select", select.column), column.typid));
        }
        if negated && let Some(name) = nullable.or(inner.nullable(&select.column)) {
            return Err(Error::rule("0A000", format!("NOT IN (SELECT ...) with column \"{name}\", which may be NULL"))
                .with_detail("One NULL among the values would make the condition unknown for every row.")
                .with_hint(format!("ALTER TABLE ... ALTER COLUMN {} SET NOT NULL", quoted(name))));
        }
        let node = inner.condition(select.filter.as_ref())?;
        let used = select.filter.as_ref().map(Filter::columns).unwrap_or_default();
        let relation = &tracked.relation;
        let is_read = |a: &&Attribute| {
            relation.key.contains(&a.number) || a.name == select.column || used.contains(a.name.as_str())
        };
        let reads: Vec<Attribute> = relation.attributes.iter().filter(is_read).cloned().collect();
        logs_inserts(&tracked)?;
        let array = types::array_of(column.typid).ok_or_else(|| mismatch("a sub-select", column.typid))?;
        let equal = types::operator(column.typid, Comparison::Eq)?;
        let found = relation.attribute(&select.column).cloned().ok_or_else(missing)?;
        let key = Key::of(relation)?;
        let level = Level { number, member: found, typid: column.typid, array, equal, key, node, reads, tracked };
        Ok(Node::Member(Member { column: outer, level: Box::new(level), negated }))
    }

    /// The column's name, if it may be NULL.
    fn nullable<'n>(&self, name: &'n str) -> Option<&'n str> {
        self.table.relation.attribute(name).is_none_or(|a| !a.not_null).then_some(name)
    }

    fn filter(&mut self, filter: &Filter) -> Result<String> {
        Ok(match filter {
            Filter::And(parts) => self.list(parts, " AND ")?,
            Filter::Or(parts) => self.list(parts, " OR ")?,
            Filter::Not(part) => format!("(NOT {})", self.filter(part)?),
            Filter::Compare { op, left, right } => self.compare(*op, left, right)?,
            Filter::IsNull { operand, negated } => {
                let typed = self.operand(operand)?;
                format!("({} IS {}NULL)", typed.sql, if *negated { "NOT " } else { "" })
            }
            Filter::IsBool { operand, value, negated } => {
                let not = if *negated { "NOT " } else { "" };
                format!("({} IS {not}{})", self.boolean(operand)?, if *value { "TRUE" } else { "FALSE" })
            }
            Filter::IsDistinct { left, right, negated } => {
                let not = if *negated { "NOT " } else { "" };
                format!("({not}{})", self.distinct(left, right)?)
            }
            Filter::In { operand, list, negated } => {
                let values = list.iter().map(constant).collect::<Result<Vec<_>>>()?;
                let typed = self.operand(operand)?;
                let any = self.equal_any(&typed, &values)?;
                if *negated { format!("(NOT {any})") } else { any }
            }
            Filter::Between { operand, low, high, negated } => {
                let low = self.compare(Comparison::Ge, operand, low)?;
                let high = self.compare(Comparison::Le, operand, high)?;
                format!("({}({low} AND {high}))", if *negated { "NOT " } else { "" })
            }
            Filter::Like { operand, pattern, insensitive, negated } => {
                let typed = self.operand(operand)?;
                if !is_text(typed.typid) {
                    return Err(mismatch("LIKE", typed.typid));
                }
                self.deterministic(&typed)?;
                let pattern = self.constant(constant(pattern)?, pg_sys::TEXTOID)?;
                let operator = if *insensitive { "~~*" } else { "~~" };
                let like = format!("({} OPERATOR(pg_catalog.{operator}) {pattern})", typed.sql);
                if *negated { format!("(NOT {like})") } else { like }
            }
            Filter::EqAny { operand, array } => {
                let typed = self.operand(operand)?;
                self.equal_any_array(&typed, array)?
            }
            Filter::Contains { op, left, right } => self.contains(*op, left, right)?,
            Filter::Bool(operand) => self.boolean(operand)?,
            Filter::InSelect { .. } => return Err(Error::rule("XX000", "a sub-select inside a condition of its own")),
        })
    }

    fn list(&mut self, parts: &[Filter], between: &str) -> Result<String> {
        let parts = parts.iter().map(|part| self.filter(part)).collect::<Result<Vec<_>>>()?;
        Ok(format!("({})", parts.join(between)))
    }

    fn boolean(&mut self, operand: &Operand) -> Result<String> {
        if let Operand::Const(value) = operand {
            return self.constant(value, pg_sys::BOOLOID);
        }
        let typed = self.operand(operand)?;
        if typed.typid == pg_sys::BOOLOID { Ok(typed.sql) } else { Err(mismatch("a condition", typed.typid)) }
    }

    /// Both sides, at least one of them over the row; a constant takes the other's type.
    fn sides(&mut self, left: &Operand, right: &Operand) -> Result<(String, String, pg_sys::Oid)> {
        match (left, right) {
            (Operand::Const(_), Operand::Const(_)) => Err(Error::FilterGrammar {
                words: "a comparison of two constants".to_owned(),
                hint: "Compare a column with a constant.".to_owned(),
            }),
            (Operand::Const(value), _) => {
                let typed = self.operand(right)?;
                Ok((self.constant(value, typed.typid)?, typed.sql, typed.typid))
            }
            (_, Operand::Const(value)) => {
                let typed = self.operand(left)?;
                let value = self.constant(value, typed.typid)?;
                Ok((typed.sql, value, typed.typid))
            }
            _ => {
                let (left, right) = (self.operand(left)?, self.operand(right)?);
                if left.typid != right.typid || left.collation != right.collation {
                    return Err(mismatch("the other side of a comparison", left.typid));
                }
                Ok((left.sql, right.sql, left.typid))
            }
        }
    }

    fn compare(&mut self, op: Comparison, left: &Operand, right: &Operand) -> Result<String> {
        let (left, right, typid) = self.sides(left, right)?;
        let operator = types::operator(typid, op)?;
        let sql = format!("({left} {operator} {right})");
        Ok(if op == Comparison::Ne { format!("(NOT {sql})") } else { sql })
    }

    /// IS DISTINCT FROM takes its `=` from the search path; this takes the type's own.
    fn distinct(&mut self, left: &Operand, right: &Operand) -> Result<String> {
        let (left, right, typid) = self.sides(left, right)?;
        let equal = types::operator(typid, Comparison::Eq)?;
        Ok(format!("((({left}) {equal} ({right})) IS NOT TRUE AND NOT (({left}) IS NULL AND ({right}) IS NULL))"))
    }

    fn equal_any(&mut self, typed: &Typed, values: &[&Const]) -> Result<String> {
        let texts = values.iter().map(|value| self.text(value, typed.typid)).collect::<Result<Vec<_>>>()?;
        let literal = array_literal(&texts);
        self.any(typed, Some(literal))
    }

    fn equal_any_array(&mut self, typed: &Typed, array: &Const) -> Result<String> {
        let literal = match array {
            Const::Json(Value::Array(values)) => {
                let values: Vec<Const> = values.iter().map(|value| Const::Json(value.clone())).collect();
                let texts = values.iter().map(|value| self.text(value, typed.typid)).collect::<Result<Vec<_>>>()?;
                Some(array_literal(&texts))
            }
            Const::Null | Const::Json(Value::Null) => None,
            Const::Text(_) | Const::Json(Value::String(_)) | Const::Cast { .. } => {
                // SAFETY: a syscache look-up; a type without arrays is refused below.
                self.text(array, unsafe { pg_sys::get_array_type(typed.typid) })?
            }
            _ => return Err(Error::rule("42804", "= ANY needs an array")),
        };
        self.any(typed, literal)
    }

    fn any(&mut self, typed: &Typed, literal: Option<String>) -> Result<String> {
        let equal = types::operator(typed.typid, Comparison::Eq)?;
        let array = types::array_of(typed.typid).ok_or_else(|| mismatch("a list", typed.typid))?;
        let param = self.push(array, literal)?;
        Ok(format!("({} {equal} ANY ({param}))", typed.sql))
    }

    fn contains(&mut self, op: Containment, left: &Operand, right: &Operand) -> Result<String> {
        let typed = match (left, right) {
            (Operand::Const(_), Operand::Const(_)) => self.sides(left, right)?.2,
            (Operand::Const(_), other) | (other, _) => self.operand(other)?.typid,
        };
        // SAFETY: a syscache look-up.
        let is_array = unsafe { pg_sys::get_element_type(typed) } != pg_sys::InvalidOid;
        let symbol = match op {
            Containment::HasKey if typed == pg_sys::JSONBOID => {
                let (document, Operand::Const(key)) = (self.operand(left)?, right) else {
                    return Err(mismatch("the operand of ?", typed));
                };
                let key = self.constant(key, pg_sys::TEXTOID)?;
                return Ok(format!("({} OPERATOR(pg_catalog.?) {key})", document.sql));
            }
            Containment::Contains if is_array || typed == pg_sys::JSONBOID => "@>",
            Containment::ContainedBy if is_array || typed == pg_sys::JSONBOID => "<@",
            Containment::Overlaps if is_array => "&&",
            _ => return Err(mismatch("this operator", typed)),
        };
        let (left, right, _) = self.sides(left, right)?;
        Ok(format!("({left} OPERATOR(pg_catalog.{symbol}) {right})"))
    }

    fn operand(&mut self, operand: &Operand) -> Result<Typed> {
        match operand {
            Operand::Column(name) => self.column(name),
            Operand::Const(_) => Err(Error::FilterGrammar {
                words: "a constant in this place".to_owned(),
                hint: "A condition begins with a column.".to_owned(),
            }),
            Operand::Json { op, base, path } => {
                let base = self.operand(base)?;
                if base.typid != pg_sys::JSONBOID {
                    return Err(mismatch("a JSON path", base.typid));
                }
                let (symbol, result, path) = match op {
                    JsonOp::Get => ("->", pg_sys::JSONBOID, self.step(path)?),
                    JsonOp::GetText => ("->>", pg_sys::TEXTOID, self.step(path)?),
                    JsonOp::Path => ("#>", pg_sys::JSONBOID, self.constant(path, pg_sys::TEXTARRAYOID)?),
                    JsonOp::PathText => ("#>>", pg_sys::TEXTOID, self.constant(path, pg_sys::TEXTARRAYOID)?),
                };
                let sql = format!("({} OPERATOR(pg_catalog.{symbol}) {path})", base.sql);
                Ok(Typed { sql, typid: result, collation: pg_sys::DEFAULT_COLLATION_OID })
            }
            Operand::Call { function, args } => self.call(*function, args),
        }
    }

    /// A step into a JSON document: a number is an index, everything else a member's name.
    fn step(&mut self, path: &Const) -> Result<String> {
        let index = matches!(path, Const::Number(_) | Const::Json(Value::Number(_)));
        self.constant(path, if index { pg_sys::INT4OID } else { pg_sys::TEXTOID })
    }

    fn call(&mut self, function: Function, args: &[Operand]) -> Result<Typed> {
        let Some((first, rest)) = args.split_first() else {
            return Err(Error::rule("42883", "a function in the filter lacks its arguments"));
        };
        let typed = self.operand(first)?;
        let (name, result) = match function {
            Function::Coalesce => {
                let mut parts = vec![typed.sql.clone()];
                for arg in rest {
                    parts.push(match arg {
                        Operand::Const(value) => self.constant(value, typed.typid)?,
                        other => {
                            let other = self.operand(other)?;
                            if other.typid != typed.typid || other.collation != typed.collation {
                                return Err(mismatch("an argument of coalesce", other.typid));
                            }
                            other.sql
                        }
                    });
                }
                return Ok(Typed { sql: format!("COALESCE({})", parts.join(", ")), ..typed });
            }
            Function::Text => {
                // What holds text is text already; any other cast could fail, or mean something else.
                if typed.typid != pg_sys::TEXTOID && typed.typid != pg_sys::VARCHAROID {
                    return Err(mismatch("a cast to text", typed.typid));
                }
                let sql = format!("({}::pg_catalog.text)", typed.sql);
                return Ok(Typed { sql, typid: pg_sys::TEXTOID, collation: typed.collation });
            }
            Function::Lower => ("lower", pg_sys::TEXTOID),
            Function::Upper => ("upper", pg_sys::TEXTOID),
            Function::Length => ("length", pg_sys::INT4OID),
        };
        if !is_text(typed.typid) || !rest.is_empty() {
            return Err(mismatch(&format!("function {name}"), typed.typid));
        }
        let sql = format!("pg_catalog.{name}({}::pg_catalog.text)", typed.sql);
        Ok(Typed { sql, typid: result, collation: typed.collation })
    }

    fn column(&mut self, name: &str) -> Result<Typed> {
        let relation = &self.table.relation;
        let attribute: &Attribute =
            relation.attribute(name).filter(|a| a.name != relation::VERSION).ok_or_else(|| {
                Error::rule("42703", format!("column \"{name}\" of table \"{}\" does not exist", relation.name.1))
            })?;
        if attribute.generated == b'v' {
            return Err(Error::rule("0A000", format!("filter reads virtual generated column \"{name}\""))
                .with_hint("Make the column STORED, or filter by the columns it is computed from."));
        }
        let logged = self.table.filter_columns();
        if !relation.key.contains(&attribute.number) && !logged.iter().any(|column| column == name) {
            let table = format!("{}.{}", relation.name.0, relation.name.1).replace('\'', "''");
            return Err(Error::rule("0A000", format!("filter reads column \"{name}\", whose old values are not kept"))
                .with_detail("Rows that leave the shape could not be told.")
                .with_hint(format!("SELECT sync_track('{table}', filter_columns => '{{{name}}}')")));
        }
        let typid = types::base(attribute.storage.typid);
        Ok(Typed { sql: format!("{ALIAS}.{}", types::column(attribute)), typid, collation: attribute.collation })
    }

    fn deterministic(&self, typed: &Typed) -> Result<()> {
        // SAFETY: a syscache look-up.
        if typed.collation != pg_sys::InvalidOid && !unsafe { pg_sys::get_collation_isdeterministic(typed.collation) } {
            return Err(Error::rule("0A000", "LIKE on a column with a nondeterministic collation"));
        }
        Ok(())
    }

    /// A constant as a parameter of the given type.
    fn constant(&mut self, value: &Const, typid: pg_sys::Oid) -> Result<String> {
        let text = self.text(value, typid)?;
        self.push(typid, text)
    }

    /// The text that the type's input function gets.
    fn text(&self, value: &Const, typid: pg_sys::Oid) -> Result<Option<String>> {
        // SAFETY: a syscache look-up.
        let is_array = unsafe { pg_sys::get_element_type(typid) } != pg_sys::InvalidOid;
        let text = match value {
            Const::Null | Const::Json(Value::Null) if typid != pg_sys::JSONBOID => return Ok(None),
            Const::Null => return Ok(None),
            Const::Bool(value) => value.to_string(),
            Const::Number(text) | Const::Text(text) => text.clone(),
            Const::Json(value) if typid == pg_sys::JSONBOID || typid == pg_sys::JSONOID => value.to_string(),
            Const::Json(Value::String(text)) => text.clone(),
            Const::Json(Value::Array(values)) if is_array => {
                let texts = values
                    .iter()
                    .map(|value| match value {
                        Value::Null => Ok(None),
                        Value::String(text) => Ok(Some(text.clone())),
                        Value::Bool(_) | Value::Number(_) => Ok(Some(value.to_string())),
                        _ => Err(mismatch("a nested value", typid)),
                    })
                    .collect::<Result<Vec<_>>>()?;
                array_literal(&texts)
            }
            Const::Json(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
            Const::Cast { value, to } => return self.cast(value, to),
            _ => return Err(mismatch("a parameter", typid)),
        };
        let lower = text.trim().to_ascii_lowercase();
        if holds_time(typid) && ["now", "today", "tomorrow", "yesterday"].iter().any(|word| lower.contains(word)) {
            return Err(Error::FilterGrammar {
                words: format!("'{text}'"),
                hint: "A shape does not depend on time: pass the moment as a parameter.".to_owned(),
            });
        }
        Ok(Some(text))
    }

    /// Casts validate and normalise: the result is the text of the value in the type that was named.
    fn cast(&self, value: &Const, to: &str) -> Result<Option<String>> {
        let name = CString::new(to).unwrap_or_default();
        // Under the pinned search path.
        let (typid, typmod) = version::parse_type(&name);
        let Some(text) = self.text(value, typid)? else { return Ok(None) };
        let datum = input(typid, &text, typmod);
        let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: a catalog look-up for an existing type.
        unsafe { pg_sys::getTypeOutputInfo(typid, &mut output, &mut varlena) };
        Ok(Some(function::output(output, datum)))
    }

    fn push(&mut self, typid: pg_sys::Oid, text: Option<String>) -> Result<String> {
        let value = text.as_deref().map(|text| input(typid, text, -1));
        let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: a catalog look-up for an existing type.
        unsafe { pg_sys::getTypeOutputInfo(typid, &mut output, &mut varlena) };
        let canonical = value.map(|datum| function::output(output, datum));
        self.output.fingerprint.push_str(&format!("{}={canonical:?};", typid.to_u32()));
        self.output.params.push(Param { typid, value });
        Ok(format!("${}", self.output.params.len()))
    }
}

/// A row that comes to a level must be known to have not been there; where row security restricts a table, so must
/// one of the table itself, or a key could be named that the reader was never allowed to see.
fn logs_inserts(tracked: &Tracked) -> Result<()> {
    let relation = &tracked.relation;
    if relation.trigger(relation::LOG).is_some_and(|trigger| trigger.on_insert) {
        return Ok(());
    }
    let name = relation.full_name().replace('\'', "''");
    Err(Error::rule(
        "0A000",
        format!("table \"{}\" stands in a sub-select, but its inserts are not logged", relation.name.1),
    )
    .with_hint(format!("SELECT sync_track('{name}', log_inserts => true)")))
}

fn constant(operand: &Operand) -> Result<&Const> {
    match operand {
        Operand::Const(value) => Ok(value),
        _ => Err(Error::FilterGrammar {
            words: "a column in a list or pattern".to_owned(),
            hint: "Lists and patterns are made of constants.".to_owned(),
        }),
    }
}

/// The text form of an array, every element quoted.
fn array_literal(values: &[Option<String>]) -> String {
    let quote = |text: &String| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let parts: Vec<String> = values.iter().map(|v| v.as_ref().map_or("NULL".to_owned(), quote)).collect();
    format!("{{{}}}", parts.join(","))
}
