# Pulling, and waiting once for all.
require "json"

module Sync
  # A project and its issues.
  def self.project_shape(id)
    { params: [id],
      tables: { project: { table: "projects", where: "id = $1" },
                issue: { table: "issues", where: "project_id = $1" } } }
  end

  # The next cursor, the delta as the text of a JSON document, and whether that is all.
  def self.pull(since, shape, model = ActiveRecord::Base)
    query(model, "SELECT p->>'cursor', p::text, (p->>'up_to_date')::boolean FROM sync_pull(?, ?) p", since, shape.to_json).first
  end

  # The rows of a shape by relation, what this transaction has written among them.
  def self.preview(shape)
    rows = query(ActiveRecord::Base, "SELECT relation, value::text FROM sync_preview(?) WHERE op = 'upsert'", shape.to_json)
    rows.map { |relation, value| [relation, JSON.parse(value)] }
  end

  # Not select_rows: the query cache of a request would answer the same pull with the same delta.
  def self.query(model, sql, *values)
    model.connection.exec_query(model.sanitize_sql([sql, *values])).rows
  end

  # One session waits for the whole process; whoever follows a shape is woken and pulls.
  class Watcher
    def initialize
      @mutex, @wake, @count = Mutex.new, ConditionVariable.new, 0
    end

    # How often anything has changed: read it before a pull, and wait for more after.
    def count
      @mutex.synchronize do
        # Started by the first follower: a server that forks would leave the thread behind.
        @thread ||= Thread.new { watch }
        @count
      end
    end

    # Returns when anything has changed since `seen`, or after the timeout.
    def wait(seen, timeout)
      deadline = now + timeout
      @mutex.synchronize do
        @wake.wait(@mutex, deadline - now) while @count == seen && now < deadline
      end
    end

    private

    def now
      Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end

    def watch
      loop do
        ActiveRecord::Base.connection_pool.with_connection do
          position = Sync.query(ActiveRecord::Base, "SELECT sync_position()").first.first
          @mutex.synchronize do
            @count += 1
            @wake.broadcast
          end
          Sync.query(ActiveRecord::Base, "CALL sync_wait(?, NULL)", position)
        end
      rescue ActiveRecord::ActiveRecordError
        ActiveRecord::Base.clear_active_connections!
        sleep 1
      end
    end
  end

  WATCHER = Watcher.new
end
