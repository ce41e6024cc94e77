// Package kubernetestest speaks the part of the API of Kubernetes that lists and watches EndpointSlices, HTTPRoutes, Ingresses
// and Services, for tests: pages with continue, resource versions, bookmarks, and 410 Gone for versions that are forgotten.
package kubernetestest

import (
	"encoding/json"
	"fmt"
	"maps"
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

// Server is an API server; EndpointSlices are in one namespace, other objects in any. Close and Restart are its death and its return.
type Server struct {
	URL   string
	Token string // that is asked for

	t         testing.TB
	namespace string
	server    *http.Server

	mu       sync.Mutex
	page     int // objects of a page, whatever limit says
	version  int
	oldest   int // versions before it are forgotten
	objects  map[key]stored
	missing  map[string]bool // kinds that are not installed
	log      []event
	changed  chan struct{}
	requests []string
	watches  int
	gone     int
}

// key is where an object is found.
type key struct{ resource, namespace, name string }

type stored struct {
	version int
	fields  map[string]any
}

type event struct {
	version int
	kind    string
	key     key // of a bookmark none
	fields  map[string]any
}

// kinds are those that are served, by the path below /apis, where the core is not.
var kinds = map[string]struct {
	resource, group, kind string
	custom                bool // items of lists say what they are; those of the server's own kinds do not
}{
	"discovery.k8s.io/v1/endpointslices":      {"endpointslices", "discovery.k8s.io/v1", "EndpointSlice", false},
	"core/v1/services":                        {"services", "v1", "Service", false},
	"networking.k8s.io/v1/ingresses":          {"ingresses", "networking.k8s.io/v1", "Ingress", false},
	"gateway.networking.k8s.io/v1/httproutes": {"httproutes", "gateway.networking.k8s.io/v1", "HTTPRoute", true},
}

// Start starts a server.
func Start(t testing.TB, namespace, token string) *Server {
	t.Helper()
	s := &Server{t: t, namespace: namespace, Token: token, page: 500, version: 100, oldest: 100, objects: map[key]stored{}, missing: map[string]bool{}, changed: make(chan struct{})}
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
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	s.server = server // another one after Restart
	go func() { _ = server.Serve(l) }()
}

// Close cuts all connections and listens no more.
func (s *Server) Close() { _ = s.server.Close() }

// Restart listens again at the same address.
func (s *Server) Restart() {
	s.t.Helper()
	s.listen(strings.TrimPrefix(s.URL, "http://"))
}

// PageSize bounds the objects of one page.
func (s *Server) PageSize(n int) { s.change(func() { s.page = n }) }

// Put makes a slice, or replaces it.
func (s *Server) Put(sl Slice) { s.put(key{"endpointslices", s.namespace, sl.Name}, object(sl)) }

// Delete removes a slice.
func (s *Server) Delete(name string) { s.remove(key{"endpointslices", s.namespace, name}) }

// PutObject makes an object of a resource, httproutes or ingresses, or replaces it. spec is JSON.
func (s *Server) PutObject(resource, namespace, name, spec string) {
	s.t.Helper()
	var fields any
	if err := json.Unmarshal([]byte(spec), &fields); err != nil {
		s.t.Fatal(err)
	}
	s.put(key{resource, namespace, name}, map[string]any{"metadata": map[string]any{}, "spec": fields})
}

// Touch changes what of an object means nothing to others, as a controller's status.
func (s *Server) Touch(resource, namespace, name string) {
	k := key{resource, namespace, name}
	s.mu.Lock()
	fields := maps.Clone(s.objects[k].fields)
	s.mu.Unlock()
	fields["status"] = map[string]any{"observed": fmt.Sprint(s.version)}
	s.put(k, fields)
}

// DeleteObject removes an object.
func (s *Server) DeleteObject(resource, namespace, name string) {
	s.remove(key{resource, namespace, name})
}

// Uninstall has the server not know a resource, as one whose definition nobody has installed, or know it again.
func (s *Server) Uninstall(resource string, missing bool) {
	s.change(func() { s.missing[resource] = missing })
}

func (s *Server) put(k key, fields map[string]any) {
	s.change(func() {
		kind := "MODIFIED"
		before, ok := s.objects[k]
		created := time.Unix(1_700_000_000, 0).Add(time.Duration(s.version) * time.Second).UTC().Format(time.RFC3339)
		if ok {
			created = before.fields["metadata"].(map[string]any)["creationTimestamp"].(string)
		} else {
			kind = "ADDED"
		}
		s.version++
		metadata := maps.Clone(fields["metadata"].(map[string]any))
		metadata["name"], metadata["namespace"], metadata["resourceVersion"], metadata["creationTimestamp"] = k.name, k.namespace, strconv.Itoa(s.version), created
		fields = maps.Clone(fields)
		fields["metadata"] = metadata
		s.objects[k] = stored{s.version, fields}
		s.log = append(s.log, event{s.version, kind, k, fields})
	})
}

func (s *Server) remove(k key) {
	s.change(func() {
		last := s.objects[k].fields
		delete(s.objects, k)
		s.version++
		fields := maps.Clone(last)
		metadata := maps.Clone(fields["metadata"].(map[string]any))
		metadata["resourceVersion"] = strconv.Itoa(s.version)
		fields["metadata"] = metadata
		s.log = append(s.log, event{s.version, "DELETED", k, fields})
	})
}

// Advance moves the version on by changes of other things, and sends a bookmark.
func (s *Server) Advance(n int) {
	s.change(func() {
		s.version += n
		s.log = append(s.log, event{s.version, "BOOKMARK", key{}, map[string]any{"metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)}}})
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

func object(sl Slice) map[string]any {
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
		"addressType": "IPv4",
		"metadata":    map[string]any{"labels": map[string]any{"kubernetes.io/service-name": sl.Service}},
		"endpoints":   endpoints, "ports": ports,
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

// selection is what a question is about.
type selection struct {
	resource, group, kind, namespace string
	custom                           bool
	labels                           map[string]string
}

func (q *selection) has(k key, fields map[string]any) bool {
	if k.resource != q.resource || q.namespace != "" && k.namespace != q.namespace {
		return false
	}
	labels, _ := fields["metadata"].(map[string]any)["labels"].(map[string]any)
	for name, value := range q.labels {
		if labels[name] != value {
			return false
		}
	}
	return true
}

// whole is an object with what it is.
func (q *selection) whole(fields map[string]any) map[string]any {
	fields = maps.Clone(fields)
	fields["kind"], fields["apiVersion"] = q.kind, q.group
	return fields
}

func (s *Server) selected(r *http.Request) (q selection, ok bool) {
	path, ok := strings.CutPrefix(r.URL.Path, "/apis/")
	if core, is := strings.CutPrefix(r.URL.Path, "/api/"); is {
		path, ok = "core/"+core, true
	}
	steps := strings.Split(path, "/")
	if len(steps) == 5 && steps[2] == "namespaces" {
		q.namespace = steps[3]
		steps = append(steps[:2], steps[4])
	}
	k, known := kinds[strings.Join(steps, "/")]
	q.resource, q.group, q.kind, q.custom = k.resource, k.group, k.kind, k.custom
	q.labels = make(map[string]string)
	if selector := r.URL.Query().Get("labelSelector"); selector != "" {
		name, value, _ := strings.Cut(selector, "=")
		q.labels[name] = value
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return q, ok && known && !s.missing[q.resource]
}

// ServeHTTP answers GET of objects.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	s.requests = append(s.requests, r.URL.RawQuery)
	s.mu.Unlock()
	of, ok := s.selected(r)
	switch {
	case s.Token != "" && r.Header.Get("Authorization") != "Bearer "+s.Token:
		fail(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
	case !ok:
		fail(w, http.StatusNotFound, "NotFound", "the server could not find the requested resource")
	case q.Get("watch") == "1":
		s.watch(w, r, &of)
	default:
		s.list(w, q.Get("limit"), q.Get("continue"), &of)
	}
}

func (s *Server) list(w http.ResponseWriter, limit, from string, of *selection) {
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
	place := func(k key) string { return k.namespace + "/" + k.name }
	var keys []key
	for k, o := range s.objects {
		if of.has(k, o.fields) && place(k) > at {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return strings.Compare(place(a), place(b)) })
	metadata := map[string]any{"resourceVersion": strconv.Itoa(version)}
	if len(keys) > n {
		keys = keys[:n]
		metadata["continue"] = fmt.Sprintf("%d/%s", version, place(keys[n-1]))
	}
	items := []map[string]any{}
	for _, k := range keys {
		item := s.objects[k].fields
		if of.custom {
			item = of.whole(item)
		}
		items = append(items, item)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"kind": of.kind + "List", "apiVersion": of.group, "metadata": metadata, "items": items})
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, of *selection) {
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
			if e.version > at && (e.kind != "BOOKMARK" && of.has(e.key, e.fields) || e.kind == "BOOKMARK" && q.Get("allowWatchBookmarks") == "true") {
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
			_ = out.Encode(map[string]any{"type": e.kind, "object": of.whole(e.fields)})
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
