// What each write does to the copy, until the server's rows come. The statements of the server are in writes.js.

/** @param {string} who */
export function mutators(who) {
  /** Changes a todo that is held; on one that is gone it throws, and shows nothing. */
  const change = (view, args, columns) => {
    const todos = view.table("mine", "todo");
    const held = todos.get({ id: args.id });
    if (!held) throw new Error("the todo is gone");
    todos.put({ id: args.id }, { ...held, ...columns });
  };
  return {
    addList(view, { id, title }) {
      view.table("mine", "list").put({ id }, { title: title.trim() });
      view.table("mine", "member").put({ list_id: id, name: who }, {});
    },
    addMember: (view, { list_id, name }) => view.table("mine", "member").put({ list_id, name: name.trim() }, {}),
    removeMember(view, { list_id, name }) {
      view.table("mine", "member").delete({ list_id, name });
      if (name === who) view.table("mine", "list").delete({ id: list_id });
    },
    addTodo: (view, { id, list_id, title, made }) =>
      view.table("mine", "todo").put({ id }, { list_id, title: title.trim(), done: false, made }),
    renameTodo: (view, args) => change(view, args, { title: args.title.trim() }),
    checkTodo: (view, args) => change(view, args, { done: args.done }),
    deleteTodo: (view, args) => view.table("mine", "todo").delete({ id: args.id }),
  };
}
