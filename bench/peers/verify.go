//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// verify checks that every gateway does the work of a mode before any is
// measured at it: a gateway that skips it would win.
func (r *runner) verify(ctx context.Context, m mode) error {
	for _, g := range r.gateways {
		if !g.does(m) {
			continue
		}
		if err := r.verifyOne(ctx, g, m); err != nil {
			return fmt.Errorf("%s does not do the work %q: %w", g.name, m, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %s is as it should be\n", g.name, m)
	}
	return nil
}

func (r *runner) verifyOne(ctx context.Context, g *gateway, m mode) error {
	i, err := r.start(ctx, g, m, false)
	if err != nil {
		return err
	}
	defer i.stop()
	switch m {
	case proxying:
		err = r.verifyProxy(ctx, i)
	case secure, multi:
		err = i.verifyTLS(ctx)
	case clear:
		_, err = i.wants(ctx, "/300", "", 200)
	case limiting:
		_, err = i.wants(ctx, "/300", "", 200)
	case tokens, watching:
		err = i.verifyTokens(ctx)
	case caching:
		err = r.verifyCache(ctx, i)
	}
	if err != nil || m != limiting && !m.authenticates() {
		return err
	}
	low, err := r.start(ctx, g, m, true)
	if err != nil {
		return err
	}
	defer low.stop()
	return low.verifyLimit(ctx)
}

func (r *runner) verifyProxy(ctx context.Context, i *instance) error {
	for path := range pages() {
		if _, err := i.wants(ctx, path, "", 200); err != nil {
			return err
		}
	}
	if status, _, _, err := i.do(ctx, http.MethodGet, "/none", "", nil); err != nil || status != 404 {
		return fmt.Errorf("status %d for what the backend does not have: %w", status, err)
	}
	sent := make([]byte, 1<<10)
	_, _ = rand.Read(sent)
	_, _, got, err := i.do(ctx, http.MethodPost, "/echo", "", sent)
	if err == nil && !bytes.Equal(got, sent) {
		err = fmt.Errorf("the backend received %d bytes of a body of %d, or others", len(got), len(sent))
	}
	return err
}

// verifyTLS checks that TLS 1.3 is spoken, and none before it.
func (i *instance) verifyTLS(ctx context.Context) error {
	if _, err := i.wants(ctx, "/300", "", 200); err != nil {
		return err
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}}
	c, err := d.DialContext(ctx, "tcp", i.Listen)
	if err == nil {
		_ = c.Close()
		return errors.New("TLS 1.2 is spoken")
	}
	return nil
}

func (i *instance) verifyTokens(ctx context.Context) error {
	good, err1 := token("user-0", secret, time.Hour)
	forged, err2 := token("user-0", "another"+secret, time.Hour)
	expired, err3 := token("user-0", secret, -time.Hour)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	// The header says "none", so nothing is signed.
	_, claims, _ := strings.Cut(good, ".")
	claims, _, _ = strings.Cut(claims, ".")
	none := "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + claims + "."
	for _, refused := range []struct{ what, token string }{{"no", ""}, {"a forged", forged}, {"an expired", expired}, {"an unsigned", none}} {
		if _, err := i.wants(ctx, "/300", refused.token, 401); err != nil {
			return fmt.Errorf("with %s token: %w", refused.what, err)
		}
	}
	h, err := i.wants(ctx, "/300", good, 200)
	if err != nil || i.template != "sluice.yaml.tmpl" {
		return err
	}
	if err := i.verifyObserved(ctx, h); err != nil || !i.observed {
		return err
	}
	return i.verifyWatched(ctx)
}

// told is what the operators' listener says.
func (i *instance) told(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.Admin+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	return io.ReadAll(res.Body)
}

// verifyObserved checks what sluice does at this work beyond its peers.
func (i *instance) verifyObserved(ctx context.Context, h http.Header) error {
	id := h.Get("X-Correlation-Id")
	if id == "" {
		return errors.New("the answer has no correlation id")
	}
	metrics, err := i.told(ctx, "/metrics")
	if err != nil || !bytes.Contains(metrics, []byte(`sluice_requests_total{route="all"`)) {
		return fmt.Errorf("the metrics do not count the route: %w", err)
	}
	for range 50 { // the log is flushed within a second
		if b, _ := os.ReadFile(filepath.Join(i.Dir, "access.log")); bytes.Contains(b, []byte(id)) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("the access log does not have the request")
}

var exported = regexp.MustCompile(`(?m)^sluice_spans_exported_total [1-9]`)

// verifyWatched checks that a gateway counts usage and sends traces.
func (i *instance) verifyWatched(ctx context.Context) error {
	var usage, metrics []byte
	for range 100 { // spans are sent, and usage is written, within seconds
		var err1, err2 error
		usage, err1 = i.told(ctx, "/api/usage?by=route&step=total")
		metrics, err2 = i.told(ctx, "/metrics")
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if bytes.Contains(usage, []byte(`"route": "all"`)) && exported.Match(metrics) {
			return nil
		}
		if _, err := i.wants(ctx, "/300", "", 401); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("spans are sent: %t; usage: %s", exported.Match(metrics), usage)
}

func (r *runner) verifyCache(ctx context.Context, i *instance) error {
	if _, err := i.wants(ctx, "/cached", "", 200); err != nil {
		return err
	}
	before, err := r.hits(ctx)
	if err != nil {
		return err
	}
	for range 10 {
		if _, err := i.wants(ctx, "/cached", "", 200); err != nil {
			return err
		}
	}
	after, err := r.hits(ctx)
	if err == nil && after != before {
		err = fmt.Errorf("%d of 10 requests went to the backend", after-before)
	}
	return err
}

// verifyLimit checks a limit of 5 in 10 s, by subject where there are tokens.
func (i *instance) verifyLimit(ctx context.Context) error {
	var one, another string
	if i.Mode.authenticates() {
		var err1, err2 error
		one, err1 = token("user-1", secret, time.Hour)
		another, err2 = token("user-2", secret, time.Hour)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
	}
	count := make(map[int]int)
	for range 20 {
		status, _, _, err := i.do(ctx, http.MethodGet, "/300", one, nil)
		if err != nil {
			return err
		}
		count[status]++
	}
	// Leaky buckets, token buckets and windows agree no closer.
	if count[200] < 3 || count[429] < 10 || count[200]+count[429] != 20 {
		return fmt.Errorf("20 requests under a limit of 5 got these statuses: %v", count)
	}
	if i.Mode.authenticates() {
		if _, err := i.wants(ctx, "/300", another, 200); err != nil {
			return fmt.Errorf("the limit is not each subject's own: %w", err)
		}
	}
	return nil
}

// wants checks an answer's status, and the body where it comes from the backend.
func (i *instance) wants(ctx context.Context, path, token string, status int) (http.Header, error) {
	got, header, body, err := i.do(ctx, http.MethodGet, path, token, nil)
	if err != nil {
		return nil, err
	}
	if got != status {
		return nil, fmt.Errorf("%s: status %d, expected %d", path, got, status)
	}
	if status == 200 && !bytes.HasSuffix(pages()[path], append([]byte("\r\n\r\n"), body...)) {
		return nil, fmt.Errorf("%s: the %d bytes of the body are not the backend's", path, len(body))
	}
	return header, nil
}

// clients speak what a mode is about, and nothing else. They believe every
// certificate: those are of this run.
var clients = func() map[mode]*http.Client {
	all := make(map[mode]*http.Client)
	for _, m := range []mode{proxying, limiting, tokens, watching, caching, secure, multi, clear} {
		var p http.Protocols
		p.SetHTTP1(!m.http2())
		p.SetHTTP2(m == multi)
		p.SetUnencryptedHTTP2(m == clear)
		all[m] = &http.Client{Transport: &http.Transport{Protocols: &p, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	}
	return all
}()

func (i *instance) scheme() string {
	if i.Mode.secured() {
		return "https"
	}
	return "http"
}

func (i *instance) do(ctx context.Context, method, path, token string, body []byte) (int, http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, i.scheme()+"://"+i.Listen+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Host = host
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := clients[i.Mode].Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(res.Body)
	if err == nil && (res.ProtoMajor == 2) != i.Mode.http2() {
		err = fmt.Errorf("it answers in %s", res.Proto)
	}
	return res.StatusCode, res.Header, got, err
}

// hits is how many requests the backend has had.
func (r *runner) hits(ctx context.Context) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.backend.addr+"/hits", http.NoBody)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(b), 10, 64)
}
