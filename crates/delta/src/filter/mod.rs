//! The condition of a shape: a closed grammar, our own tree.
//!
//! SQL is only ever generated from this tree, never copied from what a caller wrote. Nothing in it
//! can fail on a row, and nothing depends on time or session beyond what [`Filter::fold`] replaces.

mod check;
mod fold;
mod parse;
mod policy;
mod print;
mod select;
mod tokens;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::Error;

pub use fold::Constants;
pub use policy::{Evaluate, Value as PolicyValue};

/// How deep sub-selects may stand in each other.
pub const MAX_DEPTH: usize = 3;

/// The most bytes of text that are looked at.
pub const MAX_LENGTH: usize = 1 << 20;

/// A comparison of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Eq,
    /// `<>`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

/// An operator of jsonb and of arrays that yields a boolean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containment {
    /// `@>`
    Contains,
    /// `<@`
    ContainedBy,
    /// `&&`
    Overlaps,
    /// `?`
    HasKey,
}

/// An operator that takes a part of a jsonb value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonOp {
    /// `->`
    Get,
    /// `->>`
    GetText,
    /// `#>`
    Path,
    /// `#>>`
    PathText,
}

/// A function that a filter may call: immutable, and it never fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `lower(text)`
    Lower,
    /// `upper(text)`
    Upper,
    /// `length(text)`
    Length,
    /// `coalesce(value, ...)`
    Coalesce,
    /// `column::text`, of a column that holds text anyhow.
    Text,
}

/// What has the same value for every row of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Const {
    /// `NULL`
    Null,
    /// `TRUE` or `FALSE`
    Bool(bool),
    /// A number in JSON's notation, negative ones included.
    Number(String),
    /// A string literal.
    Text(String),
    /// `$n`, counted from 1; gone after [`Filter::fold`].
    Param(usize),
    /// The value of a parameter (after [`Filter::fold`]), or the elements of an `ARRAY[...]`.
    Json(Value),
    /// A constant with a type.
    Cast {
        /// What is cast.
        value: Box<Const>,
        /// The type's name: `[a-z0-9_ ]+`, then `[]` if it is an array.
        to: String,
    },
    /// `current_setting(name, missing_ok)`; gone after [`Filter::fold`].
    Setting {
        /// The setting's name as written.
        name: String,
        /// Whether a setting that does not exist is NULL instead of an error.
        missing_ok: bool,
    },
    /// `current_user`; gone after [`Filter::fold`].
    CurrentUser,
}

/// What a condition compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A column of the shape's table.
    Column(String),
    /// A constant.
    Const(Const),
    /// A part of a jsonb value.
    Json {
        /// Which part, and as what.
        op: JsonOp,
        /// Where it is taken from.
        base: Box<Operand>,
        /// The key, index or path.
        path: Const,
    },
    /// A function call.
    Call {
        /// Which.
        function: Function,
        /// Never empty.
        args: Vec<Operand>,
    },
}

/// The values of one column in some rows of another tracked table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// The column whose values count; NULL is none.
    pub column: String,
    /// The table's schema, if one was given.
    pub schema: Option<String>,
    /// The table's name.
    pub table: String,
    /// The condition on its rows; without one all of them.
    pub filter: Option<Filter>,
}

/// A condition on one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// All of them; two or more, none of them an `And` when parsed.
    And(Vec<Filter>),
    /// Any of them; two or more, none of them an `Or` when parsed.
    Or(Vec<Filter>),
    /// Not that one.
    Not(Box<Filter>),
    /// `left op right`
    Compare {
        /// The comparison.
        op: Comparison,
        /// Its left side.
        left: Operand,
        /// Its right side.
        right: Operand,
    },
    /// `IS [NOT] NULL`
    IsNull {
        /// What is looked at.
        operand: Operand,
        /// `IS NOT NULL`
        negated: bool,
    },
    /// `IS [NOT] TRUE` and `IS [NOT] FALSE`
    IsBool {
        /// What is looked at.
        operand: Operand,
        /// TRUE or FALSE.
        value: bool,
        /// With NOT.
        negated: bool,
    },
    /// `IS [NOT] DISTINCT FROM`
    IsDistinct {
        /// The left side.
        left: Operand,
        /// The right side.
        right: Operand,
        /// `IS NOT DISTINCT FROM`
        negated: bool,
    },
    /// `[NOT] IN (list)`
    In {
        /// What is looked for.
        operand: Operand,
        /// Never empty when parsed.
        list: Vec<Operand>,
        /// `NOT IN`
        negated: bool,
    },
    /// `[NOT] BETWEEN low AND high`
    Between {
        /// What is compared.
        operand: Operand,
        /// The lower bound, included.
        low: Operand,
        /// The upper bound, included.
        high: Operand,
        /// `NOT BETWEEN`
        negated: bool,
    },
    /// `[NOT] LIKE` and `[NOT] ILIKE`
    Like {
        /// What is matched.
        operand: Operand,
        /// Always a constant.
        pattern: Operand,
        /// `ILIKE`
        insensitive: bool,
        /// With NOT.
        negated: bool,
    },
    /// `= ANY(array)`
    EqAny {
        /// What is looked for.
        operand: Operand,
        /// The array.
        array: Const,
    },
    /// `@>`, `<@`, `&&`, `?`
    Contains {
        /// Which.
        op: Containment,
        /// Its left side.
        left: Operand,
        /// Its right side.
        right: Operand,
    },
    /// A bare boolean column, or TRUE or FALSE.
    Bool(Operand),
    /// `column [NOT] IN (SELECT column FROM table WHERE ...)`
    InSelect {
        /// Always a column.
        operand: Operand,
        /// Where it is looked for.
        select: Box<Select>,
        /// `NOT IN`
        negated: bool,
    },
}

