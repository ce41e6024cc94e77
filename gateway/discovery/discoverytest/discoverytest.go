// Package discoverytest watches sources of endpoints for their tests.
package discoverytest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway/discovery"
)

// Watch is a source that is watched, through a Watcher that refuses nothing.
type Watch struct {
	*discovery.Watcher

	t    testing.TB
	mu   sync.Mutex
	sets []string
}

// Settings reads the discovery of a service, written as under `discovery`.
func Settings(t testing.TB, text string) *config.Discovery {
	t.Helper()
	c, err := config.Parse("test.yaml", []byte("services: {s: {discovery: "+text+"}}\n"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &c.Services["s"].Discovery
}

// Start watches what the settings name until the test ends.
func Start(t testing.TB, d *discovery.Definition, text string) *Watch {
	t.Helper()
	source, err := d.Open(Settings(t, text))
	if err != nil {
		t.Fatal(err)
	}
	w := &Watch{t: t, Watcher: discovery.NewWatcher(discovery.Settings{Service: "s", Kind: d.Name, Source: source, MaxLoss: 1})}
	w.Subscribe(func(set []discovery.Endpoint) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.sets = append(w.sets, Text(set))
	})
	w.Start()
	t.Cleanup(w.Close)
	return w
}

// Text writes a set as "address weight zone host; …", without what is usual.
func Text(set []discovery.Endpoint) string {
	var all []string
	for _, e := range set {
		text := e.Address
		if e.Weight != 1 {
			text += fmt.Sprintf(" weight %d", e.Weight)
		}
		if e.Zone != "" {
			text += " in " + e.Zone
		}
		if e.Host != "" {
			text += " as " + e.Host
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// Want waits until the last set is this one.
func (w *Watch) Want(want string) {
	w.t.Helper()
	w.Until("the set "+want, func() bool { return w.Last() == want })
}

// Last is the last set that was told, "none" before the first.
func (w *Watch) Last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sets) == 0 {
		return "none"
	}
	return w.sets[len(w.sets)-1]
}

// Failing waits for a failure that says this.
func (w *Watch) Failing(want string) {
	w.t.Helper()
	w.Until("the failure "+want, func() bool { st := w.Status(); return st.Failing && strings.Contains(st.LastError, want) })
}

// Until waits for a condition.
func (w *Watch) Until(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited for %s; the last set is %q, status %+v", what, w.Last(), w.Status())
		}
		time.Sleep(5 * time.Millisecond)
	}
}
