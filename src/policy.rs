//! Row security as part of a shape: the policies that hold for this role, as a filter.

use syncline_delta::Error;
use syncline_delta::filter::{Const, Filter, Operand, PolicyValue};

use crate::catalog::Tracked;
use crate::error::Result;
use crate::pg::spi::{self, Param};
use crate::pg::{function, snapshot};

/// As the catalog has it.
struct Policy {
    name: String,
    is_permissive: bool,
    condition: String,
}

/// What row security lets this role see of a table: one of the permissive policies and every restrictive one.
/// Call it for a table that it restricts, under the pinned settings.
///
/// What a policy says of the session (`current_user`, functions without a column) is evaluated here, once, with the
/// rights of who pulls, as Postgres would.
pub fn effective(tracked: &Tracked) -> Result<Filter> {
    let (mut permissive, mut all) = (Vec::new(), Vec::new());
    for policy in policies(tracked) {
        let table = &tracked.relation.name.1;
        let filter = Filter::policy(&policy.condition, table, &mut evaluate)
            .map_err(|error| refused(&policy, tracked, &error))?;
        if policy.is_permissive { permissive.push(filter) } else { all.push(filter) }
    }
    all.push(match permissive.len() {
        0 => Filter::Bool(Operand::Const(Const::Bool(false))),
        1 => permissive.remove(0),
        _ => Filter::Or(permissive),
    });
    Ok(if all.len() == 1 { all.remove(0) } else { Filter::And(all) })
}

/// As they are now, like every definition: also for a snapshot from before they were changed.
fn policies(tracked: &Tracked) -> Vec<Policy> {
    const SQL: &str = "SELECT polname::text, polpermissive, pg_get_expr(polqual, polrelid) FROM pg_policy \
         WHERE polrelid = $1 AND polcmd IN ('r', '*') AND polqual IS NOT NULL \
         AND (0 = ANY (polroles) OR EXISTS (SELECT 1 FROM unnest(polroles) AS r WHERE pg_has_role(r, 'USAGE'))) \
         ORDER BY polname";
    let mut policies = Vec::new();
    snapshot::with_latest(|| {
        spi::query(SQL, &[Param::oid(tracked.relation.oid)], &mut |row| {
            let text = |column: usize| row.get(column).map(function::text).unwrap_or_default();
            policies.push(Policy { name: text(0), is_permissive: row.bool(1), condition: text(2) });
            true
        });
    });
    policies
}

/// Evaluates what reads no column. The text is Postgres' own writing of what an owner made a policy.
fn evaluate(sql: &str) -> Result<PolicyValue> {
    let query =
        format!("SELECT v::text, pg_typeof(v) = 'boolean'::regtype, v::text = 'true' FROM (SELECT {sql}) AS q(v)");
    let mut value = PolicyValue::Null;
    spi::query(&query, &[], &mut |row| {
        if let Some(text) = row.get(0).map(function::text) {
            value = if row.bool(1) { PolicyValue::Bool(row.bool(2)) } else { PolicyValue::Text(text) };
        }
        false
    });
    Ok(value)
}

fn refused(policy: &Policy, tracked: &Tracked, error: &Error) -> Error {
    let message =
        format!("policy \"{}\" of table \"{}\" cannot be part of a shape", policy.name, tracked.relation.name.1);
    let refused = Error::rule("0A000", message).with_detail(format!("Its condition: {error}."));
    match error.hint() {
        Some(hint) => refused.with_hint(hint),
        None => refused,
    }
}
