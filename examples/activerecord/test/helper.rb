require "active_support/test_case"
require "minitest/autorun"
require_relative "../lib/tracker"
require_relative "../lib/app"

# A database of this file's own, made by the migrations.
DATABASE = { adapter: "postgresql", host: ENV.fetch("PGHOST"), port: ENV.fetch("PGPORT"), username: ENV.fetch("PGUSER"),
             database: "tracker_#{File.basename($PROGRAM_NAME, '.rb')}", pool: 10 }.freeze
POOLED = DATABASE.merge(host: ENV.fetch("PGBOUNCER_HOST"), port: ENV.fetch("PGBOUNCER_PORT")).freeze

def create_database(name)
  ActiveRecord::Base.establish_connection(DATABASE.merge(database: "postgres"))
  ActiveRecord::Base.connection.create_database(name, template: "template0")
  ActiveRecord::Base.establish_connection(DATABASE.merge(database: name))
end

ActiveRecord::Migration.verbose = false
ActiveSupport.test_order = :sorted
create_database(DATABASE[:database])
Tracker.migrations.migrate

# A client: what it holds for a shape, kept by pulls.
class Copy
  attr_reader :rows
  attr_accessor :cursor

  def initialize(shape, model = ActiveRecord::Base)
    @shape, @model, @rows = shape, model, {}
  end

  # Applies a delta and returns its ops.
  def pull
    @cursor, delta = Sync.pull(@cursor, @shape, @model)
    apply(JSON.parse(delta))
  end

  def apply(delta)
    delta["changes"].map do |change|
      key = change.values_at("relation", "key")
      case change["op"]
      when "reset" then @rows.clear
      when "delete" then @rows.delete(key)
      else @rows[key] = change["value"]
      end
      change["op"]
    end
  end
end

class CommittedTest < ActiveSupport::TestCase
  setup do
    ActiveRecord::Base.connection.truncate_tables("projects", "issues")
    @project = Project.create!(name: "garden")
    @copy = Copy.new(Sync.project_shape(@project.id))
    @copy.pull
  end

  def elsewhere
    Thread.new { ActiveRecord::Base.connection_pool.with_connection { |connection| yield connection } }.value
  end
end
