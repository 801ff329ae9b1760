// Where the values of a JSON text begin and end. JSON.parse says whether the text is JSON at all; these
// functions only slice a text that it has accepted, so that its bytes are kept.

const [QUOTE, BACKSLASH] = [34, 92];
const [OPEN_BRACKET, CLOSE_BRACKET, OPEN_BRACE, CLOSE_BRACE] = [91, 93, 123, 125];

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
  for (;;) {
    at = text.indexOf('"', at + 1);
    let escape = at;
    while (text.charCodeAt(escape - 1) === BACKSLASH) escape--;
    if ((at - escape) % 2 === 0) return at + 1;
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
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = stringEnd(text, at);
    } else {
      if (code === OPEN_BRACE || code === OPEN_BRACKET) depth++;
      else if (code === CLOSE_BRACE || code === CLOSE_BRACKET) depth--;
      else if (depth === 0) return scalarEnd(text, at);
      at++;
    }
    if (depth === 0) return at;
  }
}

/**
 * @param {string} text
 * @param {number} at where a number, true, false or null begins
 * @returns {number} behind it
 */
function scalarEnd(text, at) {
  while (at < text.length && !",]} \t\n\r".includes(text[at])) at++;
  return at;
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
