// Package consultest speaks the health and catalog API of Consul for tests, as the HTTP API is documented: blocking queries
// with index and wait, X-Consul-Index, passing, tags, tokens.
package consultest

import (
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Instance is one registration of a service.
type Instance struct {
	ID             string
	Address        string // of the service; empty: the node's
	Node           string // address of the node
	Port           int
	Tags           []string
	Status         string // passing, warning, critical
	Passing, Warns int    // weights
}

// Agent is an agent of Consul. Close and Restart are its death and its return.
type Agent struct {
	URL string

	t        testing.TB
	server   *http.Server
	mu       sync.Mutex
	index    uint64
	changed  chan struct{}
	service  string
	token    string
	all      map[string][]Instance // by service
	queries  []string
	blocking int
}

// Start starts an agent with a service, which others may join; token is asked for unless it is empty.
func Start(t testing.TB, service, token string, instances ...Instance) *Agent {
	t.Helper()
	a := &Agent{t: t, service: service, token: token, all: map[string][]Instance{service: instances}, index: 10, changed: make(chan struct{})}
	a.listen("127.0.0.1:0")
	t.Cleanup(a.Close)
	return a
}

func (a *Agent) listen(address string) {
	a.t.Helper()
	var l net.Listener
	var err error
	for range 100 {
		if l, err = net.Listen("tcp", address); err == nil { //nolint:noctx // nothing can cancel it
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.URL = "http://" + l.Addr().String()
	server := &http.Server{Handler: a, ReadHeaderTimeout: time.Minute}
	a.server = server // another one after Restart
	go func() { _ = server.Serve(l) }()
}

// Close cuts all connections and listens no more.
func (a *Agent) Close() { _ = a.server.Close() }

// Restart listens again at the same address.
func (a *Agent) Restart() {
	a.t.Helper()
	a.listen(strings.TrimPrefix(a.URL, "http://"))
}

// Set replaces the instances.
func (a *Agent) Set(instances ...Instance) { a.SetService(a.service, instances...) }

// SetService replaces the instances of a service; without any it is gone.
func (a *Agent) SetService(service string, instances ...Instance) {
	a.change(func() { a.all[service] = instances; a.index++ })
}

// Touch moves the index on without a change, as a change of another service can.
func (a *Agent) Touch() { a.change(func() { a.index++ }) }

// Reset makes the index go back, as a restored store does.
func (a *Agent) Reset(instances ...Instance) {
	a.change(func() { a.all[a.service], a.index = instances, 3 })
}

func (a *Agent) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

// Queries are the raw queries that were asked.
func (a *Agent) Queries() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.queries)
}

// Blocking is how many questions wait for a change.
func (a *Agent) Blocking() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocking
}

// ServeHTTP answers /v1/health/service/NAME and /v1/catalog/services.
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	a.mu.Lock()
	a.queries = append(a.queries, r.URL.RawQuery)
	token := a.token
	a.mu.Unlock()
	if token != "" && r.Header.Get("X-Consul-Token") != token {
		http.Error(w, "Permission denied: token lacks permission 'service:read'", http.StatusForbidden)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/v1/health/service/")
	if !ok && r.URL.Path != "/v1/catalog/services" {
		http.NotFound(w, r)
		return
	}
	index, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	wait, err := time.ParseDuration(q.Get("wait"))
	if err != nil {
		wait = 5 * time.Minute
	}
	over := time.NewTimer(wait + wait/16)
	defer over.Stop()
	a.mu.Lock()
	// It blocks until the index is beyond the one given; one that is ahead of the store's is answered at once.
	for index > 0 && a.index == index {
		changed := a.changed
		a.blocking++
		a.mu.Unlock()
		var ended bool
		select {
		case <-changed:
		case <-over.C:
			ended = true
		case <-r.Context().Done():
			a.mu.Lock()
			a.blocking--
			a.mu.Unlock()
			return
		}
		a.mu.Lock()
		a.blocking--
		if ended {
			break
		}
	}
	body, at := a.catalog(), a.index
	if ok {
		body = a.answer(name, q["tag"], q.Has("passing"))
	}
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Consul-Index", strconv.FormatUint(at, 10))
	w.Header().Set("X-Consul-Knownleader", "true")
	w.Header().Set("X-Consul-Lastcontact", "0")
	_, _ = w.Write(body)
}

// catalog is the tags of each service, those of all its instances together.
func (a *Agent) catalog() []byte {
	services := map[string][]string{"consul": {}}
	for service, instances := range a.all {
		if len(instances) == 0 {
			continue
		}
		tags := []string{}
		for _, in := range instances {
			tags = append(tags, in.Tags...)
		}
		slices.Sort(tags)
		services[service] = slices.Compact(tags)
	}
	body, err := json.Marshal(services)
	if err != nil {
		panic(err)
	}
	return body
}

func (a *Agent) answer(service string, tags []string, passing bool) []byte {
	type object = map[string]any
	list := []object{}
	for _, in := range a.all[service] {
		if passing && in.Status != "passing" || slices.ContainsFunc(tags, func(t string) bool { return !slices.Contains(in.Tags, t) }) {
			continue
		}
		list = append(list, object{
			"Node":    object{"ID": "n", "Node": "node", "Address": in.Node, "Datacenter": "dc1", "Meta": object{"zone": "z1"}},
			"Service": object{"ID": in.ID, "Service": service, "Tags": in.Tags, "Address": in.Address, "Port": in.Port, "Weights": object{"Passing": max(in.Passing, 1), "Warning": max(in.Warns, 1)}},
			"Checks":  []object{{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "service:" + in.ID, "Status": in.Status}},
		})
	}
	body, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	return body
}
