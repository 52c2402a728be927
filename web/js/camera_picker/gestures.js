/**
 * Mouse, pen, touch, wheel and keyboard on the sphere's canvas, turned into edits of a `Target`.
 *
 * An edit is a gesture: any number of `draft` states, then one `commit` (a press and release, a run of wheel notches,
 * a held key) or `revert` (Escape, a lost pointer). Nothing outside the canvas is listened to, save that while the
 * pointer is over it the wheel is taken before ComfyUI can zoom the graph.
 */

import { MARKER_RADIUS } from "./drawing.js";
import { FIELDS, HEAD_RADIUS, RADIUS, changeKey, changeLens, insertKey, makeKey, removeKey, round, wrapAngle } from "./keys.js";
import { anglesOf, unproject } from "./sphere.js";

/** @typedef {import("./keys.js").KeySet} KeySet */
/**
 * @typedef {object} Target What the gestures act on; picker.js implements it.
 * @property {KeySet} state With the draft, if there is one. @property {number} selected
 * @property {import("./sphere.js").View} view @property {boolean} editable
 * @property {() => {axes: ReturnType<typeof import("./sphere.js").axesOf>, disc: import("./drawing.js").Disc,
 *   markers: import("./drawing.js").Marker[]}} geometry
 * @property {(state: KeySet, selected: number) => void} draft
 * @property {() => void} commit @property {() => void} revert
 * @property {(index: number) => void} select
 * @property {(view: import("./sphere.js").View) => void} turn
 * @property {(at: {x: number, y: number} | null) => void} hover
 * @property {(message: string) => void} say
 */

const WHEEL_PAUSE_MS = 350;
const WHEEL_RATE = Math.log(1.05) / 100; // 5 % a notch
const MAX_RADIUS = 20;
const SLOP_PX = 3; // a hand may shake that much in a click
const TURN_DEG_PER_PX = 0.5;
const NEW_KEY_STEP_DEG = 15;

/** @param {HTMLCanvasElement} canvas @param {MouseEvent} event In CSS pixels of the canvas, however it is zoomed. */
function placeOf(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const zoom = box.width / canvas.clientWidth || 1;
  return { x: (event.clientX - box.left) / zoom, y: (event.clientY - box.top) / zoom };
}

/** @param {HTMLCanvasElement} canvas @param {Target} target @returns {() => void} Stops listening. */
export function listen(canvas, target) {
  const stop = new AbortController();
  const wheel = wheelGesture(canvas, target);
  const pointer = pointerGesture(canvas, target, wheel.finish);
  const keyboard = keyboardGesture(target, () => pointer.cancel());
  /** @type {<K extends keyof HTMLElementEventMap>(type: K, handler: (event: HTMLElementEventMap[K]) => void) => void} */
  const on = (type, handler) => canvas.addEventListener(type, handler, { signal: stop.signal });
  on("pointerdown", pointer.down);
  on("pointermove", (event) => (pointer.move(event), wheel.arm(event)));
  on("pointerup", pointer.up);
  on("pointercancel", pointer.cancel);
  on("lostpointercapture", pointer.cancel);
  on("pointerleave", () => (target.hover(null), wheel.leave()));
  on("dblclick", pointer.double);
  on("contextmenu", (event) => pointer.isActive() && event.preventDefault());
  on("keydown", (event) => (wheel.finish(), keyboard.down(event)));
  on("keyup", keyboard.finish);
  on("blur", () => (wheel.finish(), keyboard.finish()));
  return () => {
    stop.abort();
    pointer.cancel();
    wheel.leave();
    keyboard.finish();
  };
}

// ---- pointer ----

/**
 * @typedef {object} Press
 * @property {number} id @property {"move" | "turn"} kind @property {{x: number, y: number}} start
 * @property {{x: number, y: number}} offset From the pointer to the marker it holds. @property {boolean} behind
 * @property {boolean} moved @property {import("./sphere.js").View} view
 */

