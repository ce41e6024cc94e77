package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

var upgrade = &scenario{
	name:   "upgrade",
	proves: "Fifty times in half a minute a new process takes over under 2,000 requests/s, and no request notices, on connections that stay and on new ones.",
	args:   []string{"--drain-delay", "1h"}, // of a handover there is none
	run: func(t *trial) error {
		const rate, length, every, times = 2000, 35 * time.Second, 500 * time.Millisecond, 50
		t.backend.does(taking(5*time.Millisecond, plain))
		kept := t.begin(load{name: "2,000 requests/s, half of them orders", pace: perSecond(rate), length: length, next: mixed("/")})
		fresh := t.begin(load{name: "100 connections/s", pace: perSecond(100), length: length, next: mixed("/"), fresh: true})
		slow := time.NewTicker(every)
		defer slow.Stop()
		done := 0
		for running := true; running && done < times; {
			select {
			case <-kept.done:
				running = false
			case <-t.ctx.Done():
				return t.ctx.Err()
			case <-slow.C:
				if err := t.gateway.upgrade(t); err != nil {
					return err
				}
				done++
				t.mark("upgrade")
			}
		}
		exactly(t, "failed requests", kept.wait().failed()+fresh.wait().failed(), 0)
		exactly(t, "upgrades", done, times)
		atLeast(t, "offered load that was sent", of(len(kept.hits), rate*int(length.Seconds())), 0.8)
		left := 0
		err := wait(t.ctx, 40*time.Second, "the processes that handed over to end", func() (bool, error) {
			left = t.gateway.processes() - 1
			return left == 0, nil
		})
		exactly(t, "processes that handed over and did not end", left, 0)
		if err != nil && left == 0 {
			return err
		}
		return nil
	},
	faults: []*fault{
		{name: "no time for what is under way", misses: "failed requests", args: []string{"--drain-timeout", "0s"}},
	},
}

// upgrade has a new process take over, and returns when it serves.
func (g *gateway) upgrade(t *trial) error {
	before := len(g.line("handed over"))
	if err := syscall.Kill(g.process(), syscall.SIGUSR2); err != nil {
		return err
	}
	return wait(t.ctx, time.Minute, "the new process to serve", func() (bool, error) {
		if failed := g.line("the new binary does not serve; this process goes on"); len(failed) > 0 {
			return false, errors.New(failed[0].Error)
		}
		heirs := g.line("handed over")
		if len(heirs) == before {
			return false, nil
		}
		g.heir = heirs[len(heirs)-1].Process
		return true, nil
	})
}

type logged struct {
	Msg, Error string
	Process    int
}

// line finds the log's lines with a message.
func (g *gateway) line(message string) (found []logged) {
	text, _ := os.ReadFile(g.log)
	for line := range bytes.Lines(text) {
		var l logged
		if json.Unmarshal(line, &l) == nil && l.Msg == message {
			found = append(found, l)
		}
	}
	return found
}

// process is the one that serves.
func (g *gateway) process() int {
	if g.heir != 0 {
		return g.heir
	}
	return g.cmd.Process.Pid
}

// processes counts those of the gateway that live: all are of the group of the first.
func (g *gateway) processes() (alive int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		var state string
		var parent, group int
		if _, err := fmt.Sscan(rest, &state, &parent, &group); err == nil && group == g.cmd.Process.Pid && state != "Z" {
			alive++
		}
	}
	return alive
}
