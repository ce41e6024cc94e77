// Package kubernetes finds the endpoints of a service of Kubernetes in its EndpointSlices, which it lists once and then
// watches.
package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/config"
	"sluice/gateway/discovery"
)

// Definition of the source.
var Definition = &discovery.Definition{Name: "kubernetes", Open: open}

// account is where a pod finds what it needs to ask the API server.
const account = "/var/run/secrets/kubernetes.io/serviceaccount"

// source is what is to be watched; where the configuration leaves that to the pod, it is found when the watch begins, so
// that a configuration can be validated elsewhere.
type source struct {
	c                 config.DiscoveryKubernetes
	server, namespace string
	client            *http.Client // of the present watch
}

func open(d *config.Discovery) (discovery.Source, error) {
	s := &source{c: d.Kubernetes, server: strings.TrimRight(d.Kubernetes.Server, "/"), namespace: d.Kubernetes.Namespace}
	if s.c.CA != "" {
		if _, err := authorities(s.c.CA); err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
	}
	return s, nil
}

func authorities(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, nil
}

func (s *source) Where() string {
	namespace, server := s.c.Namespace, s.c.Server
	if namespace == "" {
		namespace = "(the pod's namespace)"
	}
	if server == "" {
		server = "the cluster's API server"
	}
	return "kubernetes " + namespace + "/" + s.c.Service + " at " + server
}

// connect finds out whom to ask, and for which namespace.
func (s *source) connect() error {
	var roots *x509.CertPool // nil for the system's
	if s.c.CA != "" {
		var err error
		// The file may have changed: authorities are replaced while a watch goes on.
		if roots, err = authorities(s.c.CA); err != nil {
			return fmt.Errorf("ca: %w", err)
		}
	}
	if s.c.Server == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return errors.New("this is no pod of Kubernetes, since KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; name the API server as server: URL")
		}
		s.server = "https://" + net.JoinHostPort(host, port)
		if roots == nil {
			var err error
			if roots, err = authorities(account + "/ca.crt"); err != nil {
				return err
			}
		}
	}
	if s.c.Namespace == "" {
		text, err := os.ReadFile(account + "/namespace")
		if err != nil {
			return errors.New("this is no pod of Kubernetes, whose namespace would be the default; name the service's as namespace: NAME")
		}
		s.namespace = strings.TrimSpace(string(text))
	}
	s.client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		// Until the head of the answer: a watch sends it at once.
		ResponseHeaderTimeout: 30 * time.Second,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
	}}
	return nil
}

// slice is an EndpointSlice, as far as it matters here.
type slice struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	AddressType string     `json:"addressType"`
	Endpoints   []endpoint `json:"endpoints"`
	Ports       []port     `json:"ports"`
}

type endpoint struct {
	Addresses  []string `json:"addresses"`
	Conditions struct {
		Ready       *bool `json:"ready"`
		Serving     *bool `json:"serving"`
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
	Zone string `json:"zone"`
}

type port struct {
	Name     string `json:"name"`
	Port     *int   `json:"port"`
	Protocol string `json:"protocol"`
}

// errGone says that the server has forgotten what came before: everything has to be listed again.
var errGone = errors.New("the version to go on from is gone")

func (s *source) Watch(ctx context.Context, tell discovery.Tell) error {
	if err := s.connect(); err != nil {
		return err
	}
	defer s.client.CloseIdleConnections()
	for {
		began := time.Now()
		slices, version, err := s.list(ctx)
		if err != nil {
			return err
		}
		s.tell(tell, slices)
		for err == nil {
			// A watch ends now and then; it goes on from the last version that was seen.
			version, err = s.follow(ctx, version, slices, func() { s.tell(tell, slices) })
		}
		if !errors.Is(err, errGone) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(0, pace-time.Since(began))):
		}
	}
}

// pace keeps a server that forgets everything at once from being listed without end.
const pace = 200 * time.Millisecond

// page is how many slices are asked for at once.
const page = 500

func (s *source) list(ctx context.Context) (slices map[string]*slice, version string, err error) {
	slices = make(map[string]*slice)
	stale := false // once before
	for next := ""; ; {
		var list struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
				Continue        string `json:"continue"`
			} `json:"metadata"`
			Items []*slice `json:"items"`
		}
		q := url.Values{"limit": {strconv.Itoa(page)}}
		if next != "" {
			q.Set("continue", next)
		}
		if err := s.read(ctx, q, &list); err != nil {
			if errors.Is(err, errGone) && next != "" && ctx.Err() == nil && !stale {
				// The pages went stale while they were read.
				clear(slices)
				next, stale = "", true
				continue
			}
			return nil, "", err
		}
		for _, item := range list.Items {
			if item == nil {
				continue
			}
			slices[item.Metadata.Name] = item
		}
		if next = list.Metadata.Continue; next == "" {
			return slices, list.Metadata.ResourceVersion, nil
		}
	}
}

// maxAnswer bounds what is read of one answer, and of one event.
const maxAnswer = 16 << 20

// listTimeout is how long reading one page may take.
const listTimeout = 30 * time.Second

func (s *source) read(ctx context.Context, q url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	res, err := s.get(ctx, q)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("the answer broke off: %w", err)
	case len(body) > maxAnswer:
		return errors.New("the answer is larger than 16 MiB")
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the answer is no list of EndpointSlices: %w", err)
	}
	return nil
}

