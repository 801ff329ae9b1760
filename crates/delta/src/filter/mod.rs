//! Filters: the WHERE part of a shape, in a closed grammar.
//!
//! Nothing in it can fail on a row, and nothing depends on time or on the session beyond the constants that
//! [`Filter::fold`] puts in. SQL is generated from this tree; the text itself is never part of a query.

mod parse;

use std::collections::BTreeSet;

use crate::Error;

/// A condition on a row, with SQL's three-valued logic.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// All of them.
    And(Vec<Filter>),
    /// One of them.
    Or(Vec<Filter>),
    /// Not.
    Not(Box<Filter>),
    /// `left op right`
    Compare {
        /// The comparison.
        op: Comparison,
        /// Left side.
        left: Operand,
        /// Right side.
        right: Operand,
    },
    /// `operand IS [NOT] NULL`
    IsNull {
        /// What is tested.
        operand: Operand,
        /// With NOT.
        negated: bool,
    },
    /// `operand IS [NOT] TRUE | FALSE`
    IsBool {
        /// What is tested.
        operand: Operand,
        /// For what.
        value: bool,
        /// With NOT.
        negated: bool,
    },
    /// `left IS [NOT] DISTINCT FROM right`
    IsDistinct {
        /// Left side.
        left: Operand,
        /// Right side.
        right: Operand,
        /// With NOT.
        negated: bool,
    },
    /// `operand [NOT] IN (constants)`
    In {
        /// What is looked for.
        operand: Operand,
        /// Among what.
        list: Vec<Operand>,
        /// With NOT.
        negated: bool,
    },
    /// `operand [NOT] BETWEEN low AND high`
    Between {
        /// What is tested.
        operand: Operand,
        /// Lower bound.
        low: Operand,
        /// Upper bound.
        high: Operand,
        /// With NOT.
        negated: bool,
    },
    /// `operand [NOT] LIKE | ILIKE pattern`
    Like {
        /// What is matched.
        operand: Operand,
        /// A constant.
        pattern: Operand,
        /// ILIKE.
        insensitive: bool,
        /// With NOT.
        negated: bool,
    },
    /// `operand = ANY (array)`
    EqAny {
        /// What is looked for.
        operand: Operand,
        /// Among what.
        array: Const,
    },
    /// `left @> right` and its kin.
    Contains {
        /// Which of them.
        op: Containment,
        /// Left side.
        left: Operand,
        /// Right side.
        right: Operand,
    },
    /// A boolean column or constant.
    Bool(Operand),
}

/// `=` and its kin.
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

/// Operators of arrays and JSON documents.
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

/// Steps into a JSON document.
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

/// The functions of the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `lower(text)`
    Lower,
    /// `upper(text)`
    Upper,
    /// `length(text)`
    Length,
    /// `coalesce(a, b, …)`
    Coalesce,
}

/// A value of a row, or a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A column by its name.
    Column(String),
    /// A constant.
    Const(Const),
    /// A step into a JSON document.
    Json {
        /// Which.
        op: JsonOp,
        /// From where.
        base: Box<Operand>,
        /// To where.
        path: Const,
    },
    /// A function.
    Call {
        /// Which.
        function: Function,
        /// Its arguments.
        args: Vec<Operand>,
    },
}

/// A constant; its type is that of what it is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Const {
    /// NULL
    Null,
    /// TRUE or FALSE
    Bool(bool),
    /// A number as it was written.
    Number(String),
    /// A string literal, read as the input of the other side's type.
    Text(String),
    /// `$n`, from 1.
    Param(usize),
    /// A parameter's value; only after folding.
    Json(serde_json::Value),
    /// `value::type`
    Cast {
        /// The value.
        value: Box<Const>,
        /// The type's name.
        to: String,
    },
    /// `current_setting('name')`
    Setting {
        /// The setting.
        name: String,
        /// NULL if it is not set.
        missing_ok: bool,
    },
    /// `current_user`
    CurrentUser,
}

/// Where the constants of a call come from.
pub trait Constants {
    /// The value of `$n`.
    fn param(&self, n: usize) -> Option<&serde_json::Value>;
    /// The value of a setting.
    fn setting(&self, name: &str, missing_ok: bool) -> Result<Option<String>, Error>;
    /// The name of the current role.
    fn current_user(&self) -> String;
}

