// Storage in IndexedDB: one object store, keys as they are (IndexedDB orders arrays part by part).

const STORE = "syncline";

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {import("./storage.js").Key} prefix every array sorts behind every number and string */
function range(prefix) {
  return IDBKeyRange.bound(prefix, [...prefix, []]);
}

/**
 * A storage that outlives the page and is shared by its tabs.
 *
 * @param {string} name of the database
 * @returns {import("./storage.js").Storage}
 */
export function indexedDb(name) {
  const opening = indexedDB.open(name, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  const opened = result(opening).then((db) => {
    // Somebody deletes the database, or a newer version opens it: do not stand in the way.
    db.onversionchange = () => db.close();
    return db;
  });
  // Whoever uses the storage gets the error; until then it is nobody's.
  opened.catch(() => {});
  return {
    name,
    async get(key) {
      return result((await opened).transaction(STORE).objectStore(STORE).get(key));
    },
    async list(prefix) {
      const store = (await opened).transaction(STORE).objectStore(STORE);
      const [keys, values] = await Promise.all([result(store.getAllKeys(range(prefix))), result(store.getAll(range(prefix)))]);
      return keys.map((key, i) => [/** @type {import("./storage.js").Key} */ (key), values[i]]);
    },
    async write(check, ops) {
      // Relaxed durability could forget a mutation that the server has, and its id would be given again.
      const transaction = (await opened).transaction(STORE, "readwrite", { durability: "strict" });
      const store = transaction.objectStore(STORE);
      let holds = true;
      /** @type {unknown} */
      let failure;
      const run = () => {
        try {
          for (const op of ops) {
            if ("put" in op) store.put(op.value, op.put);
            else if ("delete" in op) store.delete(op.delete);
            else store.delete(range(op.clear));
          }
        } catch (error) {
          // A value that cannot be stored: without this, what came before it would be.
          failure = error;
          transaction.abort();
        }
      };
      if (check) {
        const found = store.get(check[0]);
        found.onsuccess = () => {
          holds = found.result === check[1];
          if (holds) run();
        };
      } else {
        run();
      }
      return new Promise((resolve, reject) => {
        transaction.oncomplete = () => resolve(holds);
        transaction.onabort = () => reject(failure ?? transaction.error);
      });
    },
    async close() {
      (await opened).close();
    },
  };
}
