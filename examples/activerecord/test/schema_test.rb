require_relative "helper"
require "tempfile"

class SchemaTest < CommittedTest
  TASKS = ActiveRecord::Tasks::PostgreSQLDatabaseTasks
  TRACKED = "SELECT relation::text, filter_columns, log_inserts, enabled FROM sync_tables ORDER BY 1".freeze

  teardown { ActiveRecord::Base.establish_connection(DATABASE) }

  def tracked
    ActiveRecord::Base.connection.select_rows(TRACKED)
  end

  # Loads a schema into a database of its own.
  def load_into(name)
    create_database(name)
    yield DATABASE.merge(database: name)
  end

  def config(hash)
    ActiveRecord::DatabaseConfigurations::HashConfig.new("test", "primary", hash)
  end

  def dump_ruby
    out = StringIO.new
    ActiveRecord::SchemaDumper.dump(ActiveRecord::Base.connection, out)
    out.string
  end

  def load_ruby(name, schema)
    load_into(name) { eval(schema) } # rubocop:disable Security/Eval
  end

  test "structure.sql is the whole of it" do
    before = tracked
    file = Tempfile.new(["structure", ".sql"]).path
    TASKS.new(config(DATABASE)).structure_dump(file, nil)
    load_into("from_structure") { |there| TASKS.new(config(there)).structure_load(file, nil) }
    assert_equal before, tracked
  end

  test "structure.sql of a search path lacks the extension" do
    file = Tempfile.new(["structure", ".sql"]).path
    TASKS.new(config(DATABASE.merge(schema_search_path: "public"))).structure_dump(file, nil)
    assert_no_match(/CREATE EXTENSION/, File.read(file))
    ActiveRecord::Base.dump_schemas = :all
    TASKS.new(config(DATABASE.merge(schema_search_path: "public"))).structure_dump(file, nil)
    assert_match(/CREATE EXTENSION.* syncline/, File.read(file))
  ensure
    ActiveRecord::Base.dump_schemas = :schema_search_path
  end

  test "schema.rb has the column and its index but loses the triggers unless it is told to track" do
    before = tracked
    plain = dump_ruby
    assert_match 't.bigint "_sync_version", default: 0, null: false', plain
    assert_match 't.index ["_sync_version"]', plain
    load_ruby("from_ruby", plain)
    assert_equal [["syncline.client", "{role}", false, true], ["syncline.message", "{topic}", false, true]], tracked
    error = assert_raises(ActiveRecord::StatementInvalid) { Sync.pull(nil, Sync.project_shape(1)) }
    assert_match "is not tracked", error.message

    ActiveRecord::Base.establish_connection(DATABASE)
    require_relative "../lib/schema"
    load_ruby("from_ruby_with_tracking", dump_ruby)
    assert_equal before, tracked
    assert_equal 2, dump_ruby.scan("execute").size
  end

  test "a restored dump is tracked and resets cursors from elsewhere" do
    @project.issues.create!(title: "weeds")
    before, cursor, shape = tracked, @copy.cursor, Sync.project_shape(@project.id)
    dump = IO.popen(["pg_dump", DATABASE[:database]], &:read)
    load_into("restored") do |there|
      IO.popen(["psql", "-Xqv", "ON_ERROR_STOP=1", "-d", there[:database]], "w", out: File::NULL) { |psql| psql.write(dump) }
      assert_predicate $?, :success?
    end
    assert_equal before, tracked
    copy = Copy.new(shape)
    copy.cursor = cursor
    assert_equal %w[reset upsert upsert], copy.pull
    Issue.update_all(title: "roses")
    assert_equal ["upsert"], copy.pull
    Issue.delete_all
    assert_equal ["delete"], copy.pull
  end

  test "the migration goes back and forth" do
    create_database("migrated")
    Tracker.migrations.migrate
    Tracker.migrations.rollback
    assert_equal %w[id name], ActiveRecord::Base.connection.columns("projects").map(&:name)
    Tracker.migrations.migrate
    assert_equal %w[issues projects syncline.client syncline.message], tracked.map(&:first)
  end
end
