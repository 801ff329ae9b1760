//! What a relation in the log means for the shapes: at the moment that is decoded, not today.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use pgrx::pg_sys;
use syncline_delta::Error;
use syncline_delta::filter::{Filter, Select};
use syncline_delta::shape::{Shape, Table};
use syncline_delta::stream::object;

use crate::catalog::Tracked;
use crate::error::Result;
use crate::pg::condition::Condition;
use crate::pg::decoding::Deformed;
use crate::pg::guard;
use crate::pg::memory::Area;
use crate::pg::relation::{self, Attribute, Relation};
use crate::pg::{definitions, settings, types};
use crate::plan;
use crate::query::{self, View};
use crate::row::Object;

/// What one shape takes of a table.
pub struct Use {
    /// The shape's place.
    pub shape: usize,
    /// What it takes; nothing if the table's definition does not fit the shape.
    pub taken: Option<Taken>,
}

/// Columns are given by their place in [`Plan::columns`].
pub struct Taken {
    /// What begins a delete, up to the key.
    pub delete: Vec<u8>,
    /// What begins an upsert, up to the key.
    pub upsert: Vec<u8>,
    /// The columns that the filter reads.
    pub filter: Vec<usize>,
    /// The columns that are sent.
    pub output: Vec<usize>,
    /// Whether other tables decide too: then the condition tells only which rows cannot be in the shape.
    pub is_relational: bool,
    /// The condition on a row; without one all rows are in the shape.
    pub condition: Option<Condition>,
    /// Writes the key.
    pub key: Object,
    /// Writes the row.
    pub value: Object,
}

/// A tracked table, as the shapes use it.
pub struct Plan {
    /// The table at the top of its partitions.
    pub root: pg_sys::Oid,
    /// The columns that any shape reads.
    pub columns: Vec<Attribute>,
    /// The places of the key's columns among them, in key order.
    pub key: Vec<usize>,
    /// Writes the key by which its rows are told apart.
    pub key_text: Object,
    /// Whether that gives the same text under all settings.
    pub is_key_plain: bool,
    /// Whether the texts of all columns are the same under all settings, and written without an error.
    pub is_plain: bool,
    /// Whether each shape's own columns tell which rows it does not want, and comparing them raises no error.
    pub is_selective: bool,
    /// The shapes that have it.
    pub uses: Vec<Use>,
    /// The shapes in which it decides over rows of another table.
    pub levels: Vec<usize>,
    definition: String,
    area: Area,
}

impl Plan {
    /// The shapes that it concerns.
    pub fn shapes(&self) -> impl Iterator<Item = usize> + '_ {
        self.uses.iter().map(|used| used.shape).chain(self.levels.iter().copied())
    }

    /// The shapes for which a barrier over these columns (nothing: any) matters.
    pub fn concerned(&self, columns: Option<&[i16]>) -> Vec<usize> {
        let reads = |used: &&Use| match (&used.taken, columns) {
            (Some(taken), Some(columns)) if !columns.is_empty() => {
                taken.output.iter().chain(&taken.filter).any(|&place| columns.contains(&self.columns[place].number))
            }
            _ => true,
        };
        self.uses.iter().filter(reads).map(|used| used.shape).chain(self.levels.iter().copied()).collect()
    }
}

/// A table whose rows are in the log.
pub struct Member {
    /// What the shapes take of it.
    pub plan: Rc<Plan>,
    /// For each of the plan's columns the attribute number here.
    pub numbers: Vec<i16>,
    /// Whether the log tells the key of each change, and our triggers what it does not.
    pub is_told: bool,
    /// Whether the log has all old values.
    pub logs_all: bool,
    /// The tuple that is read.
    pub deformed: RefCell<Deformed>,
}

/// What a relation is.
pub enum Known {
    /// Of no interest.
    Other,
    /// `syncline.log`, and the row of it that is read.
    Log(RefCell<Deformed>),
    /// `syncline.barrier`
    Barrier,
    /// `syncline.altered`
    Altered,
    /// `syncline.state`
    State,
    /// `syncline.heartbeat`
    Heartbeat,
    /// `syncline.message`, which shapes may have too: the numbers of topic and payload.
    Message(Option<Member>, [i16; 2]),
    /// A table of a shape.
    Table(Member),
}

