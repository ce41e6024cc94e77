package cluster

import (
	"strconv"
	"testing"
	"time"

	"sluice/gateway/cluster/redistest"
)

// A caller who comes now and then, of whose limit next to nothing is used, is never refused: neither one request nor a few at once.
func TestFirstAfterAPause(t *testing.T) {
	server := redistest.Start(t)
	f := func(n, requests, at int) {
		t.Helper()
		g := newGroup(t, server.Address, n)
		l := bucketOf(int64(requests), 24*time.Hour, int64(requests))
		for _, s := range g.all {
			s.limiter.Register(l)
		}
		for round := range 20 {
			for range at {
				for i := range g.all {
					if g.take(i, "k", l) != Passed {
						t.Fatalf("%d instances, %d requests, round %d: refused", n, requests, round)
					}
				}
			}
			for range 50 * (1 + round) { // up to 20 s
				g.step(20 * time.Millisecond)
			}
		}
	}
	f(1, 1000, 1)
	f(1, 1000, 10)
	f(2, 1000, 2)
	f(3, 3000, 10)
}

// What was never sent leaves nothing to be released: the room is for what was carried out while the store was away.
func TestRecordsOfAnOutage(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	s := open(t, nil, server.Address)
	if s.Up() {
		t.Fatal("the store is there")
	}
	for i := range 100 {
		if _, _, _, err := s.records.Begin([]byte(strconv.Itoa(i)), []byte("f"), time.Hour); err == nil {
			t.Fatal("a key was claimed without the store")
		}
	}
	s.records.Put([]byte("0"), []byte("f"), time.Hour, []byte("answer"))
	s.records.mu.Lock()
	defer s.records.mu.Unlock()
	if len(s.records.pending) != 1 {
		t.Errorf("%d commands wait, want the one that records an answer", len(s.records.pending))
	}
}
