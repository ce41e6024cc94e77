// Elements made without markup: what an answer holds can only ever become text.

const SVG = 'http://www.w3.org/2000/svg';

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'value') element.value = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...nodes(children));
  return element;
}

// nodes flattens lists and leaves out what is nothing.
function nodes(children) {
  return children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== false && c !== '')
    .map((c) => (c instanceof Node ? c : String(c)));
}

export function replace(parent, ...children) {
  parent.replaceChildren(...nodes(children));
  return parent;
}

// refresh replaces the children only where they have changed, so that focus, selection and folds stay.
export function refresh(parent, ...children) {
  const next = nodes(children).map((c) => (typeof c === 'string' ? document.createTextNode(c) : c));
  const same = next.length === parent.childNodes.length && next.every((n, i) => n.isEqualNode(parent.childNodes[i]));
  if (!same) parent.replaceChildren(...next);
  return parent;
}

let ids = 0;

export const freshId = (prefix) => `${prefix}-${++ids}`;
