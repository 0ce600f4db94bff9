// Forms out of a description of their fields. What may stand in a field is decided by the server,
// whose mistake is shown beside the field that it names.

import { h, replace } from "./dom.js";

let made = 0;

/**
 * @typedef {Object} Field
 * @property {string} name As the interface calls it.
 * @property {string} label
 * @property {string} [kind] `text` (unless told otherwise), `password`, `number`, `money`, `flag`,
 *   `choice`, `lines` (a list of texts), `area` (a long text), `instant` (a time, given and told in
 *   UTC, shown in the reader's time zone) or `json`.
 * @property {*} [value] What it holds at first.
 * @property {Array<string|[string, string]>} [options] Of a choice, or proposals for a text.
 * @property {string} [help]
 * @property {boolean} [required]
 * @property {boolean} [fixed] Is shown, and cannot be changed.
 */

/**
 * A form.
 * @param {Object} is
 * @param {Field[]} is.fields
 * @param {string} is.submit What its button says.
 * @param {function(Object, Object): Promise} is.send Is given all values, and those that changed
 *   (`null`: emptied); what it throws is shown.
 * @param {function(): void} [is.cancel]
 */
export function form({ fields, submit, send, cancel }) {
  const inputs = fields.map((field) => input(field));
  const alert = h("p", { class: "mistake", role: "alert", hidden: true });
  const button = h("button", { type: "submit", class: "main" }, submit);
  const onsubmit = async (event) => {
    event.preventDefault();
    clear(inputs, alert);
    button.disabled = true;
    try {
      await send(...values(inputs));
    } catch (error) {
      tell(error, inputs, alert);
    } finally {
      button.disabled = false;
    }
  };
  return h("form", { onsubmit, novalidate: true, autocomplete: "off" },
    alert,
    inputs.map((one) => one.row),
    h("div", { class: "actions" },
      cancel && h("button", { type: "button", onclick: cancel }, "Cancel"), button));
}

function input(field) {
  made += 1;
  const id = `field-${made}`;
  const mistake = h("p", { class: "mistake", id: `${id}-mistake`, hidden: true });
  const help = field.help && h("p", { class: "help", id: `${id}-help` }, field.help);
  const control = controlOf(field, id);
  control.setAttribute("aria-describedby", `${help ? `${id}-help ` : ""}${id}-mistake`);
  const label = h("label", { for: id }, field.label, field.required && h("b", null, " *"));
  const isFlag = field.kind === "flag";
  const proposals = field.kind !== "choice" && field.options &&
    h("datalist", { id: `${id}-list` }, field.options.map((value) => h("option", { value })));
  const row = h("div", { class: isFlag ? "field flag" : "field" },
    isFlag ? [control, label] : [label, control], proposals, help, mistake);
  return { field, control, mistake, row, first: read(field, control) };
}

function controlOf(field, id) {
  const common = {
    id, name: field.name, disabled: field.fixed, required: field.required && field.kind !== "flag",
  };
  const text = textOf(field);
  switch (field.kind) {
    case "flag":
      return h("input", { ...common, type: "checkbox", checked: Boolean(field.value) });
    case "choice":
      return h("select", common, field.options.map((option) => {
        const [value, label] = Array.isArray(option) ? option : [option, option];
        return h("option", { value, selected: value === (field.value ?? "") }, label);
      }));
    case "area":
    case "json":
    case "lines":
      return h("textarea", { ...common, rows: "5", spellcheck: "false" }, text);
    default:
      return h("input", {
        ...common,
        type: { password: "password", instant: "datetime-local" }[field.kind] ?? "text",
        inputmode: { number: "numeric", money: "decimal" }[field.kind],
        value: text,
        list: field.options && `${id}-list`,
        spellcheck: "false",
        autocomplete: field.autocomplete ?? "off",
      });
  }
}

function textOf({ kind, value }) {
  if (value === null || value === undefined) return "";
  if (kind === "json") return JSON.stringify(value, null, 2);
  if (kind === "instant") return localTime(value);
  return kind === "lines" ? value.join("\n") : String(value);
}

/** 2027-01-31T14:05:00 in the reader's time zone, of a time in UTC. */
function localTime(instant) {
  const at = new Date(instant);
  return new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

/** What a control holds; `null`: nothing. A number that is none is sent as it was written. */
function read(field, control) {
  if (field.kind === "flag") return control.checked;
  const text = field.kind === "password" ? control.value : control.value.trim();
  if (text === "") return null;
  switch (field.kind) {
    case "number":
      return Number.isNaN(Number(text)) ? text : Number(text);
    case "lines":
      return text.split("\n").map((line) => line.trim()).filter(Boolean);
    case "instant":
      return new Date(text).toISOString().replace(/\.\d+Z$/, "Z");
    case "json":
      return JSON.parse(text);
    default:
      return text;
  }
}

function values(inputs) {
  const all = {};
  const changed = {};
  for (const { field, control, first } of inputs.filter((one) => !one.field.fixed)) {
    let value;
    try {
      value = read(field, control);
    } catch (error) {
      throw Object.assign(new Error(`is not sound JSON: ${error.message}`), { field: field.name });
    }
    if (value !== null) all[field.name] = value;
    if (JSON.stringify(value) !== JSON.stringify(first)) changed[field.name] = value;
  }
  return [all, changed];
}

function clear(inputs, alert) {
  alert.hidden = true;
  for (const { control, mistake } of inputs) {
    control.removeAttribute("aria-invalid");
    mistake.hidden = true;
  }
}

/** Shows a mistake beside its field; one of no field, or of none that is here, above them all. */
function tell(error, inputs, alert) {
  const name = String(error.field ?? "");
  const here = inputs.find(({ field }) => field.name === name.split(/[.[]/, 1)[0]);
  if (!here) {
    replace(alert, name ? `${name}: ${error.message}` : error.message).hidden = false;
    return;
  }
  here.control.setAttribute("aria-invalid", "true");
  replace(here.mistake, name === here.field.name ? error.message : `${name}: ${error.message}`);
  here.mistake.hidden = false;
  here.control.focus();
}