impl Filter {
    /// Reads SQL text. Errors: `Filter…` for what is outside the grammar, `Limit` for what is too large.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::filter(text)
    }

    /// The columns whose values decide.
    pub fn columns(&self) -> BTreeSet<&str> {
        let mut columns = BTreeSet::new();
        self.each_operand(&mut |operand| operand.add_columns(&mut columns));
        columns
    }

    /// The numbers of the parameters.
    pub fn params(&self) -> BTreeSet<usize> {
        let mut params = BTreeSet::new();
        self.each_const(&mut |value| value.add_params(&mut params));
        params
    }

    /// The same filter with the values of this call in place of parameters, settings and `current_user`.
    pub fn fold(mut self, constants: &impl Constants) -> Result<Self, Error> {
        let mut result = Ok(());
        self.each_const_mut(&mut |value| {
            if result.is_ok() {
                result = value.fold(constants);
            }
        });
        result?;
        self.check_patterns()?;
        Ok(self)
    }

    fn parts(&self) -> &[Self] {
        match self {
            Self::And(parts) | Self::Or(parts) => parts,
            Self::Not(part) => std::slice::from_ref(part),
            _ => &[],
        }
    }

    fn each_operand<'a>(&'a self, each: &mut impl FnMut(&'a Operand)) {
        self.parts().iter().for_each(|part| part.each_operand(each));
        match self {
            Self::Compare { left, right, .. }
            | Self::IsDistinct { left, right, .. }
            | Self::Contains { left, right, .. } => {
                each(left);
                each(right);
            }
            Self::Between { operand, low, high, .. } => [operand, low, high].into_iter().for_each(each),
            Self::In { operand, list, .. } => {
                each(operand);
                list.iter().for_each(each);
            }
            Self::Like { operand, pattern, .. } => {
                each(operand);
                each(pattern);
            }
            Self::IsNull { operand, .. }
            | Self::IsBool { operand, .. }
            | Self::EqAny { operand, .. }
            | Self::Bool(operand) => each(operand),
            Self::And(_) | Self::Or(_) | Self::Not(_) => {}
        }
    }

    fn each_const<'a>(&'a self, each: &mut impl FnMut(&'a Const)) {
        self.each_operand(&mut |operand| operand.each_const(each));
        self.each_array(each);
    }

    fn each_array<'a>(&'a self, each: &mut impl FnMut(&'a Const)) {
        self.parts().iter().for_each(|part| part.each_array(each));
        if let Self::EqAny { array, .. } = self {
            each(array);
        }
    }

    fn each_const_mut(&mut self, each: &mut impl FnMut(&mut Const)) {
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter_mut().for_each(|part| part.each_const_mut(each)),
            Self::Not(part) => part.each_const_mut(each),
            Self::Compare { left, right, .. }
            | Self::IsDistinct { left, right, .. }
            | Self::Contains { left, right, .. } => {
                left.each_const_mut(each);
                right.each_const_mut(each);
            }
            Self::Between { operand, low, high, .. } => {
                [operand, low, high].into_iter().for_each(|operand| operand.each_const_mut(each));
            }
            Self::In { operand, list, .. } => {
                operand.each_const_mut(each);
                list.iter_mut().for_each(|operand| operand.each_const_mut(each));
            }
            Self::Like { operand, pattern, .. } => {
                operand.each_const_mut(each);
                pattern.each_const_mut(each);
            }
            Self::EqAny { operand, array } => {
                operand.each_const_mut(each);
                each(array);
            }
            Self::IsNull { operand, .. } | Self::IsBool { operand, .. } | Self::Bool(operand) => {
                operand.each_const_mut(each);
            }
        }
    }

    /// A pattern that ends in its escape character fails on the first row that reaches the end.
    fn check_patterns(&self) -> Result<(), Error> {
        self.parts().iter().try_for_each(Self::check_patterns)?;
        if let Self::Like { pattern: Operand::Const(pattern), .. } = self {
            let text = match pattern {
                Const::Text(text) | Const::Json(serde_json::Value::String(text)) => text.as_str(),
                _ => "",
            };
            let backslashes = text.bytes().rev().take_while(|&byte| byte == b'\\').count();
            if backslashes % 2 == 1 {
                return Err(Error::rule("22025", "LIKE pattern must not end with escape character"));
            }
        }
        Ok(())
    }
}

impl Operand {
    fn add_columns<'a>(&'a self, columns: &mut BTreeSet<&'a str>) {
        match self {
            Self::Column(name) => {
                columns.insert(name);
            }
            Self::Const(_) => {}
            Self::Json { base, .. } => base.add_columns(columns),
            Self::Call { args, .. } => args.iter().for_each(|arg| arg.add_columns(columns)),
        }
    }

    fn each_const<'a>(&'a self, each: &mut impl FnMut(&'a Const)) {
        match self {
            Self::Column(_) => {}
            Self::Const(value) => each(value),
            Self::Json { base, path, .. } => {
                base.each_const(each);
                each(path);
            }
            Self::Call { args, .. } => args.iter().for_each(|arg| arg.each_const(each)),
        }
    }

    fn each_const_mut(&mut self, each: &mut impl FnMut(&mut Const)) {
        match self {
            Self::Column(_) => {}
            Self::Const(value) => each(value),
            Self::Json { base, path, .. } => {
                base.each_const_mut(each);
                each(path);
            }
            Self::Call { args, .. } => args.iter_mut().for_each(|arg| arg.each_const_mut(each)),
        }
    }
}

impl Const {
    fn add_params(&self, params: &mut BTreeSet<usize>) {
        match self {
            Self::Param(n) => {
                params.insert(*n);
            }
            Self::Cast { value, .. } => value.add_params(params),
            _ => {}
        }
    }

    fn fold(&mut self, constants: &impl Constants) -> Result<(), Error> {
        *self = match self {
            Self::Param(n) => {
                let value = constants.param(*n).cloned();
                Self::Json(value.ok_or_else(|| Error::Params { message: format!("there is no parameter ${n}") })?)
            }
            Self::Setting { name, missing_ok } => {
                constants.setting(name, *missing_ok)?.map_or(Self::Null, Self::Text)
            }
            Self::CurrentUser => Self::Text(constants.current_user()),
            Self::Cast { value, .. } => return value.fold(constants),
            _ => return Ok(()),
        };
        Ok(())
    }
}
