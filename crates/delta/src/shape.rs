//! Shapes: which rows and columns of which tables a client follows.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use sqlparser::ast::ObjectNamePart;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use crate::Error;
use crate::filter::Filter;

/// The most bytes of a shape's text.
pub const MAX_LENGTH: usize = 16 << 20;

/// A set of rows, from one or several tables, that a client holds in one state.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// The tables, by the name in the output.
    pub tables: Vec<Table>,
    /// Values for `$1`, `$2`, … of the filters.
    pub params: Vec<Value>,
    /// 64-bit integers as JSON strings, for clients whose numbers have 53 bits.
    pub int8_as_string: bool,
}

/// The part of a shape that comes from one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The name in the output.
    pub relation: String,
    /// The table's schema, if one was named.
    pub schema: Option<String>,
    /// The table's name.
    pub name: String,
    /// The columns beside the key; nothing: all.
    pub columns: Option<Vec<String>>,
    /// Which rows; nothing: all.
    pub filter: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    tables: BTreeMap<String, RawTable>,
    #[serde(default)]
    params: Vec<Value>,
    int8: Option<Int8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Int8 {
    Number,
    String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    table: Option<String>,
    columns: Option<Vec<String>>,
    r#where: Option<String>,
}

const FORM: &str = "A shape is {\"tables\": {\"name\": {\"table\": …, \"columns\": […], \"where\": …}}, \"params\": […], \"int8\": \"string\"}.";

fn refuse<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::Shape { message: message.into(), hint: FORM.to_owned() })
}

impl Shape {
    /// Reads a shape's JSON text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_LENGTH {
            return Err(Error::Limit { what: "shape", limit: MAX_LENGTH });
        }
        if !text.trim_start().starts_with('{') {
            return Err(Error::Shape {
                message: "shape is not a JSON object".to_owned(),
                hint: format!("{FORM} Drivers turn arrays at the top into SQL arrays."),
            });
        }
        let raw: Raw = match serde_json::from_str(text) {
            Ok(raw) => raw,
            Err(error) => return refuse(format!("invalid shape: {error}")),
        };
        if raw.tables.is_empty() {
            return refuse("shape has no tables");
        }
        let tables = raw.tables.into_iter().map(|(key, table)| Table::new(key, table)).collect::<Result<Vec<_>, _>>()?;
        let used: BTreeSet<usize> = tables.iter().filter_map(|t| t.filter.as_ref()).flat_map(Filter::params).collect();
        let given = raw.params.len();
        if let Some(n) = used.iter().find(|&&n| n > given) {
            return Err(Error::Params { message: format!("there is no parameter ${n}: the shape has {given}") });
        }
        if let Some(n) = (1..=given).find(|n| !used.contains(n)) {
            return Err(Error::Params { message: format!("parameter ${n} is used by no filter") });
        }
        Ok(Self { tables, params: raw.params, int8_as_string: matches!(raw.int8, Some(Int8::String)) })
    }
}

impl Table {
    fn new(relation: String, raw: RawTable) -> Result<Self, Error> {
        let (schema, name) = table_name(raw.table.as_deref().unwrap_or(&relation))?;
        if let Some(columns) = &raw.columns {
            let distinct: BTreeSet<_> = columns.iter().collect();
            if distinct.len() != columns.len() {
                return refuse(format!("shape names a column of \"{relation}\" twice"));
            }
        }
        let filter = raw.r#where.as_deref().map(Filter::parse).transpose()?;
        Ok(Self { relation, schema, name, columns: raw.columns, filter })
    }
}

/// A table's name as SQL writes it: `name`, `schema.name`, with quotes where needed.
fn table_name(text: &str) -> Result<(Option<String>, String), Error> {
    let bad = || Error::Shape {
        message: format!("invalid table name: {text:?}"),
        hint: "Write name, schema.name or \"Quoted Name\".".to_owned(),
    };
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(|_| bad())?;
    let name = parser.parse_object_name(false).map_err(|_| bad())?;
    if parser.peek_token().token != Token::EOF {
        return Err(bad());
    }
    let mut parts = Vec::new();
    for part in name.0 {
        let ObjectNamePart::Identifier(ident) = part else { return Err(bad()) };
        parts.push(if ident.quote_style.is_some() { ident.value } else { ident.value.to_lowercase() });
    }
    match <[String; 1]>::try_from(parts) {
        Ok([name]) => Ok((None, name)),
        Err(parts) => match <[String; 2]>::try_from(parts) {
            Ok([schema, name]) => Ok((Some(schema), name)),
            Err(_) => Err(bad()),
        },
    }
}
