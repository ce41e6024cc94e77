// What only /metrics tells.

import { getText } from './api.js';

// read gives the samples of some families: [{name, labels, value}].
export async function read(families, signal) {
  const text = await getText('/metrics', signal);
  const samples = [];
  for (const line of text.split('\n')) {
    if (line === '' || line[0] === '#') continue;
    const end = line.search(/[{ ]/);
    const name = line.slice(0, end);
    if (!families.includes(name)) continue;
    const labels = {};
    const value = line.slice(line.lastIndexOf(' ') + 1);
    if (line[end] === '{') {
      for (const [, key, quoted] of line.slice(end + 1, line.lastIndexOf('}')).matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
        labels[key] = quoted.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
      }
    }
    samples.push({ name, labels, value: Number(value) });
  }
  return samples;
}
