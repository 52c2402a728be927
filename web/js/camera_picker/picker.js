/**
 * The camera picker as one element: joins state, gestures, panel and drawing; knows nothing of ComfyUI.
 *
 * In: a `Host` that reads and writes the `keys` text. Out: `element`, to be put on the page; `connect` and
 * `disconnect` for as long as it stands there; `refresh` when the text may have changed outside. The text is written
 * once for each finished gesture, and never while it can't be read.
 */

import { drawScene, discIn, markersOf } from "./drawing.js";
import { addKey, deleteKey, listen } from "./gestures.js";
import { FIELDS, applyPreset, changeFrame, changeKey, changeLens, formatKeys, isLens, makeKey, parseKeys, round, wrapAngle } from "./keys.js";
import { buildPanel, describe } from "./panel.js";
import { DEFAULT_VIEW, axesOf, oppositeNeighbour } from "./sphere.js";
import { readTheme, watchTheme } from "./theme.js";

/** @typedef {import("./keys.js").KeySet} KeySet */
/**
 * @typedef {object} Host
 * @property {() => string} read @property {(text: string) => void} write
 * @property {() => number} views @property {() => boolean} linked Whether the text comes from another node.
 */

const MAX_BACKING_PX = 2048;
const ZOOM_PAUSE_MS = 150;
/** @type {KeySet} */
const NOTHING = { frame: "face", keys: [] };

