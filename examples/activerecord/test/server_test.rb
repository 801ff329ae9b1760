require_relative "helper"

class RoutesTest < CommittedTest
  test "pull answers with deltas" do
    get = ->(query) { JSON.parse(App::PULL.call("PATH_INFO" => "/projects/#{@project.id}/pull", "QUERY_STRING" => query)[2].first) }
    first = get.call("")
    @project.issues.create!(title: "weeds")
    assert_equal ["weeds"], get.call("since=#{first['cursor']}")["changes"].map { |change| change["value"]["title"] }
  end

  test "stream sends each change and takes up where it was" do
    path = { "PATH_INFO" => "/projects/#{@project.id}/live" }
    events = App::LIVE.call(path)[2]
    copy = Copy.new(nil)
    follow = lambda do
      id, data = events.next.split("\n")
      copy.cursor = id.delete_prefix("id: ")
      copy.apply(JSON.parse(data.delete_prefix("data: ")))
    end
    assert_equal %w[reset upsert], follow.call
    %w[weeds roses].each do |title|
      @project.issues.create!(title: title)
      # The watcher may have woken the stream for an earlier commit.
      ops = follow.call while ops.blank?
      assert_equal ["upsert"], ops
    end
    back = App::LIVE.call(path.merge("HTTP_LAST_EVENT_ID" => copy.cursor))[2]
    assert_match '"changes": []', back.next
  end
end

# Through pgbouncer in transaction mode, with one connection to the server for all.
class PgbouncerTest < CommittedTest
  class Pooled < ActiveRecord::Base
    self.abstract_class = true
  end

  teardown { Pooled.remove_connection }

  test "pulls are as without, if statements are not prepared" do
    Pooled.establish_connection(POOLED.merge(prepared_statements: false))
    copy = Copy.new(Sync.project_shape(@project.id), Pooled)
    assert_equal %w[reset upsert], copy.pull
    @project.issues.create!(title: "weeds")
    assert_equal ["upsert"], copy.pull
  end

  test "a setting that a filter reads is set in the transaction of the pull" do
    ActiveRecord::Base.connection.execute("SELECT sync_track('projects', '{name}')")
    Pooled.establish_connection(POOLED.merge(prepared_statements: false))
    shape = { tables: { projects: { where: "name = current_setting('app.project')" } } }
    Pooled.transaction do
      Pooled.connection.execute("SELECT set_config('app.project', 'garden', true)")
      assert_match '"name": "garden"', Sync.pull(nil, shape, Pooled)[1]
    end
  end

  test "prepared statements of two clients meet in one session" do
    Pooled.establish_connection(POOLED)
    sql, id = "SELECT name FROM projects WHERE id = $1", ActiveRecord::Relation::QueryAttribute
    bind = id.new("id", @project.id, ActiveRecord::Type::BigInteger.new)
    assert_equal [["garden"]], Pooled.connection.exec_query(sql, "SQL", [bind], prepare: true).rows
    error = assert_raises(ActiveRecord::StatementInvalid) do
      Thread.new do
        Thread.current.report_on_exception = false
        Pooled.connection_pool.with_connection { |other| other.exec_query(sql, "SQL", [bind], prepare: true) }
      end.value
    end
    assert_instance_of PG::DuplicatePstatement, error.cause
  end

  test "waiting works through it" do
    Pooled.establish_connection(POOLED.merge(prepared_statements: false))
    position = Sync.query(Pooled, "SELECT sync_position()").first.first
    @project.issues.create!(title: "weeds")
    assert_equal [[true]], Sync.query(Pooled, "CALL sync_wait(?, NULL)", position)
  end
end
