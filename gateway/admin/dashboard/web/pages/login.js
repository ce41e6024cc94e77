import { h, replace } from '../lib/dom.js';
import { get } from '../lib/api.js';
import { forget, keep, narrow } from '../lib/session.js';
import { problemNotice } from '../lib/dialog.js';

// show asks for the token until the gateway takes it, and then goes on.
export function show(main, entered) {
  const wrong = h('div', { role: 'alert' });
  const field = h('input', { type: 'password', id: 'token', autocomplete: 'current-password', required: true, 'aria-describedby': 'token-hint' });
  const form = h('form', { class: 'stack' },
    h('div', { class: 'field' }, h('label', { for: 'token' }, 'Admin token'), field,
      h('span', { class: 'hint', id: 'token-hint' }, 'The one of admin.token in the configuration. It is kept in this tab until it is closed.')),
    wrong, h('div', {}, h('button', { type: 'submit', class: 'primary' }, 'Log in')));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    keep(field.value.trim());
    try {
      await get('/api/stats?top=0');
    } catch (error) {
      // Without a configuration there is nothing to show yet, and yet the token was right.
      if (error.operators) {
        narrow();
      } else if (error.status !== 503) {
        forget();
        replace(wrong, error.status === 401 ? h('p', { class: 'notice bad' }, 'The gateway does not take this token.') : problemNotice(error));
        field.select();
        return;
      }
    }
    entered();
  });
  replace(main, h('div', { class: 'login' }, h('div', { class: 'panel' }, h('div', { class: 'body stack' }, h('h1', {}, 'Log in'), form))));
  field.focus();
}
