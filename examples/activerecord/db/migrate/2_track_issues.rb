class TrackIssues < ActiveRecord::Migration[6.1]
  def up
    enable_extension "syncline"
    execute "SELECT sync_track('projects')"
    execute "SELECT sync_track('issues', filter_columns => '{project_id,state}')"
  end

  def down
    execute "SELECT sync_untrack('issues')"
    execute "SELECT sync_untrack('projects')"
    disable_extension "syncline"
  end
end
