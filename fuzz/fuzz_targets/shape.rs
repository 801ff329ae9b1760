//! A shape that is read, written out in full, is read as the same shape.
#![no_main]
use serde_json::{Map, Value, json};
use syncline_delta::Error;
use syncline_delta::shape::{Shape, Table};

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn table(table: &Table) -> Value {
    let name = table.schema.iter().chain([&table.name]).map(|part| quoted(part)).collect::<Vec<_>>().join(".");
    let mut members = Map::from_iter([("table".to_owned(), Value::String(name))]);
    members.extend(table.columns.iter().map(|columns| ("columns".to_owned(), json!(columns))));
    members.extend(table.filter.iter().map(|filter| ("where".to_owned(), Value::String(filter.to_string()))));
    Value::Object(members)
}

fn written(shape: &Shape) -> String {
    let tables: Map<_, _> = shape.tables.iter().map(|of| (of.relation.clone(), table(of))).collect();
    let mut members = Map::from_iter([("tables".to_owned(), Value::Object(tables))]);
    members.insert("params".to_owned(), Value::Array(shape.params.clone()));
    if shape.int8_as_string {
        members.insert("int8".to_owned(), json!("string"));
    }
    Value::Object(members).to_string()
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(shape) = Shape::parse(text) else { return };
    let again = written(&shape);
    match Shape::parse(&again) {
        // Written out in full it may be too long, and its filters may have more brackets.
        Err(Error::Limit { .. }) => {}
        read => assert_eq!(read, Ok(shape), "{again}"),
    }
});
