// What the app has changed and the server has not confirmed: a layer of rows over what is held.

import { freeze, keyText } from "./delta.js";

/** @typedef {import("./delta.js").Value} Value */
/** @typedef {Parameters<typeof keyText>[0]} Key */

/**
 * @typedef {object} Source where a view looks for what it does not change itself
 * @property {(shape: string, relation: string, key: string) => Value | undefined} get
 * @property {(shape: string, relation: string) => Iterable<[string, Value]>} entries
 */

/** Rows of a source as changed by a layer over it. @implements {Source} */
export class View {
  /** @type {Source} */
  #below;
  /** shape -> relation -> key text -> row, or nothing where it was deleted @type {Map<string, Map<string, Map<string, Value | undefined>>>} */
  #changes = new Map();

  /** @param {Source} below */
  constructor(below) {
    this.#below = below;
  }

  /**
   * @param {string} shape
   * @param {string} relation
   * @param {string} key
   */
  get(shape, relation, key) {
    const changed = this.#changes.get(shape)?.get(relation);
    return changed?.has(key) ? changed.get(key) : this.#below.get(shape, relation, key);
  }

  /**
   * @param {string} shape
   * @param {string} relation
   * @returns {Generator<[string, Value], void>}
   */
  *entries(shape, relation) {
    const changed = this.#changes.get(shape)?.get(relation);
    for (const [key, row] of this.#below.entries(shape, relation)) {
      if (!changed?.has(key)) yield [key, row];
    }
    for (const [key, row] of changed ?? []) {
      if (row) yield [key, row];
    }
  }

  /**
   * @param {string} shape
   * @param {string} relation
   * @param {string} key
   * @param {Value | undefined} row
   */
  set(shape, relation, key, row) {
    let relations = this.#changes.get(shape);
    if (!relations) this.#changes.set(shape, (relations = new Map()));
    let rows = relations.get(relation);
    if (!rows) relations.set(relation, (rows = new Map()));
    rows.set(key, row);
  }

  /**
   * Runs a mutator over this view. If it throws, the view is as it was.
   *
   * @param {(view: { table: (shape: string, relation: string) => Table }, args: any) => void} mutator
   * @param {any} args
   */
  run(mutator, args) {
    const layer = new View(this);
    mutator({ table: (shape, relation) => new Table(layer, shape, relation) }, args);
    for (const [shape, relations] of layer.#changes) {
      for (const [relation, rows] of relations) {
        for (const [key, row] of rows) this.set(shape, relation, key, row);
      }
    }
  }
}

/** What a mutator sees of one relation of a shape. */
export class Table {
  #view;
  #shape;
  #relation;

  /**
   * @param {View} view
   * @param {string} shape
   * @param {string} relation
   */
  constructor(view, shape, relation) {
    this.#view = view;
    this.#shape = shape;
    this.#relation = relation;
  }

  /**
   * @param {Key} key
   * @returns {Value | undefined}
   */
  get(key) {
    return this.#view.get(this.#shape, this.#relation, keyText(key));
  }

  /**
   * @param {Key} key
   * @param {Value} row the whole row; columns of a key given as an object may be left out
   */
  put(key, row) {
    const whole = typeof key === "string" ? row : { ...key, ...row };
    this.#view.set(this.#shape, this.#relation, keyText(key), freeze(structuredClone(whole)));
  }

  /** @param {Key} key */
  delete(key) {
    this.#view.set(this.#shape, this.#relation, keyText(key), undefined);
  }

  /** @returns {Value[]} */
  rows() {
    return this.entries().map(([, row]) => row);
  }

  /** @returns {[string, Value][]} pairs of key text and row */
  entries() {
    return [...this.#view.entries(this.#shape, this.#relation)];
  }
}
