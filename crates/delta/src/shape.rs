//! What a client follows: tables, their columns, and conditions on their rows.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::Error;
use crate::filter::Filter;

/// The most bytes of text that are looked at.
pub const MAX_LENGTH: usize = 1 << 20;

const FORM: &str = "A shape is {\"tables\": {\"name\": {\"table\": ..., \"columns\": [...], \"where\": ...}}, \
     \"params\": [...], \"int8\": \"string\"}; all but \"tables\" may be left out.";

/// What a client follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The tables, in the order in which they were given; never empty.
    pub tables: Vec<Table>,
    /// The values of `$1`, `$2` and so on.
    pub params: Vec<Value>,
    /// Whether 64-bit integers are written as strings.
    pub int8_as_string: bool,
}

/// One table of a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The name that it has in the output.
    pub relation: String,
    /// The schema, if one was given.
    pub schema: Option<String>,
    /// The table's name.
    pub name: String,
    /// The columns that are sent; without a list all of them.
    pub columns: Option<Vec<String>>,
    /// The condition on its rows; without one all of them.
    pub filter: Option<Filter>,
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A shape, written out.
    Shape(Shape),
    /// A shape that was defined under a name, and its values.
    Named {
        /// The name.
        name: String,
        /// The values of `$1`, `$2` and so on.
        params: Vec<Value>,
    },
}

impl Request {
    /// Parses the JSON text of a shape, or of `{"shape": "name", "params": [...]}`.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let object = object(json)?;
        match object.get("shape") {
            None => Shape::from_object(&object, None).map(Self::Shape),
            Some(Value::String(name)) => {
                known(&object, &["shape", "params"], "the use of a named shape")?;
                Ok(Self::Named { name: name.clone(), params: params(&object)? })
            }
            Some(_) => Err(wrong("\"shape\" must be a name")),
        }
    }
}

impl Shape {
    /// Parses the JSON text of a shape.
    pub fn parse(json: &str) -> Result<Self, Error> {
        Self::from_object(&object(json)?, None)
    }

    /// Parses what a name was defined as; the values are the caller's.
    pub fn defined(json: &str, params: Vec<Value>) -> Result<Self, Error> {
        let object = object(json)?;
        no_params(&object)?;
        Self::from_object(&object, Some(params))
    }

    /// Checks what a name is to be defined as. Its filters may use any values, but it has none itself.
    pub fn check_definition(json: &str) -> Result<(), Error> {
        let object = object(json)?;
        no_params(&object)?;
        let most = tables(&object)?.iter().filter_map(|table| table.filter.as_ref()).flat_map(Filter::params).max();
        Self::from_object(&object, Some(vec![Value::Null; most.unwrap_or(0)])).map(drop)
    }

    fn from_object(object: &Map<String, Value>, values: Option<Vec<Value>>) -> Result<Self, Error> {
        known(object, &["tables", "params", "int8"], "the shape")?;
        let int8_as_string = match object.get("int8") {
            None => false,
            Some(Value::String(text)) if text == "string" => true,
            Some(_) => return Err(wrong("\"int8\" can only be \"string\"")),
        };
        let params = values.map_or_else(|| params(object), Ok)?;
        let tables = tables(object)?;
        check_params(&tables, params.len())?;
        Ok(Self { tables, params, int8_as_string })
    }
}

fn no_params(object: &Map<String, Value>) -> Result<(), Error> {
    if object.contains_key("params") {
        return Err(wrong("the definition of a named shape has \"params\"; they are given with its name"));
    }
    Ok(())
}

fn params(object: &Map<String, Value>) -> Result<Vec<Value>, Error> {
    match object.get("params") {
        None => Ok(Vec::new()),
        Some(Value::Array(params)) => Ok(params.clone()),
        Some(_) => Err(wrong("\"params\" must be an array")),
    }
}

fn tables(object: &Map<String, Value>) -> Result<Vec<Table>, Error> {
    let tables = match object.get("tables") {
        Some(Value::Object(tables)) if !tables.is_empty() => tables,
        Some(Value::Object(_)) => return Err(wrong("\"tables\" is empty")),
        Some(_) => return Err(wrong("\"tables\" must be an object")),
        None => return Err(wrong("shape has no \"tables\"")),
    };
    tables.iter().map(|(key, value)| table(key, value)).collect()
}

/// The object that every shape is.
fn object(json: &str) -> Result<Map<String, Value>, Error> {
    if json.len() > MAX_LENGTH {
        return Err(Error::Limit { what: "shape", limit: MAX_LENGTH });
    }
    let value: Value = serde_json::from_str(json).map_err(|e| wrong(format!("shape is not valid JSON: {e}")))?;
    if has_nul(&value) {
        return Err(wrong("a string in the shape contains a NUL character"));
    }
    let object = match value {
        Value::Object(object) => object,
        Value::Array(_) => {
            return Err(Error::Shape {
                message: "shape must be a JSON object, not an array".to_owned(),
                hint: "Drivers turn a top-level array into an SQL array; put the tables into an object: \
                           {\"tables\": {...}}."
                    .to_owned(),
            });
        }
        _ => return Err(wrong("shape must be a JSON object")),
    };
    unique(json).map_err(|e| wrong(e.to_string()))?;
    Ok(object)
}

