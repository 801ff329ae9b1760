//! A shape resolved against the database: per table the columns, the bound filter, and how rows are found.

use std::collections::{BTreeSet, HashSet};

use syncline_delta::Error;
use syncline_delta::change::Op;
use syncline_delta::cursor::Identity;
use syncline_delta::digest::fingerprint;
use syncline_delta::filter::Filter;
use syncline_delta::shape::{Shape, Table};
use syncline_delta::snapshot::Snapshot;

use crate::catalog::Tracked;
use crate::error::Result;
use crate::mutant::{self, Mutant};
use crate::past::{Past, Use};
use crate::pg::relation::{self, Attribute, Relation, quoted};
use crate::pg::tuplestore::Tuplestore;
use crate::pg::{settings, snapshot, spi};
use crate::policy;
use crate::query::{self, Bound, Moved, Session, View};
use crate::row::Object;
use crate::server::{self, Reads};
use crate::shapes;

/// One table of a shape.
pub struct Plan {
    /// The name in the output.
    pub name: String,
    tracked: Tracked,
    columns: Vec<Attribute>,
    /// Attribute numbers of all that is read: key, output and filter.
    reads: Vec<i16>,
    /// Attribute numbers of what is read from the log: key and filter.
    logged: BTreeSet<i16>,
    bound: Bound,
    key: Object,
    value: Object,
    /// The key as the only columns of a result.
    key_only: Object,
}

/// A table of a shape, and the tables of its sub-selects, the outer before the inner.
pub struct Resolved {
    table: Tracked,
    levels: Vec<Tracked>,
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
    pub fn new(resolved: Vec<Resolved>, shape: Shape) -> Result<Self> {
        let session = Session { params: &shape.params };
        let mut tables = Vec::with_capacity(shape.tables.len());
        let (mut shapes, mut schemas) = (format!("int8={};", shape.int8_as_string), String::new());
        for (table, resolved) in shape.tables.into_iter().zip(resolved) {
            let Table { relation, columns, filter, .. } = table;
            let Resolved { table: tracked, levels } = resolved;
            let filter = filter.map(|filter| filter.fold(&session)).transpose()?.map(Filter::normal);
            let columns = chosen(&tracked, columns.as_deref())?;
            let bound = query::bind(filter.as_ref(), &tracked, levels)?;
            let filtered: Vec<&Attribute> = filter_attributes(&tracked, filter.as_ref()).collect();
            let reads: Vec<&Attribute> = columns.iter().chain(filtered.iter().copied()).collect();
            readable(&tracked, reads.iter().copied().chain(tracked.relation.version()))?;
            let numbers = reads.iter().map(|a| a.number).collect();
            let logged = tracked.relation.key.iter().copied().chain(filtered.iter().map(|a| a.number)).collect();
            shapes.push_str(&format!("{relation:?}({}){}", bound.node.sql("t", View::Now), bound.fingerprint));
            for a in &reads {
                shapes.push_str(&format!("{:?},", a.name));
            }
            define(&mut schemas, &tracked, reads.into_iter());
            for level in bound.node.levels() {
                readable(&level.tracked, level.reads.iter())?;
                define(&mut schemas, &level.tracked, level.reads.iter());
            }
            let place = |number: i16| columns.iter().position(|c| c.number == number).map(|i| (i, &columns[i]));
            let key = tracked.relation.key.iter().filter_map(|&number| place(number));
            let key = Object::new(key, false, shape.int8_as_string);
            let value = Object::new(columns.iter().enumerate(), true, shape.int8_as_string);
            let key_only = Object::new(tracked.relation.key_columns().enumerate(), false, shape.int8_as_string);
            tables.push(Plan { name: relation, tracked, columns, reads: numbers, logged, bound, key, value, key_only });
        }
        let identity = Identity { shape: fingerprint(&shapes), schema: fingerprint(&schemas) };
        Ok(Self { tables, identity })
    }

    /// Finds and locks the shape's tables, under the session's search path.
    ///
    /// What row security allows becomes part of the filters, those of sub-selects too.
    pub fn resolve(shape: &mut Shape) -> Result<Vec<Resolved>> {
        let resolve = |table: &mut Table| {
            let tracked = Tracked::resolve(table.schema.as_deref(), &table.name)?;
            let mut levels = Vec::new();
            restrict(&mut table.filter, &tracked)?;
            resolve_levels(table.filter.as_mut(), &mut levels, 1)?;
            Ok(Resolved { table: tracked, levels })
        };
        shape.tables.iter_mut().map(resolve).collect()
    }