/** @param {HTMLCanvasElement} canvas @param {Target} target @param {() => void} before */
function pointerGesture(canvas, target, before) {
  /** @type {Press | null} */
  let press = null;
  let addedAt = -Infinity;

  /** @param {{x: number, y: number}} place */
  const markerAt = (place) => {
    const reach = (/** @type {import("./drawing.js").Marker} */ m) => Math.hypot(m.x - place.x, m.y - place.y);
    const near = target.geometry().markers.filter((marker) => reach(marker) <= MARKER_RADIUS + 4);
    // The nearer half of the sphere first, then the selected key, then the closest.
    near.sort((a, b) => Number(a.behind) - Number(b.behind)
      || Number(b.index === target.selected) - Number(a.index === target.selected) || reach(a) - reach(b));
    return target.editable ? near[0] : undefined;
  };

  /** @param {{x: number, y: number}} place @param {boolean} behind */
  const anglesAt = (place, behind) => {
    const { axes, disc } = target.geometry();
    const { yaw, pitch } = anglesOf(unproject((place.x - disc.x) / disc.radius, (place.y - disc.y) / disc.radius, axes, behind));
    return { yaw_deg: round(yaw, 1), pitch_deg: round(pitch, 1) };
  };

  /** @param {{x: number, y: number}} place */
  const isOnSphere = (place) => {
    const { disc } = target.geometry();
    return Math.hypot(place.x - disc.x, place.y - disc.y) <= disc.radius;
  };

  /** @param {PointerEvent} event */
  const down = (event) => {
    if (event.button !== 0 || press) return;
    before();
    canvas.focus({ preventScroll: true });
    event.preventDefault();
    const start = placeOf(canvas, event);
    const marker = markerAt(start);
    const adds = !marker && target.editable && !event.shiftKey && isOnSphere(start);
    press = {
      id: event.pointerId,
      kind: marker || adds ? "move" : "turn",
      start,
      offset: marker ? { x: marker.x - start.x, y: marker.y - start.y } : { x: 0, y: 0 },
      behind: marker?.behind ?? false,
      moved: adds,
      view: target.view,
    };
    canvas.setPointerCapture(event.pointerId);
    target.hover(null);
    if (marker) target.select(marker.index);
    if (adds) {
      addedAt = event.timeStamp;
      const at = Math.min(target.selected + 1, target.state.keys.length);
      const { yaw_deg, pitch_deg } = anglesAt(start, false);
      target.draft(insertKey(target.state, at, makeKey(yaw_deg, pitch_deg, target.state.keys[target.selected])), at);
    }
  };

  /** @param {PointerEvent} event */
  const move = (event) => {
    const place = placeOf(canvas, event);
    if (!press) {
      target.hover(event.buttons === 0 && target.editable && isOnSphere(place) && !markerAt(place) ? place : null);
      return;
    }
    if (event.pointerId !== press.id) return;
    const [dx, dy] = [place.x - press.start.x, place.y - press.start.y];
    press.moved ||= Math.hypot(dx, dy) > SLOP_PX;
    if (!press.moved) return;
    if (press.kind === "turn") {
      const pitch = Math.min(90, Math.max(-90, press.view.pitch + dy * TURN_DEG_PER_PX));
      target.turn({ yaw: wrapAngle(press.view.yaw - dx * TURN_DEG_PER_PX), pitch });
    } else {
      const held = { x: place.x + press.offset.x, y: place.y + press.offset.y };
      target.draft(changeKey(target.state, target.selected, anglesAt(held, press.behind)), target.selected);
    }
  };

  /** @param {PointerEvent} event */
  const up = (event) => {
    if (!press || event.pointerId !== press.id) return;
    const { kind, moved } = press;
    press = null; // first, for releasing the capture reports a lost one
    if (kind === "move" && moved) target.commit();
  };

  const cancel = () => {
    if (!press) return;
    const { kind, view } = press;
    press = null;
    if (kind === "move") target.revert();
    else target.turn(view);
  };

  /** @param {MouseEvent} event */
  const double = (event) => {
    const marker = markerAt(placeOf(canvas, event));
    const isJustAdded = event.timeStamp - addedAt < 600; // its first click made the key
    if (marker && !isJustAdded) deleteKey(target, marker.index);
  };

  return { down, move, up, cancel, double, isActive: () => press !== null };
}

/** @param {Target} target @param {number} index */
export function deleteKey(target, index) {
  if (!target.editable || !target.state.keys[index]) return;
  if (target.state.keys.length === 1) {
    target.say("The last camera stays: a path needs at least one.");
    return;
  }
  const selected = target.selected > index ? target.selected - 1 : target.selected;
  target.draft(removeKey(target.state, index), Math.min(selected, target.state.keys.length - 2));
  target.commit();
}

