// Where copy and queue are kept: the interface, and the implementation that forgets.

/** @typedef {(string | number)[]} Key */
/** @typedef {{ put: Key, value: any } | { delete: Key } | { clear: Key }} Op `clear` takes all whose key begins so */

/**
 * @typedef {object} Storage
 * @property {string | null} name what tabs share; null: nobody else reads it
 * @property {(key: Key) => Promise<any>} get undefined if there is none
 * @property {(prefix: Key) => Promise<[Key, any][]>} list all whose key begins so, as of one moment
 * @property {(check: [Key, any] | null, ops: Op[]) => Promise<boolean>} write one transaction: false, and nothing done, unless the key has this value
 * @property {() => Promise<void>} close
 */

/**
 * A storage that lives as long as the process does.
 *
 * @param {string | null} [name] clients that share the object share the copy
 * @returns {Storage}
 */
export function memory(name = null) {
  /** @type {Map<string, [Key, any]>} */
  const held = new Map();
  /** @param {Key} prefix */
  const matching = (prefix) => [...held.values()].filter(([key]) => prefix.every((part, i) => key[i] === part));
  return {
    name,
    get: async (key) => held.get(JSON.stringify(key))?.[1],
    list: async (prefix) => matching(prefix),
    async write(check, ops) {
      if (check && held.get(JSON.stringify(check[0]))?.[1] !== check[1]) return false;
      for (const op of ops) {
        if ("put" in op) held.set(JSON.stringify(op.put), [op.put, op.value]);
        else if ("delete" in op) held.delete(JSON.stringify(op.delete));
        else matching(op.clear).forEach(([key]) => held.delete(JSON.stringify(key)));
      }
      return true;
    },
    close: async () => {},
  };
}
