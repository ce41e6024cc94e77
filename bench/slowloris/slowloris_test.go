//go:build linux

package main

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestReport(t *testing.T) {
	r := &report{options: &options{rate: 2000, connections: 1000, measure: time.Second, foreign: 0.05}, began: time.Unix(0, 0), slowMemory: 14, idleMemory: 21}
	for _, p99 := range [][states]int{{100, 200, 220}, {1000, 1000, 1000}, {100, 100, 150}} {
		var round [states]sample
		for i := range round {
			round[i] = sample{P99: time.Duration(p99[i]) * time.Microsecond, Cut: int64(i), Foreign: 0.01}
		}
		r.rounds = append(r.rounds, round)
	}
	var b strings.Builder
	r.write(&b)
	for _, want := range []string{"| slow clients at the gateway | 0 (0–0) | 220 (150–1000) |", "**1.10 (1.00–1.50)** times", ", 1.50 (1.00–2.20) times", "14.0 KiB", "21.0 KiB"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "not quiet") {
		t.Errorf("%s", b.String())
	}
	r.rounds[1][0].Foreign = 0.5
	b.Reset()
	if r.write(&b); !strings.Contains(b.String(), "others took up to 50% of a core") {
		t.Errorf("%s", b.String())
	}
}

// Every slow client has begun when the attack says so, and begins anew when it is cut off.
func TestAttack(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var accepted atomic.Int64
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if accepted.Add(1) <= 5 {
				_ = c.Close()
			} else {
				go func() { _, _ = io.Copy(io.Discard, c) }()
			}
		}
	}()
	in, stop := io.Pipe()
	done := make(chan error)
	go func() {
		done <- (&attack{Address: ln.Addr().String(), Connections: 5}).run(bufio.NewReader(in), io.Discard)
	}()
	for end := time.Now().Add(10 * time.Second); accepted.Load() < 10 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	_ = stop.Close()
	if err := <-done; err != nil || accepted.Load() < 10 {
		t.Errorf("%d connections, %v", accepted.Load(), err)
	}
}
