// Package kubernetestest speaks the part of the API of Kubernetes that lists and watches EndpointSlices, for tests: pages
// with continue, resource versions, bookmarks, and 410 Gone for versions that are forgotten.
package kubernetestest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Slice is an EndpointSlice.
type Slice struct {
	Name      string
	Service   string
	Ports     map[string]int
	Endpoints []Endpoint
}

// Endpoint is a pod of a slice.
type Endpoint struct {
	Address     string
	Ready       bool
	Terminating bool
	Zone        string
}

// Server is an API server with one namespace. Close and Restart are its death and its return.
type Server struct {
	URL   string
	Token string // that is asked for

	t         testing.TB
	namespace string
	server    *http.Server

	mu       sync.Mutex
	page     int // slices of a page, whatever limit says
	version  int
	oldest   int // versions before it are forgotten
	slices   map[string]Slice
	versions map[string]int
	log      []event
	changed  chan struct{}
	requests []string
	watches  int
	gone     int
}

type event struct {
	version int
	kind    string
	object  map[string]any
	service string
}

// Start starts a server.
func Start(t testing.TB, namespace, token string) *Server {
	t.Helper()
	s := &Server{t: t, namespace: namespace, Token: token, page: 500, version: 100, oldest: 100, slices: map[string]Slice{}, versions: map[string]int{}, changed: make(chan struct{})}
	s.listen("127.0.0.1:0")
	t.Cleanup(s.Close)
	return s
}

func (s *Server) listen(address string) {
	s.t.Helper()
	var l net.Listener
	var err error
	for range 100 {
		if l, err = net.Listen("tcp", address); err == nil { //nolint:noctx // nothing can cancel it
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.URL = "http://" + l.Addr().String()
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.server.Serve(l) }()
}

// Close cuts all connections and listens no more.
func (s *Server) Close() { _ = s.server.Close() }

// Restart listens again at the same address.
func (s *Server) Restart() {
	s.t.Helper()
	s.listen(strings.TrimPrefix(s.URL, "http://"))
}

// PageSize bounds the slices of one page.
func (s *Server) PageSize(n int) { s.change(func() { s.page = n }) }

// Put makes a slice, or replaces it.
func (s *Server) Put(sl Slice) {
	s.change(func() {
		kind := "MODIFIED"
		if _, ok := s.slices[sl.Name]; !ok {
			kind = "ADDED"
		}
		s.version++
		s.slices[sl.Name], s.versions[sl.Name] = sl, s.version
		s.log = append(s.log, event{s.version, kind, object(sl, s.version), sl.Service})
	})
}

// Delete removes a slice.
func (s *Server) Delete(name string) {
	s.change(func() {
		sl := s.slices[name]
		delete(s.slices, name)
		s.version++
		s.log = append(s.log, event{s.version, "DELETED", object(sl, s.version), sl.Service})
	})
}

// Advance moves the version on by changes of other things, and sends a bookmark.
func (s *Server) Advance(n int) {
	s.change(func() {
		s.version += n
		s.log = append(s.log, event{s.version, "BOOKMARK", map[string]any{
			"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)},
		}, ""})
	})
}

// Forget has the server forget all versions before the present one.
func (s *Server) Forget() { s.change(func() { s.oldest, s.log = s.version, nil }) }

// ExpireWatches ends all watches with an event of 410 Gone.
func (s *Server) ExpireWatches() { s.change(func() { s.gone++; s.oldest, s.log = s.version, nil }) }

func (s *Server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Requests are the queries that were asked.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Watches is how many watches are open.
func (s *Server) Watches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches
}

func object(sl Slice, version int) map[string]any {
	endpoints, ports := []map[string]any{}, []map[string]any{}
	for _, e := range sl.Endpoints {
		endpoints = append(endpoints, map[string]any{
			"addresses":  []string{e.Address},
			"conditions": map[string]any{"ready": e.Ready, "serving": e.Ready || e.Terminating, "terminating": e.Terminating},
			"zone":       e.Zone,
		})
	}
	for name, port := range sl.Ports {
		ports = append(ports, map[string]any{"name": name, "port": port, "protocol": "TCP"})
	}
	return map[string]any{
		"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
		"metadata":  map[string]any{"name": sl.Name, "resourceVersion": strconv.Itoa(version), "labels": map[string]any{"kubernetes.io/service-name": sl.Service}},
		"endpoints": endpoints, "ports": ports,
	}
}

func fail(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(status(code, reason, message))
}

func status(code int, reason, message string) map[string]any {
	return map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}
}

