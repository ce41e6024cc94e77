// Looks that repeat while somebody looks.

// every calls look at once and then again, each time the interval after it has ended, until the signal says so. A page in
// the background does not ask. What look throws goes to failed, and the next look comes all the same.
export function every(interval, signal, look, failed) {
  let timer = 0;
  let running = false;
  const run = async () => {
    if (running || signal.aborted) return;
    running = true;
    clearTimeout(timer);
    try {
      await look();
    } catch (error) {
      if (error.name !== 'AbortError') failed(error);
    }
    running = false;
    if (!signal.aborted && !document.hidden) timer = setTimeout(run, interval);
  };
  document.addEventListener('visibilitychange', () => { if (!document.hidden) run(); }, { signal });
  signal.addEventListener('abort', () => clearTimeout(timer));
  run();
  return run;
}
