class CreateIssues < ActiveRecord::Migration[6.1]
  def change
    create_table :projects do |t|
      t.text :name, null: false, index: { unique: true }
    end
    create_table :issues do |t|
      t.references :project, null: false, foreign_key: true
      t.text :state, null: false, default: "open"
      t.text :title, null: false
    end
  end
end
