// Loads the dashboard COUNT times and tells how long each first paint took.

import { firstPaint, launch, say } from './browser.mjs';

const browser = await launch();
await firstPaint(browser, process.env.URL_PLAIN); // the first page of a browser waits for the browser
for (let i = 0; i < Number(process.env.COUNT); i++) say({ paint: await firstPaint(browser, process.env.URL_PLAIN) });
await browser.close();
