package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/ledger/postgrestest"
	"sluice/gateway/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is the beginning of an hour, some hours into a day.
var noon = time.Date(2027, 1, 15, 12, 0, 0, 0, time.UTC)

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

type store struct {
	t testing.TB
	o Options
	c *clock
}

func (s *store) open() *Ledger {
	s.t.Helper()
	l, err := Open(s.o)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

func (s *store) settle(l *Ledger) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	if err := l.Settle(ctx); err != nil {
		s.t.Fatal(err)
	}
}

func newStore(t testing.TB) *store {
	c := &clock{at: noon.Add(10 * time.Minute)}
	return &store{t, Options{Instance: "gw-1", Log: slog.New(slog.DiscardHandler), Now: c.now, Retention: [3]time.Duration{48 * time.Hour, 90 * 24 * time.Hour, 1095 * 24 * time.Hour}}, c}
}

// both runs a test with each of the two databases.
func both(t *testing.T, f func(t *testing.T, s *store)) {
	t.Run("sqlite", func(t *testing.T) {
		s := newStore(t)
		s.o.Path = filepath.Join(t.TempDir(), "sub folder", "usage.db")
		f(t, s)
	})
	t.Run("postgres", func(t *testing.T) {
		s := newStore(t)
		s.o.DSN = postgrestest.Start(t).DSN()
		f(t, s)
	})
}

// row is n requests of a consumer that each took a time.
func row(consumer string, at time.Time, n uint64, took time.Duration) usage.Row {
	c := usage.NewCounter()
	c.Count(&usage.Sample{Consumer: consumer, Route: "users", Tenant: "acme", Status: 200, BytesIn: 1, BytesOut: 2, Duration: took, Ended: at.Unix()})
	r := c.Collect().Rows[0]
	one := r
	for range n - 1 {
		r.Add(&one.Counts)
		r.Latency, _ = usage.MergeEncoded(r.Latency, one.Latency)
	}
	return r
}

