//! What a caller's shape is: written out, or defined under a name.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum, pg_sys};
use syncline_delta::Error;
use syncline_delta::shape::{Request, Shape};

use crate::error::{Result, unwrap_or_raise};
use crate::pg::function::{self, Call, Jsonb, entry_point};
use crate::pg::settings;
use crate::pg::spi::{self, Param};

/// Which shapes a role may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(non_camel_case_types, missing_docs)]
enum Allowed {
    any,
    named,
}

const SETTING: &CStr = c"syncline.shapes";

static ANY: GucSetting<Allowed> = GucSetting::<Allowed>::new(Allowed::any);
static NAMED: GucSetting<Allowed> = GucSetting::<Allowed>::new(Allowed::named);

thread_local! {
    /// The one that was defined.
    static ALLOWED: Cell<&'static GucSetting<Allowed>> = const { Cell::new(&ANY) };
}

/// Defines `syncline.shapes`.
///
/// Before that, anybody may give it a value, and what a connection asks for hides what its role was given. Postgres drops
/// it now, but does not bring back what it hid: then only a superuser's word makes it another value than `named`.
pub fn define_settings() {
    let setting = if settings::is_given(SETTING) { &NAMED } else { &ANY };
    ALLOWED.set(setting);
    GucRegistry::define_enum_guc(
        SETTING,
        c"which shapes may be used: any, or only named ones",
        c"for roles that pass shapes on from clients: ALTER ROLE ... SET syncline.shapes = named",
        setting,
        GucContext::Suset,
        GucFlags::default(),
    );
}

entry_point!(
    /// `syncline.check_shape(jsonb)`
    syncline_check_shape,
    pg_finfo_syncline_check_shape,
    |call: &mut Call| {
        unwrap_or_raise(Shape::check_definition(&call.jsonb(0).map_or_else(String::new, |shape| shape.text())));
        pg_sys::Datum::from(0usize)
    }
);

/// Requests that a backend remembers, and the longest of them.
const MAX_KNOWN: usize = 64;
const MAX_KNOWN_LENGTH: usize = 16 << 10;

thread_local! {
    /// A server pulls with the same few again and again: reading one takes longer than finding nothing new.
    static KNOWN: RefCell<HashMap<Jsonb, Request>> = RefCell::default();
}

fn parse(asked: &Jsonb) -> Result<Request> {
    if let Some(request) = KNOWN.with_borrow(|known| known.get(asked).cloned()) {
        return Ok(request);
    }
    let request = Request::parse(&asked.text())?;
    if asked.size() <= MAX_KNOWN_LENGTH {
        KNOWN.with_borrow_mut(|known| {
            if known.len() == MAX_KNOWN {
                known.clear();
            }
            known.insert(asked.clone(), request.clone());
        });
    }
    Ok(request)
}

/// What a caller asks for, and may ask for.
pub struct Asked {
    request: Request,
    /// What its name is defined as.
    definition: Option<String>,
}

impl Asked {
    /// Call it before the settings are pinned.
    pub fn read(asked: &Jsonb) -> Result<Self> {
        let request = parse(asked)?;
        let definition = allowed(&request)?;
        Ok(Self { request, definition })
    }

    /// Whether it means the same in this call, where it may be refused. As [`Asked::read`].
    pub fn is_the_same(&self) -> Result<bool> {
        Ok(allowed(&self.request)? == self.definition)
    }

    /// What its name is defined as now.
    pub fn definition(&self) -> &str {
        self.definition.as_deref().unwrap_or_default()
    }

    /// The shape.
    pub fn shape(&self) -> Result<Shape> {
        match &self.request {
            Request::Named { params, .. } => Shape::defined(self.definition(), params.clone()),
            Request::Shape(shape) => Ok(shape.clone()),
        }
    }
}

/// What the name that is asked for is defined as, if it is one; an error if the caller may not ask for it.
fn allowed(request: &Request) -> Result<Option<String>> {
    match request {
        Request::Named { name, .. } => definition(name).map(Some),
        Request::Shape(_) if ALLOWED.get().get() == Allowed::any => Ok(None),
        Request::Shape(_) => Err(Error::rule("42501", "this role may use named shapes only")
            .with_hint("Write {\"shape\": \"name\", \"params\": [...]}; sync_define defines one.")),
    }
}

fn definition(name: &str) -> Result<String> {
    const SQL: &str = "SELECT shape::pg_catalog.text FROM syncline.shape \
                       WHERE name OPERATOR(pg_catalog.=) $1 COLLATE pg_catalog.\"C\"";
    let name_param = Param { typid: pg_sys::TEXTOID, value: Some(function::text_datum(name.as_bytes())) };
    let mut found = None;
    settings::as_owner(|| {
        spi::query(SQL, &[name_param], &mut |row| {
            found = row.get(0).map(function::text);
            false
        });
    });
    found.ok_or_else(|| {
        Error::rule("42704", format!("shape \"{name}\" is not defined"))
            .with_hint("sync_shapes lists the named shapes.")
    })
}
