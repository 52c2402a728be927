// What the picker uses of ComfyUI's `app` and of a LiteGraph node, as ComfyUI 0.3.75's frontend does it.

class TextWidget {
  #value;
  constructor(name, value) {
    Object.assign(this, { name, type: "text", options: {}, y: 0 });
    this.#value = value;
  }
  get value() {
    return this.#value;
  }
  set value(value) {
    this.#value = value;
  }
}

// A multi-line text: its value is a property that can't be defined anew.
function sealedText(name, value) {
  const widget = { name, type: "customtext", options: {}, y: 0 };
  return Object.defineProperty(widget, "value", {
    get: () => value,
    set(text) {
      value = text;
      this.callback?.(value);
    },
  });
}

export class Node {
  constructor(keys, views = 0, sealed = false) {
    this.comfyClass = "NVBCameraPicker";
    this.size = [200, 100];
    this.graph = null;
    this.id = 1;
    this.widgets = [sealed ? sealedText("keys", keys) : new TextWidget("keys", keys), { name: "views", type: "number", value: views, options: {} }];
    this.inputs = [{ name: "keys", widget: { name: "keys" }, link: null }];
  }
  addDOMWidget(name, type, element, options) {
    const widget = { name, type, element, options, y: 60, get value() { return options.getValue?.() ?? ""; } };
    this.widgets.push(widget);
    return widget;
  }
  setSize(size) {
    this.size = size;
  }
  setDirtyCanvas() {}
  add() {
    this.graph = {};
    this.box = document.createElement("div");
    this.box.className = "node";
    this.box.append(...this.widgets.filter((w) => w.element).map((w) => w.element));
    document.querySelector("main").append(this.box);
    this.onAdded?.();
    return this;
  }
  remove() {
    this.onRemoved?.();
    this.box.remove();
    this.graph = null;
  }
  serialize() {
    return this.widgets.filter((w) => w.serialize !== false).map((w) => w.value);
  }
  configure(values) {
    this.widgets.filter((w) => w.serialize !== false).forEach((w, i) => (w.value = values[i]));
    this.onConfigure?.({ widgets_values: values });
  }
  widget(name) {
    return this.widgets.find((w) => w.name === name);
  }
}

const extensions = [];
const log = []; // what reached the graph
window.graphLog = log;
window.graphKeys = []; // key presses that reached the page
window.addEventListener("keydown", (event) => window.graphKeys.push(event.key));

export const app = {
  registerExtension(extension) {
    extensions.push(extension);
    extension.setup?.(app);
  },
  canvas: {
    emitBeforeChange: () => log.push("before"),
    emitAfterChange: () => log.push("after"),
    processMouseDown: () => log.push("down"),
    processMouseMove: () => log.push("move"),
    processMouseUp: () => log.push("up"),
    processMouseWheel: () => log.push("wheel"),
  },
  createNode(...inputs) {
    const node = new Node(...inputs);
    for (const extension of extensions) extension.nodeCreated?.(node, app);
    return node;
  },
};
window.app = app;
