// Where the values of a JSON text begin and end. JSON.parse says whether the text is JSON at all; these
// functions only slice a text that it has accepted, so that its bytes are kept.

const QUOTE = 34;
const BACKSLASH = 92;

/**
 * @param {string} text
 * @param {number} at
 * @returns {number} the next place that is no white space
 */
function skipSpace(text, at) {
  while (text.charCodeAt(at) <= 32) at++;
  return at;
}

/**
 * @param {string} text
 * @param {number} at the opening quote
 * @returns {number} behind the closing quote
 */
function stringEnd(text, at) {
  for (at++; ; at++) {
    const code = text.charCodeAt(at);
    if (code === BACKSLASH) at++;
    else if (code === QUOTE) return at + 1;
  }
}

/**
 * @param {string} text
 * @param {number} at where a value begins
 * @returns {number} behind it
 */
function valueEnd(text, at) {
  let depth = 0;
  for (;;) {
    const char = text[at];
    if (char === '"') {
      at = stringEnd(text, at);
    } else if (char === "{" || char === "[") {
      depth++;
      at++;
    } else if (char === "}" || char === "]") {
      depth--;
      at++;
    } else if (depth > 0) {
      at++;
    } else {
      while (at < text.length && !",]} \t\n\r".includes(text[at])) at++;
    }
    if (depth === 0) return at;
  }
}

/**
 * The members of an object, each value as the text that stands there.
 *
 * @param {string} text one JSON object, accepted by JSON.parse
 * @returns {Map<string, string>} of two members with one name the last, as in JSON.parse
 */
export function members(text) {
  /** @type {Map<string, string>} */
  const found = new Map();
  let at = skipSpace(text, skipSpace(text, 0) + 1);
  while (text[at] !== "}") {
    const nameEnd = stringEnd(text, at);
    const name = JSON.parse(text.slice(at, nameEnd));
    const start = skipSpace(text, skipSpace(text, nameEnd) + 1);
    const end = valueEnd(text, start);
    found.set(name, text.slice(start, end));
    at = skipSpace(text, end);
    if (text[at] === ",") at = skipSpace(text, at + 1);
  }
  return found;
}

/**
 * The elements of an array, each as the text that stands there.
 *
 * @param {string} text one JSON array, accepted by JSON.parse
 * @returns {string[]}
 */
export function elements(text) {
  const found = [];
  let at = skipSpace(text, skipSpace(text, 0) + 1);
  while (text[at] !== "]") {
    const end = valueEnd(text, at);
    found.push(text.slice(at, end));
    at = skipSpace(text, end);
    if (text[at] === ",") at = skipSpace(text, at + 1);
  }
  return found;
}
