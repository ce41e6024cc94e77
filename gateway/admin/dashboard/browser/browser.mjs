// What the scripts of this folder share: a browser, and what they tell the Go test, a line of JSON each.

import { chromium } from 'playwright-core';

export const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
export const fault = (text) => say({ fault: text });
export const figure = (name, value, unit) => say({ figure: name, value: Math.round(value * 10) / 10, unit });

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--disable-dev-shm-usage', '--hide-scrollbars'] });

// atRest waits until the processes of the browser are done with opening windows and what they load for later: people who type an
// address have a browser that is.
async function atRest(browser) {
  const session = await browser.newBrowserCDPSession();
  const seconds = async () => (await session.send('SystemInfo.getProcessInfo')).processInfo.reduce((sum, p) => sum + p.cpuTime, 0);
  let before = await seconds();
  for (let look = 0; look < 100; look++) {
    await new Promise((resolve) => { setTimeout(resolve, 100); });
    const now = await seconds();
    if (now - before < 0.01) break;
    before = now;
  }
  await session.detach();
}

// firstPaint loads a page in a context without a cache and gives the milliseconds from the start of the navigation until something was
// to be seen, and until what the selector names was there.
export async function firstPaint(browser, url, selector = 'body') {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.addInitScript((wanted) => {
    window.dataAt = new Promise((resolve) => {
      new MutationObserver((_, observer) => {
        if (!document.querySelector(wanted)) return;
        observer.disconnect();
        resolve(performance.now());
      }).observe(document, { childList: true, subtree: true });
    });
  }, selector);
  await atRest(browser);
  await page.goto(url);
  const paint = await page.evaluate(() => new Promise((resolve) => {
    new PerformanceObserver((list) => {
      const entry = list.getEntriesByName('first-contentful-paint')[0];
      if (entry) resolve(entry.startTime);
    }).observe({ type: 'paint', buffered: true });
  }));
  const data = await page.evaluate(() => window.dataAt);
  await context.close();
  return { paint, data };
}
