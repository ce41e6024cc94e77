// Tables of any length: sorted, searched, a page at a time, so that a thousand rows cost what fifty do.

import { h, refresh, replace, freshId } from './dom.js';
import { plural } from './format.js';

// table makes one. columns are {label, cell(row), value(row), number, act, wide}:
//   wide keeps room for values without blanks; cell gives what is shown; value what is sorted by, and without it the column can not be sorted.
// Options: caption names the table; noun counts its rows; key(row) names a row; text(row) is what is searched, and without
// it there is no search; empty stands in a table without rows; sorted is [column, descending] to begin with; extra are
// nodes beside the search.
export function table({ caption, noun, key, columns, text, empty = 'Nothing here.', page = 50, sorted, extra = [] }) {
  let rows = [];
  let found = [];
  let at = 0;
  let sort = sorted ?? null;
  let wanted = '';
  const shown = new Map(); // key -> <tr>

  const heads = columns.map((c, i) => h('th', { scope: 'col', role: 'columnheader', class: c.number ? 'number' : null },
    c.value ? h('button', { type: 'button', onclick: () => order(i) }, c.label)
      : c.act ? h('span', { class: 'unseen' }, c.label) : c.label));
  const body = h('tbody', { role: 'rowgroup' });
  const grid = h('table', { class: 'cards', role: 'table', 'aria-label': caption },
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, heads)), body);
  const tally = h('span', { class: 'count', role: 'status' });
  const back = h('button', { type: 'button', class: 'slim', onclick: () => turn(-1) }, 'Previous');
  const forth = h('button', { type: 'button', class: 'slim', onclick: () => turn(1) }, 'Next');
  const where = h('span', { class: 'where' });
  const pager = h('div', { class: 'pager' }, where, back, forth);
  const id = freshId('search');
  const search = text && h('input', {
    type: 'search', id, placeholder: `Search ${noun}s`, 'aria-label': `Search ${noun}s`, autocomplete: 'off', spellcheck: 'false',
    oninput: () => { wanted = search.value.trim().toLowerCase(); at = 0; draw(); },
  });
  const tools = (search || extra.length > 0) && h('div', { class: 'list-tools' }, search, extra, tally);
  const node = h('div', {}, tools, h('div', { class: 'scroll' }, grid), pager);

  function order(column) {
    const first = Boolean(columns[column].number);
    sort = sort?.[0] === column ? [column, !sort[1]] : [column, first];
    at = 0;
    draw();
  }

  function turn(by) {
    at += by;
    draw();
    grid.scrollIntoView({ block: 'nearest' });
  }

  function draw() {
    const parts = wanted.split(/\s+/).filter(Boolean);
    found = parts.length ? rows.filter((r) => { const t = text(r).toLowerCase(); return parts.every((p) => t.includes(p)); }) : rows;
    if (sort) {
      const { value } = columns[sort[0]];
      const way = sort[1] ? -1 : 1;
      found = found.map((r) => [value(r), r]).sort(([a], [b]) => way * compare(a, b)).map(([, r]) => r);
    }
    heads.forEach((head, i) => {
      if (sort?.[0] === i) head.setAttribute('aria-sort', sort[1] ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
    });
    const pages = Math.max(1, Math.ceil(found.length / page));
    at = Math.min(Math.max(at, 0), pages - 1);
    const visible = found.slice(at * page, (at + 1) * page);
    lines(visible);
    refresh(tally, found.length === rows.length ? plural(rows.length, noun) : `${found.length} of ${plural(rows.length, noun)}`);
    refresh(where, `${at * page + 1} to ${at * page + visible.length} of ${found.length}`);
    pager.hidden = pages === 1;
    back.disabled = at === 0;
    forth.disabled = at === pages - 1;
  }

  // lines keeps the elements of rows that are shown again.
  function lines(visible) {
    if (visible.length === 0) {
      shown.clear();
      replace(body, h('tr', { role: 'row' }, h('td', { class: 'empty', role: 'cell', colspan: columns.length }, rows.length ? 'No match.' : empty)));
      return;
    }
    const keys = new Set(visible.map(key));
    for (const k of [...shown.keys()]) if (!keys.has(k)) shown.delete(k);
    const next = visible.map((row) => {
      const k = key(row);
      let line = shown.get(k);
      if (!line) {
        line = h('tr', { role: 'row' }, columns.map((c) => h('td', { role: 'cell', 'data-label': c.label, class: c.number ? 'number' : c.act ? 'act' : c.wide ? 'wide' : null })));
        shown.set(k, line);
      }
      columns.forEach((c, i) => refresh(line.cells[i], c.cell(row)));
      return line;
    });
    if (next.length !== body.children.length || next.some((line, i) => body.children[i] !== line)) replace(body, next);
  }

  draw();
  return {
    node,
    update(latest) {
      rows = latest;
      draw();
    },
  };
}

function compare(a, b) {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return String(a ?? '').localeCompare(String(b ?? ''), undefined, { numeric: true });
}
