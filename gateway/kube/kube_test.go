package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// asked counts the questions of one kind that a server was asked, with the time of each.
type asked struct {
	mu    sync.Mutex
	times []time.Time
}

func (a *asked) now() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times = append(a.times, time.Now())
	return len(a.times)
}

// closest is the shortest time between a question and the one before, of those from the first on.
func (a *asked) closest(first int) (d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d = time.Hour
	for i := first; i < len(a.times); i++ {
		d = min(d, a.times[i].Sub(a.times[i-1]))
	}
	return d
}

// A server that says something and ends each watch is not asked for the next one without a pause.
func TestWatchThatEndsAtOnceIsPaced(t *testing.T) {
	var watches asked
	const wanted = 3
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") == "" {
			_, _ = fmt.Fprint(w, `{"metadata":{"resourceVersion":"7"},"items":[]}`)
			return
		}
		_, _ = fmt.Fprintln(w, `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8"}}}`)
		if watches.now() == wanted {
			cancel()
		}
	}))
	defer s.Close()
	c, err := Connect(Settings{Server: s.URL, TokenFile: "off"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := Watch(ctx, c, Objects{Group: "g", Version: "v1", Resource: "things"}, func(map[Name]*struct{}) {}); ctx.Err() == nil {
		t.Fatal(err)
	}
	if d := watches.closest(1); d < pace*9/10 {
		t.Errorf("a watch began %v after the one before", d)
	}
}

// A server that forgets every version at once is listed ever more seldom.
func TestListsOfAForgetfulServerBecomeRare(t *testing.T) {
	var lists asked
	const wanted = 4
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") != "" {
			w.WriteHeader(http.StatusGone)
			return
		}
		_, _ = fmt.Fprint(w, `{"metadata":{"resourceVersion":"7"},"items":[]}`)
		if lists.now() == wanted {
			cancel()
		}
	}))
	defer s.Close()
	c, err := Connect(Settings{Server: s.URL, TokenFile: "off"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := Watch(ctx, c, Objects{Group: "g", Version: "v1", Resource: "things"}, func(map[Name]*struct{}) {}); ctx.Err() == nil {
		t.Fatal(err)
	}
	if d := lists.closest(wanted - 1); d < 3*firstPause {
		t.Errorf("the list number %d came %v after the one before", wanted, d)
	}
}
