//! What a client of the stream asks for, as options of the output plugin.

use std::cell::Cell;

use serde_json::Value;

use crate::Error;
use crate::cursor::Position;
use crate::filter::{Constants, Filter};
use crate::shape::{self, Request, Shape};
use crate::snapshot::{Xid, parse_decimal};

const KNOWN: &str = "The options are shapes, since, not_before, topics and without_origin.";

/// The options, read and checked.
#[derive(Debug, Default)]
pub struct Options {
    /// The shapes that are followed, by the ids that the client gave them. Their filters hold constants only.
    pub shapes: Vec<(String, Shape)>,
    /// A position: transactions that it has seen are not sent.
    pub since: Option<Position>,
    /// Positions begin with all transactions below this one.
    pub not_before: Option<Xid>,
    /// Messages whose topic begins with one of these are sent.
    pub topics: Vec<String>,
    /// Transactions that were replicated from this origin are not sent.
    pub without_origin: Option<String>,
}

fn wrong(message: impl Into<String>, hint: &str) -> Error {
    Error::rule("22023", message).with_hint(hint)
}

impl Options {
    /// Reads the options, as (name, value) pairs.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> Result<Self, Error> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for (name, value) in pairs {
            if seen.contains(&name) {
                return Err(wrong(format!("option \"{name}\" is given twice"), KNOWN));
            }
            seen.push(name);
            let value = value.ok_or_else(|| wrong(format!("option \"{name}\" has no value"), KNOWN));
            match name {
                "shapes" => options.shapes = shapes(value?)?,
                "since" => options.since = Some(Position::of(value?)?),
                "not_before" => options.not_before = Some(xid(value?)?),
                "topics" => options.topics = topics(value?)?,
                "without_origin" => options.without_origin = Some(value?.to_owned()),
                _ => return Err(wrong(format!("option \"{name}\" is not known"), KNOWN)),
            }
        }
        if options.since.is_some() && options.not_before.is_some() {
            return Err(wrong(
                "options \"since\" and \"not_before\" exclude each other",
                "A client that has a position gives \"since\", one that starts gives \"not_before\".",
            ));
        }
        Ok(options)
    }

    /// The first table that a shape names without its schema: the shape's id and the name.
    pub fn unqualified(&self) -> Option<(&str, &str)> {
        self.shapes.iter().find_map(|(id, shape)| {
            let tables = shape.tables.iter().map(|table| (table.schema.as_deref(), table.name.as_str()));
            let filters = shape.tables.iter().filter_map(|table| table.filter.as_ref());
            let levels = filters.flat_map(Filter::all_selects);
            let levels = levels.map(|select| (select.schema.as_deref(), select.table.as_str()));
            tables.chain(levels).find(|(schema, _)| schema.is_none()).map(|(_, name)| (id.as_str(), name))
        })
    }

    /// Whether messages of a topic are sent.
    pub fn wants(&self, topic: &str) -> bool {
        self.topics.iter().any(|prefix| topic.starts_with(prefix.as_str()))
    }
}

fn xid(text: &str) -> Result<Xid, Error> {
    let hint = "It is the next transaction id, read after the slot was made: SELECT pg_current_xact_id().";
    parse_decimal(text).filter(|&xid| xid > 2).ok_or_else(|| wrong("option \"not_before\" is no transaction id", hint))
}

fn topics(text: &str) -> Result<Vec<String>, Error> {
    let bad = || {
        wrong(
            "option \"topics\" must be a JSON array of strings",
            "Messages whose topic begins with one of them are sent: [\"chat.\", \"jobs\"]; [\"\"] is all.",
        )
    };
    let Ok(Value::Array(items)) = serde_json::from_str(text) else { return Err(bad()) };
    items.into_iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(bad)).collect()
}

fn shapes(text: &str) -> Result<Vec<(String, Shape)>, Error> {
    let hint = "It is a JSON object with a shape under each id: {\"id\": {\"tables\": {...}}}.";
    let malformed = |detail: String| wrong("option \"shapes\" is malformed", hint).with_detail(detail);
    if text.len() > shape::MAX_LENGTH {
        return Err(Error::Limit { what: "option \"shapes\"", limit: shape::MAX_LENGTH });
    }
    shape::unique(text).map_err(|e| malformed(format!("{e}.")))?;
    let object = match serde_json::from_str(text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(malformed("It is no object.".to_owned())),
        Err(e) => return Err(malformed(format!("{e}."))),
    };
    object
        .into_iter()
        .map(|(id, value)| {
            if id.is_empty() || id.contains('\0') {
                return Err(malformed("The id of a shape is empty, or has a NUL in it.".to_owned()));
            }
            let shape = match Request::parse(&value.to_string())? {
                Request::Shape(shape) => folded(&id, shape)?,
                Request::Named { .. } => {
                    return Err(Error::rule("0A000", format!("shape \"{id}\" is a named one"))
                        .with_detail("What a name means is not in the write-ahead log.")
                        .with_hint("Write the shape out; sync_shapes has its definition."));
                }
            };
            Ok((id, shape))
        })
        .collect()
}

/// Constants of a client that no session stands for.
struct Sessionless<'a> {
    params: &'a [Value],
    asked: Cell<bool>,
}

impl Constants for Sessionless<'_> {
    fn param(&self, n: usize) -> Option<&Value> {
        self.params.get(n.checked_sub(1)?)
    }

    fn setting(&self, _name: &str, _missing_ok: bool) -> Result<Option<String>, Error> {
        self.asked.set(true);
        Ok(None)
    }

    fn current_user(&self) -> String {
        self.asked.set(true);
        String::new()
    }
}

/// The shape with its parameters put in.
fn folded(id: &str, shape: Shape) -> Result<Shape, Error> {
    let Shape { mut tables, params, int8_as_string } = shape;
    let constants = Sessionless { params: &params, asked: Cell::new(false) };
    for table in &mut tables {
        table.filter = table.filter.take().map(|filter| filter.fold(&constants)).transpose()?.map(Filter::normal);
    }
    if constants.asked.get() {
        return Err(Error::rule("0A000", format!("a filter of shape \"{id}\" depends on the session"))
            .with_detail("The stream belongs to no session whose settings and user could be meant.")
            .with_hint("Pass the value as a parameter."));
    }
    Ok(Shape { tables, params, int8_as_string })
}
