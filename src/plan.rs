//! A shape resolved against the database: per table the columns, the bound filter, and how rows are found.

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::change::Op;
use syncline_delta::cursor::Identity;
use syncline_delta::digest::fingerprint;
use syncline_delta::shape::{Shape, Table};
use syncline_delta::snapshot::Snapshot;

use crate::catalog::Tracked;
use crate::error::Result;
use crate::mutant::{self, Mutant};
use crate::pg::relation::{self, Attribute};
use crate::pg::tuplestore::Tuplestore;
use crate::pg::{expr, image, settings, snapshot, spi};
use crate::query::{self, Bound, Session};
use crate::row::Object;
use crate::server::{self, Reads};

/// One table of a shape.
pub struct Plan {
    /// The name in the output.
    pub name: String,
    tracked: Tracked,
    columns: Vec<Attribute>,
    /// Attribute numbers of all that is read: key, output and filter.
    reads: Vec<i16>,
    /// Attribute numbers of what is read from the log: key and filter.
    logged: Vec<i16>,
    bound: Bound,
    key: Object,
    value: Object,
}

/// A whole shape.
pub struct Plans {
    /// Its tables, in the shape's order.
    pub tables: Vec<Plan>,
    /// What a cursor over it is bound to.
    pub identity: Identity,
}

impl Plans {
    /// Resolves, locks and checks everything that the shape reads. Call it under the pinned settings,
    /// with the search path of the session given to `resolve`.
    pub fn new(resolved: Vec<Tracked>, shape: Shape) -> Result<Self> {
        let session = Session { params: &shape.params };
        let mut tables = Vec::with_capacity(shape.tables.len());
        let (mut shapes, mut schemas) = (format!("int8={};", shape.int8_as_string), String::new());
        for (table, tracked) in shape.tables.into_iter().zip(resolved) {
            let Table { relation, columns, filter, .. } = table;
            let filter = filter.map(|filter| filter.fold(&session)).transpose()?;
            let columns = chosen(&tracked, columns.as_deref())?;
            let bound = query::bind(filter.as_ref(), &tracked)?;
            let filtered: Vec<&Attribute> = filter_attributes(&tracked, filter.as_ref()).collect();
            let reads: Vec<&Attribute> = columns.iter().chain(filtered.iter().copied()).collect();
            readable(&tracked, &reads)?;
            let numbers = reads.iter().map(|a| a.number).collect();
            let mut logged = tracked.relation.key.clone();
            logged.extend(filtered.iter().map(|a| a.number).filter(|number| !tracked.relation.key.contains(number)));
            shapes.push_str(&format!("{relation:?}({}){}", bound.sql, bound.fingerprint));
            schemas.push_str(&format!("{}:", tracked.relation.oid.to_u32()));
            for a in reads {
                shapes.push_str(&format!("{:?},", a.name));
                let typid = a.storage.typid.to_u32();
                schemas.push_str(&format!("{} {typid} {} {},", a.number, a.typmod, a.collation.to_u32()));
            }
            let place = |number: i16| columns.iter().position(|c| c.number == number).map(|i| (i, &columns[i]));
            let key = tracked.relation.key.iter().filter_map(|&number| place(number));
            let key = Object::new(key, false, shape.int8_as_string);
            let value = Object::new(columns.iter().enumerate(), true, shape.int8_as_string);
            tables.push(Plan { name: relation, tracked, columns, reads: numbers, logged, bound, key, value });
        }
        let identity = Identity { shape: fingerprint(&shapes), schema: fingerprint(&schemas) };
        Ok(Self { tables, identity })
    }

    /// Finds and locks the shape's tables, under the session's search path.
    pub fn resolve(shape: &Shape) -> Result<Vec<Tracked>> {
        shape.tables.iter().map(Tracked::resolve).collect()
    }

    /// What the shape reads, table by table.
    pub fn reads(&self) -> Vec<Reads> {
        let reads = |table: &Plan| Reads { relation: table.relation(), columns: table.reads.clone() };
        self.tables.iter().map(reads).collect()
    }
}

/// The key, and the columns asked for; all but the version if none were.
fn chosen(tracked: &Tracked, wanted: Option<&[String]>) -> Result<Vec<Attribute>> {
    let relation = &tracked.relation;
    if let Some(names) = wanted {
        for name in names {
            if relation.attribute(name).is_none_or(|a| a.name == "_sync_version") {
                let table = &relation.name.1;
                return Err(Error::rule("42703", format!("column \"{name}\" of table \"{table}\" does not exist")));
            }
        }
    }
    let is_chosen = |a: &&Attribute| {
        relation.key.contains(&a.number) || wanted.map_or(a.name != "_sync_version", |names| names.contains(&a.name))
    };
    Ok(relation.attributes.iter().filter(is_chosen).cloned().collect())
}

fn filter_attributes<'a>(
    tracked: &'a Tracked,
    filter: Option<&syncline_delta::filter::Filter>,
) -> impl Iterator<Item = &'a Attribute> {
    let names: Vec<String> = filter.map(|f| f.columns().iter().map(|c| (*c).to_owned()).collect()).unwrap_or_default();
    tracked.relation.attributes.iter().filter(move |a| names.contains(&a.name))
}