// ServeHTTP answers GET of the namespace's EndpointSlices.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	s.requests = append(s.requests, r.URL.RawQuery)
	s.mu.Unlock()
	service, labelled := strings.CutPrefix(q.Get("labelSelector"), "kubernetes.io/service-name=")
	switch {
	case s.Token != "" && r.Header.Get("Authorization") != "Bearer "+s.Token:
		fail(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
	case r.URL.Path != "/apis/discovery.k8s.io/v1/namespaces/"+s.namespace+"/endpointslices" || !labelled:
		fail(w, http.StatusNotFound, "NotFound", "the server could not find the requested resource")
	case q.Get("watch") == "1":
		s.watch(w, r, service)
	default:
		s.list(w, q.Get("limit"), q.Get("continue"), service)
	}
}

func (s *Server) list(w http.ResponseWriter, limit, from, service string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, _ := strconv.Atoi(limit)
	if n <= 0 || n > s.page {
		n = s.page
	}
	at, version := "", s.version
	if from != "" {
		if _, err := fmt.Sscanf(from, "%d/%s", &version, &at); err != nil || version < s.oldest {
			fail(w, http.StatusGone, "Expired", "The provided continue parameter is too old")
			return
		}
	}
	var names []string
	for name, sl := range s.slices {
		if sl.Service == service && name > at {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	metadata := map[string]any{"resourceVersion": strconv.Itoa(version)}
	if len(names) > n {
		names = names[:n]
		metadata["continue"] = fmt.Sprintf("%d/%s", version, names[n-1])
	}
	items := []map[string]any{}
	for _, name := range names {
		items = append(items, object(s.slices[name], s.versions[name]))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata, "items": items})
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, service string) {
	q := r.URL.Query()
	at, err := strconv.Atoi(q.Get("resourceVersion"))
	seconds, _ := strconv.Atoi(q.Get("timeoutSeconds"))
	if err != nil || seconds <= 0 {
		fail(w, http.StatusBadRequest, "BadRequest", "invalid resource version or timeout")
		return
	}
	over := time.NewTimer(time.Duration(seconds) * time.Second)
	defer over.Stop()
	s.mu.Lock()
	s.watches++
	gone, old := s.gone, at < s.oldest
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.watches--
		s.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	expired := func() {
		_ = out.Encode(map[string]any{"type": "ERROR", "object": status(http.StatusGone, "Expired", fmt.Sprintf("too old resource version: %d", at))})
	}
	if old {
		// The server says so in the stream, with status 200, or as the status: both are seen.
		if at%2 == 0 {
			fail(w, http.StatusGone, "Expired", fmt.Sprintf("too old resource version: %d", at))
			return
		}
		expired()
		return
	}
	for {
		s.mu.Lock()
		changed := s.changed
		var due []event
		for _, e := range s.log {
			if e.version > at && (e.service == service || e.kind == "BOOKMARK" && q.Get("allowWatchBookmarks") == "true") {
				due = append(due, e)
			}
		}
		ended := s.gone != gone
		s.mu.Unlock()
		if ended {
			expired()
			return
		}
		for _, e := range due {
			_ = out.Encode(map[string]any{"type": e.kind, "object": e.object})
			at = e.version
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-changed:
		case <-over.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}
