// Package consul finds the healthy instances of a service of Consul, by blocking queries to its health API.
package consul

import (
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

	"sluice/config"
	"sluice/gateway/discovery"
)

// Definition of the source.
var Definition = &discovery.Definition{Name: "consul", Open: open}

type source struct {
	c      config.DiscoveryConsul
	client *http.Client // of the present watch
}

func open(d *config.Discovery) (discovery.Source, error) {
	s := &source{c: d.Consul}
	_, err := s.connect()
	return s, err
}

// connect makes a client. The watch may outlive authorities: those that the file has now.
func (s *source) connect() (*http.Client, error) {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if s.c.CA != "" {
		pem, err := os.ReadFile(s.c.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no PEM certificate", s.c.CA)
		}
	}
	// A redirect would take the token along to wherever it leads.
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

func (s *source) Where() string {
	where := "consul " + s.c.Service + " at " + s.c.Address
	if s.c.Datacenter != "" {
		where += " in " + s.c.Datacenter
	}
	return where
}

// pace keeps a service whose index changes all the time from being asked without end.
const pace = 100 * time.Millisecond

func (s *source) Watch(ctx context.Context, tell discovery.Tell) error {
	client, err := s.connect()
	if err != nil {
		return err
	}
	s.client = client
	defer client.CloseIdleConnections()
	for index := uint64(0); ; {
		began := time.Now()
		set, next, err := s.ask(ctx, index)
		if err != nil {
			return err
		}
		tell(set, nil)
		// An index that goes back is one of another store; one below 1 would not be waited on.
		if next < index || next == 0 {
			next = 0
		}
		index = next
		if rest := pace - time.Since(began); rest > 0 || index == 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(max(rest, pace)):
			}
		}
	}
}

// instance is an element of the answer of /v1/health/service/NAME.
type instance struct {
	Node struct {
		Address    string
		Datacenter string
		Meta       map[string]string
	}
	Service struct {
		Address string
		Port    int
		Weights *struct{ Passing, Warning int }
		Meta    map[string]string
	}
	Checks []struct{ Status string }
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

// ask waits until there is something newer than index, or for the time that a question may last, and returns all.
func (s *source) ask(ctx context.Context, index uint64) (set []discovery.Endpoint, next uint64, err error) {
	// The agent adds up to a sixteenth of the time, so that not all come back at once.
	ctx, cancel := context.WithTimeout(ctx, s.c.Wait+s.c.Wait/16+10*time.Second)
	defer cancel()
	req, err := s.request(ctx, index)
	if err != nil {
		return nil, 0, err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, 0, plain(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("the answer broke off: %w", plain(err))
	case len(body) > maxAnswer:
		return nil, 0, errors.New("the answer is larger than 16 MiB")
	case res.StatusCode != http.StatusOK:
		return nil, 0, fmt.Errorf("the agent answers %s%s", res.Status, reason(body))
	}
	var instances []instance
	if err := json.Unmarshal(body, &instances); err != nil {
		return nil, 0, fmt.Errorf("the answer is not a list of instances: %w", err)
	}
	next, err = strconv.ParseUint(res.Header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		return nil, 0, errors.New("the answer has no X-Consul-Index; is this the API of Consul?")
	}
	return s.endpoints(instances), next, nil
}

func (s *source) request(ctx context.Context, index uint64) (*http.Request, error) {
	q := url.Values{}
	if index > 0 {
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", strconv.FormatInt(s.c.Wait.Milliseconds(), 10)+"ms")
	}
	if !s.c.Warning {
		q.Set("passing", "1")
	}
	if s.c.Stale {
		q.Set("stale", "")
	}
	for _, tag := range s.c.Tags {
		q.Add("tag", tag)
	}
	if s.c.Datacenter != "" {
		q.Set("dc", s.c.Datacenter)
	}
	if s.c.Namespace != "" {
		q.Set("ns", s.c.Namespace)
	}
	at := strings.TrimRight(s.c.Address, "/") + "/v1/health/service/" + url.PathEscape(s.c.Service) + "?" + q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	if !s.c.Token.IsZero() {
		req.Header.Set("X-Consul-Token", s.c.Token.Reveal())
	}
	return req, nil
}

func (s *source) endpoints(instances []instance) []discovery.Endpoint {
	set := make([]discovery.Endpoint, 0, len(instances))
	for i := range instances {
		in := &instances[i]
		weight, warned, out := 1, false, false
		for _, check := range in.Checks {
			switch check.Status {
			case "passing":
			case "warning":
				warned = true
			default: // critical, maintenance
				out = true
			}
		}
		if out || warned && !s.c.Warning {
			continue
		}
		if w := in.Service.Weights; w != nil {
			if weight = w.Passing; warned {
				weight = w.Warning
			}
		}
		host := in.Service.Address
		if host == "" {
			host = in.Node.Address
		}
		zone := in.Service.Meta["zone"]
		if zone == "" {
			zone = in.Node.Meta["zone"]
		}
		set = append(set, discovery.Endpoint{Address: net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(in.Service.Port)), Weight: weight, Zone: zone})
	}
	return set
}

// reason is what an answer other than 200 says, as far as it is short.
func reason(body []byte) string {
	text := strings.TrimSpace(string(body))
	if text == "" || len(text) > 200 || strings.ContainsAny(text, "\r\n<") {
		return ""
	}
	return ": " + text
}

// plain is an error without the URL, which the source's name has already.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
