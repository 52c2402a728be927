/**
 * Colours for the canvas, read from the `--nvb-*` properties that picker.css derives from ComfyUI's own variables.
 * In: an element under picker.css. Out: CSS colours, and red, green, blue of those that are mixed.
 */

/** @typedef {[red: number, green: number, blue: number]} Rgb */
/**
 * @typedef {object} Theme
 * @property {string} ink @property {string} surface @property {string} accent @property {string} chosen
 * @property {string} onAccent Text on `accent`. @property {string} onChosen Text on `chosen`.
 * @property {boolean} dark
 * @property {import("./head.js").HeadColours} head
 */

/** @type {Record<"dark" | "light", Theme["head"]>} */
const HEADS = {
  dark: {
    skin: [186, 178, 172],
    hair: [92, 88, 92],
    lip: [168, 132, 126],
    iris: [62, 66, 74],
    white: [214, 212, 210],
    shadow: [34, 34, 40],
    light: [255, 252, 246],
  },
  light: {
    skin: [232, 224, 217],
    hair: [134, 128, 130],
    lip: [208, 170, 162],
    iris: [84, 88, 98],
    white: [250, 250, 250],
    shadow: [104, 102, 112],
    light: [255, 255, 255],
  },
};

const probe = document.createElement("canvas");
probe.width = probe.height = 1;

/** @param {string} colour Any CSS colour. @returns {Rgb} */
export function rgbOf(colour) {
  const ctx = probe.getContext("2d", { willReadFrequently: true });
  if (!ctx) return [128, 128, 128];
  ctx.fillStyle = "#808080";
  ctx.fillStyle = colour;
  ctx.fillRect(0, 0, 1, 1);
  const [red, green, blue] = ctx.getImageData(0, 0, 1, 1).data;
  return [red, green, blue];
}

/** @param {string} colour @returns {number} Relative luminance, 0 to 1. */
function luminance(colour) {
  const [red, green, blue] = rgbOf(colour).map((value) => (value / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** @param {string} colour @returns {string} Black or white, whichever reads better on it. */
function textOn(colour) {
  return luminance(colour) > 0.18 ? "#000" : "#fff";
}

/** @param {HTMLElement} element @returns {Theme} */
export function readTheme(element) {
  const style = getComputedStyle(element);
  const read = (/** @type {string} */ name) => style.getPropertyValue(name).trim() || "#888";
  const [ink, surface, accent] = [read("--nvb-ink"), read("--nvb-surface"), read("--nvb-accent")];
  const dark = luminance(surface) < luminance(ink);
  const chosen = dark ? "#ffb02e" : "#b45309";
  return {
    ink,
    surface,
    accent,
    chosen,
    onAccent: textOn(accent),
    onChosen: textOn(chosen),
    dark,
    head: HEADS[dark ? "dark" : "light"],
  };
}

/**
 * Calls back when ComfyUI changes its palette (classes or inline variables of the page's root or body).
 * @param {() => void} onChange @returns {() => void} Stops watching.
 */
export function watchTheme(onChange) {
  const observer = new MutationObserver(onChange);
  for (const element of [document.documentElement, document.body]) {
    observer.observe(element, { attributes: true, attributeFilter: ["class", "style", "data-theme"] });
  }
  return () => observer.disconnect();
}
