// Package kube asks the API server of Kubernetes, in plain HTTP: it lists the objects of a kind once and then watches them.
// Its guarantee: whoever watches is told the whole set, in the order of its versions, and never a part of it; and a
// connection that is dead is found out.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// account is where a pod finds what it needs to ask the API server.
const account = "/var/run/secrets/kubernetes.io/serviceaccount"

// Settings say whom to ask, and as whom.
type Settings struct {
	// Server is the URL of the API server; "" for that of the cluster the pod runs in.
	Server string
	// TokenFile holds the token, read anew for each question, since it is replaced; "" or "off" for none.
	TokenFile string
	// CA is the file of the authorities to verify the server against; "" for the pod's, where there is one, else the system's.
	CA string
}

// Check tells what can be known to be wrong before anything is asked, as "setting: what is wrong".
func (s Settings) Check() error {
	if s.CA == "" {
		return nil
	}
	if _, err := authorities(s.CA); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	return nil
}

// Where names the server.
func (s Settings) Where() string {
	if s.Server == "" {
		return "the cluster's API server"
	}
	return s.Server
}

// Namespace is the pod's own.
func Namespace() (string, error) {
	text, err := os.ReadFile(account + "/namespace")
	if err != nil {
		return "", errors.New("this is no pod of Kubernetes, whose namespace would be the default")
	}
	return strings.TrimSpace(string(text)), nil
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

// Client asks one API server.
type Client struct {
	server, tokenFile string
	http              *http.Client
}

// Connect returns a client; it has asked nothing yet. What the settings leave to the pod is found now, so that a
// configuration can be validated elsewhere. A client verifies against the authorities that the file has now: they are
// replaced while a watch goes on, so each watch begins with a client of its own.
func Connect(s Settings) (*Client, error) {
	c := &Client{server: strings.TrimRight(s.Server, "/")}
	if s.TokenFile != "off" {
		c.tokenFile = s.TokenFile
	}
	var roots *x509.CertPool // nil for the system's
	var err error
	if s.CA != "" {
		if roots, err = authorities(s.CA); err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
	}
	if c.server == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return nil, errors.New("this is no pod of Kubernetes, since KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; name the API server as server: URL")
		}
		c.server = "https://" + net.JoinHostPort(host, port)
		if roots == nil {
			if roots, err = authorities(account + "/ca.crt"); err != nil {
				return nil, err
			}
		}
	}
	// A redirect would take the token along to wherever it leads.
	c.http = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		// Until the head of the answer: a watch sends it at once.
		ResponseHeaderTimeout: 30 * time.Second,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
	}}
	return c, nil
}

// Close ends the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Objects are those of a kind that are watched together.
type Objects struct {
	// Group, Version and Resource as in the path of the API: discovery.k8s.io, v1, endpointslices. The core has no group.
	Group, Version, Resource string
	// Namespace they are in; "" for all.
	Namespace string
	// Labels select among them, written as Kubernetes does; "" for all.
	Labels string
}

func (o *Objects) path() string {
	at := "/apis/" + o.Group + "/" + o.Version
	if o.Group == "" {
		at = "/api/" + o.Version
	}
	if o.Namespace != "" {
		at += "/namespaces/" + url.PathEscape(o.Namespace)
	}
	return at + "/" + o.Resource
}

// Name is what an object is known by.
type Name struct{ Namespace, Name string }

// errGone says that the server has forgotten what came before: everything has to be listed again.
var errGone = errors.New("the version to go on from is gone")

// Watch calls tell with all objects, decoded as T, whenever it hears of them, changed or not; the set is its own and must
// not be changed or kept. It returns when ctx is done, or with what went wrong.
func Watch[T any](ctx context.Context, c *Client, o Objects, tell func(map[Name]*T)) error {
	w := watch[T]{c: c, o: &o}
	for pause := firstPause; ; {
		began := time.Now()
		set, version, err := w.list(ctx)
		if err != nil {
			return err
		}
		tell(set)
		for err == nil {
			// A watch ends now and then; it goes on from the last version that was seen.
			watched := time.Now()
			if version, err = w.follow(ctx, version, set, func() { tell(set) }); err == nil {
				err = rest(ctx, pace-time.Since(watched))
			}
		}
		if !errors.Is(err, errGone) {
			return err
		}
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		if err := rest(ctx, pause-time.Since(began)); err != nil {
			return err
		}
		pause = min(2*pause, lastPause)
	}
}

