package policytest

import (
	"testing"
	"time"

	"sluice/gateway/cluster"
)

// Share gives the World a store that it shares with other instances at a server; its configuration has state.redis. It waits until the
// store answers.
func (w *World) Share(t testing.TB, address string, onFailure cluster.OnFailure) *cluster.Store {
	t.Helper()
	if !w.Shared() {
		t.Fatal("the configuration has no state.redis")
	}
	s := cluster.Open(cluster.Options{
		Addresses: []string{address}, Prefix: "test", Timeout: w.Config.State.Redis.Timeout, OnFailure: onFailure,
		Log: w.Log, Now: w.Clock.Now, Wall: w.Clock.Time,
	})
	s.Start()
	t.Cleanup(func() { _ = s.Close() })
	for end := time.Now().Add(30 * time.Second); !s.Up(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the store does not answer")
		}
	}
	w.Cluster = s
	return s
}
