package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// watchUntil watches what a server answers until that says that this was the last question, and returns how long that took.
func watchUntil(t *testing.T, answer func(w http.ResponseWriter, watching bool) (last bool)) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer(w, r.URL.Query().Get("watch") != "") {
			cancel()
		}
	}))
	defer s.Close()
	c, err := Connect(Settings{Server: s.URL, TokenFile: "off"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if err := Watch(ctx, c, Objects{Group: "g", Version: "v1", Resource: "things"}, func(map[Name]*struct{}) {}); ctx.Err() == nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

const noObjects = `{"metadata":{"resourceVersion":"7"},"items":[]}`

// A server that says something and ends each watch is not asked for the next one without a pause.
func TestWatchThatEndsAtOnceIsPaced(t *testing.T) {
	watches := 0 // Each is asked for when the one before has ended.
	took := watchUntil(t, func(w http.ResponseWriter, watching bool) bool {
		if !watching {
			_, _ = fmt.Fprint(w, noObjects)
			return false
		}
		_, _ = fmt.Fprintln(w, `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8"}}}`)
		watches++
		return watches == 3
	})
	if took < 2*pace {
		t.Errorf("three watches took %v", took)
	}
}

// A server that forgets every version at once is listed ever more seldom.
func TestListsOfAForgetfulServerBecomeRare(t *testing.T) {
	lists := 0
	took := watchUntil(t, func(w http.ResponseWriter, watching bool) bool {
		if watching {
			w.WriteHeader(http.StatusGone)
			return false
		}
		_, _ = fmt.Fprint(w, noObjects)
		lists++
		return lists == 4
	})
	if took < (1+2+4)*firstPause {
		t.Errorf("four lists took %v", took)
	}
}
