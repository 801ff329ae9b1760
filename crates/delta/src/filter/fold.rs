//! Replaces what a call makes constant: parameters, settings, the user.

use serde_json::Value;

use super::{Const, Filter, Operand, Select, check};
use crate::Error;

/// Where the values of a call come from.
pub trait Constants {
    /// The value of `$n`, counted from 1.
    fn param(&self, n: usize) -> Option<&Value>;
    /// The value of a setting; `None` if it does not exist and that is no error.
    fn setting(&self, name: &str, missing_ok: bool) -> Result<Option<String>, Error>;
    /// The name of the current user.
    fn current_user(&self) -> String;
}

impl Filter {
    /// The same condition without parameters, settings and `current_user`.
    ///
    /// The rules on constants are checked again, as the values are only known now.
    pub fn fold(self, env: &impl Constants) -> Result<Self, Error> {
        Ok(match self {
            Self::And(parts) => Self::And(filters(parts, env)?),
            Self::Or(parts) => Self::Or(filters(parts, env)?),
            Self::Not(part) => Self::Not(Box::new(part.fold(env)?)),
            Self::Compare { op, left, right } => {
                Self::Compare { op, left: operand(left, env)?, right: operand(right, env)? }
            }
            Self::IsNull { operand: of, negated } => Self::IsNull { operand: operand(of, env)?, negated },
            Self::IsBool { operand: of, value, negated } => Self::IsBool { operand: operand(of, env)?, value, negated },
            Self::IsDistinct { left, right, negated } => {
                Self::IsDistinct { left: operand(left, env)?, right: operand(right, env)?, negated }
            }
            Self::In { operand: of, list, negated } => {
                Self::In { operand: operand(of, env)?, list: operands(list, env)?, negated }
            }
            Self::Between { operand: of, low, high, negated } => Self::Between {
                operand: operand(of, env)?,
                low: operand(low, env)?,
                high: operand(high, env)?,
                negated,
            },
            Self::Like { operand: of, pattern, insensitive, negated } => {
                let pattern = operand(pattern, env)?;
                if let Operand::Const(value) = &pattern {
                    check::pattern(value)?;
                }
                Self::Like { operand: operand(of, env)?, pattern, insensitive, negated }
            }
            Self::EqAny { operand: of, array } => {
                let array = constant(array, env)?;
                check::array(&array)?;
                Self::EqAny { operand: operand(of, env)?, array }
            }
            Self::Contains { op, left, right } => {
                Self::Contains { op, left: operand(left, env)?, right: operand(right, env)? }
            }
            Self::Bool(of) => Self::Bool(operand(of, env)?),
            Self::InSelect { operand, select, negated } => {
                let filter = select.filter.map(|filter| filter.fold(env)).transpose()?;
                Self::InSelect { operand, select: Box::new(Select { filter, ..*select }), negated }
            }
        })
    }
}

fn filters(parts: Vec<Filter>, env: &impl Constants) -> Result<Vec<Filter>, Error> {
    parts.into_iter().map(|part| part.fold(env)).collect()
}

fn operands(list: Vec<Operand>, env: &impl Constants) -> Result<Vec<Operand>, Error> {
    list.into_iter().map(|item| operand(item, env)).collect()
}

fn operand(of: Operand, env: &impl Constants) -> Result<Operand, Error> {
    Ok(match of {
        Operand::Column(name) => Operand::Column(name),
        Operand::Const(value) => Operand::Const(constant(value, env)?),
        Operand::Json { op, base, path } => {
            Operand::Json { op, base: Box::new(operand(*base, env)?), path: constant(path, env)? }
        }
        Operand::Call { function, args } => Operand::Call { function, args: operands(args, env)? },
    })
}

fn constant(value: Const, env: &impl Constants) -> Result<Const, Error> {
    Ok(match value {
        Const::Param(n) => match env.param(n) {
            Some(value) => Const::Json(value.clone()),
            None => return Err(Error::Params { message: format!("parameter ${n} has no value") }),
        },
        Const::Setting { name, missing_ok } => match env.setting(&name, missing_ok)? {
            Some(text) => Const::Text(text),
            None => Const::Null,
        },
        Const::CurrentUser => Const::Text(env.current_user()),
        Const::Cast { value, to } => {
            let value = constant(*value, env)?;
            check::cast(&value, &to)?;
            Const::Cast { value: Box::new(value), to }
        }
        known @ (Const::Null | Const::Bool(_) | Const::Number(_) | Const::Text(_) | Const::Json(_)) => known,
    })
}