/// What relations are, as far as it was asked.
pub struct Relations {
    generation: u64,
    known: BTreeMap<u32, Rc<Known>>,
    plans: BTreeMap<u32, Option<Rc<Plan>>>,
    /// The tables that shapes have been seen to have, by any name.
    roots: Vec<(usize, pg_sys::Oid)>,
    /// Areas of plans that were replaced.
    retired: Vec<Area>,
    area: Area,
}

impl Relations {
    /// Nothing known yet.
    pub fn new(area: Area) -> Self {
        Self {
            generation: definitions::generation(),
            known: BTreeMap::new(),
            plans: BTreeMap::new(),
            roots: Vec::new(),
            retired: Vec::new(),
            area,
        }
    }

    /// Forgets what may have changed. Plans whose definition turns out to be the same are taken up again.
    pub fn refresh(&mut self) {
        if self.generation != definitions::generation() {
            self.generation = definitions::generation();
            self.known.clear();
            for plan in std::mem::take(&mut self.plans).into_values().flatten() {
                self.retired.push(plan.area);
            }
        }
    }

    /// Frees what no transaction needs any more.
    pub fn end_transaction(&mut self) {
        self.refresh();
        for area in self.retired.drain(..) {
            area.free();
        }
    }

    /// The shapes that were seen to have this table.
    pub fn shapes_of(&self, root: pg_sys::Oid) -> impl Iterator<Item = usize> + '_ {
        self.roots.iter().filter(move |(_, oid)| *oid == root).map(|(shape, _)| *shape)
    }

    /// What a relation is.
    pub fn get(&mut self, shapes: &[(String, Shape)], oid: pg_sys::Oid) -> Rc<Known> {
        self.refresh();
        if let Some(known) = self.known.get(&oid.to_u32()) {
            return Rc::clone(known);
        }
        let known = Rc::new(self.read(shapes, oid));
        self.known.insert(oid.to_u32(), Rc::clone(&known));
        known
    }

    fn read(&mut self, shapes: &[(String, Shape)], oid: pg_sys::Oid) -> Known {
        let Some(here) = relation::peek(oid) else { return Known::Other };
        // Where the extension is not installed, anybody may have a schema and tables of these names.
        let own = (here.name.0 == "syncline" && relation::is_own(oid)).then_some(here.name.1.as_str());
        match own {
            Some("log") => return Known::Log(RefCell::default()),
            Some("barrier") => return Known::Barrier,
            Some("altered") => return Known::Altered,
            Some("state") => return Known::State,
            Some("heartbeat") => return Known::Heartbeat,
            _ => {}
        }
        let member = self.plan(shapes, relation::root(oid)).map(|plan| Member::new(plan, &here));
        let number = |name| here.attribute(name).map(|column| column.number);
        match (member, number("topic"), number("payload")) {
            (member, Some(topic), Some(payload)) if own == Some("message") => Known::Message(member, [topic, payload]),
            (Some(member), ..) => Known::Table(member),
            (None, ..) => Known::Other,
        }
    }

    /// What the shapes take of a table, if they have it.
    pub fn plan(&mut self, shapes: &[(String, Shape)], root: pg_sys::Oid) -> Option<Rc<Plan>> {
        self.refresh();
        if let Some(plan) = self.plans.get(&root.to_u32()) {
            return plan.clone();
        }
        let plan = relation::peek(root).and_then(|relation| Some(Builder::new(&relation, shapes)?.build(&self.area)));
        let plan = plan.map(Rc::new);
        for shape in plan.iter().flat_map(|plan| plan.shapes()) {
            if !self.roots.contains(&(shape, root)) {
                self.roots.push((shape, root));
            }
        }
        self.plans.insert(root.to_u32(), plan.clone());
        plan
    }
}

/// Whether a table is there.
pub fn exists(root: pg_sys::Oid) -> bool {
    relation::peek(root).is_some()
}