    /// What the shape reads, table by table.
    pub fn reads(&self) -> Vec<Reads> {
        let mut reads = Vec::new();
        for plan in &self.tables {
            reads.push(Reads { relation: plan.tracked.relation.oid, columns: plan.reads.clone() });
            reads.extend(plan.bound.node.levels().into_iter().map(|level| Reads {
                relation: level.tracked.relation.oid,
                columns: level.reads.iter().map(|a| a.number).collect(),
            }));
        }
        reads
    }

    /// What the log tells of its relations from `seen` on; nothing if it does not tell enough.
    pub fn past(&self, seen: &Snapshot) -> Option<Past> {
        let mut uses: Vec<Use<'_>> = Vec::new();
        for plan in &self.tables {
            add_use(&mut uses, &plan.tracked.relation, plan.logged.iter().copied());
            for level in plan.bound.node.levels() {
                add_use(&mut uses, &level.tracked.relation, level.reads.iter().map(|a| a.number));
            }
        }
        Past::read(&uses, seen)
    }
}

/// One use for each relation, however often a shape reads it.
fn add_use<'a>(uses: &mut Vec<Use<'a>>, relation: &'a Relation, columns: impl Iterator<Item = i16>) {
    match uses.iter_mut().find(|used| used.relation.oid == relation.oid) {
        Some(used) => used.columns.extend(columns),
        None => uses.push(Use { relation, columns: columns.collect() }),
    }
}

/// The most levels of one table's filter, and how deep they may stand in each other, policies' included.
const MAX_LEVELS: usize = 32;
const MAX_DEPTH: usize = 8;

fn resolve_levels(filter: Option<&mut Filter>, levels: &mut Vec<Tracked>, depth: usize) -> Result<()> {
    for select in filter.map(Filter::selects_mut).unwrap_or_default() {
        if levels.len() == MAX_LEVELS || depth > MAX_DEPTH {
            return Err(Error::Limit {
                what: "number or depth of sub-selects, with those of policies,",
                limit: MAX_LEVELS,
            });
        }
        let tracked = Tracked::resolve(select.schema.as_deref(), &select.table)?;
        restrict(&mut select.filter, &tracked)?;
        levels.push(tracked);
        resolve_levels(select.filter.as_mut(), levels, depth + 1)?;
    }
    Ok(())
}

/// Adds what row security lets this role see.
fn restrict(filter: &mut Option<Filter>, tracked: &Tracked) -> Result<()> {
    if !tracked.is_secured {
        return Ok(());
    }
    let policy = settings::pinned(|| policy::effective(tracked))?;
    *filter = Some(match filter.take() {
        Some(asked) => Filter::And(vec![asked, policy]),
        None => policy,
    });
    Ok(())
}

/// Adds to a text what a relation is, as far as its key and these columns go.
fn define<'a>(schemas: &mut String, tracked: &Tracked, reads: impl Iterator<Item = &'a Attribute>) {
    schemas.push_str(&format!("{}{:?}:", tracked.relation.oid.to_u32(), tracked.relation.key));
    for a in reads {
        let typid = a.storage.typid.to_u32();
        schemas.push_str(&format!("{} {typid} {} {},", a.number, a.typmod, a.collation.to_u32()));
    }
}

/// The key, and the columns asked for; all but the version if none were.
pub fn chosen(tracked: &Tracked, wanted: Option<&[String]>) -> Result<Vec<Attribute>> {
    let relation = &tracked.relation;
    if let Some(names) = wanted {
        for name in names {
            if relation.attribute(name).is_none_or(|a| a.name == relation::VERSION) {
                let table = &relation.name.1;
                return Err(Error::rule("42703", format!("column \"{name}\" of table \"{table}\" does not exist")));
            }
        }
    }
    let is_chosen = |a: &&Attribute| {
        relation.key.contains(&a.number) || wanted.map_or(a.name != relation::VERSION, |names| names.contains(&a.name))
    };
    Ok(relation.attributes.iter().filter(is_chosen).cloned().collect())
}

fn filter_attributes<'a>(tracked: &'a Tracked, filter: Option<&Filter>) -> impl Iterator<Item = &'a Attribute> {
    let names: Vec<String> = filter.map(|f| f.columns().iter().map(|c| (*c).to_owned()).collect()).unwrap_or_default();
    tracked.relation.attributes.iter().filter(move |a| names.contains(&a.name))
}

fn readable<'a>(tracked: &Tracked, reads: impl Iterator<Item = &'a Attribute>) -> Result<()> {
    let missing = relation::unreadable(&tracked.relation, reads);
    if missing.is_empty() {
        return Ok(());
    }
    let columns = missing.join(", ");
    Err(Error::rule("42501", format!("permission denied for table \"{}\"", tracked.relation.name.1))
        .with_detail(format!("SELECT is missing on: {columns}."))
        .with_hint(format!("GRANT SELECT ({columns}) ON {} TO the role.", quoted(&tracked.relation.name.1))))
}

