// Draws lines over time into SVG: no library, no colour of its own (view.css has them), every text by textContent.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 136, LEFT = 58, RIGHT = 8, TOP = 12, BOTTOM = 20;
const SPAN_S = 600, SPAN_S_MIN = 60;
const LINES = ["first", "second", "third"];

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Where an axis ends: the smallest of 1, 2, 5, 10, 20 ... times unit that is not below value. */
function roundUp(value, unit) {
  const power = unit * 10 ** Math.floor(Math.log10(value / unit));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999) ?? 10 * power;
}

/**
 * points: the oldest first, each {at, ...}, at in seconds on the clock of now. series: [{label, value: point => number | undefined}].
 * The axis ends at least or above; one that is 1024 or more is in bytes. A point without a value interrupts the line; format makes a text of a value.
 */
export function draw(figure, title, points, series, format, now, least) {
  const WIDTH = Math.max(260, figure.clientWidth - 26); // so that text has its size, whatever the screen's
  const span = Math.min(SPAN_S, Math.max(SPAN_S_MIN, ...points.map((point) => now - point.at)));
  const values = series.map((one) => points.map(one.value));
  const highest = Math.max(least, ...values.flat().filter((value) => value !== undefined));
  const unit = least >= 1024 ? 1024 ** Math.floor(Math.log(highest) / Math.log(1024)) : 1;
  const top = roundUp(highest, unit);
  const x = (at) => LEFT + (WIDTH - LEFT - RIGHT) * (1 - Math.min(1, (now - at) / span));
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value / top);

  const caption = document.createElement("figcaption");
  const name = document.createElement("strong");
  name.textContent = title;
  caption.append(name);
  const said = [];
  series.forEach((one, number) => {
    const last = values[number].findLast((value) => value !== undefined);
    const mark = document.createElement("span");
    mark.className = `mark ${LINES[number]}`;
    mark.textContent = `${one.label} ${last === undefined ? "–" : format(last)}`;
    said.push(mark.textContent);
    caption.append(mark);
  });

  const svg = shape("svg", {
    class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img",
    "aria-label": `${title}, at last: ${said.join(", ")}`,
  });
  for (const share of [0, 0.5, 1]) {
    const height = y(top * share);
    svg.append(shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: height, y2: height }));
    svg.append(shape("text", { x: LEFT - 6, y: height + 4, "text-anchor": "end" }, format(top * share)));
  }
  for (const [share, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
    const age = span * share;
    const text = !share ? "now" : age < 120 ? `${age.toFixed(0)} s ago` : `${(age / 60).toFixed(age < 300 ? 1 : 0)} min ago`;
    svg.append(shape("text", { x: x(now - age), y: HEIGHT - 5, "text-anchor": anchor }, text));
  }
  series.forEach((_, number) => {
    let path = "";
    let pen = "M";
    points.forEach((point, index) => {
      const value = values[number][index];
      if (value === undefined || now - point.at > span) {
        pen = "M";
      } else {
        path += `${pen}${x(point.at).toFixed(1)} ${y(value).toFixed(1)}`;
        if (pen === "M") path += "h0.1"; // a lone point is seen, too
        pen = "L";
      }
    });
    svg.append(shape("path", { class: LINES[number], d: path || "M0 0" }));
  });
  figure.replaceChildren(caption, svg);
}
