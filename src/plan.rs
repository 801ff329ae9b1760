//! A shape resolved against the database: per table the columns, the bound filter, and how rows are found.

use std::cell::Cell;
use std::collections::BTreeSet;

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::cursor::Identity;
use syncline_delta::digest::fingerprint;
use syncline_delta::filter::Filter;
use syncline_delta::shape::{Shape, Table};
use syncline_delta::snapshot::Snapshot;

use crate::catalog::Tracked;
use crate::direct::{self, Direct, Found, Values};
use crate::error::Result;
use crate::kept;
use crate::log::Use;
use crate::past::Past;
use crate::pg::function::Jsonb;
use crate::pg::relation::{self, Attribute, quoted};
use crate::pg::spi::Param;
use crate::pg::{image, settings, spi};
use crate::policy;
use crate::query::{self, Bound, Driving, Moved, Session, View};
use crate::row::Object;
use crate::server::{self, Reads, Versions};

/// One table of a shape.
pub struct Plan {
    /// The name in the output.
    pub name: String,
    /// The table.
    pub tracked: Tracked,
    columns: Vec<Attribute>,
    /// Attribute numbers of all that is read: key, output and filter.
    reads: BTreeSet<i16>,
    /// Attribute numbers of what is read from the log: key and filter.
    logged: BTreeSet<i16>,
    /// The condition.
    pub bound: Bound,
    /// Where the versions of its rows are found.
    pub versions: Versions,
    direct: Option<Direct>,
    key: Object,
    value: Object,
    /// The key as the only columns of a result.
    key_only: Object,
}

/// A table of a shape, and the tables of its sub-selects, the outer before the inner.
struct Resolved {
    table: Tracked,
    levels: Vec<Tracked>,
}

/// A whole shape.
pub struct Plans {
    /// Its tables, in the shape's order.
    pub tables: Vec<Plan>,
    /// What it reads, relation by relation.
    pub reads: Vec<Reads>,
    /// What a cursor over it is bound to.
    pub identity: Identity,
    /// Whether it is the same in each call, as long as no definition changes: it reads no setting, and no policy, whose
    /// functions may read anything.
    pub is_lasting: bool,
}

impl Plans {
    /// Resolves, locks and checks everything that the shape reads, under the search path of the session.
    pub fn of(mut shape: Shape) -> Result<Self> {
        let resolved = Self::resolve(&mut shape)?;
        settings::pinned(|| Self::new(resolved, shape))
    }

