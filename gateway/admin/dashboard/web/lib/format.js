// Numbers and times for people.

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat('en-US', { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const stamp = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' });

export const count = (n) => whole.format(n ?? 0);

export function rate(n) {
  if (!n) return '0';
  if (n < 0.05) return '<0.1';
  return n < 100 ? one.format(n) : whole.format(n);
}

// ms writes milliseconds with three digits that mean something, in microseconds below one.
export function ms(n) {
  const [value, unit] = msParts(n);
  return unit ? `${value} ${unit}` : value;
}

export function msParts(n) {
  if (!n) return ['–', ''];
  if (n < 1) return [whole.format(n * 1000), 'µs'];
  if (n < 1000) return [n < 10 ? n.toFixed(2) : n < 100 ? n.toFixed(1) : whole.format(n), 'ms'];
  return [(n / 1000).toFixed(n < 10000 ? 2 : 1), 's'];
}

export function bytes(n) {
  let value = n ?? 0;
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (value < 1024) return `${unit === 'B' || value >= 100 ? whole.format(value) : one.format(value)} ${unit}`;
    value /= 1024;
  }
  return `${one.format(value)} TiB`;
}

export const percent = (ratio) => {
  const p = ratio * 100;
  return `${p === 0 || p >= 10 ? whole.format(p) : p < 0.01 ? '<0.01' : p.toPrecision(2)}%`;
};

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

// per is what a number of requests is said to be per.
export const per = (seconds) => ({ 1: 'second', 60: 'minute', 3600: 'hour', 86400: 'day' })[seconds] ?? span(seconds);

export const time = (text) => (text ? stamp.format(new Date(text)) : '–');
export const date = (text) => (text ? day.format(new Date(text)) : '–');
export const ago = (text) => `${span((Date.now() - new Date(text)) / 1000)} ago`;
export const plural = (n, word, many) => `${count(n)} ${n === 1 ? word : many ?? `${word}s`}`;

// value writes a setting as YAML would have it.
export function value(v) {
  if (v === null || v === undefined) return '–';
  if (Array.isArray(v)) return v.length ? v.map(value).join(', ') : '[]';
  if (typeof v === 'object') return JSON.stringify(v);
  return v === '' ? '""' : String(v);
}
