// Loads a page COUNT times with an empty cache and tells how long it took until something was to be seen, and until SELECTOR was there;
// in turns with URL_TEXT, a line without markup, which tells what the browser needs to paint anything.

import { firstPaint, launch, say } from './browser.mjs';

const { URL_PLAIN, URL_TEXT, SELECTOR, COUNT } = process.env;
const browser = await launch();
await firstPaint(browser, URL_PLAIN, SELECTOR); // the first page of a browser waits for the browser
for (let i = 0; i < Number(COUNT); i++) {
  const { paint: text } = await firstPaint(browser, URL_TEXT);
  say({ ...await firstPaint(browser, URL_PLAIN, SELECTOR), text });
}
await browser.close();
