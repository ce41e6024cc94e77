package usage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func sample(consumer string, status int, took time.Duration) *Sample {
	return &Sample{Consumer: consumer, Route: "users", Status: status, Duration: took, BytesIn: 1, BytesOut: 10, Ended: 1_800_000_000}
}

// sums adds up what was collected, by key.
func sums(batches ...*Batch) map[Key]Counts {
	all := make(map[Key]Counts)
	for _, b := range batches {
		for i := range b.Rows {
			c := all[b.Rows[i].Key]
			c.Add(&b.Rows[i].Counts)
			all[b.Rows[i].Key] = c
		}
	}
	return all
}

func TestCount(t *testing.T) {
	c := NewCounter()
	for range 3 {
		c.Count(sample("alice", 200, time.Millisecond))
	}
	c.Count(sample("alice", 503, time.Second))
	s := sample("", 401, time.Microsecond)
	s.Reason, s.Tenant, s.Version = "credential_missing", "acme", "2"
	c.Count(s)
	c.Count(&Sample{Subject: []byte("4711"), Route: "users", Status: 999, BytesIn: -1, Ended: 1_800_000_059})
	c.Count(&Sample{Subject: bytes.Repeat([]byte("x"), maxSubject+1), Route: "users", Status: 204, Ended: 1_800_000_061})
	b := c.Collect()
	got := sums(b)
	want := map[Key]Counts{
		{"", "alice", "users", ""}:        {Classes: [6]uint64{2: 3, 5: 1}, BytesIn: 4, BytesOut: 40},
		{"acme", "", "users", "2"}:        {Classes: [6]uint64{4: 1}, Denied: 1, BytesIn: 1, BytesOut: 10},
		{"", "subject:4711", "users", ""}: {Classes: [6]uint64{0: 1}},
		{"", "other", "users", ""}:        {Classes: [6]uint64{2: 1}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || b.Requests() != 7 {
		t.Errorf("%v\nwant %v", got, want)
	}
	if b.Denied[Denial{"users", "credential_missing"}] != 1 {
		t.Error(b.Denied)
	}
	for _, r := range b.Rows {
		if want := int64(1_800_000_000); r.Consumer == Other {
			if r.Minute != want+60 {
				t.Error(r)
			}
		} else if r.Minute != want {
			t.Error(r)
		}
	}
	if again := c.Collect(); len(again.Rows) > 0 {
		t.Error("collected twice:", again.Rows)
	}
}

// What is near each other is counted apart all the same.
func TestNear(t *testing.T) {
	c := NewCounter()
	var all []*Sample
	for _, s := range []Sample{
		{}, {Route: "a"}, {Tenant: "a"}, {Version: "a"}, {Consumer: "a"}, {Consumer: "b"}, {Consumer: "subject"}, {Subject: []byte("a")}, {Subject: []byte("b")},
		{Subject: []byte("1-with-the-same-end")}, {Subject: []byte("2-with-the-same-end")}, {Consumer: "1-with-the-same-end"},
		{Subject: []byte("1-with-the-same-end"), Route: "a"}, {Subject: []byte("1-with-the-same-end"), Consumer: "c"},
	} {
		s.Status, s.Ended = 200, 1_800_000_000
		all = append(all, &s)
	}
	for range 3 {
		for _, s := range all {
			c.Count(s)
			c.Count(s)
		}
	}
	got := sums(c.Collect())
	for k, n := range got {
		if n.Classes[2] != 6 {
			t.Errorf("%+v: %d", k, n.Classes[2])
		}
	}
	if len(got) != len(all) {
		t.Errorf("%d keys, want %d: %v", len(got), len(all), got)
	}
}

// Requests around the end of a minute count in their own, whenever it is that somebody collects.
func TestMinutes(t *testing.T) {
	c := NewCounter()
	for i := range int64(600) {
		s := sample("alice", 200, time.Millisecond)
		s.Ended += i
		c.Count(s)
	}
	b := c.Collect()
	if len(b.Rows) != 10 {
		t.Fatal(len(b.Rows))
	}
	for _, r := range b.Rows {
		if r.Requests() != 60 {
			t.Error(r.Minute, r.Requests())
		}
	}
}

func TestBound(t *testing.T) {
	c := NewCounter()
	c.Limit(100)
	for i := range 10_000 {
		c.Count(sample(fmt.Sprint("c", i), 200, 0))
		s := sample(fmt.Sprint("c", i), 200, 0)
		s.Route = fmt.Sprint("r", i)
		s.Reason = fmt.Sprint(i)
		c.Count(s)
	}
	b := c.Collect()
	if most := (200 + 2) * len(c.shards); len(b.Rows) > most || b.Requests() != 20_000 {
		t.Errorf("%d rows, at most %d; %d requests", len(b.Rows), most, b.Requests())
	}
	denied := uint64(0)
	for _, n := range b.Denied {
		denied += n
	}
	if len(b.Denied) > (maxDenials+1)*len(c.shards) || denied != 10_000 {
		t.Error(len(b.Denied), denied)
	}
	// Who is not seen any more makes room.
	for range idleRounds + 2 {
		c.Collect()
	}
	again := []string{"new", "c0", "c1", "c99"} // the last were there before
	for _, name := range again {
		c.Count(sample(name, 200, 0))
	}
	got := sums(c.Collect())
	for _, name := range again {
		if got[Key{"", name, "users", ""}].Classes[2] != 1 {
			t.Error(name, got)
		}
	}
}

func TestConcurrently(t *testing.T) {
	c := NewCounter()
	var wg, collecting sync.WaitGroup
	stop := make(chan struct{})
	var batches []*Batch
	collecting.Go(func() {
		for {
			batches = append(batches, c.Collect())
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	const workers, each = 4, 20_000
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				s := sample(fmt.Sprint("c", i%50), 200, time.Duration(i)*time.Microsecond)
				s.Ended += int64(i / 100)
				s.Tenant = fmt.Sprint("t", w%2)
				c.Count(s)
			}
		})
	}
	wg.Wait()
	close(stop)
	collecting.Wait()
	batches = append(batches, c.Collect())
	total, timed := uint64(0), uint64(0)
	for _, b := range batches {
		for i := range b.Rows {
			total += b.Rows[i].Requests()
			var l Latency
			if err := l.Merge(b.Rows[i].Latency); err != nil {
				t.Fatal(err)
			}
			for _, n := range l {
				timed += n
			}
		}
	}
	if total != workers*each || timed != total {
		t.Errorf("%d requests, %d latencies, want %d", total, timed, workers*each)
	}
}

func TestQuantile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var l Latency
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(r.ExpFloat64() * float64(20*time.Millisecond))
		all = append(all, d)
		l[bucketOf(d)]++
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.95, 0.99, 1} {
		want := all[min(len(all)-1, max(0, int(q*float64(len(all)))-1))]
		if got := l.Quantile(q); float64(got-want) > 0.0625*float64(want)+1000 || float64(want-got) > 0.0625*float64(want)+1000 {
			t.Errorf("%v: %v, want %v", q, got, want)
		}
	}
	if (&Latency{}).Quantile(0.5) != 0 || bucketOf(-time.Second) != 0 || bucketOf(time.Hour) != buckets-1 || bucketOf(1<<63-1) != buckets-1 {
		t.Error("bounds")
	}
	for i := range buckets {
		if got := bucketOf(middle(i)); got != i {
			t.Errorf("the middle of bucket %d is in %d", i, got)
		}
	}
	double, err := MergeEncoded(l.Encode(), l.Encode())
	if err != nil {
		t.Fatal(err)
	}
	var sum Latency
	if err := sum.Merge(double); err != nil || sum[bucketOf(all[5000])] != 2*l[bucketOf(all[5000])] {
		t.Error(err)
	}
	for _, bad := range [][]byte{{0, 1}, {1}, {255}, {255, 255, 1, 1}, {200, 1, 1, 200, 1, 1}} {
		if err := new(Latency).Merge(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestRecent(t *testing.T) {
	c, now := NewCounter(), time.Unix(1_800_000_000, 0)
	var r Recent
	for i := range 10 {
		for range i + 1 {
			s := sample(fmt.Sprint("c", i), 200, time.Duration(i)*time.Millisecond)
			s.Route, s.Tenant = fmt.Sprint("r", i), []string{"acme", "beta"}[i%2]
			if i == 3 {
				s.Status, s.Reason = 429, "rate_limited"
			}
			c.Count(s)
		}
	}
	r.Add(now, c.Collect())
	top := r.Top(3, "")
	if len(top.Consumers) != 3 || top.Consumers[0].Consumer != "c9" || top.Consumers[0].Requests != 10 || len(top.Slow) != 3 || top.Slow[0].Route != "r9" ||
		len(top.Denied) != 1 || top.Denied[0] != (TopDenial{"r3", "rate_limited", 4}) || !top.Since.Equal(now) {
		t.Errorf("%+v", top)
	}
	// Another tenant sees its own callers alone.
	if top := r.Top(100, "acme"); len(top.Consumers) != 5 || strings.Contains(fmt.Sprint(top), "c9") || len(top.Denied)+len(top.Slow) != 0 {
		t.Errorf("%+v", top)
	}
	// Old ones are forgotten.
	for i := range recentSlots {
		r.Add(now.Add(time.Duration(i+1)*slotTime), c.Collect())
	}
	if top := r.Top(3, ""); len(top.Consumers) != 0 {
		t.Errorf("%+v", top)
	}
}

func TestCountDoesNotAllocate(t *testing.T) {
	c := NewCounter()
	s := sample("alice", 200, time.Millisecond)
	subject := &Sample{Subject: []byte("somebody"), Route: "users", Status: 403, Reason: "denied"}
	once := func() {
		c.Count(s)
		c.Count(subject)
	}
	if n := testing.AllocsPerRun(10_000, once); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCount(b *testing.B) {
	c := NewCounter()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		s := sample("alice", 200, time.Millisecond)
		for pb.Next() {
			c.Count(s)
		}
	})
}
