package cache

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func begin(t *testing.T, f *Flights, now int64, key string, want Role) *Flight {
	t.Helper()
	fl, role := f.Begin(now, []byte(key))
	if role != want || (fl == nil) != (want == Alone) {
		t.Fatalf("%s: got role %d, want %d", key, role, want)
	}
	return fl
}

func TestFlightOutcomes(t *testing.T) {
	f := func(name string, end func(*Flight), sel string, want Outcome) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			flights := NewFlights(100, 100, int64(time.Minute))
			lead := begin(t, flights, testNow, "k", Lead)
			var wg sync.WaitGroup
			for range 5 {
				follow := begin(t, flights, testNow, "k", Follow)
				wg.Go(func() {
					e, got := follow.Wait(selector(sel), time.Hour, nil)
					if got != want || (e != nil) != (want == Filled) {
						t.Errorf("%s: got %d, want %d", name, got, want)
					}
				})
			}
			synctest.Wait()
			end(lead)
			lead.Abort() // does nothing any more
			wg.Wait()
			if flights.InFlight() != 0 {
				t.Errorf("%s: %d left", name, flights.InFlight())
			}
		})
	}
	gzip := record(t, "k", selector("Accept-Encoding: gzip"), 200, "Vary: Accept-Encoding", "x")
	f("filled", func(fl *Flight) { fl.Fill(gzip) }, "Accept-Encoding: gzip", Filled)
	f("another variant", func(fl *Flight) { fl.Fill(gzip) }, "Accept-Encoding: br", Again)
	f("another key", func(fl *Flight) { fl.Fill(entry(t, "k of alice", 1)) }, "", OnItsOwn)
	f("refused", func(fl *Flight) { fl.Refuse(0) }, "", OnItsOwn)
	f("aborted", func(fl *Flight) { fl.Abort() }, "", Again)
	f("refused, then filled", func(fl *Flight) { fl.Refuse(0); fl.Fill(gzip) }, "", OnItsOwn)
	f("nothing", func(*Flight) {}, "", Again)
}

func TestFlightWaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights := NewFlights(100, 100, int64(time.Minute))
		lead := begin(t, flights, testNow, "k", Lead)
		start := time.Now()
		if _, got := begin(t, flights, testNow, "k", Follow).Wait(nil, 3*time.Second, nil); got != OnItsOwn || time.Since(start) != 3*time.Second {
			t.Errorf("got %d after %v", got, time.Since(start))
		}
		cancel := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(cancel) })
		if _, got := begin(t, flights, testNow, "k", Follow).Wait(nil, time.Minute, cancel); got != OnItsOwn || time.Since(start) != 4*time.Second {
			t.Errorf("got %d after %v", got, time.Since(start))
		}
		lead.Abort()
	})
}

func TestFlightMarks(t *testing.T) {
	flights := NewFlights(100, 100, int64(time.Minute))
	begin(t, flights, testNow, "k", Lead).Refuse(testNow + second)
	begin(t, flights, testNow, "k", Alone)
	begin(t, flights, testNow+second-1, "k", Alone)
	begin(t, flights, testNow+second, "k", Lead).Refuse(0)
	begin(t, flights, testNow+second, "k", Lead).Abort()
	// Any number of marks takes the room that was made for them, and still the last one holds.
	for i := range 10_000 {
		key := fmt.Sprint(i)
		begin(t, flights, testNow+2*second, key, Lead).Refuse(testNow + 3*second)
		begin(t, flights, testNow+2*second, key, Alone)
	}
	for i := range flights.shards {
		if n := len(flights.shards[i].marks); n != 4 {
			t.Errorf("%d marks in a shard", n)
		}
	}
}

func TestFlightBounds(t *testing.T) {
	flights := NewFlights(flightShards*2, 1, int64(time.Minute))
	alone := 0
	for i := range 1000 {
		if _, role := flights.Begin(testNow, []byte(fmt.Sprint(i))); role == Alone {
			alone++
		}
	}
	if n := flights.InFlight(); n > flightShards*2 || n+alone != 1000 {
		t.Errorf("%d in flight, %d alone", n, alone)
	}
}

// A leader that never ends its flight holds up nobody who comes after its time.
func TestFlightIsTakenOver(t *testing.T) {
	flights := NewFlights(100, 100, int64(time.Minute))
	lost := begin(t, flights, testNow, "k", Lead)
	old := begin(t, flights, testNow+59*second, "k", Follow)
	next := begin(t, flights, testNow+60*second, "k", Lead)
	follow := begin(t, flights, testNow+61*second, "k", Follow)
	lost.Fill(entry(t, "k", 1))
	if _, got := old.Wait(nil, time.Minute, nil); got != Filled {
		t.Errorf("got %d", got)
	}
	begin(t, flights, testNow+61*second, "k", Follow) // the lost one does not end the next
	next.Refuse(0)
	if _, got := follow.Wait(nil, time.Minute, nil); got != OnItsOwn {
		t.Errorf("got %d", got)
	}
}

// 1,000 misses at once, with leaders that die, come to one fill.
func TestThousandMissesOneFill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, flights := NewStore(1<<20, 1000), NewFlights(100, 100, int64(time.Minute))
		var calls, deaths, served atomic.Int64
		filled := entry(t, "k", 5)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				for range 20 {
					if _, ok := s.Get(testNow, []byte("k"), nil); ok {
						served.Add(1)
						return
					}
					fl, role := flights.Begin(testNow, []byte("k"))
					if role == Follow {
						switch _, outcome := fl.Wait(nil, time.Minute, nil); outcome {
						case Filled:
							served.Add(1)
							return
						case Again:
							continue
						}
						t.Error("waited in vain")
						return
					}
					if _, ok := s.Get(testNow, []byte("k"), nil); ok {
						fl.Abort()
						served.Add(1)
						return
					}
					time.Sleep(time.Second) // the backend
					if deaths.Add(1) <= 3 {
						fl.Abort()
						return
					}
					calls.Add(1)
					s.Put(testNow, filled)
					fl.Fill(filled)
					served.Add(1)
					return
				}
				t.Error("no end")
			})
		}
		wg.Wait()
		if calls.Load() != 1 || served.Load() != 997 || flights.InFlight() != 0 {
			t.Errorf("%d calls, %d served, %d in flight", calls.Load(), served.Load(), flights.InFlight())
		}
	})
}
