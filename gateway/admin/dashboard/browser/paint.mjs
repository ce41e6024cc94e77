// Loads a page COUNT times with an empty cache and tells how long it took until something was to be seen, and until SELECTOR was there.

import { firstPaint, launch, say } from './browser.mjs';

const { URL_PLAIN, SELECTOR, COUNT } = process.env;
const browser = await launch();
await firstPaint(browser, URL_PLAIN, SELECTOR); // the first page of a browser waits for the browser
for (let i = 0; i < Number(COUNT); i++) say(await firstPaint(browser, URL_PLAIN, SELECTOR));
await browser.close();
