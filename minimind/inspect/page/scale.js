// Colours for numbers. Every scale runs from light to dark (or back, on a dark page), so that it can be read without
// telling hues apart; the two ends of the signed one are blue and orange, which the usual colour blindness keeps apart.

const STOPS = {
  light: {
    plain: [[251, 250, 247], [151, 199, 189], [35, 97, 90], [9, 44, 42]],
    signed: [[18, 66, 122], [92, 148, 201], [251, 250, 247], [224, 137, 69], [133, 61, 9]],
  },
  dark: {
    plain: [[33, 33, 31], [40, 92, 86], [110, 190, 176], [224, 250, 241]],
    signed: [[168, 212, 255], [64, 124, 186], [33, 33, 31], [196, 108, 44], [255, 205, 160]],
  },
};

/** Okabe and Ito's colours for kinds of things; what they mean is always written too. */
export const KINDS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c8c8c"];

export const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark";

const mix = (stops, share) => {
  const at = Math.max(0, Math.min(1, share || 0)) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((one, i) => Math.round(one + (stops[low + 1][i] - one) * (at - low)));
};

const css = (rgb) => `rgb(${rgb.join(" ")})`;

/** Black or white, whichever is easier to read on a colour `[r, g, b]`. */
const inkOn = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#1b1a18" : "#fdfcf9");

/**
 * `scale([low, high])` makes a function of a number: its `{rgb, fill, ink}`. `signed` puts nothing at 0 and the ends at
 * minus and plus the larger of the two bounds.
 */
export function scale([low, high], signed = false) {
  const stops = STOPS[isDark() ? "dark" : "light"][signed ? "signed" : "plain"];
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const [from, to] = signed ? [-most, most] : [low, high === low ? low + 1 : high];
  return (value) => {
    const rgb = mix(stops, (value - from) / (to - from));
    return { rgb, fill: css(rgb), ink: inkOn(rgb) };
  };
}

/** The colour of the kind `number`, as `scale` gives it. */
export function kind(number) {
  const hex = KINDS[number % KINDS.length];
  const rgb = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return { fill: css(rgb), ink: inkOn(rgb) };
}

/** Least and greatest of numbers, however deep in lists; what is not finite is left out. */
export function bounds(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values.flat(Infinity)) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low > high ? [0, 1] : [low, high];
}

export const percent = (p) => `${p <= 0 ? "0" : p >= 0.9995 ? "100" : p >= 0.1 ? (100 * p).toFixed(0) : p >= 0.001 ? (100 * p).toFixed(1) : "<0.1"} %`;

/** A number with about three digits. */
export function brief(value) {
  if (value == null || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  const text = size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 0.01 || !size ? value.toFixed(2) : size >= 0.001 ? value.toFixed(3) : value.toExponential(1);
  return text.replace("-", "−");
}
