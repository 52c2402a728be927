/**
 * The picker's state: key cameras as JSON text and back, and edits that return a new state.
 *
 * In and out: the text of the node's `keys` input,
 *   {"format": "nvb-camera-keys", "version": 1, "frame": "face" | "input",
 *    "keys": [{"yaw_deg": 0, "pitch_deg": 0, "roll_deg": 0, "radius": 2.7, "fov_deg": 13.4}, ...]}
 * In a key only yaw_deg is required; radius and fov_deg absent or null mean the default (frame "face") or the photo's
 * own (frame "input", where all keys have one or none has). The reader accepts what nvb_core/camera_keys.py accepts,
 * and an empty list of keys, which is the state before the first one.
 */

/** @typedef {"face" | "input"} Frame */
/** @typedef {{yaw_deg: number, pitch_deg: number, roll_deg: number, radius: number | null, fov_deg: number | null}} Key */
/** @typedef {keyof Key} KeyField */
/** @typedef {{frame: Frame, keys: Key[]}} KeySet */

export const FORMAT = "nvb-camera-keys";
export const VERSION = 1;
export const RADIUS = 2.7;
export const FOV_DEG = (2 * Math.atan(0.5 / 4.2647) * 180) / Math.PI; // horizontal, about 13.4
export const HEAD_RADIUS = 0.7; // a camera must stay farther out than this
export const MAX_KEYS = 10000;

/** @typedef {{label: string, unit: string, step: number, range: string, ok: (value: number) => boolean}} Field */

const isAngle = (/** @type {number} */ value) => Number.isFinite(value);

/** @type {Record<KeyField, Field>} The numbers of a key; `step` is one nudge of the keyboard. */
export const FIELDS = {
  yaw_deg: { label: "Yaw", unit: "°", step: 1, range: "a number", ok: isAngle },
  pitch_deg: { label: "Pitch", unit: "°", step: 1, range: "within ±90", ok: (value) => Math.abs(value) <= 90 },
  roll_deg: { label: "Roll", unit: "°", step: 1, range: "a number", ok: isAngle },
  radius: { label: "Radius", unit: "", step: 0.1, range: `above ${HEAD_RADIUS}`, ok: (value) => value > HEAD_RADIUS },
  fov_deg: { label: "FOV", unit: "°", step: 0.1, range: "between 0 and 180", ok: (value) => value > 0 && value < 180 },
};
const NAMES = /** @type {KeyField[]} */ (Object.keys(FIELDS));

/** @typedef {"radius" | "fov_deg"} LensField Numbers that may be null. */
/** @type {Record<LensField, number>} */
export const LENS = { radius: RADIUS, fov_deg: FOV_DEG };
const LENS_NAMES = /** @type {LensField[]} */ (Object.keys(LENS));

/** @param {string} name @returns {name is LensField} */
export const isLens = (name) => Object.hasOwn(LENS, name);

/**
 * @param {string} text
 * @returns {KeySet} Throws an Error whose message says what is wrong and where.
 */
export function parseKeys(text) {
  const content = decode(text);
  if (!isObject(content)) throw new Error(`expected an object {"format": "${FORMAT}", ...}`);
  expect(content, "format", FORMAT);
  expect(content, "version", VERSION);
  refuseUnknown(content, ["format", "version", "frame", "keys"], "");
  if (content.frame !== "face" && content.frame !== "input") {
    throw new Error(`frame: expected "face" or "input", found ${show(content.frame)}`);
  }
  if (!Array.isArray(content.keys)) throw new Error(`keys: expected a list, found ${show(content.keys)}`);
  if (content.keys.length > MAX_KEYS) throw new Error(`keys: ${content.keys.length} keys; at most ${MAX_KEYS}`);
  const keys = content.keys.map(parseKey);
  for (const name of content.frame === "input" ? LENS_NAMES : []) {
    const index = keys.findIndex((key) => key[name] === null);
    if (index >= 0 && keys.some((key) => key[name] !== null)) {
      throw new Error(`keys[${index}].${name}: missing while other keys have one; give it to all keys or none`);
    }
  }
  return { frame: content.frame, keys };
}

/**
 * @param {KeySet} state
 * @returns {string} One line of JSON; a null radius or fov_deg is left out.
 */
export function formatKeys({ frame, keys }) {
  const listed = keys.map((key) => Object.fromEntries(NAMES.filter((n) => key[n] !== null).map((n) => [n, key[n]])));
  return JSON.stringify({ format: FORMAT, version: VERSION, frame, keys: listed });
}

/** @param {string} text @returns {any} */
function decode(text) {
  if (typeof text !== "string" || !text.trim()) throw new Error("the text is empty");
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`not JSON (${error instanceof Error ? error.message : error})`);
  }
}

/** @param {unknown} entry @param {number} index @returns {Key} */
function parseKey(entry, index) {
  const where = `keys[${index}]`;
  if (!isObject(entry)) throw new Error(`${where}: expected an object, found ${show(entry)}`);
  refuseUnknown(entry, NAMES, `${where}.`);
  if (entry.yaw_deg === undefined) throw new Error(`${where}: needs yaw_deg`);
  const key = makeKey(0, 0);
  for (const name of NAMES) {
    const value = entry[name];
    if (value === undefined || (value === null && isLens(name))) continue;
    if (typeof value !== "number" || !Number.isFinite(value)) {
      throw new Error(`${where}.${name}: expected a number, found ${show(value)}`);
    }
    // A pitch beyond the pole is odd, but can be rendered.
    if (name !== "pitch_deg" && !FIELDS[name].ok(value)) throw new Error(`${where}.${name}: ${value} must be ${FIELDS[name].range}`);
    key[name] = value;
  }
  return key;
}