export class CameraPicker {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.selected = 0;
    /** @type {import("./sphere.js").View} */
    this.view = DEFAULT_VIEW;
    /** @type {string | null} The text that `saved` was read from. */
    this.text = null;
    /** @type {KeySet} */
    this.saved = NOTHING;
    /** @type {KeySet | null} */
    this.unsaved = null;
    this.error = "";
    this.notice = "";
    /** @type {{x: number, y: number} | null} */
    this.pointed = null;
    /** @type {import("./theme.js").Theme | null} */
    this.theme = null;
    this.frameRequest = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.zoomTimer = undefined;
    /** @type {(() => void)[]} */
    this.endings = [];
    this.panel = buildPanel({
      frame: (frame) => this.edit(changeFrame(this.state, frame)),
      preset: (preset) => this.edit(applyPreset(this.state, preset, this.selected), 0),
      select: (index) => this.select(index),
      add: () => addKey(this),
      remove: () => deleteKey(this, this.selected),
      resetView: () => this.turn(DEFAULT_VIEW),
      startOver: () => this.startOver(),
      number: (name, text) => this.setNumber(name, text),
    });
    this.element = this.panel.root;
    this.refresh();
  }

  // ---- life ----

  /** Starts listening and drawing; safe to call again. */
  connect() {
    if (this.endings.length) return;
    const { canvas } = this.panel;
    const resized = new ResizeObserver(() => this.redraw());
    resized.observe(canvas);
    const stop = new AbortController();
    canvas.addEventListener("pointerenter", () => this.refresh(), { signal: stop.signal });
    canvas.addEventListener("pointermove", () => this.checkZoom(), { signal: stop.signal }); // all that Nodes 2.0 gives
    this.endings = [
      listen(canvas, this),
      watchTheme(() => this.forgetTheme()),
      () => resized.disconnect(),
      () => stop.abort(),
      () => cancelAnimationFrame(this.frameRequest),
      () => clearTimeout(this.zoomTimer),
    ];
    this.refresh();
  }

  /** Ends all listening; a gesture under way is dropped. */
  disconnect() {
    for (const end of this.endings.splice(0)) end();
    this.frameRequest = 0;
    this.zoomTimer = undefined;
  }

  /** Reads the text again, if it changed; cheap to call often. */
  refresh() {
    const text = this.host.read();
    if (text !== this.text) {
      this.text = text;
      this.unsaved = null;
      this.notice = "";
      this.readText(text);
    }
    this.show();
  }

  /** @param {string} text */
  readText(text) {
    try {
      this.saved = parseKeys(text);
      this.error = "";
    } catch (error) {
      this.saved = NOTHING;
      this.error = error instanceof Error ? error.message : String(error);
    }
    this.selected = Math.max(0, Math.min(this.selected, this.saved.keys.length - 1));
  }

  // ---- what gestures act on ----

  get state() {
    return this.unsaved ?? this.saved;
  }

  /** Of keys that come from elsewhere, the text here says nothing. */
  get shown() {
    return this.host.linked() ? NOTHING : this.state;
  }

  get editable() {
    return !this.error && !this.host.linked();
  }

  geometry() {
    const { clientWidth, clientHeight } = this.panel.canvas;
    const [axes, disc] = [axesOf(this.view), discIn(clientWidth, clientHeight)];
    return { axes, disc, markers: markersOf(this.state.keys, axes, disc) };
  }

  /** @param {KeySet} state @param {number} selected */
  draft(state, selected) {
    this.unsaved = state;
    this.selected = selected;
    this.notice = "";
    this.show();
  }

  commit() {
    const state = this.unsaved;
    this.unsaved = null;
    if (state && this.editable) {
      const text = formatKeys(state);
      if (text !== formatKeys(this.saved)) {
        this.saved = state;
        this.text = text; // so that the host's echo changes nothing
        this.host.write(text);
        this.say(describe(state, this.selected), "");
      }
    }
    this.refresh();
  }

  revert() {
    this.unsaved = null;
    this.selected = Math.max(0, Math.min(this.selected, this.saved.keys.length - 1));
    this.show();
  }

  /** @param {number} index */
  select(index) {
    if (!this.state.keys[index]) return;
    const isNew = index !== this.selected;
    this.selected = index;
    this.notice = "";
    if (isNew) this.say(describe(this.state, index), "");
    this.show();
  }

  /** @param {import("./sphere.js").View} view */
  turn(view) {
    this.view = view;
    this.redraw();
  }

  /** @param {{x: number, y: number} | null} at */
  hover(at) {
    if (at === null && this.pointed === null) return;
    this.pointed = at;
    this.redraw();
  }

  /** @param {string} message For the screen reader. @param {string} [notice] To be seen as well. */
  say(message, notice = message) {
    this.panel.live.textContent = message;
    this.notice = notice;
    this.show();
  }

  // ---- edits from the panel ----

  /** @param {KeySet} state @param {number} [selected] */
  edit(state, selected = this.selected) {
    if (!this.editable) return;
    this.draft(state, selected);
    this.commit();
  }

  /** @param {import("./keys.js").KeyField} name @param {string} text */
  setNumber(name, text) {
    const field = FIELDS[name];
    const value = text.trim() === "" ? null : Number(text);
    if (value === null ? !isLens(name) : !field.ok(value)) {
      this.say(`${field.label} must be ${field.range}.`);
      return;
    }
    if (isLens(name)) {
      this.edit(changeLens(this.state, this.selected, name, value));
    } else {
      const angle = name === "pitch_deg" ? Number(value) : round(wrapAngle(Number(value)), 6);
      this.edit(changeKey(this.state, this.selected, { [name]: angle }));
    }
  }

  startOver() {
    if (!this.error || this.host.linked()) return;
    this.selected = 0;
    this.host.write(formatKeys({ frame: "face", keys: [makeKey(0, 0)] }));
    this.refresh();
  }

  // ---- showing ----

  /** @returns {string} What stands in the way of editing or of running. */
  get problem() {
    if (this.host.linked()) return "The cameras come from the node that is linked to “keys”.";
    if (this.error) return `The text in “keys” can't be read: ${this.error}.`;
    if (!this.state.keys.length) return "No cameras: drag on the sphere, or choose a preset.";
    return this.notice || (this.host.views() > 0 ? this.pathProblem : "");
  }

  /** @returns {string} Why there is no path through the cameras. */
  get pathProblem() {
    const { keys } = this.state;
    const steep = keys.findIndex((key) => Math.abs(key.pitch_deg) > 90);
    if (steep >= 0) return `Camera ${steep + 1}: on a path, pitch must be within ±90.`;
    const opposite = oppositeNeighbour(keys);
    return opposite < 0 ? "" : `Cameras ${opposite + 1} and ${opposite + 2} are opposite each other: add one between them.`;
  }

  show() {
    this.panel.update({
      state: this.shown,
      selected: this.selected,
      editable: this.editable,
      problem: this.problem,
      isError: Boolean(this.error) && !this.host.linked(),
    });
    this.redraw();
  }

  forgetTheme() {
    this.theme = null;
    this.redraw();
  }

  redraw() {
    if (this.endings.length === 0 || this.frameRequest) return;
    this.frameRequest = requestAnimationFrame(() => {
      this.frameRequest = 0;
      this.draw();
    });
  }

  /** Draws anew, once ComfyUI has stopped zooming the graph, so that it stays sharp; cheap to call often. */
  checkZoom() {
    this.zoomTimer ??= setTimeout(() => {
      this.zoomTimer = undefined;
      const { canvas } = this.panel;
      if (canvas.clientWidth && canvas.width !== Math.round(canvas.clientWidth * this.pixelRatio())) this.redraw();
    }, ZOOM_PAUSE_MS);
  }

  /** @returns {number} Device pixels to a CSS pixel of the canvas, the graph's zoom included. */
  pixelRatio() {
    const { canvas } = this.panel;
    const zoom = canvas.getBoundingClientRect().width / canvas.clientWidth || 1;
    const wanted = window.devicePixelRatio * Math.max(1, Math.ceil(zoom * 4) / 4); // in steps: zooming is continuous
    return Math.min(wanted, MAX_BACKING_PX / Math.max(canvas.clientWidth, canvas.clientHeight));
  }

  draw() {
    const { canvas } = this.panel;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const ctx = canvas.getContext("2d");
    if (!ctx || !width || !height) return;
    const pixelRatio = this.pixelRatio();
    const [columns, rows] = [Math.round(width * pixelRatio), Math.round(height * pixelRatio)];
    if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
    this.theme ??= readTheme(this.element);
    const muted = !this.editable;
    const scene = {
      state: this.shown,
      selected: this.selected,
      view: this.view,
      views: this.host.views(),
      hover: muted ? null : this.pointed,
      muted,
    };
    drawScene(ctx, scene, this.theme, { width, height, pixelRatio });
  }
}
