# The application: what Rails would find in app/models and config.
require "active_record"

class Project < ActiveRecord::Base
  # A model that knows the column reads "*" and writes the 0 that it began with; the trigger stamps it all the same.
  self.ignored_columns += ["_sync_version"]
  has_many :issues, dependent: :destroy
end

class Issue < ActiveRecord::Base
  self.ignored_columns += ["_sync_version"]
  belongs_to :project
end

module Tracker
  ROOT = File.expand_path("..", __dir__)

  def self.migrations
    ActiveRecord::MigrationContext.new("#{ROOT}/db/migrate", ActiveRecord::SchemaMigration)
  end
end
