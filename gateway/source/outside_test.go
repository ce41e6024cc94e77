package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/config"
)

// teller is a watch that tells what the test has it tell.
type teller struct {
	name string
	told chan any // a set of texts by name, or an error
}

func newTeller(name string) *teller { return &teller{name, make(chan any)} }

func (w *teller) watch(identity string) Watch {
	return Watch{Name: w.name, Source: "test", Identity: identity, Run: func(ctx context.Context, tell func(map[string]config.Object)) error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case v := <-w.told:
				if err, ok := v.(error); ok {
					return err
				}
				set := make(map[string]config.Object)
				for name, text := range v.(map[string]string) {
					set[name] = config.Object{Source: "test", Watch: w.name, Data: []byte(text)}
				}
				tell(set)
			}
		}
	}}
}

func (o *Outside) text() string {
	all := o.Objects()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s=%s ", name, all[name].Data)
	}
	return strings.TrimSpace(b.String())
}

func TestOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := NewOutside(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var changes atomic.Int64
		go o.Follow(ctx, func() { changes.Add(1) })
		want := func(text string, changed int64) {
			t.Helper()
			time.Sleep(2 * time.Second) // of the bubble
			synctest.Wait()
			if got := o.text(); got != text || changes.Load() != changed {
				t.Errorf("%s after %d changes, want %s after %d", got, changes.Load(), text, changed)
			}
		}
		a, b := newTeller("a"), newTeller("b")
		o.Seed(map[string]config.Object{"x": {Source: "test", Watch: "a", Data: []byte("old")}, "gone": {Source: "test", Watch: "c"}})
		if n := o.Configure([]Watch{a.watch("1"), b.watch("1")}); n != 2 {
			t.Errorf("%d are new", n)
		}
		want("x=old", 0)
		if st := o.Status(); !st[0].Stored || st[1].Stored || o.Age("a") != 2*time.Second {
			t.Errorf("%+v", st)
		}
		// The same is no change; a burst is one.
		a.told <- map[string]string{"x": "old"}
		want("x=old", 0)
		for n := range 5 {
			a.told <- map[string]string{"x": fmt.Sprint(n)}
			b.told <- map[string]string{"y": "1"}
		}
		want("x=4 y=1", 1)
		// Changes without an end are told all the same.
		for n := range 60 {
			a.told <- map[string]string{"x": fmt.Sprint(n)}
			time.Sleep(50 * time.Millisecond)
		}
		if n := changes.Load(); n < 3 || n > 5 {
			t.Errorf("told %d times in 3 s", n)
		}
		time.Sleep(2 * time.Second)
		before := changes.Load()
		want("x=59 y=1", before)
		// A failure changes nothing; too much is one.
		a.told <- errors.New("is gone")
		want("x=59 y=1", before)
		if st := o.Status(); !st[0].Failing || st[0].LastError != "is gone" || st[1].Failing || o.Age("a") == 0 || o.Age("b") != 0 {
			t.Errorf("%+v", st)
		}
		many := make(map[string]string)
		for n := range maxObjects + 1 {
			many[fmt.Sprint(n)] = ""
		}
		b.told <- many
		want("x=59 y=1", before)
		// Other settings begin with what there was.
		if n := o.Configure([]Watch{a.watch("2"), b.watch("1")}); n != 1 {
			t.Errorf("%d are new", n)
		}
		want("x=59 y=1", before)
		a.told <- map[string]string{"x": "60"}
		want("x=60 y=1", before+1)
		o.Configure([]Watch{b.watch("1")})
		want("y=1", before+1)
		o.Close()
		cancel()
	})
}

// One object that changed all the time had a gateway with many routes compile them without end.
func TestChangesLeaveTimeForTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := NewOutside(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var changes atomic.Int64
		const takes = 2 * time.Second
		go o.Follow(ctx, func() { time.Sleep(takes); changes.Add(1) })
		a := newTeller("a")
		o.Configure([]Watch{a.watch("1")})
		const n = 400
		for i := range n {
			a.told <- map[string]string{"x": fmt.Sprint(i)}
			time.Sleep(100 * time.Millisecond)
		}
		// 40 s, of which each change takes 2 s and rests 6 s.
		if got := changes.Load(); got < 4 || got > 6 {
			t.Errorf("%d changes of 2 s in 40 s", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := o.text(); got != fmt.Sprint("x=", n-1) {
			t.Errorf("%s", got)
		}
		// One that comes alone is not kept waiting.
		before := changes.Load()
		a.told <- map[string]string{"x": "last"}
		time.Sleep(o.quiet + takes + time.Millisecond)
		synctest.Wait()
		if changes.Load() != before+1 {
			t.Error("a change after a long rest has to wait")
		}
		o.Close()
		cancel()
	})
}

// Of two objects without an age the one that was heard of first is the older one, also after a restart.
func TestAgeOfObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := NewOutside(slog.New(slog.DiscardHandler))
		a := newTeller("a")
		o.Seed(map[string]config.Object{"seeded": {Source: "test", Watch: "a", Since: "2020-01-01T00:00:00Z"}})
		o.Configure([]Watch{a.watch("1")})
		began := time.Now().UTC().Format(time.RFC3339)
		a.told <- map[string]string{"seeded": "new", "first": "1"}
		time.Sleep(time.Hour)
		a.told <- map[string]string{"seeded": "new", "first": "2", "a-later": "1"}
		synctest.Wait()
		all := o.Objects()
		if s := all["seeded"].Since; s != "2020-01-01T00:00:00Z" {
			t.Error(s)
		}
		if s := all["first"].Since; s != began {
			t.Errorf("%s, want %s", s, began)
		}
		if s := all["a-later"].Since; s <= began {
			t.Errorf("%s is not after %s", s, began)
		}
		o.Close()
	})
}
