/* The floor of the benchmark: an output plugin that is handed every change and writes nothing. */
#include "postgres.h"

#include "fmgr.h"
#include "replication/logical.h"
#include "replication/output_plugin.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *callbacks);

static void
begin(LogicalDecodingContext *context, ReorderBufferTXN *txn)
{
}

static void
change(LogicalDecodingContext *context, ReorderBufferTXN *txn, Relation relation, ReorderBufferChange *change)
{
}

static void
commit(LogicalDecodingContext *context, ReorderBufferTXN *txn, XLogRecPtr lsn)
{
}

void
_PG_output_plugin_init(OutputPluginCallbacks *callbacks)
{
	callbacks->begin_cb = begin;
	callbacks->change_cb = change;
	callbacks->commit_cb = commit;
}
