//! Plans of shapes, kept from one call to the next.
//!
//! A server pulls with the same few shapes again and again, and mostly nothing is new: then resolving and binding the shape
//! would be most of the work. What is kept is used only under locks on all its tables, and only if no definition has
//! changed when they are there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::function::Jsonb;
use crate::pg::memory::Area;
use crate::pg::{definitions, relation, rights};
use crate::plan::Plans;
use crate::shapes::Asked;

/// The most plans that a backend keeps, each of about 10 kB, and the longest request of one.
const MAX_KEPT: usize = 256;
const MAX_LENGTH: usize = 16 << 10;

/// All that plans depend on, beside definitions and what a name is defined as: the request, who asks, and where names are
/// looked for.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    shape: Jsonb,
    user: pg_sys::Oid,
    path: Vec<pg_sys::Oid>,
}

/// Plans with the memory that they point to.
pub struct Kept {
    plans: Plans,
    asked: Asked,
    /// What is locked: relations, and whether they have partitions.
    relations: Vec<(pg_sys::Oid, bool)>,
    memory: Area,
}

impl Deref for Kept {
    type Target = Plans;

    fn deref(&self) -> &Plans {
        &self.plans
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.memory.free();
    }
}

thread_local! {
    static KEPT: RefCell<HashMap<Key, (u64, Rc<Kept>)>> = RefCell::default();
}

/// The plans of the shape that is asked for. All tables that it reads are locked, and were checked.
///
/// Call it before the settings are pinned.
pub fn plans(shape: &Jsonb) -> Result<Rc<Kept>> {
    let key = Key { shape: shape.clone(), user: rights::user(), path: relation::search_path() };
    if let Some((generation, kept)) = KEPT.with_borrow(|kept| kept.get(&key).cloned())
        && kept.asked.is_the_same()?
    {
        kept.relations.iter().for_each(|&(relation, is_partitioned)| relation::lock(relation, is_partitioned));
        if generation == definitions::generation() {
            return Ok(kept);
        }
    }
    let asked = Asked::read(shape)?;
    let generation = definitions::generation();
    // An error leaves it to the call.
    let memory = Area::of_call(c"syncline shape");
    let plans = memory.run(|| Plans::of(asked.shape()?))?;
    memory.outlive_call();
    let is_short = shape.size() + asked.definition().len() <= MAX_LENGTH;
    let mut relations = Vec::new();
    for relation in plans.tracked().map(|tracked| (tracked.relation.oid, tracked.relation.is_partitioned)) {
        if !relations.contains(&relation) {
            relations.push(relation);
        }
    }
    let plans = Rc::new(Kept { plans, asked, relations, memory });
    if plans.is_lasting && is_short && generation == definitions::generation() {
        KEPT.with_borrow_mut(|kept| {
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(key, (generation, Rc::clone(&plans)));
        });
    }
    Ok(plans)
}
