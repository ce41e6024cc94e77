//go:build linux

package main

import (
	"fmt"
	"io"
)

// write gives the counts as a table.
func (r *runner) write(w io.Writer) {
	old, now := r.builds[0], r.builds[1]
	fmt.Fprintf(w, "%-10s %12s %12s %9s   %s\n", "", old.name, now.name, "change", "scheduler's, before and now")
	for _, work := range r.works {
		a, b := r.of(old, work.name), r.of(now, work.name)
		verdict := ""
		if r.change(work.name) > r.limit {
			verdict = fmt.Sprintf("   ABOVE %g%%", r.limit)
		}
		fmt.Fprintf(w, "%-10s %12.0f %12.0f %+8.2f%%   %.0f, %.0f%s\n", work.name, a.requests, b.requests, r.change(work.name), a.scheduler, b.scheduler, verdict)
	}
	if r.caches {
		r.writeMisses(w)
	}
	if n := r.times(cached, fixed); n > 0 {
		fmt.Fprintf(w, "an answer from the cache needs %.2f times the instructions of a fixed one; %g at most\n", n, mostHit)
	}
	if n := r.times(observed, policies); n > 0 {
		fmt.Fprintf(w, "tracing every tenth request and keeping usage needs %.3f times the instructions of the same policies alone\n", n)
	}
}

// writeMisses gives the lines that simulated caches miss, before and now.
func (r *runner) writeMisses(w io.Writer) {
	old, now := r.builds[0], r.builds[1]
	fmt.Fprintf(w, "lines fetched, before and now: %14s %16s %16s\n", "code", "data", "from beyond L2")
	for _, work := range r.works {
		a, b := r.of(old, work.name).misses, r.of(now, work.name).misses
		fmt.Fprintf(w, "%-24s %12.0f %7.0f %8.0f %7.0f %8.0f %7.0f\n", work.name, a.code, b.code, a.data, b.data, a.far, b.far)
	}
}
