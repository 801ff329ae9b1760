//! What a data definition command does behind the row triggers' back, read from its parse tree.

use pgrx::pg_sys;
use pgrx::pg_sys::AlterTableType as At;

use crate::pg::relation::{LOG, STAMP, TRUNCATE, VERSION};
use crate::pg::{list_members, version};

/// What a command may have done to a table's rows, their reach or their triggers without firing a row trigger.
#[derive(PartialEq)]
pub enum Rows {
    /// Nothing. Columns that come and go are told apart by the cursor's identity.
    Same,
    /// It chose another key, if the table has no primary key.
    Key,
    /// It brought the rows of a partition.
    Attached,
    /// Nothing, but its name means another table now, or none.
    Renamed,
    /// It changed what these columns hold or are called.
    Columns(Vec<String>),
    /// Whatever is not known to be less.
    Any,
}

/// What a command did.
pub struct Change {
    /// To the rows of the table that it names.
    pub rows: Rows,
    /// Whether values of the type, or of the table's row type, read otherwise than before.
    pub is_of_type: bool,
}

/// Sub-commands of ALTER TABLE that leave rows, key and triggers as they are.
const HARMLESS: [At::Type; 35] = [
    At::AT_ColumnDefault,
    At::AT_DropNotNull,
    At::AT_SetNotNull,
    At::AT_DropExpression,
    At::AT_SetStatistics,
    At::AT_SetOptions,
    At::AT_ResetOptions,
    At::AT_SetStorage,
    At::AT_SetCompression,
    At::AT_AddIndex,
    At::AT_AddIndexConstraint,
    At::AT_AlterConstraint,
    At::AT_ValidateConstraint,
    At::AT_DropConstraint,
    At::AT_ChangeOwner,
    At::AT_ClusterOn,
    At::AT_DropCluster,
    At::AT_DropOids,
    At::AT_SetAccessMethod,
    At::AT_SetTableSpace,
    At::AT_SetRelOptions,
    At::AT_ResetRelOptions,
    At::AT_EnableRule,
    At::AT_EnableAlwaysRule,
    At::AT_EnableReplicaRule,
    At::AT_DisableRule,
    At::AT_AddOf,
    At::AT_DropOf,
    At::AT_EnableRowSecurity,
    At::AT_DisableRowSecurity,
    At::AT_ForceRowSecurity,
    At::AT_NoForceRowSecurity,
    At::AT_AddIdentity,
    At::AT_SetIdentity,
    At::AT_DropIdentity,
];

