package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

var sockets = &scenario{
	name:   "sockets",
	proves: "Two hundred WebSockets carry their messages whole and in order, and outlive reloads.",
	run: func(t *trial) error {
		const many, messages, pause = 200, 20, 300 * time.Millisecond
		t.backend.does(echo)
		var opened, whole atomic.Int64
		var wrong sync.Map
		var all sync.WaitGroup
		for i := range many {
			all.Go(func() {
				if err := t.converse(i, messages, pause, &opened); err != nil {
					wrong.Store(err.Error(), true)
					return
				}
				whole.Add(1)
			})
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			all.Wait()
		}()
		reloads := 0
		for running := true; running; {
			select {
			case <-done:
				running = false
			case <-time.After(time.Second):
				if err := t.reconfigure("generation-0", fmt.Sprint("generation-", reloads+1)); err != nil {
					return err
				}
				reloads++
				t.mark("reload")
			}
		}
		exactly(t, "connections that were opened", opened.Load(), many)
		exactly(t, "connections that carried all their messages", whole.Load(), many)
		atLeast(t, "reloads meanwhile", reloads, 3)
		shown := 0
		wrong.Range(func(why, _ any) bool {
			t.note(fmt.Sprint(why))
			shown++
			return shown < 5
		})
		return t.ctx.Err()
	},
	faults: []*fault{
		{name: "connections that end early", misses: "connections that carried all their messages", backend: func(answer http.HandlerFunc) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				ctx, cancel := context.WithTimeout(req.Context(), 2*time.Second)
				defer cancel()
				answer(w, req.WithContext(ctx))
			}
		}},
		{name: "a bound on connections", misses: "connections that were opened", set: []string{"limits.max_connections=150"}},
	},
}

// echo is a WebSocket that answers each message with itself.
func echo(w http.ResponseWriter, req *http.Request) {
	c, err := websocket.Accept(w, req, nil)
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	for {
		kind, message, err := c.Read(req.Context())
		if err != nil || c.Write(req.Context(), kind, message) != nil {
			return
		}
	}
}

// converse sends messages on one connection, and wants each back.
func (t *trial) converse(number, messages int, pause time.Duration, opened *atomic.Int64) error {
	ctx, cancel := context.WithTimeout(t.ctx, time.Minute)
	defer cancel()
	c, _, err := websocket.Dial(ctx, strings.Replace(t.gateway.url, "http", "ws", 1)+"/echo", nil) //nolint:bodyclose // Dial leaves nothing to close
	if err != nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	defer func() { _ = c.CloseNow() }()
	opened.Add(1)
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for i := range messages {
		sent := fmt.Sprint("message ", i, " of ", number)
		if err := c.Write(ctx, websocket.MessageText, []byte(sent)); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		_, got, err := c.Read(ctx)
		if err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if string(got) != sent {
			return fmt.Errorf("sent %q, got %q", sent, got)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return c.Close(websocket.StatusNormalClosure, "")
}
