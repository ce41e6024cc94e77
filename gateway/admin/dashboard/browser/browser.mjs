// What the scripts of this folder share: a browser, and what they tell the Go test, a line of JSON each.

import { chromium } from 'playwright-core';

export const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
export const fault = (text) => say({ fault: text });
export const figure = (name, value, unit) => say({ figure: name, value: Math.round(value * 10) / 10, unit });

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--disable-dev-shm-usage', '--hide-scrollbars'] });

// firstPaint loads a page in a context without a cache and gives the milliseconds until something was to be seen, and until what the
// selector names was there.
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
