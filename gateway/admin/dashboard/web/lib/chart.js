// Lines over the last minutes.

import { h, svg, refresh, replace } from './dom.js';

const WIDTH = 600;
const HEIGHT = 132;

// chart draws series whose latest point is at the right. names are up to three; format writes a value. It is as wide as
// `least` points to begin with, and as `keep` in the end. The text of the legend follows the pointer.
export function chart({ title, names, format, least = 30, keep = 150 }) {
  const points = []; // {at, values}
  const top = h('span', { class: 'top', 'aria-hidden': 'true' });
  const legend = names.map((name, i) => h('span', { class: `series-${i + 1}` }, name));
  const drawing = svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': title });
  const plot = h('div', { class: 'plot' }, drawing, top);
  const node = h('figure', { class: 'panel chart' },
    h('figcaption', {}, h('h2', {}, title), h('span', { class: 'legend' }, legend)), plot);
  let pointed = -1;
  const span = () => Math.max(least, points.length) - 1;

  plot.addEventListener('pointermove', (event) => {
    const box = plot.getBoundingClientRect();
    const right = (box.right - event.clientX) / box.width * span();
    pointed = Math.max(0, points.length - 1 - Math.round(right));
    draw();
  });
  plot.addEventListener('pointerleave', () => {
    pointed = -1;
    draw();
  });

  function draw() {
    const highest = nice(Math.max(...points.flatMap((p) => p.values), 0));
    const x = (i) => WIDTH - (points.length - 1 - i) * WIDTH / span();
    const y = (v) => HEIGHT - (v / highest) * (HEIGHT - 6);
    const lines = names.map((_, s) => {
      const d = points.map((p, i) => `${i ? 'L' : 'M'}${x(i).toFixed(1)} ${y(p.values[s]).toFixed(1)}`).join('');
      const area = s === 0 && points.length > 1 && svg('path', { class: 'area', d: `${d}V${HEIGHT}H${x(0).toFixed(1)}Z` });
      return svg('g', { class: `series-${s + 1}` }, area, svg('path', { class: 'line', d }));
    }).reverse();
    replace(drawing,
      [0, 0.5, 1].map((f) => svg('line', { class: 'grid', x1: 0, x2: WIDTH, y1: y(highest * f), y2: y(highest * f) })), lines,
      pointed >= 0 && svg('line', { class: 'cursor', x1: x(pointed), x2: x(pointed), y1: 0, y2: HEIGHT }));
    top.textContent = format(highest);
    const shown = points[pointed >= 0 && pointed < points.length ? pointed : points.length - 1];
    legend.forEach((span, i) => refresh(span, `${names[i]} ${format(shown.values[i])}`));
    drawing.setAttribute('aria-label', `${title}: ${names.map((n, i) => `${n} ${format(points.at(-1).values[i])}`).join(', ')}`);
  }

  return {
    node,
    push(values) {
      points.push({ values });
      if (points.length > keep) points.shift();
      draw();
    },
  };
}

// nice is the bound above a value that reads well.
function nice(value) {
  if (value <= 0) return 1;
  const decade = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((f) => f * decade).find((bound) => bound >= value);
}