impl Filter {
    /// Parses the text of a condition.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::parse(text)
    }

    /// Reads the condition of a row security policy over `table`, as Postgres writes it: columns and tables named in
    /// full, `EXISTS` where it looks into another table. What reads no column is given to `evaluate` once, which
    /// returns its value.
    pub fn policy(text: &str, table: &str, evaluate: Evaluate<'_>) -> Result<Self, Error> {
        policy::parse(text, table, evaluate)
    }

    /// The columns of its own table that it reads.
    pub fn columns(&self) -> BTreeSet<&str> {
        let mut columns = BTreeSet::new();
        self.visit(&mut |operand| {
            if let Operand::Column(name) = operand {
                columns.insert(name.as_str());
            }
        });
        columns
    }

    /// The numbers of the parameters that it uses.
    pub fn params(&self) -> BTreeSet<usize> {
        let mut params = BTreeSet::new();
        let mut constant = |mut value: &Const| {
            while let Const::Cast { value: inner, .. } = value {
                value = inner;
            }
            if let Const::Param(n) = value {
                params.insert(*n);
            }
        };
        self.visit(&mut |operand| match operand {
            Operand::Const(value) | Operand::Json { path: value, .. } => constant(value),
            _ => {}
        });
        // `EqAny` holds a bare constant, which is no operand.
        self.visit_arrays(&mut constant);
        for select in self.selects() {
            params.extend(select.filter.iter().flat_map(Self::params));
        }
        params
    }

    /// Its sub-selects, without those inside them.
    pub fn selects(&self) -> Vec<&Select> {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::selects).collect(),
            Self::Not(part) => part.selects(),
            Self::InSelect { select, .. } => vec![select],
            _ => Vec::new(),
        }
    }

    /// Its sub-selects and those inside them.
    pub fn all_selects(&self) -> Vec<&Select> {
        let outer = self.selects();
        let inner: Vec<_> =
            outer.iter().filter_map(|select| select.filter.as_ref()).flat_map(Self::all_selects).collect();
        outer.into_iter().chain(inner).collect()
    }

    /// Its sub-selects in the same order, to be changed.
    pub fn selects_mut(&mut self) -> Vec<&mut Select> {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter_mut().flat_map(Self::selects_mut).collect(),
            Self::Not(part) => part.selects_mut(),
            Self::InSelect { select, .. } => vec![select],
            _ => Vec::new(),
        }
    }

    /// The same condition with every NOT that stood over a sub-select moved into it, so that each sub-select is
    /// either looked for or looked out for. True, false and unknown stay what they were.
    pub fn normal(self) -> Self {
        if self.selects().is_empty() { self } else { self.under(false) }
    }

    fn under(self, not: bool) -> Self {
        let all = |parts: Vec<Self>| parts.into_iter().map(|part| part.under(not)).collect();
        match self {
            Self::And(parts) if not => Self::Or(all(parts)),
            Self::Or(parts) if not => Self::And(all(parts)),
            Self::And(parts) => Self::And(all(parts)),
            Self::Or(parts) => Self::Or(all(parts)),
            Self::Not(part) => part.under(!not),
            Self::InSelect { operand, select, negated } => Self::InSelect { operand, select, negated: negated != not },
            own if not => Self::Not(Box::new(own)),
            own => own,
        }
    }

    /// The condition with every sub-select taken for true; of a [`normal`](Self::normal) one that is what a row's own
    /// columns do not rule out.
    pub fn own(self) -> Self {
        let all = |parts: Vec<Self>| parts.into_iter().map(Self::own).collect();
        match self {
            Self::And(parts) => Self::And(all(parts)),
            Self::Or(parts) => Self::Or(all(parts)),
            Self::InSelect { .. } => Self::Bool(Operand::Const(Const::Bool(true))),
            own => own,
        }
    }

    /// Calls `see` with every operand, the outer before the inner.
    fn visit<'a>(&'a self, see: &mut impl FnMut(&'a Operand)) {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.visit(see)),
            Self::Not(part) => part.visit(see),
            Self::Compare { left, right, .. }
            | Self::IsDistinct { left, right, .. }
            | Self::Contains { left, right, .. } => {
                left.visit(see);
                right.visit(see);
            }
            Self::IsNull { operand, .. }
            | Self::IsBool { operand, .. }
            | Self::EqAny { operand, .. }
            | Self::InSelect { operand, .. }
            | Self::Bool(operand) => operand.visit(see),
            Self::In { operand, list, .. } => {
                operand.visit(see);
                list.iter().for_each(|item| item.visit(see));
            }
            Self::Between { operand, low, high, .. } => {
                operand.visit(see);
                low.visit(see);
                high.visit(see);
            }
            Self::Like { operand, pattern, .. } => {
                operand.visit(see);
                pattern.visit(see);
            }
        }
    }

    /// Calls `see` with the array of every `= ANY`.
    fn visit_arrays(&self, see: &mut impl FnMut(&Const)) {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.visit_arrays(see)),
            Self::Not(part) => part.visit_arrays(see),
            Self::EqAny { array, .. } => see(array),
            _ => {}
        }
    }
}

impl Operand {
    fn visit<'a>(&'a self, see: &mut impl FnMut(&'a Operand)) {
        see(self);
        match self {
            Self::Json { base, .. } => base.visit(see),
            Self::Call { args, .. } => args.iter().for_each(|arg| arg.visit(see)),
            Self::Column(_) | Self::Const(_) => {}
        }
    }
}