impl Plan {
    /// The shape's rows of this table that `since` does not see (nothing: all rows), as key and value.
    ///
    /// `version >= xmax UNION ALL version = ANY(xip)`: the version index finds what is new however
    /// much lies between an old transaction and now, where `version >= xmin` would read all of that.
    pub fn rows(&self, since: Option<&Snapshot>, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let select = self.select(&self.bound.node.sql("t", View::Now));
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
        let query = spi::Query { sql: &sql, params: &params, relations: &[], is_ours: self.is_secured() };
        let mut run = || query.run(&mut self.pass(each));
        if mutant::is(Mutant::SecondSnapshot) { snapshot::with_latest(run) } else { run() }
    }

    /// Whether row security is part of the condition. Then it is ours to apply: a row that the role must not see any
    /// more is read to tell that it leaves.
    fn is_secured(&self) -> bool {
        self.tracked.is_secured || self.bound.node.levels().iter().any(|level| level.tracked.is_secured)
    }

    fn select(&self, condition: &str) -> String {
        let columns: Vec<String> = self.columns.iter().map(|c| format!("t.{}", quoted(&c.name))).collect();
        format!("SELECT {} FROM {} AS t WHERE {condition}", columns.join(", "), self.tracked.relation.full_name())
    }

    /// Takes result rows apart.
    fn pass<'a>(&'a self, each: &'a mut dyn FnMut(&[u8], &[u8]) -> bool) -> impl FnMut(&spi::Row<'_>) -> bool + 'a {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        move |row| {
            key.clear();
            value.clear();
            self.key.write(&mut key, |column| row.get(column));
            self.value.write(&mut value, |column| row.get(column));
            each(&key, &value)
        }
    }

    /// What has moved at the levels of the filter.
    pub fn moved<'a>(&self, past: &'a Past) -> Moved<'a> {
        self.bound.moved(past, self.is_secured())
    }

    /// Rows that nobody wrote, and that are in the shape now for what moved at a level: some of them were before.
    pub fn entered(&self, moved: &Moved<'_>, seen: &Snapshot, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let Some(touched) = self.bound.node.touched_by("t", moved) else { return };
        if mutant::is(Mutant::NoEnter) {
            return;
        }
        let mut params = moved.params.clone();
        let (xmax, xip) = (params.len() + 1, params.len() + 2);
        params.extend(server::bounds(seen));
        let node = &self.bound.node;
        let (now, certain) = (node.sql("t", View::Now), node.sql("t", View::Certain(moved)));
        let condition = format!(
            "{touched} AND {now} AND {certain} IS NOT TRUE \
             AND t._sync_version < ${xmax} AND NOT (t._sync_version = ANY (${xip}))"
        );
        moved.past.query(&self.select(&condition), &params, self.is_secured(), &mut self.pass(each));
    }

    /// The keys of rows that were in the shape at the cursor and are perhaps, if they were written, or surely no
    /// longer in it.
    pub fn departures(&self, moved: &Moved<'_>) -> HashSet<Vec<u8>> {
        let (node, relation) = (&self.bound.node, &self.tracked.relation);
        let key: Vec<String> = relation.key_columns().map(|c| format!("t.{}", quoted(&c.name))).collect();
        let select = |from: &str| format!("SELECT {} FROM {from} AS t WHERE ", key.join(", "));
        let was = node.sql("t", View::Past(moved));
        let mut queries: Vec<String> = moved.past.old(relation).iter().map(|old| select(old) + &was).collect();
        if let Some(touched) = node.touched_by("t", moved)
            && !mutant::is(Mutant::NoLeave)
        {
            let untouched = self.bound.key.as_ref().map(|key| moved.past.untouched(relation, key, "t"));
            let (untouched, now) = (untouched.unwrap_or_default(), node.sql("t", View::Now));
            let from = select(&relation.full_name());
            queries.push(format!("{from}{touched}{untouched} AND {was} AND {now} IS NOT TRUE"));
        }
        let mut keys = HashSet::new();
        for sql in queries {
            moved.past.query(&sql, &moved.params, self.is_secured(), &mut |row| {
                let mut key = Vec::new();
                self.key_only.write(&mut key, |column| row.get(column));
                keys.insert(key);
                true
            });
        }
        keys
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
    let mut shape = shapes::read(text)?;
    let resolved = Plans::resolve(&mut shape)?;
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
