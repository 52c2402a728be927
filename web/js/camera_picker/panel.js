/**
 * The picker's elements around the canvas, made once: frame switch, presets, key list, numbers, messages.
 * In: handlers. Out: elements and `update`, which shows a state in them. Holds no state of its own.
 */

import { FIELDS, LENS, PRESETS, isLens, round } from "./keys.js";

/** @typedef {import("./keys.js").KeyField} KeyField */
/** @typedef {import("./keys.js").KeySet} KeySet */
/**
 * @typedef {object} Handlers
 * @property {(frame: import("./keys.js").Frame) => void} frame
 * @property {(preset: import("./keys.js").Preset) => void} preset
 * @property {(index: number) => void} select @property {() => void} add @property {() => void} remove
 * @property {() => void} resetView @property {() => void} startOver
 * @property {(name: KeyField, text: string) => void} number
 */
/** @typedef {{state: KeySet, selected: number, editable: boolean, problem: string, isError: boolean}} Shown */

const HELP =
  "Drag on the sphere to add or move a camera. Wheel: distance. Double-click: delete. Drag beside the sphere, or with Shift: turn the view. " +
  "Keys: arrows move by 1°, with Shift by 10°; + and − change the distance; Page Up and Page Down select; A adds; Delete removes.";
let made = 0;

/**
 * @param {string} tag @param {Record<string, string>} [attributes] @param {(Node | string)[]} [children]
 * @returns {HTMLElement}
 */
function make(tag, attributes = {}, children = []) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** @param {string} label @param {string} hint @param {() => void} onClick @param {Record<string, string>} [attributes] */
function button(label, hint, onClick, attributes = {}) {
  const element = /** @type {HTMLButtonElement} */ (make("button", { type: "button", title: hint, ...attributes }, [label]));
  element.addEventListener("click", onClick);
  return element;
}

/** @param {Handlers} handlers */
export function buildPanel(handlers) {
  const id = `nvb-picker-${++made}`;
  const frame = frameSwitch(id, handlers);
  const presets = PRESETS.map((preset) => button(preset.label, preset.hint, () => handlers.preset(preset), {
    "data-preset": preset.id,
    "aria-label": preset.hint,
  }));
  const view = button("⟲", "Turn the view back to the front", handlers.resetView, { class: "nvb-icon", "aria-label": "Reset the view" });
  const canvas = /** @type {HTMLCanvasElement} */ (make("canvas", {
    tabindex: "0",
    role: "application",
    "aria-roledescription": "sphere of directions",
    "aria-describedby": `${id}-help`,
  }));
  const list = make("div", { class: "nvb-keys", role: "radiogroup", "aria-label": "Cameras, in the order of the path" });
  const add = button("+", "Add a camera after the selected one", handlers.add, { class: "nvb-icon", "aria-label": "Add a camera" });
  const remove = button("−", "Delete the selected camera", handlers.remove, { class: "nvb-icon", "aria-label": "Delete the selected camera" });
  const numbers = numberFields(id, handlers);
  const live = make("div", { class: "nvb-hidden", role: "status", "aria-live": "polite" });
  const problemText = make("span");
  const startOver = button("Start over", "Replace the text with one camera straight ahead", handlers.startOver);
  const problem = make("div", { class: "nvb-problem", role: "alert" }, [problemText, startOver]);
  const root = make("div", { class: "nvb-picker widget-expands", role: "group", "aria-label": "Camera picker" }, [
    make("div", { class: "nvb-row" }, [
      frame.element,
      make("div", { class: "nvb-group", role: "group", "aria-label": "Presets" }, presets),
    ]),
    make("div", { class: "nvb-stage" }, [canvas, view, problem]),
    make("div", { class: "nvb-row" }, [list, add, remove]),
    numbers.element,
    make("div", { id: `${id}-help`, class: "nvb-help", title: HELP }, [HELP]),
    live,
  ]);

  /** @param {Shown} shown */
  const update = (shown) => {
    const { state, selected, editable } = shown;
    root.classList.toggle("nvb-locked", !editable);
    for (const element of [...presets, add]) element.disabled = !editable;
    remove.disabled = !editable || state.keys.length < 2;
    frame.update(state.frame, editable);
    updateList(list, shown, handlers.select);
    numbers.update(shown);
    problemText.textContent = shown.problem;
    problem.hidden = !shown.problem;
    problem.classList.toggle("nvb-error", shown.isError);
    startOver.hidden = !shown.isError;
    canvas.setAttribute("aria-label", `Camera sphere. ${describe(state, selected)}`);
  };

  return { root, canvas, update, live };
}

/** @param {KeySet} state @param {number} selected @returns {string} For the screen reader. */
export function describe({ frame, keys }, selected) {
  const key = keys[selected];
  if (!key) return "No cameras.";
  const own = frame === "input" ? "the photo's" : "default";
  const radius = key.radius === null ? `${own} radius` : `radius ${round(key.radius, 2)}`;
  return `Camera ${selected + 1} of ${keys.length}: yaw ${round(key.yaw_deg, 1)}°, pitch ${round(key.pitch_deg, 1)}°, ${radius}.`;
}