/// An error if an object in the text has a key twice: a map keeps the last one and says nothing.
pub(crate) fn unique(json: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<Unique>(json).map(drop)
}

fn table(relation: &str, value: &Value) -> Result<Table, Error> {
    let Value::Object(object) = value else {
        return Err(wrong(format!("table \"{relation}\" must be an object")));
    };
    if relation.is_empty() {
        return Err(wrong("a table in \"tables\" has an empty name"));
    }
    known(object, &["table", "columns", "where"], &format!("table \"{relation}\""))?;
    let (schema, name) = match object.get("table") {
        None => qualified(relation)?,
        Some(Value::String(text)) => qualified(text)?,
        Some(_) => return Err(wrong(format!("\"table\" of \"{relation}\" must be a string"))),
    };
    let columns = object.get("columns").map(|list| columns(relation, list)).transpose()?;
    let filter = match object.get("where") {
        None => None,
        Some(Value::String(text)) => Some(Filter::parse(text)?),
        Some(_) => return Err(wrong(format!("\"where\" of \"{relation}\" must be a string"))),
    };
    Ok(Table { relation: relation.to_owned(), schema, name, columns, filter })
}

/// Names of columns are taken as they are: JSON has quotes of its own.
fn columns(relation: &str, list: &Value) -> Result<Vec<String>, Error> {
    let Value::Array(list) = list else {
        return Err(wrong(format!("\"columns\" of \"{relation}\" must be an array")));
    };
    if list.is_empty() {
        return Err(wrong(format!("\"columns\" of \"{relation}\" is empty; leave it out for all columns")));
    }
    let mut seen = BTreeSet::new();
    let mut names = Vec::with_capacity(list.len());
    for item in list {
        let Some(name) = item.as_str().filter(|name| !name.is_empty()) else {
            return Err(wrong(format!("\"columns\" of \"{relation}\" must be names")));
        };
        if !seen.insert(name) {
            return Err(wrong(format!("\"columns\" of \"{relation}\" has \"{name}\" twice")));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// The values must be exactly those that the filters use: a surplus one is a mistake somewhere.
fn check_params(tables: &[Table], given: usize) -> Result<(), Error> {
    let used: BTreeSet<usize> =
        tables.iter().filter_map(|table| table.filter.as_ref()).flat_map(Filter::params).collect();
    if let Some(n) = used.iter().find(|n| **n > given) {
        return Err(Error::Params { message: format!("a filter uses ${n}, but \"params\" has {given} values") });
    }
    if let Some(n) = (1..=given).find(|n| !used.contains(n)) {
        return Err(Error::Params { message: format!("no filter uses parameter ${n}") });
    }
    Ok(())
}

/// Reads an SQL name: `name`, `schema.name`, either part quoted or not.
fn qualified(text: &str) -> Result<(Option<String>, String), Error> {
    let bad = || Error::Shape {
        message: format!("\"{text}\" is not the name of a table"),
        hint: "Write name or schema.name as in SQL, with double quotes around what is not lower case.".to_owned(),
    };
    let mut parts = Vec::new();
    let mut rest = text.trim();
    loop {
        let (part, after) = identifier(rest).ok_or_else(bad)?;
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => break,
            None => return Err(bad()),
        }
    }
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, None) => Ok((None, name)),
        (Some(schema), Some(name), None) => Ok((Some(schema), name)),
        _ => Err(bad()),
    }
}

/// The identifier at the start of the text, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (part, after) = rest.split_once('"')?;
            name.push_str(part);
            match after.strip_prefix('"') {
                Some(next) => {
                    name.push('"');
                    rest = next;
                }
                None => return (!name.is_empty()).then_some((name, after)),
            }
        }
    }
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    if !text.starts_with(first) {
        return None;
    }
    let end = text.find(|c: char| !(first(c) || c.is_ascii_digit() || c == '$')).unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    Some((name.to_ascii_lowercase(), after))
}

fn known(object: &Map<String, Value>, keys: &[&str], place: &str) -> Result<(), Error> {
    match object.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(wrong(format!("{place} has an unknown key \"{key}\""))),
        None => Ok(()),
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::Shape { message: message.into(), hint: FORM.to_owned() }
}

/// Postgres has no text with a NUL in it.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(object) => object.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// Any JSON whose objects have no key twice.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            // The values of parameters are the caller's own.
            if key == "params" {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value::<Unique>()?;
            }
            if seen.contains(&key) {
                return Err(A::Error::custom(format_args!("the shape has \"{key}\" twice")));
            }
            seen.insert(key);
        }
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }
}