    fn new(resolved: Vec<Resolved>, shape: Shape) -> Result<Self> {
        let session = Session { params: &shape.params, has_settings: Cell::new(false) };
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
            shapes.push_str(&format!("{relation:?}({}){}", bound.node.sql("t", View::NOW), bound.fingerprint));
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
            let versions = Versions::of(tracked.relation.oid);
            let direct = Direct::of(&tracked, &columns, &filtered, &bound);
            let (name, reads) = (relation, numbers);
            tables.push(Plan { name, tracked, columns, reads, logged, bound, versions, direct, key, value, key_only });
        }
        let identity = Identity { shape: fingerprint(&shapes), schema: fingerprint(&schemas) };
        let reads = reads(&tables);
        let mut plans = Self { tables, reads, identity, is_lasting: false };
        plans.is_lasting = !session.has_settings.get() && !plans.is_secured();
        Ok(plans)
    }

    /// Whether row security is part of it.
    pub fn is_secured(&self) -> bool {
        self.tables.iter().any(Plan::is_secured)
    }

    /// All tables that it reads, one maybe several times.
    pub fn tracked(&self) -> impl Iterator<Item = &Tracked> {
        self.tables.iter().flat_map(|plan| {
            let levels = plan.bound.node.levels().into_iter();
            std::iter::once(&plan.tracked).chain(levels.map(|level| &level.tracked))
        })
    }

    /// Finds and locks the shape's tables, under the session's search path.
    ///
    /// What row security allows becomes part of the filters, those of sub-selects too.
    fn resolve(shape: &mut Shape) -> Result<Vec<Resolved>> {
        let resolve = |table: &mut Table| {
            let tracked = Tracked::resolve(table.schema.as_deref(), &table.name)?;
            let mut levels = Vec::new();
            restrict(&mut table.filter, &tracked)?;
            resolve_levels(table.filter.as_mut(), &mut levels, 1)?;
            Ok(Resolved { table: tracked, levels })
        };
        shape.tables.iter_mut().map(resolve).collect()
    }

    /// The relations of all sub-selects, and what is read of each.
    pub fn levels(&self) -> Vec<Use<'_>> {
        let mut uses: Vec<Use<'_>> = Vec::new();
        for level in self.tables.iter().flat_map(|plan| plan.bound.node.levels()) {
            let (relation, columns) = (&level.tracked.relation, level.reads.iter().map(|a| a.number));
            match uses.iter_mut().find(|used| used.relation.oid == relation.oid) {
                Some(used) => used.columns.extend(columns),
                None => uses.push(Use { relation, columns: columns.collect() }),
            }
        }
        uses
    }

    /// The tables themselves, and what is read of the log of each.
    pub fn own(&self) -> Vec<Use<'_>> {
        let tables = self.tables.iter();
        tables.map(|plan| Use { relation: &plan.tracked.relation, columns: plan.logged.clone() }).collect()
    }
}