func ask(t *testing.T, l *Ledger, q Query) []*Usage {
	t.Helper()
	if q.From.IsZero() {
		q.From, q.To = noon.Add(-24*time.Hour), noon.Add(24*time.Hour)
	}
	all, err := l.Query(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRollUp(t *testing.T) {
	both(t, func(t *testing.T, s *store) {
		l := s.open()
		l.Add([]usage.Row{row("alice", noon, 3, time.Millisecond), row("bob", noon, 1, time.Millisecond)})
		l.Add([]usage.Row{row("alice", noon.Add(30*time.Second), 2, time.Second), row("alice", noon.Add(time.Minute), 4, time.Millisecond)})
		l.Add([]usage.Row{row("alice", noon.Add(-time.Minute), 5, time.Millisecond), row("o'; DROP TABLE sluice_usage; --", noon, 1, 0)})
		s.settle(l)
		f := func(q Query, want ...string) []*Usage {
			t.Helper()
			var got []string
			all := ask(t, l, q)
			for _, u := range all {
				got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %d", u.At.Format("15:04"), u.Consumer, u.Requests())))
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%+v: %q, want %q", q, got, want)
			}
			return all
		}
		alice, by := "alice", []string{"consumer"}
		all := f(Query{Step: Minute, Consumer: &alice, By: by}, "11:59 alice 5", "12:00 alice 5", "12:01 alice 4")
		if u := all[1]; u.BytesIn != 5 || u.BytesOut != 10 || u.Latency.Quantile(0.5) > 2*time.Millisecond || u.Latency.Quantile(0.9) < 900*time.Millisecond {
			t.Errorf("%+v, p50 %v, p90 %v", u.Counts, u.Latency.Quantile(0.5), u.Latency.Quantile(0.9))
		}
		f(Query{Step: Hour, Consumer: &alice, By: by}, "11:00 alice 5", "12:00 alice 9")
		f(Query{Step: Day}, "00:00  16")
		f(Query{Step: Total, By: by}, "12:00 alice 14", "12:00 bob 1", "12:00 o'; DROP TABLE sluice_usage; -- 1")
		f(Query{Step: Total, From: noon, To: noon.Add(time.Minute)}, "12:00  7")
		f(Query{Step: Total, From: noon, To: noon.Add(time.Hour)}, "12:00  11")
		nobody := "nobody"
		f(Query{Step: Total, Tenant: &nobody})
		f(Query{Step: Hour, From: noon.Add(10 * time.Minute), To: noon.Add(time.Hour)}, "12:00  11")
		l.Close()
		l = s.open()
		defer l.Close()
		f(Query{Step: Day}, "00:00  16")
		if s.o.Path != "" {
			if info, err := os.Stat(s.o.Path); err != nil || info.Mode().Perm() != 0o600 {
				t.Error(info.Mode(), err)
			}
		}
	})
}

// The answer to a commit may be lost: a batch that is written again is not counted again.
func TestOnce(t *testing.T) {
	both(t, func(t *testing.T, s *store) {
		l := s.open()
		defer l.Close()
		l.Add([]usage.Row{row("alice", noon, 1, 0)})
		s.settle(l)
		b := &batch{seq: 7, rows: []usage.Row{row("alice", noon, 2, 0)}, took: s.c.now()}
		for range 3 {
			if err := l.apply(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		for step := range stepSeconds {
			if all := ask(t, l, Query{Step: step}); len(all) != 1 || all[0].Requests() != 3 {
				t.Errorf("step %d: %+v", step, all)
			}
		}
	})
}

// Gateways that are taken for the same one add to the same rows; nothing of either is lost.
func TestSameInstance(t *testing.T) {
	both(t, func(t *testing.T, s *store) {
		var wg sync.WaitGroup
		for range 2 {
			l := s.open()
			defer l.Close()
			wg.Go(func() {
				for range 20 {
					l.Add([]usage.Row{row("alice", noon, 1, time.Millisecond), row("bob", noon, 1, time.Millisecond)})
				}
				s.settle(l)
			})
		}
		wg.Wait()
		l := s.open()
		defer l.Close()
		timed := uint64(0)
		all := ask(t, l, Query{Step: Total})
		for _, n := range all[0].Latency {
			timed += n
		}
		if all[0].Requests() != 80 || timed != 80 {
			t.Errorf("%d requests, %d latencies, want 80", all[0].Requests(), timed)
		}
	})
}

func TestGaps(t *testing.T) {
	both(t, func(t *testing.T, s *store) {
		gaps := func(l *Ledger) []Gap {
			t.Helper()
			all, err := l.Gaps(t.Context(), noon, noon.Add(24*time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		l := s.open()
		l.Add([]usage.Row{row("alice", noon, 1, 0)})
		s.settle(l)
		s.c.advance(time.Minute)
		l.Close()
		s.c.advance(time.Minute)
		killed := s.open()
		killed.Add([]usage.Row{row("alice", noon, 1, 0)})
		s.settle(killed)
		if all := gaps(killed); len(all) != 0 {
			t.Error("a clean end is no gap:", all)
		}
		// What a process that is killed does not do is say that it has ended.
		killed.cancel()
		killed.done.Wait()
		killed.ready = false
		killed.Close()
		s.c.advance(90 * time.Second)
		l = s.open()
		l.Add([]usage.Row{row("alice", noon, 1, 0)})
		s.settle(l)
		want := []Gap{{"gw-1", noon.Add(12*time.Minute - time.Second), noon.Add(13*time.Minute + 30*time.Second)}}
		if all := gaps(l); fmt.Sprint(all) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", all, want)
		}
		l.Close()
		// Another gateway on the same store is no end of this one.
		s.o.Instance = "gw-2"
		l = s.open()
		defer l.Close()
		l.Add(nil)
		s.settle(l)
		if all := gaps(l); len(all) != 1 || all[0].Instance != "gw-1" {
			t.Error(all)
		}
	})
}

// What is lost with a gateway that is killed is told also where it never comes again under its name, as a pod, or comes again
// with a clock that has gone back.
func TestGapWithoutSuccessor(t *testing.T) {
	both(t, func(t *testing.T, s *store) {
		kill := func(instance string) {
			t.Helper()
			s.o.Instance = instance
			l := s.open()
			l.Add([]usage.Row{row("alice", noon, 1, 0)})
			s.settle(l)
			l.cancel()
			l.done.Wait()
			l.ready = false
			l.Close()
		}
		kill("pod-1")
		s.o.Instance = "pod-2"
		s.c.advance(-5 * time.Minute)
		kill("pod-3")
		s.c.advance(-5 * time.Minute)
		s.o.Instance = "pod-3"
		l := s.open()
		defer l.Close()
		l.Add(nil)
		s.settle(l)
		f := func(want ...Gap) {
			t.Helper()
			all, err := l.Gaps(t.Context(), noon.Add(-time.Hour), noon.Add(24*time.Hour))
			if err != nil || fmt.Sprint(all) != fmt.Sprint(want) {
				t.Errorf("%v, want %v: %v", all, want, err)
			}
		}
		pod1 := Gap{"pod-1", noon.Add(10*time.Minute - time.Second), noon.Add(13 * time.Minute)}
		pod3 := Gap{"pod-3", noon.Add(5*time.Minute - time.Second), noon.Add(8 * time.Minute)}
		s.c.advance(8 * time.Minute)
		f() // they may live
		s.c.advance(time.Second)
		f(pod3)
		s.c.advance(5 * time.Minute)
		f(pod3, pod1)
	})
}

func TestRetention(t *testing.T) {
	both(t, func(t *testing.T, s *store) {
		l := s.open()
		defer l.Close()
		l.Add([]usage.Row{row("alice", noon, 1, 0)})
		s.settle(l)
		f := func(after time.Duration, want ...int) {
			t.Helper()
			s.c.advance(after)
			l.Add([]usage.Row{row("bob", s.c.now(), 1, 0)})
			s.settle(l)
			alice := "alice"
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				var got []int
				for step := range stepSeconds {
					got = append(got, len(ask(t, l, Query{Step: step, Consumer: &alice})))
				}
				if fmt.Sprint(got) == fmt.Sprint(want) {
					return
				}
				if time.Now().After(end) {
					t.Fatalf("after %v there are %v, want %v", after, got, want)
				}
			}
		}
		f(time.Hour, 1, 1, 1)
		f(50*time.Hour, 0, 1, 1)
		f(91*24*time.Hour, 0, 0, 1)
		f(1100*24*time.Hour, 0, 0, 0)
	})
}

// While PostgreSQL is gone usage waits, and is whole afterwards.
func TestStoreGone(t *testing.T) {
	pg := postgrestest.Start(t)
	s := newStore(t)
	s.o.DSN = pg.DSN()
	l := s.open()
	defer l.Close()
	l.Add([]usage.Row{row("alice", noon, 1, 0)})
	s.settle(l)
	pg.Stop()
	for i := range 10 {
		l.Add([]usage.Row{row("alice", noon.Add(time.Duration(i)*time.Minute), 1, 0)})
	}
	once(t, "the failure is told", func() bool { _, err := l.Waiting(); return err != nil })
	if rows, _ := l.Waiting(); rows != 10 {
		t.Error(rows)
	}
	if _, err := l.Query(t.Context(), Query{From: noon, To: noon.Add(time.Hour)}); err == nil {
		t.Error("a store that is gone answered")
	}
	pg.Run()
	s.settle(l)
	if all := ask(t, l, Query{Step: Day}); all[0].Requests() != 11 {
		t.Error(all[0].Requests())
	}
}

// What waits has a bound; what gets coarser for it is counted all the same.
func TestBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	s := newStore(t)
	s.o.DSN, s.o.MostWaiting = "postgres://sluice@"+addr+"/postgres?sslmode=disable", 100
	lost := uint64(0)
	s.o.Lost = func(n uint64) { lost += n }
	l := s.open()
	total := uint64(0)
	for i := range 50 {
		var rows []usage.Row
		for j := range 10 {
			rows = append(rows, row(fmt.Sprint("c", i*10+j), noon.Add(time.Duration(i)*time.Minute), 1, time.Millisecond))
			total++
		}
		l.Add(rows)
		if n, _ := l.Waiting(); n > 100+10 {
			t.Fatal("more waits than there is room for:", n)
		}
	}
	l.mu.Lock()
	waiting := uint64(0)
	for _, b := range l.waiting {
		for i := range b.rows {
			waiting += b.rows[i].Requests()
		}
	}
	l.mu.Unlock()
	if waiting != total || lost != 0 {
		t.Errorf("%d requests wait, %d are lost, %d were counted", waiting, lost, total)
	}
	l.Close()
	if lost != total {
		t.Errorf("at the end %d of %d are said to be lost", lost, total)
	}
}

func TestOpenFailure(t *testing.T) {
	s := newStore(t)
	s.o.DSN = "postgres://a:secret@[::1/x"
	if _, err := Open(s.o); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	s.o.DSN = ""
	s.o.Path = filepath.Join(t.TempDir(), "usage.db")
	if err := os.WriteFile(s.o.Path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.o); err == nil || !strings.Contains(err.Error(), "not a database") {
		t.Error(err)
	}
}

func once(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	f := func(b *testing.B, s *store) {
		l := s.open()
		defer l.Close()
		var rows []usage.Row
		for i := range 1000 {
			rows = append(rows, row(fmt.Sprint("consumer-", i), noon, 10, time.Duration(i)*time.Millisecond))
		}
		seq := uint64(1 << 40)
		b.ReportAllocs()
		for b.Loop() {
			seq++
			if err := l.apply(b.Context(), &batch{seq: seq, rows: rows, took: noon}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("sqlite", func(b *testing.B) {
		s := newStore(b)
		s.o.Path = filepath.Join(b.TempDir(), "usage.db")
		f(b, s)
	})
	b.Run("postgres", func(b *testing.B) {
		s := newStore(b)
		s.o.DSN = postgrestest.Start(b).DSN()
		f(b, s)
	})
}

// A question until now has the step that has just begun.
func TestUntilNow(t *testing.T) {
	s := newStore(t)
	s.o.Path = filepath.Join(t.TempDir(), "usage.db")
	l := s.open()
	defer l.Close()
	l.Add([]usage.Row{row("alice", noon, 3, time.Millisecond)})
	s.settle(l)
	for _, step := range []int{Minute, Hour, Total} {
		q := Query{From: noon.Add(-time.Hour), To: noon.Add(time.Nanosecond), Step: step}
		if all := ask(t, l, q); len(all) != 1 || all[0].Requests() != 3 {
			t.Errorf("step %d, within the first second: %v", step, all)
		}
		if q.To = noon; len(ask(t, l, q)) != 0 {
			t.Errorf("step %d: what begins at To is in the answer", step)
		}
	}
}

// A sum over longer than minutes are kept has what is in hours and days alone by now.
func TestTotalBeyondRetention(t *testing.T) {
	s := newStore(t)
	s.o.Path = filepath.Join(t.TempDir(), "usage.db")
	l := s.open()
	l.Add([]usage.Row{row("alice", noon, 3, time.Millisecond)})
	s.settle(l)
	l.Close()
	sum := func(l *Ledger) (n uint64) {
		t.Helper()
		for _, u := range ask(t, l, Query{From: noon.Add(-7 * time.Second), To: s.c.now().Add(time.Nanosecond), Step: Total}) {
			n += u.Requests()
		}
		return n
	}
	for _, after := range []time.Duration{72 * time.Hour, 100 * 24 * time.Hour} { // minutes are gone, then hours too
		s.c.advance(after + 7*time.Second)
		l = s.open()
		l.Add([]usage.Row{row("bob", s.c.now(), 1, time.Millisecond)})
		s.settle(l)
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			step := Minute
			if after > 90*24*time.Hour {
				step = Hour
			}
			alice := "alice"
			if len(ask(t, l, Query{From: noon.Add(-time.Hour), To: noon.Add(time.Hour), Step: step, Consumer: &alice})) == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("what is old is not removed")
			}
		}
		if n := sum(l); n < 4 {
			t.Errorf("after %v: %d requests", after, n)
		}
		l.Close()
	}
}

// Who asks for what was used waits for what was counted before, also where more is always coming; and what a store does not keep up
// with waits in two batches, without being told less of.
func TestSettleWhileMoreComes(t *testing.T) {
	both(t, func(t *testing.T, s *store) {
		l := s.open()
		defer l.Close()
		stop, begun := make(chan struct{}), make(chan struct{})
		var adding sync.WaitGroup
		added := 0
		adding.Go(func() {
			for ; ; added++ {
				select {
				case <-stop:
					return
				default:
					l.Add([]usage.Row{row(fmt.Sprint("c", added%3), noon, 1, time.Millisecond)})
					l.mu.Lock()
					if n := len(l.waiting); n > 2 {
						t.Errorf("%d batches wait", n)
					}
					l.mu.Unlock()
					if added == 100 {
						close(begun)
					}
				}
			}
		})
		<-begun
		for range 5 {
			s.settle(l)
		}
		close(stop)
		adding.Wait()
		s.settle(l)
		if all := ask(t, l, Query{Step: Day}); len(all) != 1 || all[0].Requests() != uint64(added) {
			t.Errorf("%+v, want %d requests", all, added)
		}
		if all := ask(t, l, Query{Step: Day, By: []string{"consumer"}}); len(all) != 3 {
			t.Errorf("%d consumers are told apart", len(all))
		}
	})
}