/** @param {unknown} value @returns {value is Record<string, any>} */
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @param {Record<string, any>} content @param {string} name @param {unknown} expected */
function expect(content, name, expected) {
  if (content[name] !== expected) throw new Error(`${name}: expected ${show(expected)}, found ${show(content[name])}`);
}

/** @param {Record<string, any>} content @param {string[]} known @param {string} prefix */
function refuseUnknown(content, known, prefix) {
  const odd = Object.keys(content).find((name) => !known.includes(name));
  if (odd !== undefined) throw new Error(`${prefix}${odd.slice(0, 40)}: unknown; known are ${known.join(", ")}`);
}

/** @param {unknown} value */
function show(value) {
  return value === undefined ? "nothing" : JSON.stringify(value).slice(0, 40);
}

// ---- edits ----

/** @param {number} yaw @param {number} pitch @param {Partial<Key>} [like] @returns {Key} */
export function makeKey(yaw, pitch, like = {}) {
  return { roll_deg: 0, radius: null, fov_deg: null, ...like, yaw_deg: yaw, pitch_deg: pitch };
}

/** @param {KeySet} state @param {number} index @param {Partial<Key>} change @returns {KeySet} */
export function changeKey(state, index, change) {
  return { ...state, keys: state.keys.map((key, i) => (i === index ? { ...key, ...change } : key)) };
}

/**
 * Sets a radius or field of view. In frame "input" the photo's own isn't known here, so that all keys have a number of
 * their own or none has: the first one given goes to all keys, and none to all.
 * @param {KeySet} state @param {number} index @param {LensField} name @param {number | null} value @returns {KeySet}
 */
export function changeLens(state, index, name, value) {
  const forAll = state.frame === "input" && (value === null || state.keys.some((key) => key[name] === null));
  return { ...state, keys: state.keys.map((key, i) => (forAll || i === index ? { ...key, [name]: value } : key)) };
}

/** @param {KeySet} state @param {Frame} frame @returns {KeySet} A number that only some keys have is spelt out. */
export function changeFrame(state, frame) {
  const mixed = LENS_NAMES.filter((name) => new Set(state.keys.map((key) => key[name] === null)).size > 1);
  const spelt = (/** @type {Key} */ key) => Object.fromEntries(mixed.map((name) => [name, key[name] ?? round(LENS[name], 4)]));
  return { frame, keys: state.keys.map((key) => ({ ...key, ...spelt(key) })) };
}

/** @param {KeySet} state @param {number} index @param {Key} key @returns {KeySet} The key comes to stand at `index`. */
export function insertKey(state, index, key) {
  return { ...state, keys: [...state.keys.slice(0, index), key, ...state.keys.slice(index)] };
}

/** @param {KeySet} state @param {number} index @returns {KeySet} */
export function removeKey(state, index) {
  return { ...state, keys: state.keys.filter((_, i) => i !== index) };
}

/** @param {number} angle @returns {number} The same angle in (-180, 180]. */
export function wrapAngle(angle) {
  const turned = ((angle % 360) + 360) % 360;
  return turned > 180 ? turned - 360 : turned;
}

/** @param {number} value @param {number} digits @returns {number} Rounded, without a negative zero. */
export function round(value, digits) {
  return Number(value.toFixed(digits)) + 0;
}

/** @typedef {{id: string, label: string, hint: string, angles: [yaw: number, pitch: number][]}} Preset */

/** @returns {[number, number][]} nvb_core's `orbit` at eight points, closed: the last key is the first again. */
function orbitAngles() {
  const phases = Array.from({ length: 9 }, (_, i) => (i * Math.PI) / 4);
  return phases.map((phase) => [round(30 * Math.sin(phase), 1), round(15 * Math.cos(phase), 1)]);
}

/** @type {readonly Preset[]} */
export const PRESETS = Object.freeze([
  { id: "front", label: "Front", hint: "One camera straight ahead", angles: [[0, 0]] },
  { id: "three-quarter", label: "¾", hint: "Three-quarter: one camera at yaw 45°", angles: [[45, 0]] },
  { id: "profile", label: "Profile", hint: "Profile: one camera at yaw 90°", angles: [[90, 0]] },
  {
    id: "eight-way",
    label: "8-way",
    hint: "Eight cameras around the head, every 45°",
    angles: [0, 45, 90, 135, 180, -135, -90, -45].map((yaw) => /** @type {[number, number]} */ ([yaw, 0])),
  },
  { id: "orbit", label: "Orbit", hint: "An ellipse around the face that ends where it starts", angles: orbitAngles() },
]);

/** @param {KeySet} state @param {Preset} preset @param {number} selected Its radius and field of view are kept. */
export function applyPreset(state, preset, selected) {
  const { radius = null, fov_deg = null } = state.keys[selected] ?? {};
  return { ...state, keys: preset.angles.map(([yaw, pitch]) => makeKey(yaw, pitch, { radius, fov_deg })) };
}
