//! From a filter's tree to SQL with typed parameters. No text of the filter is ever pasted into a query:
//! identifiers are resolved against the tracked table and quoted, values are bound as the column's type,
//! operators are those of the type's own ordering, named with their schema.

use std::ffi::{CStr, CString};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use serde_json::Value;
use syncline_delta::Error;
use syncline_delta::filter::{Comparison, Const, Constants, Containment, Filter, Function, JsonOp, Operand};

use crate::catalog::Tracked;
use crate::error::Result;
use crate::pg::function::{self, input};
use crate::pg::relation::Attribute;
use crate::pg::spi::Param;

static PREFIXES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"app."));

/// Defines `syncline.filter_settings`.
pub fn define_settings() {
    GucRegistry::define_string_guc(
        c"syncline.filter_settings",
        c"prefixes of the settings that current_setting() in a filter may read",
        c"separated by commas",
        &PREFIXES,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// The session's side of a filter's constants.
pub struct Session<'a> {
    /// `params` of the shape.
    pub params: &'a [Value],
}

impl Constants for Session<'_> {
    fn param(&self, n: usize) -> Option<&Value> {
        self.params.get(n.checked_sub(1)?)
    }

    fn setting(&self, name: &str, missing_ok: bool) -> Result<Option<String>> {
        let allowed = PREFIXES.get().unwrap_or_default();
        let allowed = allowed.to_string_lossy();
        if !allowed.split(',').map(str::trim).any(|prefix| !prefix.is_empty() && name.starts_with(prefix)) {
            return Err(Error::rule("42501", format!("setting \"{name}\" may not be read by a filter"))
                .with_hint("Setting syncline.filter_settings lists the prefixes that are allowed."));
        }
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: the result is a palloc'd C string, or null if the setting is missing and that is allowed.
        unsafe {
            let value = pg_sys::GetConfigOptionByName(c_name.as_ptr(), std::ptr::null_mut(), missing_ok);
            Ok((!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned()))
        }
    }

    fn current_user(&self) -> String {
        // SAFETY: the name is a palloc'd C string.
        unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(pg_sys::GetUserId(), false)) }.to_string_lossy().into_owned()
    }
}

/// A condition as SQL over the alias `t`, its parameters from `$1` on.
#[derive(Default)]
pub struct Bound {
    /// The condition.
    pub sql: String,
    /// Its values.
    pub params: Vec<Param>,
    /// The values' types and canonical texts, for the shape's fingerprint.
    pub fingerprint: String,
}

/// Quotes an identifier always, so that keywords are no case of their own.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Binds a folded filter to a tracked table.
pub fn bind(filter: Option<&Filter>, table: &Tracked) -> Result<Bound> {
    let mut binder = Binder { table, bound: Bound::default() };
    let sql = match filter {
        None => "TRUE".to_owned(),
        Some(filter) => binder.filter(filter)?,
    };
    Ok(Bound { sql, ..binder.bound })
}

struct Binder<'a> {
    table: &'a Tracked,
    bound: Bound,
}

/// An expression over a row, with the base type of its values.
struct Typed {
    sql: String,
    typid: pg_sys::Oid,
    collation: pg_sys::Oid,
}

fn type_name(typid: pg_sys::Oid) -> String {
    // SAFETY: format_type_be returns a palloc'd C string for any OID.
    unsafe { CStr::from_ptr(pg_sys::format_type_be(typid)) }.to_string_lossy().into_owned()
}

fn mismatch(what: &str, typid: pg_sys::Oid) -> Error {
    Error::rule("42804", format!("{what} does not fit type {}", type_name(typid)))
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

/// The operator of the type's default ordering (or hashing), as SQL.
fn operator(typid: pg_sys::Oid, comparison: Comparison) -> Result<String> {
    // SAFETY: type cache and syscache look-ups; names are palloc'd C strings or null.
    unsafe {
        let flags = pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_GT_OPR;
        let entry = &*pg_sys::lookup_type_cache(typid, flags as i32);
        let member = |strategy: u32| {
            let (family, input) = (entry.btree_opf, entry.btree_opintype);
            if family == pg_sys::InvalidOid {
                return pg_sys::InvalidOid;
            }
            pg_sys::get_opfamily_member(family, input, input, strategy as i16)
        };
        let found = match comparison {
            Comparison::Eq | Comparison::Ne => entry.eq_opr,
            Comparison::Lt => entry.lt_opr,
            Comparison::Gt => entry.gt_opr,
            Comparison::Le => member(pg_sys::BTLessEqualStrategyNumber),
            Comparison::Ge => member(pg_sys::BTGreaterEqualStrategyNumber),
        };
        if found == pg_sys::InvalidOid || pg_sys::type_is_rowtype(typid) {
            return Err(Error::rule("42883", format!("values of type {} cannot be compared so", type_name(typid))));
        }
        let name = CStr::from_ptr(pg_sys::get_opname(found)).to_string_lossy().into_owned();
        let function = pg_sys::get_opcode(found);
        let schema = CStr::from_ptr(pg_sys::get_namespace_name(pg_sys::get_func_namespace(function)));
        Ok(format!("OPERATOR({}.{name})", quoted(&schema.to_string_lossy())))
    }
}

impl Binder<'_> {
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
        let operator = operator(typid, op)?;
        let sql = format!("({left} {operator} {right})");
        Ok(if op == Comparison::Ne { format!("(NOT {sql})") } else { sql })
    }

    /// IS DISTINCT FROM takes its `=` from the search path; this takes the type's own.
    fn distinct(&mut self, left: &Operand, right: &Operand) -> Result<String> {
        let (left, right, typid) = self.sides(left, right)?;
        let equal = operator(typid, Comparison::Eq)?;
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
        let equal = operator(typed.typid, Comparison::Eq)?;
        // SAFETY: a syscache look-up.
        let array = unsafe { pg_sys::get_array_type(typed.typid) };
        if array == pg_sys::InvalidOid {
            return Err(mismatch("a list", typed.typid));
        }
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
            relation.attribute(name).filter(|a| a.name != "_sync_version").ok_or_else(|| {
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
        // SAFETY: a catalog look-up.
        let typid = unsafe { pg_sys::getBaseType(attribute.storage.typid) };
        Ok(Typed { sql: format!("t.{}", quoted(name)), typid, collation: attribute.collation })
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
        let (mut typid, mut typmod) = (pg_sys::InvalidOid, 0);
        // SAFETY: the parser of type names, under the pinned search path; an unknown name raises 42704.
        unsafe { pg_sys::parseTypeString(name.as_ptr(), &mut typid, &mut typmod, false) };
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
        self.bound.fingerprint.push_str(&format!("{}={canonical:?};", typid.to_u32()));
        self.bound.params.push(Param { typid, value });
        Ok(format!("${}", self.bound.params.len()))
    }
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
