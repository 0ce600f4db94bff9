// Elements out of plain data. What stands in the data stays text: no markup is ever parsed here or
// anywhere in the console, so a model's name made of HTML is shown as it was written.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element.
 * @param {string} tag
 * @param {?Object} props Attributes. A function under a name like `onclick` is a listener; `true`
 *   is an attribute without a value; with `false`, `null` or `undefined` there is none.
 * @param {...*} children Nodes, texts, numbers, or lists of them; `null` and `false` are left out.
 * @returns {HTMLElement}
 */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for drawings. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** Puts `children` in the place of what an element holds. */
export function replace(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (typeof value === "function") {
      element.addEventListener(name.slice(2), value);
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(Infinity).filter((child) => {
    return child !== null && child !== undefined && child !== false;
  });
}