fn readable(tracked: &Tracked, reads: &[&Attribute]) -> Result<()> {
    let version = tracked.relation.attribute("_sync_version");
    let missing = relation::unreadable(&tracked.relation, reads.iter().copied().chain(version));
    if missing.is_empty() {
        return Ok(());
    }
    let columns = missing.join(", ");
    Err(Error::rule("42501", format!("permission denied for table \"{}\"", tracked.relation.name.1))
        .with_detail(format!("SELECT is missing on: {columns}."))
        .with_hint(format!("GRANT SELECT ({columns}) ON {} TO the role.", query::quoted(&tracked.relation.name.1))))
}

impl Plan {
    /// The shape's rows of this table that `since` does not see (nothing: all rows), as key and value.
    ///
    /// `version >= xmax UNION ALL version = ANY(xip)`: the version index finds what is new however
    /// much lies between an old transaction and now, where `version >= xmin` would read all of that.
    pub fn rows(&self, since: Option<&Snapshot>, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let columns: Vec<String> = self.columns.iter().map(|c| format!("t.{}", query::quoted(&c.name))).collect();
        let (schema, name) = &self.tracked.relation.name;
        let select = format!(
            "SELECT {} FROM {}.{} AS t WHERE {}",
            columns.join(", "),
            query::quoted(schema),
            query::quoted(name),
            self.bound.sql
        );
        let mut params = self.bound.params.clone();
        let sql = match since {
            None => select,
            Some(seen) => {
                let (xmax, xip) = (params.len() + 1, params.len() + 2);
                params.extend(server::bounds(seen));
                format!(
                    "{select} AND t._sync_version >= ${xmax} UNION ALL \
                     {select} AND t._sync_version = ANY (${xip}) AND t._sync_version < ${xmax}"
                )
            }
        };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let mut run = || {
            spi::query(&sql, &params, &mut |row| {
                key.clear();
                value.clear();
                self.key.write(&mut key, |column| row.get(column));
                self.value.write(&mut value, |column| row.get(column));
                each(&key, &value)
            });
        };
        if mutant::is(Mutant::SecondSnapshot) { snapshot::with_latest(run) } else { run() }
    }

    /// The table's OID.
    pub fn relation(&self) -> pg_sys::Oid {
        self.tracked.relation.oid
    }

    /// The columns that the shape needs of a log row; nothing if the log row was written before one of them
    /// was logged, or when it had another type.
    pub fn logged(&self, old: &[u8]) -> Option<Vec<image::Column>> {
        let attribute = |number: i16| {
            self.tracked.relation.numbered(number).filter(|attribute| self.logged.contains(&attribute.number))
        };
        let mut columns = image::decode(old, |number| attribute(number).is_some_and(|a| a.storage.by_value));
        columns.retain(|column| attribute(column.attribute).is_some());
        let typed =
            |column: &image::Column| attribute(column.attribute).is_some_and(|a| a.storage.typid == column.typid);
        (columns.len() == self.logged.len() && columns.iter().all(typed)).then_some(columns)
    }

    /// The filter, for values out of the log.
    pub fn condition(&self) -> expr::Condition {
        let (schema, name) = &self.tracked.relation.name;
        let (schema, name) = (query::quoted(schema), query::quoted(name));
        let sql = format!("SELECT 1 FROM {schema}.{name} AS t WHERE {}", self.bound.sql);
        expr::Condition::new(self.tracked.relation.oid, &sql, &self.bound.params)
    }

    /// The key of a row given by its logged columns.
    pub fn logged_key(&self, value: impl Fn(i16) -> Option<pg_sys::Datum>) -> Vec<u8> {
        let mut key = Vec::new();
        self.key.write(&mut key, |column| value(self.columns[column].number));
        key
    }
}

/// The changes of a set-returning function.
pub struct Changes {
    store: Tuplestore,
    scratch: Vec<u64>,
}

impl Changes {
    /// Changes into a row store.
    pub fn new(store: Tuplestore) -> Self {
        Self { store, scratch: Vec::new() }
    }

    /// Where they go.
    pub fn store(&self) -> Tuplestore {
        self.store
    }

    /// Appends one change.
    pub fn put(&mut self, op: Op, relation: &str, key: &[u8], value: &[u8], cursor: &str) {
        let texts = [op.as_str().as_bytes(), relation.as_bytes(), key, value, cursor.as_bytes()];
        self.store.put(&mut self.scratch, texts);
    }
}

/// Takes the name of the relation, the key and the value of a row.
pub type EachRow<'a> = &'a mut dyn FnMut(&str, &[u8], &[u8]);

/// All rows of a shape in the active snapshot, own changes included; nothing is checked of what
/// other transactions do meanwhile.
pub fn scan(text: &str, each: EachRow<'_>) -> Result<()> {
    let shape = Shape::parse(text)?;
    let resolved = Plans::resolve(&shape)?;
    settings::pinned(|| {
        for plan in Plans::new(resolved, shape)?.tables {
            plan.rows(None, &mut |key, value| {
                each(&plan.name, key, value);
                true
            });
        }
        Ok(())
    })
}
