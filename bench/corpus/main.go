//go:build linux

// Command corpus sends the corpus of ambiguous and hostile messages
// (gateway/testdata/corpus) through Sluice, nginx and HAProxy, each configured
// as a plain reverse proxy the way its documentation has it (config/), and
// compares what becomes of each message with what the corpus expects. It
// writes Markdown, and every verdict with what the backend saw as CSV.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"sluice/gateway/corpustest"
)

func main() {
	in := flag.String("corpus", filepath.Join("gateway", "testdata", "corpus"), "folder of the corpus")
	out := flag.String("out", filepath.Join("bench", "results"), "folder of corpus.md and corpus.csv")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *in, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "corpus:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in, out string) error {
	r := &report{began: time.Now()}
	var err1, err2 error
	r.requests, err1 = corpustest.Requests(in)
	r.responses, err2 = corpustest.Responses(in)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sluice-corpus-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if r.gateways, err = assemble(ctx, dir); err != nil {
		return err
	}
	r.ofRequests = make([][]verdict, len(r.gateways))
	r.ofResponses = make([][]verdict, len(r.gateways))
	failures := make([]error, len(r.gateways))
	var all sync.WaitGroup
	for i, g := range r.gateways { // each has backends of its own
		all.Go(func() {
			fmt.Fprintf(os.Stderr, "%s: %d requests, %d responses\n", g.name, len(r.requests), len(r.responses))
			var err error
			if r.ofRequests[i], err = g.requests(ctx, dir, r.requests); err == nil {
				r.ofResponses[i], err = g.responses(ctx, dir, r.responses)
			}
			if err != nil {
				failures[i] = fmt.Errorf("%s: %w", g.name, err)
			}
		})
	}
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	if err := r.save(out); err != nil {
		return err
	}
	r.summary(os.Stdout)
	if n := disagreements(r.ofRequests[0]) + disagreements(r.ofResponses[0]); n > 0 {
		return fmt.Errorf("sluice is not what the corpus expects in %d cases", n)
	}
	return nil
}

// requests sends each request of the corpus on a connection of its own.
func (g *gateway) requests(ctx context.Context, dir string, table []corpustest.Request) (all []verdict, err error) {
	w, err := newWitness()
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.ln.Close() }()
	address, stop, err := g.start(ctx, dir, w.ln)
	if err != nil {
		return nil, err
	}
	defer stop()
	w.take()
	for i := range table {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c := &table[i]
		conn, err := dial(address)
		if err != nil {
			return nil, fmt.Errorf("behind %s/%s: %w", c.Group, c.Name, err)
		}
		want := 0
		for _, s := range c.Status {
			if s >= 200 {
				want++
			}
		}
		o := conn.ask(string(c.Send), "GET", want)
		conn.close()
		seen, partial := w.take()
		all = append(all, judgeRequest(c, &o, seen, partial))
	}
	return all, nil
}

// responses has the gateway's backend send each response of the corpus.
func (g *gateway) responses(ctx context.Context, dir string, table []corpustest.Response) (all []verdict, err error) {
	h, err := newHostile()
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.ln.Close() }()
	address, stop, err := g.start(ctx, dir, h.ln)
	if err != nil {
		return nil, err
	}
	defer stop()
	for i := range table {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		v, err := h.suffer(address, i, &table[i])
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", table[i].Group, table[i].Name, err)
		}
		all = append(all, *v)
	}
	return all, nil
}

func disagreements(all []verdict) (n int) {
	for i := range all {
		if !all[i].agrees {
			n++
		}
	}
	return n
}
