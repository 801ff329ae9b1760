require_relative "helper"

class WritesTest < CommittedTest
  # The delta has these ops, and the copy equals what the models read.
  def check(*ops)
    assert_equal ops.sort, @copy.pull.sort
    rows = @copy.rows.filter_map { |(relation, _), row| row if relation == "issue" }
    assert_equal Issue.where(project: @project).order(:id).map(&:attributes), rows.sort_by { |row| row["id"] }
  end

  test "every way to write ends in the delta" do
    other = Project.create!(name: "house")
    issue = @project.issues.create!(title: "weeds")
    check "upsert"
    issue.update!(title: "more weeds")
    check "upsert"
    issue.update_column(:project_id, other.id)
    check "delete"
    Issue.where(id: issue.id).update_all(["project_id = ?", @project.id])
    check "upsert"
    Issue.insert_all!([{ project_id: @project.id, title: "seed" }, { project_id: @project.id, title: "tree" }])
    check "upsert", "upsert"
    Issue.insert_all([{ id: issue.id, project_id: @project.id, title: "twice" }])
    check
    Issue.upsert_all([{ id: issue.id, project_id: @project.id, state: "done", title: "upserted" }])
    check "upsert"
    Issue.transaction do
      issue.destroy!
      raise ActiveRecord::Rollback
    end
    check
    Issue.where(title: %w[seed tree]).delete_all
    check "delete", "delete"
    @project.destroy!
    assert_equal %w[delete delete], @copy.pull
  end

  test "truncation is a reset" do
    ActiveRecord::Base.connection.truncate_tables("projects", "issues")
    assert_equal ["reset"], @copy.pull
  end

  test "the query cache keeps no delta" do
    ActiveRecord::Base.cache do
      first, = Sync.pull(@copy.cursor, Sync.project_shape(@project.id))
      elsewhere { @project.issues.create!(title: "weeds") }
      assert_not_equal first, Sync.pull(@copy.cursor, Sync.project_shape(@project.id)).first
    end
  end

  test "fixtures load and what they bring is pulled" do
    Dir.mktmpdir do |folder|
      File.write("#{folder}/issues.yml", "weeds:\n  project_id: #{@project.id}\n  title: weeds\n")
      ActiveRecord::FixtureSet.create_fixtures(folder, ["issues"], { "issues" => Issue })
    end
    assert_equal %w[reset upsert upsert], @copy.pull
    Issue.update_all(title: "roses")
    check "upsert"
  end
end

class RolledBackTest < ActiveSupport::TestCase
  include ActiveRecord::TestFixtures
  self.use_transactional_tests = true

  test "preview shows what the test wrote, and a pull is refused" do
    project = Project.create!(name: "never committed")
    project.issues.create!(title: "weeds")
    rows = Sync.preview(Sync.project_shape(project.id)).map { |relation, row| [relation, row["title"] || row["name"]] }
    assert_equal [["issue", "weeds"], ["project", "never committed"]], rows.sort
    error = assert_raises(ActiveRecord::StatementInvalid) { Sync.pull(nil, Sync.project_shape(project.id)) }
    assert_instance_of PG::ActiveSqlTransaction, error.cause
  end
end
