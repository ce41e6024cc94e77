//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"sluice/bench/load"
	"sluice/bench/program"
)

// job is what a load process is asked for.
type job struct {
	Spec    load.Spec
	Gateway []int // the gateway's processes
	Own     []int // further processes whose time is not foreign
	Cores   []int
}

// outcome is what it found.
type outcome struct {
	Requests, Total, Unanswered int64
	Elapsed                     time.Duration
	P50, P99, P999, Max         time.Duration
	CPU                         time.Duration // of the gateway
	Foreign                     float64       // share of a core's time, of all cores of the job together
	PSS                         int64         // KiB, while the connections are open
}

// play makes this process the load or the backend: each is one of its own.
func play(role string) error {
	in := bufio.NewReader(os.Stdin)
	if role == "backend" {
		return playBackend(in)
	}
	var j job
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &j)
	}
	if err != nil {
		return err
	}
	switch role {
	case "load":
		out, err := drive(j)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(out)
	case "hold":
		held, err := load.Hold(j.Spec)
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "held")
		_, _ = io.Copy(io.Discard, in)
		return held.Close()
	}
	return fmt.Errorf("unknown role %q", role)
}

func playBackend(in io.Reader) error {
	debug.SetGCPercent(1000)
	b, err := load.NewBackend(pages())
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, b.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(0)
	}()
	return b.Serve()
}

// drive sends the load and takes the gateway's use of the machine over exactly
// the measured time.
func drive(j job) (*outcome, error) {
	own := append([]int{os.Getpid()}, j.Own...)
	var out outcome
	type times struct{ gateway, own, all time.Duration }
	now := func() times { return times{program.CPUTime(j.Gateway), program.CPUTime(own), program.Busy(j.Cores)} }
	var before, after times
	r, err := load.Run(j.Spec, func() { before = now() }, func() {
		after = now()
		out.PSS = program.PSS(j.Gateway)
	})
	if err != nil {
		return nil, err
	}
	if r.Requests == 0 {
		return nil, errors.New("no answer within the measured time")
	}
	out.Requests, out.Total, out.Unanswered, out.Elapsed = r.Requests, r.Total, r.Unanswered, r.Elapsed
	out.P50, out.P99, out.P999, out.Max = r.Latency.Quantile(0.5), r.Latency.Quantile(0.99), r.Latency.Quantile(0.999), r.Latency.Max()
	out.CPU = after.gateway - before.gateway
	out.Foreign = max(float64(after.all-before.all-out.CPU-(after.own-before.own)), 0) / float64(r.Elapsed)
	return &out, nil
}

// backend is the process that answers.
type backend struct {
	*program.Child
	addr string
}

func startBackend() (*backend, error) {
	c, err := program.Play("backend")
	if err != nil {
		return nil, err
	}
	line, err := c.Out.ReadString('\n')
	if err != nil {
		c.Stop()
		return nil, fmt.Errorf("the backend does not start: %w", err)
	}
	return &backend{Child: c, addr: line[:len(line)-1]}, nil
}