/// Whether two plans of one table read rows alike.
pub fn is_same(one: &Rc<Plan>, other: &Rc<Plan>) -> bool {
    Rc::ptr_eq(one, other) || one.definition == other.definition
}

impl Member {
    fn new(plan: Rc<Plan>, here: &Relation) -> Self {
        let same = |column: &Attribute| {
            here.attribute(&column.name).filter(|own| own.storage == column.storage).map(|own| own.number)
        };
        let numbers: Option<Vec<i16>> = plan.columns.iter().map(same).collect();
        let fires = |name| here.trigger(name).is_some_and(|trigger| trigger.enabled == b'A');
        let logs_key = |numbers: &[i16]| match &here.identity {
            None => true,
            Some(identity) => plan.key.iter().all(|&place| identity.contains(&numbers[place])),
        };
        let is_told =
            fires(relation::STAMP) && fires(relation::LOG) && numbers.as_ref().is_some_and(|numbers| logs_key(numbers));
        let (numbers, logs_all) = (numbers.unwrap_or_default(), here.identity.is_none());
        Self { plan, numbers, is_told, logs_all, deformed: RefCell::default() }
    }
}

/// The columns of a table that a shape reads, and what its filter asks of them alone.
struct Reads {
    output: Vec<Attribute>,
    filter: Vec<Attribute>,
    own: Option<Filter>,
}

impl Reads {
    fn of(tracked: &Tracked, table: &Table) -> Result<Self> {
        let own = table.filter.clone().map(Filter::own);
        let names = own.as_ref().map(Filter::columns).unwrap_or_default();
        let column = |name: &str| {
            let missing = || Error::rule("42703", format!("column \"{name}\" does not exist"));
            tracked.relation.attribute(name).cloned().ok_or_else(missing)
        };
        let filter = names.into_iter().map(column).collect::<Result<Vec<_>>>()?;
        let output = plan::chosen(tracked, table.columns.as_deref())?;
        // What is computed when it is read is in no row of the log.
        if let Some(virtual_one) = output.iter().find(|column| column.generated == b'v') {
            return Err(Error::rule("0A000", format!("column \"{}\" is virtual", virtual_one.name)));
        }
        // Functions of users' types may query; nothing of a user's runs while decoding.
        if let Some(strange) = output.iter().chain(&filter).find(|column| !types::is_native(column.storage.typid)) {
            return Err(Error::rule("0A000", format!("column \"{}\" has a type of its own code", strange.name)));
        }
        Ok(Self { output, filter, own })
    }
}

/// One table of one shape.
struct Wish<'a> {
    place: usize,
    id: &'a str,
    shape: &'a Shape,
    table: &'a Table,
}

/// Finds the uses of one table.
struct Builder<'a> {
    tracked: Tracked,
    wishes: Vec<Wish<'a>>,
    levels: Vec<usize>,
}

impl<'a> Builder<'a> {
    /// Nothing if no shape has the table.
    fn new(relation: &Relation, shapes: &'a [(String, Shape)]) -> Option<Self> {
        let is_meant = |schema: Option<&str>, name: &str| {
            name == relation.name.1
                && schema.is_none_or(|schema| schema == relation.name.0)
                && named(schema, name) == Some(relation.oid)
        };
        let (mut wishes, mut levels) = (Vec::new(), Vec::new());
        for (place, (id, shape)) in shapes.iter().enumerate() {
            for table in &shape.tables {
                if is_meant(table.schema.as_deref(), &table.name) {
                    wishes.push(Wish { place, id, shape, table });
                }
                let looks = |select: &&Select| is_meant(select.schema.as_deref(), &select.table);
                if table.filter.iter().flat_map(Filter::all_selects).any(|select| looks(&select))
                    && !levels.contains(&place)
                {
                    levels.push(place);
                }
            }
        }
        let tracked = Tracked { relation: relation.clone(), is_secured: false };
        (!wishes.is_empty() || !levels.is_empty()).then_some(Self { tracked, wishes, levels })
    }