/// What tables and their levels read, relation by relation.
fn reads(tables: &[Plan]) -> Vec<Reads> {
    let own = tables.iter().map(|plan| (plan.tracked.relation.oid, plan.reads.iter().copied().collect()));
    let levels = tables.iter().flat_map(|plan| plan.bound.node.levels());
    let of_levels = levels.map(|level| (level.tracked.relation.oid, level.reads.iter().map(|a| a.number).collect()));
    let mut reads: Vec<Reads> = Vec::new();
    for (relation, columns) in own.chain(of_levels) {
        match reads.iter_mut().find(|read| read.relation == relation) {
            Some(read) => read.columns.extend(columns),
            None => reads.push(Reads { relation, columns }),
        }
    }
    reads
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
    /// Whether row security is part of the condition. Then it is ours to apply: a row that the role must not see any
    /// more is read to tell that it leaves.
    pub fn is_secured(&self) -> bool {
        self.tracked.is_secured || self.bound.node.levels().iter().any(|level| level.tracked.is_secured)
    }

    /// What has moved at the levels of the filter; its values are added to the parameters.
    pub fn moved<'a>(&self, past: &'a Past, driving: Driving, params: &mut Vec<Param>) -> Moved<'a> {
        self.bound.moved(past, driving, params, self.is_secured())
    }

    /// The columns of the output, of row `t`, and how many they are.
    pub fn columns(&self) -> (String, usize) {
        (list(self.columns.iter()), self.columns.len())
    }

    /// The key's columns, of row `t`.
    pub fn key_columns(&self) -> String {
        list(self.tracked.relation.key_columns())
    }

    /// Writes key and value of a row of [`Plan::columns`].
    pub fn write(&self, row: &spi::Row<'_>, key: &mut Vec<u8>, value: &mut Vec<u8>) {
        self.key.write(key, |column| row.get(column));
        self.value.write(value, |column| row.get(column));
    }

    /// Appends the rows of the shape with a version that `seen` does not see, if nothing else has happened. Whether it could be done so: not
    /// for more than a few, as they are held in memory.
    pub fn few<'a>(&'a self, seen: &Snapshot, rows: &mut Vec<Found<'a>>) -> bool {
        const MOST_BYTES: usize = 1 << 20;
        let relation = &self.tracked.relation;
        if relation.is_partitioned {
            return !self.versions.has_new(seen);
        }
        let ranges = server::segments(seen, &Snapshot::everything(), |_| true);
        let mut bytes: usize = rows.iter().map(Found::size).sum();
        let mut put = |value: Values<'_>| {
            let mut found = Found { relation: &self.name, key: Vec::new(), value: Vec::new() };
            self.key.write(&mut found.key, value);
            self.value.write(&mut found.value, value);
            bytes += found.size();
            rows.push(found);
            bytes <= MOST_BYTES
        };
        if let Some(direct) = &self.direct {
            return direct.read(&ranges, &mut put);
        }
        match direct::places(relation, &ranges) {
            None => false,
            Some(places) if places.is_empty() => true,
            Some(places) => settings::pinned(|| self.at(&places, &mut put)),
        }
    }

    /// Passes those rows of the shape that are at these places to `each`, until that returns false. Whether those were all.
    ///
    /// Planning takes several times as long as running this, so it is planned once. The plan may have been made when the tables were
    /// empty: it begins at the places, whatever else looks cheap, and reads no table from end to end that has an index.
    fn at(&self, places: &[pg_sys::ItemPointerData], each: &mut dyn FnMut(Values<'_>) -> bool) -> bool {
        let relation = &self.tracked.relation;
        let mut params = self.bound.params.clone();
        params.push(Param::places(places));
        let sql = format!(
            "SELECT {} FROM (SELECT {} FROM {} AS t WHERE t.ctid = ANY (${}) OFFSET 0) AS t WHERE {}",
            self.columns().0,
            list(self.reads.iter().filter_map(|&number| relation.numbered(number))),
            relation.full_name(),
            params.len(),
            self.bound.node.sql("t", View::NOW)
        );
        let query = spi::Query { sql: &sql, params: &params, relations: &[], is_ours: self.is_secured() };
        let mut go_on = true;
        settings::with(c"enable_seqscan", c"off", || {
            query.run_planned_once(&mut |row| {
                go_on = each(&|place| row.get(place));
                go_on
            });
        });
        go_on
    }

    /// Writes the key of a row of [`Plan::key_columns`].
    pub fn write_key(&self, row: &spi::Row<'_>, key: &mut Vec<u8>) {
        self.key_only.write(key, |column| row.get(column));
    }

    /// The key that a log row tells.
    pub fn logged_key(&self, columns: &[image::Column]) -> Vec<u8> {
        let mut text = Vec::new();
        let number = |place: usize| self.tracked.relation.key[place];
        self.key_only
            .write(&mut text, |place| columns.iter().find(|c| c.attribute == number(place)).and_then(|c| c.value));
        text
    }

    /// All rows of the table in the active snapshot, as key and value.
    fn rows(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        let condition = self.bound.node.sql("t", View::NOW);
        let table = self.tracked.relation.full_name();
        let sql = format!("SELECT {} FROM {table} AS t WHERE {condition}", self.columns().0);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let params = &self.bound.params;
        spi::Query { sql: &sql, params, relations: &[], is_ours: self.is_secured() }.run(&mut |row| {
            key.clear();
            value.clear();
            self.write(row, &mut key, &mut value);
            each(&key, &value);
            true
        });
    }
}

fn list<'a>(columns: impl Iterator<Item = &'a Attribute>) -> String {
    columns.map(|column| format!("t.{}", quoted(&column.name))).collect::<Vec<_>>().join(", ")
}

/// Takes the name of the relation, the key and the value of a row.
pub type EachRow<'a> = &'a mut dyn FnMut(&str, &[u8], &[u8]);

/// All rows of a shape in the active snapshot, own changes included; nothing is checked of what
/// other transactions do meanwhile.
pub fn scan(shape: &Jsonb, each: EachRow<'_>) -> Result<()> {
    let plans = kept::plans(shape)?;
    settings::pinned(|| {
        for plan in &plans.tables {
            plan.rows(&mut |key, value| each(&plan.name, key, value));
        }
        Ok(())
    })
}
