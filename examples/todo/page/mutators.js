// What each write does to the copy, until the server's rows come. The statements of the server are in writes.js.

/** @param {string} who */
export function mutators(who) {
  const table = (view, { list_id }, relation) => view.table(`list:${list_id}`, relation);
  /** Changes a todo that is held; on one that is gone it throws, and shows nothing. */
  const change = (view, args, columns) => {
    const todos = table(view, args, "todo");
    const held = todos.get({ id: args.id });
    if (!held) throw new Error("the todo is gone");
    todos.put({ id: args.id }, { ...held, ...columns });
  };
  return {
    addList(view, { id, title }) {
      const key = { list_id: id, name: who };
      view.table("me", "member").put(key, {});
      table(view, key, "list").put({ id }, { title: title.trim() });
      table(view, key, "member").put(key, {});
    },
    addMember: (view, { list_id, name }) => table(view, { list_id }, "member").put({ list_id, name: name.trim() }, {}),
    removeMember(view, { list_id, name }) {
      table(view, { list_id }, "member").delete({ list_id, name });
      if (name === who) view.table("me", "member").delete({ list_id, name });
    },
    addTodo: (view, { id, list_id, title, made }) =>
      table(view, { list_id }, "todo").put({ id }, { list_id, title: title.trim(), done: false, made }),
    renameTodo: (view, args) => change(view, args, { title: args.title.trim() }),
    checkTodo: (view, args) => change(view, args, { done: args.done }),
    deleteTodo: (view, args) => table(view, args, "todo").delete({ id: args.id }),
  };
}
