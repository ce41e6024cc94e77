package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
)

// HTTP sends lines to an endpoint in batches. One request is under way at a time.
type HTTP struct {
	// URL to send to; with a user and a password they go as Basic authentication, and are shown nowhere.
	URL string `yaml:"url" required:"true"`
	// Method of the requests.
	Method string `yaml:"method" enum:"POST|PUT|PATCH" default:"POST"`
	// Headers that go with each request, as an API key.
	Headers map[string]config.Secret `yaml:"headers"`
	// Encoding of a batch: `lines` as they are (application/x-ndjson), or `json`: an array of the lines' objects, or with `batch: 1` the object itself.
	Encoding string `yaml:"encoding" enum:"lines|json" default:"lines"`
	// ContentType of the requests. Default: that of the encoding.
	ContentType string `yaml:"content_type"`
	// Batch is how many lines a request has at most; it is no larger than 1 MiB either, but for one line alone.
	Batch int `yaml:"batch" default:"1000" min:"1" max:"100000"`
	// Timeout of a request, its answer included.
	Timeout config.Duration `yaml:"timeout" default:"5s" min:"10ms" max:"1m"`
	// Retries after the first try, where the endpoint was not reached or answered 408, 429 or 5xx; then the lines are lost.
	Retries int `yaml:"retries" default:"3" min:"0" max:"10"`
	// TLS settings for a URL with https.
	TLS TLS `yaml:"tls"`
}

// Shorthand is what a plain text stands for.
func (*HTTP) Shorthand() string { return "url" }

// maxRequest is how many bytes of lines go with one request.
const maxRequest = 1 << 20

// Target checks the settings.
func (h *HTTP) Target() (*Target, error) {
	u, err := url.Parse(h.URL)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.Fragment != "" {
		return nil, config.Errorf("url", "this is no URL to send to; write https://HOST/PATH")
	}
	for name, value := range h.Headers {
		if !exchange.IsToken(name) || !exchange.IsFieldValue([]byte(value.Reveal())) {
			return nil, config.Errorf("headers", "%q can not be the name of a header, or its value can not be one's", name)
		}
	}
	secure, fingerprint, err := h.TLS.load(u.Scheme == "https")
	if err != nil {
		return nil, err
	}
	settings := *h
	return &Target{
		Name:     shown(u),
		Identity: identity("http", h.URL, h.Method, revealed(h.Headers), h.Encoding, h.ContentType, h.Batch, h.Timeout, h.Retries, h.TLS, fingerprint),
		Open: func(stop <-chan struct{}) (telemetry.Output, error) {
			s := &httpSender{HTTP: settings, headers: revealed(settings.Headers)}
			s.stop = stop
			s.ctx, s.cancel = withGrace(stop)
			s.client = &http.Client{
				Transport: &http.Transport{TLSClientConfig: secure, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true},
				// A redirect would send the lines, and what proves who sends them, to somewhere else.
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			}
			return s, nil
		},
	}, nil
}

type httpSender struct {
	HTTP
	headers map[string]string
	client  *http.Client
	stop    <-chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	body    []byte
}

// Lines sends them in batches. A batch that is refused does not keep the next from being sent; once an endpoint was not reached, each
// further one is tried once.
func (s *httpSender) Lines(lines []byte) (lost int, err error) {
	retries := s.Retries
	for len(lines) > 0 {
		batch, n := cutLines(lines, s.Batch, maxRequest)
		lines = lines[len(batch):]
		s.encode(batch, n)
		failed := repeat(s.ctx, s.stop, retries, s.send)
		if failed == nil {
			continue
		}
		lost += n
		if err == nil {
			err = failed
		}
		var f final
		if !errors.As(failed, &f) {
			retries = 0
		}
		if s.ctx.Err() != nil {
			return lost + bytes.Count(lines, newline), err
		}
	}
	return lost, err
}

var newline = []byte{'\n'}

// cutLines cuts whole lines off, at least one.
func cutLines(lines []byte, most, size int) (batch []byte, n int) {
	end := 0
	for n < most && end < len(lines) {
		next := len(lines)
		if i := bytes.IndexByte(lines[end:], '\n'); i >= 0 {
			next = end + i + 1
		}
		if n > 0 && next > size {
			break
		}
		end = next
		n++
	}
	return lines[:end], n
}

// encode makes the body of a batch.
func (s *httpSender) encode(batch []byte, n int) {
	if s.Encoding == "lines" {
		s.body = append(s.body[:0], batch...)
		return
	}
	s.body = s.body[:0]
	if s.Batch > 1 {
		s.body = append(s.body, '[')
	}
	rest := bytes.TrimSuffix(batch, newline)
	for i := range n {
		line, more, _ := bytes.Cut(rest, newline)
		if i > 0 {
			s.body = append(s.body, ',')
		}
		s.body, rest = append(s.body, line...), more
	}
	if s.Batch > 1 {
		s.body = append(s.body, ']')
	}
}

func (s *httpSender) send() error {
	ctx, cancel := context.WithTimeout(s.ctx, s.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, s.Method, s.URL, bytes.NewReader(s.body))
	if err != nil {
		return final{errors.New("the request can not be made")} // err would tell the URL
	}
	kind := "application/x-ndjson"
	if s.Encoding == "json" {
		kind = "application/json; charset=utf-8"
	}
	if s.ContentType != "" {
		kind = s.ContentType
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("User-Agent", "sluice")
	for name, value := range s.headers {
		if strings.EqualFold(name, "Host") {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	res, err := s.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL
		}
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection is used again
	if res.StatusCode/100 == 2 {
		return nil
	}
	err = fmt.Errorf("the endpoint answered %s", res.Status)
	switch {
	case res.StatusCode == http.StatusRequestTimeout, res.StatusCode == http.StatusTooManyRequests, res.StatusCode >= 500:
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		return busy{err, time.Duration(seconds) * time.Second}
	}
	return final{err}
}

func (s *httpSender) Close() error {
	s.cancel()
	s.client.CloseIdleConnections()
	return nil
}