/** Adds a key beside the selected one. @param {Target} target */
export function addKey(target) {
  if (!target.editable) return;
  const like = target.state.keys[target.selected];
  const at = Math.min(target.selected + 1, target.state.keys.length);
  const yaw = like ? round(wrapAngle(like.yaw_deg + NEW_KEY_STEP_DEG), 2) : 0;
  target.draft(insertKey(target.state, at, makeKey(yaw, like?.pitch_deg ?? 0, like)), at);
  target.commit();
}

/** @param {Target} target @param {number} factor */
function scaleRadius(target, factor) {
  const key = target.state.keys[target.selected];
  if (!key || !target.editable) return;
  const radius = Math.min(MAX_RADIUS, Math.max(HEAD_RADIUS + 0.05, (key.radius ?? RADIUS) * factor));
  target.draft(changeLens(target.state, target.selected, "radius", round(radius, 3)), target.selected);
}

// ---- wheel ----

/** @param {HTMLCanvasElement} canvas @param {Target} target */
function wheelGesture(canvas, target) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let armed = false;

  const finish = () => {
    if (timer === undefined) return;
    clearTimeout(timer);
    timer = undefined;
    target.commit();
  };

  /** @param {WheelEvent} event */
  const roll = (event) => {
    if (event.target !== canvas || event.ctrlKey || event.metaKey) return; // pinching zooms the graph
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.buttons) return;
    const pixels = event.deltaY * [1, 16, 100][event.deltaMode];
    scaleRadius(target, Math.exp(pixels * WHEEL_RATE));
    clearTimeout(timer);
    timer = setTimeout(finish, WHEEL_PAUSE_MS);
  };

  /**
   * The wheel is ours once the pointer has moved here itself; a graph that is being scrolled past a resting pointer
   * goes on scrolling.
   * @param {PointerEvent} event
   */
  const arm = (event) => {
    if (armed || (event.movementX === 0 && event.movementY === 0)) return;
    armed = true;
    window.addEventListener("wheel", roll, { capture: true, passive: false });
  };

  const leave = () => {
    finish();
    armed = false;
    window.removeEventListener("wheel", roll, { capture: true });
  };

  return { arm, leave, finish };
}

// ---- keyboard ----

/** @type {Record<string, [yaw: number, pitch: number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** @type {Record<string, number>} What the radius is multiplied by. */
const CLOSER = { "+": 1 / 1.05, "=": 1 / 1.05, "-": 1.05 };

/** @param {Target} target @param {() => void} cancelPointer */
function keyboardGesture(target, cancelPointer) {
  let nudging = false;

  const finish = () => {
    if (!nudging) return;
    nudging = false;
    target.commit();
  };

  /** @param {number} yaw @param {number} pitch */
  const nudge = (yaw, pitch) => {
    const key = target.state.keys[target.selected];
    if (!key || !target.editable) return;
    nudging = true;
    const yaw_deg = round(wrapAngle(key.yaw_deg + yaw), 2);
    const pitch_deg = Math.min(90, Math.max(-90, round(key.pitch_deg + pitch, 2)));
    target.draft(changeKey(target.state, target.selected, { yaw_deg, pitch_deg }), target.selected);
  };

  /** @param {number} factor */
  const dolly = (factor) => {
    nudging = true;
    scaleRadius(target, factor);
  };

  /** @param {KeyboardEvent} event @returns {boolean} Whether the key means something here. */
  const act = (event) => {
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = FIELDS.yaw_deg.step * (event.shiftKey ? 10 : 1);
      nudge(arrow[0] * step, arrow[1] * step);
      return true;
    }
    const closer = CLOSER[event.key];
    if (closer) {
      dolly(closer);
      return true;
    }
    const last = target.state.keys.length - 1;
    /** @type {Record<string, () => void>} */
    const actions = {
      PageDown: () => target.select(Math.min(last, target.selected + 1)),
      PageUp: () => target.select(Math.max(0, target.selected - 1)),
      Home: () => target.select(0),
      End: () => target.select(last),
      Insert: () => addKey(target),
      a: () => addKey(target),
      Delete: () => deleteKey(target, target.selected),
      Backspace: () => deleteKey(target, target.selected),
      Escape: cancelPointer,
    };
    if (!Object.hasOwn(actions, event.key)) return false;
    finish();
    actions[event.key]();
    return true;
  };

  /** @param {KeyboardEvent} event */
  const down = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      finish(); // a shortcut of ComfyUI, run or undo, must see the edit
      return;
    }
    if (act(event)) {
      event.preventDefault();
      event.stopPropagation();
    }
  };

  return { down, finish };
}
