# schema.rb has tables, columns, indexes and extensions, but no triggers. This writes a line for each tracked table below
# them, which brings the triggers back: config/initializers is the place for it.
module TrackedTables
  def trailer(stream)
    if @connection.extension_enabled?("syncline")
      tracked = @connection.select_rows(<<~SQL)
        SELECT format('SELECT sync_track(%L, filter_columns => %L, log_inserts => %L)', relation, filter_columns, log_inserts)
        FROM sync_tables WHERE relation NOT IN ('syncline.client'::regclass, 'syncline.message'::regclass) ORDER BY relation::text
      SQL
      tracked.flatten.each { |sql| stream.puts "  execute #{sql.inspect}" }
      stream.puts
    end
    super
  end
end

ActiveRecord::SchemaDumper.prepend(TrackedTables)