// get asks for the service's slices. An answer other than 200 is an error.
func (s *source) get(ctx context.Context, q url.Values) (*http.Response, error) {
	q.Set("labelSelector", "kubernetes.io/service-name="+s.c.Service)
	at := s.server + "/apis/discovery.k8s.io/v1/namespaces/" + url.PathEscape(s.namespace) + "/endpointslices?" + q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if s.c.TokenFile != "" && s.c.TokenFile != "off" {
		token, err := os.ReadFile(s.c.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("token_file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	}
	res, err := s.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }()
	var st status
	_ = json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&st)
	if res.StatusCode == http.StatusGone {
		return nil, errGone
	}
	if st.Message != "" {
		return nil, fmt.Errorf("the API server answers %s: %s", res.Status, st.Message)
	}
	return nil, fmt.Errorf("the API server answers %s", res.Status)
}

// status is what the API server says of a failure.
type status struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// watchFor is how long one watch lasts, and quiet how long none of its events may come, bookmarks included, which the
// server sends about every minute: then the connection is taken for dead.
const (
	watchFor = 5 * time.Minute
	quiet    = 3 * time.Minute
)

// follow watches from a version on and keeps the slices up to date, until the server ends the watch. It returns the last
// version seen.
func (s *source) follow(ctx context.Context, version string, slices map[string]*slice, changed func()) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	res, err := s.get(ctx, url.Values{
		"watch": {"1"}, "resourceVersion": {version}, "allowWatchBookmarks": {"true"},
		"timeoutSeconds": {strconv.Itoa(int(watchFor.Seconds()))},
	})
	if err != nil {
		return version, err
	}
	defer func() { _ = res.Body.Close() }()
	silent := time.AfterFunc(quiet, func() { cancel(errors.New("the watch is silent")) })
	defer silent.Stop()
	began, seen := time.Now(), false
	limited := &io.LimitedReader{R: res.Body}
	for d := json.NewDecoder(limited); ; {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		limited.N = maxAnswer
		err := d.Decode(&event)
		switch {
		case errors.Is(err, io.EOF) && limited.N > 0:
			if !seen && time.Since(began) < time.Second {
				// Else a server that ends watches at once would be asked without end.
				return version, errors.New("the API server ended the watch at once")
			}
			return version, nil
		case err != nil:
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return version, fmt.Errorf("the watch broke off: %w", err)
		}
		silent.Reset(quiet)
		seen = true
		if event.Type == "ERROR" {
			var st status
			_ = json.Unmarshal(event.Object, &st)
			if st.Code == http.StatusGone || st.Reason == "Expired" || st.Reason == "Gone" {
				return version, errGone
			}
			return version, fmt.Errorf("the API server ends the watch: %s", st.Message)
		}
		item := new(slice)
		if err := json.Unmarshal(event.Object, item); err != nil {
			return version, fmt.Errorf("an event of the watch is no EndpointSlice: %w", err)
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			slices[item.Metadata.Name] = item
		case "DELETED":
			delete(slices, item.Metadata.Name)
		case "BOOKMARK":
		default:
			return version, fmt.Errorf("the watch has an event %q", event.Type)
		}
		version = item.Metadata.ResourceVersion
		changed()
	}
}

func (s *source) tell(tell discovery.Tell, slices map[string]*slice) { tell(s.endpoints(slices)) }

// endpoints are those that are ready. A pod that terminates is not ready, and so leaves while it still serves what it has.
func (s *source) endpoints(all map[string]*slice) ([]discovery.Endpoint, error) {
	set, without := []discovery.Endpoint{}, 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		sl := all[name]
		if len(sl.Endpoints) == 0 {
			continue
		}
		number, err := s.port(sl)
		if err != nil {
			return nil, err
		}
		if number == 0 {
			without++
			continue
		}
		for i := range sl.Endpoints {
			e := &sl.Endpoints[i]
			if ready := e.Conditions.Ready; ready != nil && !*ready || len(e.Addresses) == 0 {
				continue
			}
			// All addresses of an endpoint are the same pod; the first is enough.
			set = append(set, discovery.Endpoint{Address: net.JoinHostPort(e.Addresses[0], strconv.Itoa(number)), Weight: 1, Zone: e.Zone})
		}
	}
	if len(set) == 0 && without > 0 {
		return nil, fmt.Errorf("the service %s has no port %q", s.c.Service, s.c.Port)
	}
	return set, nil
}

// port finds the port of a slice's endpoints; 0 where this slice has not got it: pods may call theirs differently while a
// new version is rolled out.
func (s *source) port(sl *slice) (int, error) {
	wanted, err := strconv.Atoi(s.c.Port)
	var found []int
	for _, p := range sl.Ports {
		if p.Port == nil || p.Protocol != "" && p.Protocol != "TCP" {
			continue
		}
		if s.c.Port == "" || p.Name == s.c.Port || err == nil && *p.Port == wanted {
			found = append(found, *p.Port)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1 && s.c.Port == "":
		return 0, fmt.Errorf("the service %s has %d ports; write which one is meant, as port: http", s.c.Service, len(found))
	case len(found) > 1:
		return found[0], nil
	}
	return 0, nil
}
