package tracing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// poster posts to a collector, and once more as long as that may take later what it does not take now.
type poster struct {
	url     string
	headers map[string]string
	later   func(status int) bool // tells what may be taken later
	first   time.Duration         // before the second try
	client  http.Client
}

const (
	// longestPause is how long there is between two tries, unless the collector asks for longer.
	longestPause = 5 * time.Second
	// mostAnswer is how many bytes of an answer are read, mostSaid how many of one that is an error are logged.
	mostAnswer = 64 << 10
	mostSaid   = 1024
)

// newPoster makes one that goes through the proxy that proxy tells, nil for none.
func newPoster(d *destination, to string, proxy func(*http.Request) (*url.URL, error), later func(status int) bool) *poster {
	return &poster{
		url: to, headers: d.revealed(), later: later, first: min(500*time.Millisecond, d.Timeout/4),
		client: http.Client{
			Transport: &http.Transport{Proxy: proxy, TLSClientConfig: d.tls, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true},
			// A redirect would send the spans, and what proves who sends them, to somewhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// post sends the parts as one body, and returns what the collector answered to it when it took it.
func (p *poster) post(ctx context.Context, contentType, encoding string, parts ...[]byte) (*answer, error) {
	for pause := p.first; ; pause = min(2*pause, longestPause) {
		a, again, err := p.try(ctx, contentType, encoding, parts)
		if err == nil || !again || ctx.Err() != nil {
			return a, err
		}
		wait := time.NewTimer(max(pause, a.wait))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, err
		}
	}
}

type answer struct {
	contentType string
	body        []byte
	wait        time.Duration // that the collector asks for
}

// try sends once; again says that the collector may take it later.
func (p *poster) try(ctx context.Context, contentType, encoding string, parts [][]byte) (a *answer, again bool, err error) {
	a = &answer{}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, http.NoBody)
	if err != nil {
		return a, false, err
	}
	req.GetBody = func() (io.ReadCloser, error) {
		var readers []io.Reader
		for _, part := range parts {
			readers = append(readers, bytes.NewReader(part))
		}
		return io.NopCloser(io.MultiReader(readers...)), nil
	}
	req.Body, _ = req.GetBody()
	for _, part := range parts {
		req.ContentLength += int64(len(part))
	}
	req.Header.Set("User-Agent", "sluice")
	for name, value := range p.headers {
		if strings.EqualFold(name, "Host") {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", contentType)
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	res, err := p.client.Do(req)
	if err != nil {
		return a, true, err
	}
	defer func() { _ = res.Body.Close() }()
	a.contentType = res.Header.Get("Content-Type")
	a.body, err = io.ReadAll(io.LimitReader(res.Body, mostAnswer))
	if res.StatusCode/100 == 2 {
		if err != nil {
			a.body = nil // it has the batch; what else it says of that is lost
		}
		return a, false, nil
	}
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		a.wait = time.Duration(min(seconds, 3600)) * time.Second
	}
	return a, p.later(res.StatusCode), fmt.Errorf("the collector answered %s: %s", res.Status, bytes.TrimSpace(a.body[:min(len(a.body), mostSaid)]))
}

func (p *poster) stop() { p.client.CloseIdleConnections() }
