require_relative "helper"

class ColumnTest < CommittedTest
  class Starred < ActiveRecord::Base
    self.table_name = "projects"
  end

  test "a model that does not ignore it works and is stamped" do
    project = Starred.create!(name: "house")
    assert_equal 0, project._sync_version
    first = project.reload._sync_version
    assert_operator first, :>, 0
    project.update!(name: "home", _sync_version: 1)
    assert_operator project.reload._sync_version, :>, first
  end

  # A table that sync_track reaches while a process with prepared statements runs.
  def deploy(name)
    connection = ActiveRecord::Base.connection
    connection.create_table(name) { |t| t.text :text }
    model = Class.new(ActiveRecord::Base) { self.table_name = name }
    yield model
    model.create!(text: "before")
    model.find_by(text: "before")
    elsewhere { |other| other.execute("SELECT sync_track('#{name}')") }
    model
  end

  test "a prepared star is prepared anew outside a transaction and fails within" do
    assert_not_nil deploy("stars") { nil }.find_by(text: "before")
    model = deploy("more_stars") { nil }
    error = assert_raises(ActiveRecord::PreparedStatementCacheExpired) do
      model.transaction { model.find_by(text: "before") }
    end
    assert_match "cached plan must not change result type", error.message
    assert_not_nil model.transaction { model.find_by(text: "before") }
  end

  test "a model that ignored it before the deploy notices nothing" do
    model = deploy("names") { |m| m.ignored_columns = ["_sync_version"] }
    assert_not_nil model.transaction { model.find_by(text: "before") }
    assert_equal %w[id text], model.column_names
  end
end
