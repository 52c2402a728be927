/**
 * The camera picker of the node NVBCameraPicker.
 *
 * In: the node's inputs `keys` (STRING, JSON; form in camera_picker/keys.js) and `views` (INT; 0: the keys themselves,
 * else so many poses along the path through them).
 * Out: the same `keys`, written once for each finished gesture, inside one step of ComfyUI's undo. The picker is a DOM
 * widget that is not serialised: the text of `keys` is all its state, so it survives save, undo, paste and the API.
 * `keys` itself is hidden, but stays a widget and an input that can be linked; while linked, the picker only says so.
 */

// @ts-expect-error ComfyUI serves it
import { app } from "../../../scripts/app.js";
import { CameraPicker } from "./camera_picker/picker.js";

const NODE = "NVBCameraPicker";
const MIN_HEIGHT = 410;
const START_SIZE = [380, 620];

/** @typedef {any} LGraphNode ComfyUI gives no types to extensions. */
/** @typedef {any} Widget */

/** Runs `after` behind a node's own callback of that name. @param {any} owner @param {string} name @param {(...args: any[]) => void} after */
function chain(owner, name, after) {
  const before = owner[name];
  owner[name] = function (/** @type {any[]} */ ...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

/** Reports writes to a widget's value, whoever makes them. @param {Widget} widget @param {() => void} onWrite */
function watchValue(widget, onWrite) {
  chain(widget, "callback", onWrite); // all that a multi-line text, whose `value` is sealed, tells of
  let owner = widget;
  while (owner && !Object.hasOwn(owner, "value")) owner = Object.getPrototypeOf(owner);
  const inner = Object.getOwnPropertyDescriptor(owner ?? {}, "value");
  if (owner === widget && !inner?.configurable) return;
  let plain = widget.value;
  Object.defineProperty(widget, "value", {
    configurable: true,
    enumerable: true,
    get: inner?.get ?? (() => plain),
    set(value) {
      if (inner?.set) inner.set.call(this, value);
      else plain = value;
      onWrite();
    },
  });
}

/** @param {Widget} widget @param {() => Widget} standIn Whose place its input socket takes in the classic rendering. */
function hide(widget, standIn) {
  widget.hidden = true;
  widget.options ??= {};
  widget.options.hidden = true;
  widget.computeSize = () => [0, -4]; // takes back the gap between rows
  Object.defineProperty(widget, "y", { configurable: true, enumerable: true, get: () => standIn()?.y ?? 0, set() {} });
}

/** @param {LGraphNode} node @param {string} name @returns {boolean} */
function isLinked(node, name) {
  return Boolean(node.inputs?.some((/** @type {any} */ input) => input.widget?.name === name && input.link != null));
}

/** Writes a value as one step of undo. @param {LGraphNode} node @param {Widget} widget @param {string} text */
function write(node, widget, text) {
  app.canvas?.emitBeforeChange?.();
  try {
    widget.value = text;
    widget.callback?.(text, app.canvas, node);
    node.setDirtyCanvas?.(true, true);
  } finally {
    app.canvas?.emitAfterChange?.();
  }
}

/** What the picker has no use for goes to the graph in the classic rendering: panning with the middle button, zooming. @param {HTMLElement} element */
function shareWithGraph(element) {
  element.addEventListener("pointerdown", (event) => {
    if (event.button === 1) app.canvas?.processMouseDown?.(event);
    event.stopPropagation(); // or Nodes 2.0 drags the node
  });
  element.addEventListener("pointermove", (event) => {
    if (event.buttons & 4) app.canvas?.processMouseMove?.(event);
    event.stopPropagation();
  });
  element.addEventListener("pointerup", (event) => {
    if (event.button === 1) app.canvas?.processMouseUp?.(event);
    event.stopPropagation();
  });
  element.addEventListener("dblclick", (event) => event.stopPropagation());
  element.addEventListener("keydown", (event) => {
    const isShortcut = event.ctrlKey || event.metaKey || event.altKey;
    if (!isShortcut && OWN_KEYS.has(event.key)) event.stopPropagation();
  });
  element.addEventListener("wheel", (event) => {
    event.preventDefault();
    event.stopPropagation(); // or Nodes 2.0 hands it on to the graph once more
    app.canvas?.processMouseWheel?.(event);
  }, { passive: false });
}

/** Keys that buttons and fields of the picker need; ComfyUI must not take them for shortcuts of the graph. */
const OWN_KEYS = new Set([
  " ", "Enter", "Escape", "Delete", "Backspace", "Home", "End", "PageUp", "PageDown",
  "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", ..."0123456789.-+",
]);

const ORPHAN_MS = 5000;
/** Pickers of nodes just removed, by the node's id. @type {Map<unknown, HTMLElement>} */
const orphans = new Map();

/** @param {LGraphNode} node @param {HTMLElement} element */
function leaveOrphan(node, element) {
  const { id } = node;
  orphans.set(id, element);
  setTimeout(() => orphans.get(id) === element && orphans.delete(id), ORPHAN_MS);
}

/**
 * Undo and loading make every node anew, but Nodes 2.0 (of frontend 1.32) keeps showing the element of the old node
 * with that id: take its place. @param {LGraphNode} node @param {HTMLElement} element
 */
function replaceOrphan(node, element) {
  requestAnimationFrame(() => {
    const orphan = orphans.get(node.id);
    orphans.delete(node.id);
    if (orphan?.isConnected && !element.isConnected) orphan.replaceWith(element);
  });
}

/** @param {LGraphNode} node */
function attach(node) {
  const find = (/** @type {string} */ name) => node.widgets?.find((/** @type {Widget} */ widget) => widget.name === name);
  const [keys, views] = [find("keys"), find("views")];
  if (!keys) {
    console.error(`${NODE}: no widget “keys” to keep the cameras in`);
    return;
  }
  const picker = new CameraPicker({
    read: () => String(keys.value ?? ""),
    write: (text) => write(node, keys, text),
    views: () => Number(views?.value) || 0,
    linked: () => isLinked(node, "keys"),
  });
  picker.element.prepend(styleSheet(() => picker.forgetTheme()));
  const widget = node.addDOMWidget("picker", "NVB_CAMERA_PICKER", picker.element, {
    serialize: false, // not in the prompt
    hideOnZoom: true,
    getMinHeight: () => MIN_HEIGHT,
    onDraw: () => picker.checkZoom(),
  });
  widget.serialize = false; // nor in the workflow
  shareWithGraph(picker.element);
  hide(keys, () => widget);
  watchValue(keys, () => picker.refresh());
  if (views) watchValue(views, () => picker.refresh());
  for (const event of ["onConfigure", "onConnectionsChange"]) chain(node, event, () => picker.refresh());
  chain(node, "onAdded", () => {
    picker.connect();
    replaceOrphan(node, picker.element);
  });
  chain(node, "onRemoved", () => {
    picker.disconnect();
    leaveOrphan(node, picker.element);
  });
  if (node.graph) picker.connect();
  node.setSize?.([Math.max(node.size[0], START_SIZE[0]), Math.max(node.size[1], START_SIZE[1])]);
}

/** The picker's style sheet, to stand inside the picker: the page's head isn't ours. @param {() => void} onLoad */
function styleSheet(onLoad) {
  const href = new URL("./camera_picker/picker.css", import.meta.url).href;
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href });
  link.addEventListener("load", onLoad);
  return link;
}

app.registerExtension({
  name: "nvbface.CameraPicker",
  nodeCreated(/** @type {LGraphNode} */ node) {
    if (node.comfyClass === NODE) attach(node);
  },
});
