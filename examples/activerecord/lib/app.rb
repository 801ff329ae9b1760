# Two Rack applications; in Rails a controller's action, the second one with ActionController::Live.
require_relative "sync"

module App
  # Who asks, and for which project, is yours to check.
  PULL = lambda do |env|
    id, since = env["PATH_INFO"][/\d+/].to_i, env["QUERY_STRING"].to_s[/since=([^&]+)/, 1]
    _, delta = Sync.pull(since, Sync.project_shape(id))
    [200, { "Content-Type" => "application/json" }, [delta]]
  end

  LIVE = lambda do |env|
    shape, since = Sync.project_shape(env["PATH_INFO"][/\d+/].to_i), env["HTTP_LAST_EVENT_ID"]
    events = Enumerator.new do |out|
      loop do
        seen = Sync::WATCHER.count
        # Streams are many and mostly wait: none of them keeps a connection meanwhile.
        since, delta, up_to_date = ActiveRecord::Base.connection_pool.with_connection { Sync.pull(since, shape) }
        out << "id: #{since}\ndata: #{delta}\n\n"
        Sync::WATCHER.wait(seen, 15) if up_to_date
      end
    end
    [200, { "Content-Type" => "text/event-stream" }, events]
  end
end