const (
	// pace is how long at least lies between two watches, for a server that says something and ends each.
	pace = time.Second
	// firstPause is how long at least lies between two lists of all objects; it doubles, up to lastPause, as long as the server
	// forgets soon what it has told.
	firstPause = 200 * time.Millisecond
	lastPause  = 30 * time.Second
)

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(max(0, d)):
		return nil
	}
}

type watch[T any] struct {
	c *Client
	o *Objects
}

type metadata struct {
	Name            string `json:"name"`
	Namespace       string `json:"namespace"`
	ResourceVersion string `json:"resourceVersion"`
}

// read takes an object apart: what it is called, and what it is.
func read[T any](raw []byte) (m metadata, object *T, err error) {
	var of struct {
		Metadata metadata `json:"metadata"`
	}
	if err = json.Unmarshal(raw, &of); err == nil {
		object = new(T)
		err = json.Unmarshal(raw, object)
	}
	return of.Metadata, object, err
}

// page is how many objects are asked for at once.
const page = 500

func (w *watch[T]) list(ctx context.Context) (set map[Name]*T, version string, err error) {
	set = make(map[Name]*T)
	stale := false // once before
	for next := ""; ; {
		var list struct {
			Metadata struct {
				ResourceVersion string `json:"resourceVersion"`
				Continue        string `json:"continue"`
			} `json:"metadata"`
			Items []json.RawMessage `json:"items"`
		}
		q := url.Values{"limit": {strconv.Itoa(page)}}
		if next != "" {
			q.Set("continue", next)
		}
		if err := w.read(ctx, q, &list); err != nil {
			if errors.Is(err, errGone) && next != "" && ctx.Err() == nil && !stale {
				// The pages went stale while they were read.
				clear(set)
				next, stale = "", true
				continue
			}
			return nil, "", err
		}
		for _, raw := range list.Items {
			m, object, err := read[T](raw)
			if err != nil {
				return nil, "", fmt.Errorf("the answer is no list of %s: %w", w.o.Resource, err)
			}
			set[Name{m.Namespace, m.Name}] = object
		}
		if next = list.Metadata.Continue; next == "" {
			return set, list.Metadata.ResourceVersion, nil
		}
	}
}

// maxAnswer bounds what is read of one answer, and of one event.
const maxAnswer = 16 << 20

// listTimeout is how long reading one page may take.
const listTimeout = 30 * time.Second

func (w *watch[T]) read(ctx context.Context, q url.Values, into any) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	res, err := w.c.get(ctx, w.o, q)
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
		return fmt.Errorf("the answer is no list of %s: %w", w.o.Resource, err)
	}
	return nil
}

// get asks for objects. An answer other than 200 is an error.
func (c *Client) get(ctx context.Context, o *Objects, q url.Values) (*http.Response, error) {
	if o.Labels != "" {
		q.Set("labelSelector", o.Labels)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+o.path()+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if c.tokenFile != "" {
		token, err := os.ReadFile(c.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("token_file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	}
	res, err := c.http.Do(req)
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

// follow watches from a version on and keeps the set up to date, until the server ends the watch. It returns the last
// version seen.
func (w *watch[T]) follow(ctx context.Context, version string, set map[Name]*T, changed func()) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	res, err := w.c.get(ctx, w.o, url.Values{
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
		m, object, err := read[T](event.Object)
		if err != nil {
			return version, fmt.Errorf("an event of the watch is none of %s: %w", w.o.Resource, err)
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			set[Name{m.Namespace, m.Name}] = object
		case "DELETED":
			delete(set, Name{m.Namespace, m.Name})
		case "BOOKMARK":
		default:
			return version, fmt.Errorf("the watch has an event %q", event.Type)
		}
		version = m.ResourceVersion
		changed()
	}
}