    fn build(self, area: &Area) -> Plan {
        let area = area.inner(c"syncline plan");
        area.run(|| settings::pinned(|| self.build_here(area)))
    }

    fn build_here(self, area: Area) -> Plan {
        let relation = &self.tracked.relation;
        let reads: Vec<Option<Reads>> = self
            .wishes
            .iter()
            .map(|wish| guard::attempt(|| Reads::of(&self.tracked, wish.table)).and_then(Result::ok))
            .collect();
        let read = reads.iter().flatten().flat_map(|reads| reads.output.iter().chain(&reads.filter));
        let numbers: Vec<i16> = relation.key.iter().copied().chain(read.map(|column| column.number)).collect();
        let is_read = |column: &&Attribute| numbers.contains(&column.number);
        let columns: Vec<Attribute> = relation.attributes.iter().filter(is_read).cloned().collect();
        let key = relation.key.iter().filter_map(|&number| place(&columns, number)).collect::<Vec<_>>();
        let uses = self.wishes.iter().zip(&reads).map(|(wish, reads)| {
            let take = |reads| guard::attempt(|| self.take(wish, reads, &columns, &key)).and_then(Result::ok);
            Use { shape: wish.place, taken: reads.as_ref().and_then(take) }
        });
        let uses: Vec<Use> = uses.collect();
        let key_text = Object::new(key.iter().map(|&place| (place, &columns[place])), false, false);
        let is_plain = |&place: &usize| types::is_plain(&columns[place]);
        let is_key_plain = key.iter().all(is_plain);
        let is_safe = |&place: &usize| types::is_safe(&columns[place]);
        let is_all_plain = columns.iter().all(types::is_safe);
        let is_selective = |used: &Use| {
            used.taken.as_ref().is_some_and(|taken| taken.condition.is_some() && taken.filter.iter().all(is_safe))
        };
        let is_selective = uses.iter().all(is_selective);
        let definition = format!("{:?} {:?} {columns:?}", relation.name, relation.key);
        Plan {
            root: relation.oid,
            columns,
            key,
            key_text,
            is_key_plain,
            is_plain: is_all_plain,
            is_selective,
            uses,
            levels: self.levels,
            definition,
            area,
        }
    }

    fn take(&self, wish: &Wish<'_>, reads: &Reads, columns: &[Attribute], key: &[usize]) -> Result<Taken> {
        let places = |list: &[Attribute]| list.iter().filter_map(|c| place(columns, c.number)).collect::<Vec<_>>();
        let condition = match &reads.own {
            None => None,
            Some(own) => {
                let bound = query::bind(Some(own), &self.tracked, Vec::new())?;
                let sql = bound.node.sql("t", View::NOW);
                Some(Condition::compile(self.tracked.relation.oid, &sql, &bound.params))
            }
        };
        let output = places(&reads.output);
        let object = |places: &[usize], sorted| {
            let members = places.iter().map(|&place| (place, &columns[place]));
            Object::new(members, sorted, wish.shape.int8_as_string)
        };
        Ok(Taken {
            delete: object::change("delete", wish.id, &wish.table.relation),
            upsert: object::change("upsert", wish.id, &wish.table.relation),
            filter: places(&reads.filter),
            is_relational: wish.table.filter.as_ref().is_some_and(|filter| !filter.selects().is_empty()),
            condition,
            key: object(key, false),
            value: object(&output, true),
            output,
        })
    }
}

fn place(columns: &[Attribute], number: i16) -> Option<usize> {
    columns.iter().position(|column| column.number == number)
}

/// The tracked table that a name means, as `Tracked::resolve` finds it.
fn named(schema: Option<&str>, name: &str) -> Option<pg_sys::Oid> {
    let schemas = match schema {
        Some(name) => relation::schema(name).into_iter().collect(),
        None => relation::search_path(),
    };
    let tracked = |oid: &pg_sys::Oid| {
        relation::peek(*oid)
            .is_some_and(|found| found.trigger(relation::STAMP).is_some() || found.trigger(relation::LOG).is_some())
    };
    schemas.into_iter().filter_map(|schema| relation::find(schema, name)).find(tracked)
}
