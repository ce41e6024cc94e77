// Everything that changes the gateway asks here first.

import { h, replace } from './dom.js';
import { Problem } from './api.js';

// ask shows what is about to happen and does it when that is confirmed. `act` may throw a Problem, which is shown, and the
// dialog stays. It resolves to what act returned, or undefined when nothing was done.
//   title, text: what it is; fields: nodes to fill in; confirm: the word on the button; danger: it loses something.
export function ask({ title, text, fields = [], confirm, danger = false, act }) {
  return new Promise((resolve) => {
    const wrong = h('div', { role: 'alert' });
    const no = h('button', { type: 'button' }, 'Cancel');
    const yes = h('button', { type: 'submit', class: danger ? 'danger' : 'primary' }, confirm);
    const form = h('form', { method: 'dialog' },
      h('h2', { id: 'dialog-title' }, title),
      h('div', { class: 'content' }, [text].flat().map((t) => (t instanceof Node ? t : h('p', {}, t))), fields, wrong),
      h('div', { class: 'buttons' }, no, yes));
    const dialog = h('dialog', { 'aria-labelledby': 'dialog-title' }, form);
    let result;
    no.addEventListener('click', () => dialog.close());
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(result);
    });
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      yes.disabled = true;
      replace(wrong);
      try {
        result = await act(new FormData(form)) ?? true;
        dialog.close();
      } catch (error) {
        if (error instanceof Closing) {
          dialog.close();
          error.after();
        } else {
          replace(wrong, problemNotice(error));
        }
      }
      yes.disabled = false;
    });
    document.body.append(dialog);
    dialog.showModal();
    if (danger) no.focus();
  });
}

// Closing ends a dialog without a result, and goes on with another one.
export class Closing extends Error {
  constructor(after) {
    super();
    this.after = after;
  }
}

export function problemNotice(error) {
  if (error instanceof Error && !(error instanceof Problem)) console.error(error);
  const lines = error.errors ?? [];
  return h('div', { class: 'notice bad' }, error.message,
    lines.length > 0 && h('pre', {}, lines.map((e) => {
      const at = [e.file, e.line, e.column].filter(Boolean).join(':');
      return `${[at, e.path, e.message].filter(Boolean).join(': ')}\n`;
    }).join('')));
}

// toast tells that something was done.
export function toast(text) {
  document.querySelector('.toast')?.remove();
  const node = h('div', { class: 'notice good toast', role: 'status' });
  document.body.append(node);
  node.textContent = text;
  setTimeout(() => node.remove(), 6000);
}