/** @param {string} id @param {Handlers} handlers */
function frameSwitch(id, handlers) {
  /** @type {[import("./keys.js").Frame, string, string][]} */
  const frames = [
    ["face", "Face", "Angles count from the frontal face"],
    ["input", "Photo", "Angles count from the camera of the input photo"],
  ];
  const inputs = frames.map(([value]) => {
    const input = /** @type {HTMLInputElement} */ (make("input", { type: "radio", name: `${id}-frame`, value }));
    input.addEventListener("change", () => handlers.frame(value));
    return input;
  });
  const labels = frames.map(([, label, hint], i) => make("label", { title: hint }, [inputs[i], make("span", {}, [label])]));
  const element = make("div", { class: "nvb-group nvb-frame", role: "radiogroup", "aria-label": "Angles count from" }, labels);
  /** @param {import("./keys.js").Frame} frame @param {boolean} editable */
  const update = (frame, editable) => {
    for (const input of inputs) {
      input.checked = input.value === frame;
      input.disabled = !editable;
    }
  };
  return { element, update };
}

/** @param {HTMLElement} list @param {Shown} shown @param {(index: number) => void} select */
function updateList(list, { state, selected, editable }, select) {
  while (list.children.length > state.keys.length) list.lastElementChild?.remove();
  while (list.children.length < state.keys.length) list.append(listItem(list, list.children.length, select));
  state.keys.forEach((_, index) => {
    const item = /** @type {HTMLButtonElement} */ (list.children[index]);
    item.setAttribute("aria-checked", String(index === selected));
    item.setAttribute("aria-label", describe(state, index));
    item.tabIndex = index === selected ? 0 : -1;
    item.disabled = !editable;
  });
  const item = /** @type {HTMLElement | undefined} */ (list.children[selected]);
  if (!item) return;
  if (item.offsetLeft < list.scrollLeft) list.scrollLeft = item.offsetLeft;
  const overhang = item.offsetLeft + item.offsetWidth - list.clientWidth;
  if (overhang > list.scrollLeft) list.scrollLeft = overhang;
}

/** @param {HTMLElement} list @param {number} index @param {(index: number) => void} select */
function listItem(list, index, select) {
  const item = button(String(index + 1), "", () => select(index), { role: "radio" });
  item.addEventListener("keydown", (event) => {
    /** @type {Record<string, number>} */
    const goals = { ArrowRight: index + 1, ArrowDown: index + 1, ArrowLeft: index - 1, ArrowUp: index - 1, Home: 0, End: list.children.length - 1 };
    const goal = event.ctrlKey || event.metaKey || event.altKey ? undefined : goals[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    const to = (goal + list.children.length) % list.children.length;
    select(to);
    /** @type {HTMLElement} */ (list.children[to]).focus();
  });
  return item;
}

/** @param {string} id @param {Handlers} handlers */
function numberFields(id, handlers) {
  const names = /** @type {KeyField[]} */ (Object.keys(FIELDS));
  /** @type {HTMLInputElement | null} The one with text that isn't taken over yet, and that nothing else may replace. */
  let typing = null;
  /** @param {KeyField} name @param {string} text */
  const take = (name, text) => {
    typing = null;
    handlers.number(name, text);
  };
  const inputs = names.map((name) => {
    const { step, label, unit } = FIELDS[name];
    const input = /** @type {HTMLInputElement} */ (make("input", {
      type: "number",
      step: "any",
      "data-field": name,
      "aria-label": unit ? `${label}, degrees` : label,
    }));
    input.addEventListener("input", () => { typing = input; });
    input.addEventListener("change", () => take(name, input.value));
    input.addEventListener("blur", () => { typing = null; }); // after the change, if there is one
    input.addEventListener("keydown", (event) => {
      const shortcut = (event.ctrlKey || event.metaKey) && ["Enter", "s"].includes(event.key);
      if (shortcut && typing === input) take(name, input.value); // ComfyUI, run or saved, must see the edit
      const sign = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (!sign || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const from = Number(input.value || input.placeholder || 0);
      take(name, String(round(from + sign * step * (event.shiftKey ? 10 : 1), 3)));
    });
    return input;
  });
  const cells = names.map((name, i) => make("label", {}, [make("span", {}, [FIELDS[name].label]), inputs[i]]));
  const element = make("div", { class: "nvb-numbers", role: "group", "aria-label": "Selected camera" }, cells);
  /** @param {Shown} shown */
  const update = ({ state, selected, editable }) => {
    const key = state.keys[selected];
    names.forEach((name, i) => {
      inputs[i].disabled = !editable || !key;
      const text = key && key[name] !== null ? String(key[name]) : "";
      if (inputs[i] !== typing || inputs[i].disabled) inputs[i].value = text;
      if (!isLens(name)) return;
      const ordinary = String(round(LENS[name], 1));
      inputs[i].placeholder = key ? ordinary : "";
      inputs[i].title = state.frame === "input" ? "Empty: the photo's own" : `Empty: the default, ${ordinary}`;
    });
  };
  return { element, update };
}