/// # Safety
///
/// `pointer` is null or a C string.
unsafe fn name(pointer: *const std::ffi::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { std::ffi::CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// Whether a node of a parse tree makes a primary key: then the table had none.
///
/// # Safety
///
/// `node` is null or a node of a parse tree.
unsafe fn is_primary_key(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise; the tag tells the struct.
    unsafe {
        !node.is_null()
            && (*node).type_ == pg_sys::NodeTag::T_Constraint
            && (*node.cast::<pg_sys::Constraint>()).contype == pg_sys::ConstrType::CONSTR_PRIMARY
    }
}

/// Whether a new column is a key, or a version column: what that holds tells nothing of what was written before.
///
/// # Safety
///
/// `definition` is null or the definition of a column in a parse tree.
unsafe fn is_key_or_version(definition: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise; a list of constraints has nodes.
    unsafe {
        let definition = definition.cast::<pg_sys::ColumnDef>();
        !definition.is_null()
            && (name((*definition).colname) == VERSION
                || list_members((*definition).constraints).iter().any(|cell| is_primary_key(cell.ptr_value.cast())))
    }
}

impl Change {
    const NONE: Self = Self { rows: Rows::Same, is_of_type: false };

    /// Reads a command.
    ///
    /// # Safety
    ///
    /// `tree` is null or a parse tree.
    pub unsafe fn of(tree: *mut pg_sys::Node) -> Self {
        use pg_sys::NodeTag as Tag;
        if tree.is_null() {
            return Self { rows: Rows::Any, is_of_type: true };
        }
        // SAFETY: the caller's promise; the node tag tells the struct.
        unsafe {
            match (*tree).type_ {
                Tag::T_AlterTableStmt => Self::of_subcommands((*tree.cast::<pg_sys::AlterTableStmt>()).cmds),
                Tag::T_RenameStmt => Self::of_rename(&*tree.cast::<pg_sys::RenameStmt>()),
                // A value that comes sorts between others, which stay as they were.
                Tag::T_AlterEnumStmt => {
                    Self { rows: Rows::Same, is_of_type: !(*tree.cast::<pg_sys::AlterEnumStmt>()).oldVal.is_null() }
                }
                Tag::T_AlterObjectSchemaStmt => Self { rows: Rows::Renamed, is_of_type: false },
                Tag::T_CreateStmt
                | Tag::T_CreateSchemaStmt
                | Tag::T_AlterOwnerStmt
                | Tag::T_AlterTableMoveAllStmt
                | Tag::T_AlterTypeStmt => Self::NONE,
                _ => Self { rows: Rows::Any, is_of_type: true },
            }
        }
    }

    /// # Safety
    ///
    /// `commands` is the list of an `AlterTableStmt`.
    unsafe fn of_subcommands(commands: *mut pg_sys::List) -> Self {
        let (mut change, mut columns) = (Self::NONE, Vec::new());
        // SAFETY: the caller's promise; the list's members are commands.
        unsafe {
            for cell in list_members(commands) {
                let command = &*cell.ptr_value.cast::<pg_sys::AlterTableCmd>();
                let column = name(command.name);
                match command.subtype {
                    harmless if HARMLESS.contains(&harmless) => {}
                    At::AT_AddColumn if is_key_or_version(command.def) => {
                        change = Self { rows: Rows::Any, is_of_type: true };
                    }
                    At::AT_AddColumn | At::AT_DropColumn => change.is_of_type = true,
                    At::AT_AddConstraint if !is_primary_key(command.def) => {}
                    At::AT_AlterColumnType => {
                        change.is_of_type = true;
                        columns.push(column);
                    }
                    one if version::sets_expression(one) => columns.push(column),
                    At::AT_ReplicaIdentity if change.rows != Rows::Any => change.rows = Rows::Key,
                    At::AT_AttachPartition => change.rows = Rows::Attached,
                    At::AT_EnableTrig | At::AT_EnableAlwaysTrig | At::AT_EnableReplicaTrig | At::AT_DisableTrig
                        if ![STAMP, LOG, TRUNCATE].contains(&column.as_str()) => {}
                    _ => change.rows = Rows::Any,
                }
            }
        }
        if !columns.is_empty() {
            let exact = change.rows == Rows::Same && !columns.iter().any(|column| column == VERSION);
            change.rows = if exact { Rows::Columns(columns) } else { Rows::Any };
        }
        change
    }

    /// # Safety
    ///
    /// The names of `rename` are null or C strings.
    unsafe fn of_rename(rename: &pg_sys::RenameStmt) -> Self {
        // SAFETY: the caller's promise.
        let names = unsafe { [name(rename.subname), name(rename.newname)] };
        match rename.renameType {
            // The triggers know filter columns by name: renamed and renamed back, one went unlogged.
            pg_sys::ObjectType::OBJECT_COLUMN if names.iter().any(|name| name == VERSION) => {
                Self { rows: Rows::Any, is_of_type: true }
            }
            pg_sys::ObjectType::OBJECT_COLUMN => {
                let [_, new] = names;
                Self { rows: Rows::Columns(vec![new]), is_of_type: true }
            }
            pg_sys::ObjectType::OBJECT_TABLE => Self { rows: Rows::Renamed, is_of_type: false },
            pg_sys::ObjectType::OBJECT_ATTRIBUTE => Self { rows: Rows::Same, is_of_type: true },
            _ => Self::NONE,
        }
    }
}
