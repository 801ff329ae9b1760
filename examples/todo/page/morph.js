// Makes a part of the document look like a template and keeps every element that is still there: its focus, its
// selection, what is typed into it. Elements with an id are found by it wherever among their siblings they are.

/**
 * @param {Element} root
 * @param {string} html what shall be in it
 */
export function morph(root, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const focused = document.activeElement;
  children(root, template.content);
  // Moving an element takes its focus.
  if (focused instanceof HTMLElement && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

/** Not `element.id`: in a form with a field called "id" that is the field. @param {Node} node */
const idOf = (node) => (node instanceof Element && node.getAttribute("id")) || "";

/** @param {ParentNode & Node} from @param {ParentNode & Node} to */
function children(from, to) {
  const names = new Set([...to.children].map(idOf));
  for (const child of [...from.children]) if (idOf(child) && !names.has(idOf(child))) child.remove();
  const held = new Map([...from.children].map((child) => [idOf(child), child]));
  let at = from.firstChild;
  for (const next of [...to.childNodes]) {
    const id = idOf(next);
    const match = id ? held.get(id) : at && idOf(at) ? null : at;
    if (!match || match.nodeName !== next.nodeName) {
      from.insertBefore(next, at);
    } else {
      if (match === at) at = at.nextSibling;
      else from.insertBefore(match, at);
      if (match instanceof Element) element(match, /** @type {Element} */ (next));
      else if (match.nodeValue !== next.nodeValue) match.nodeValue = next.nodeValue;
    }
  }
  while (at) {
    const rest = at.nextSibling;
    at.remove();
    at = rest;
  }
}

/** @param {Element} from @param {Element} to */
function element(from, to) {
  for (const { name } of [...from.attributes]) {
    // Whether a <details> is open is the reader's.
    if (name !== "open" && !to.hasAttribute(name)) from.removeAttribute(name);
  }
  for (const { name, value } of [...to.attributes]) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  children(from, to);
}
