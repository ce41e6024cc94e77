//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"time"

	"sluice/bench/load"
)

// Load and backend are processes of their own: this binary again, in the role
// that roleVariable names. They end when their standard input does, so none
// outlives the run.
const roleVariable = "SLUICE_PEERS_ROLE"

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
	now := func() times { return times{cpuTime(j.Gateway), cpuTime(own), busy(j.Cores)} }
	var before, after times
	r, err := load.Run(j.Spec, func() { before = now() }, func() {
		after = now()
		out.PSS = pss(j.Gateway)
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

// child is this binary in a role.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(role string) (*child, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &child{cmd: cmd, in: in, out: bufio.NewReader(out)}, cmd.Start()
}

func (c *child) send(j job) error { return json.NewEncoder(c.in).Encode(j) }

func (c *child) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// backend is the process that answers.
type backend struct {
	*child
	addr string
}

func startBackend() (*backend, error) {
	c, err := startChild("backend")
	if err != nil {
		return nil, err
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("the backend does not start: %w", err)
	}
	return &backend{child: c, addr: line[:len(line)-1]}, nil
}
