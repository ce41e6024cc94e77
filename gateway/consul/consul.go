// Package consul asks an agent of Consul by blocking queries: each waits until there is something new. Its guarantee: an
// index that goes back, or moves all the time, is neither waited for without end nor asked without end.
package consul

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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

// Settings say which agent to ask, and as whom.
type Settings struct {
	// Address of the agent, as a URL.
	Address string
	// Datacenter and Namespace to ask for; "" for the agent's own, and that of the token.
	Datacenter, Namespace string
	// Token to ask with, "" for none.
	Token string
	// Stale lets any server answer.
	Stale bool
	// Wait is how long a question waits for a change.
	Wait time.Duration
	// CA is the file of the authorities to verify the agent against; "" for the system's.
	CA string
}

// Client asks one agent.
type Client struct {
	s    Settings
	http *http.Client
}

// Connect returns a client; it has asked nothing yet. It verifies against the authorities that the file has now: a watch
// may outlive them, so each begins with a client of its own. An error names the setting, as "setting: what is wrong".
func Connect(s Settings) (*Client, error) {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if s.CA != "" {
		pem, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no PEM certificate", s.CA)
		}
	}
	// A redirect would take the token along to wherever it leads.
	return &Client{s, &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Close ends the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// pace keeps an answer whose index changes all the time from being asked for without end.
const pace = 100 * time.Millisecond

// Follow calls tell with the answer at a path of the API, and with each that follows, changed or not. It returns when ctx
// is done, or with what went wrong, also what tell says is wrong.
func (c *Client) Follow(ctx context.Context, path string, query url.Values, tell func(answer []byte) error) error {
	for index := uint64(0); ; {
		began := time.Now()
		answer, next, err := c.ask(ctx, path, query, index)
		if err == nil {
			err = tell(answer)
		}
		if err != nil {
			return err
		}
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

// maxAnswer bounds what is read of an answer.
const maxAnswer = 16 << 20

// ask waits until there is something newer than index, or for the time that a question may last.
func (c *Client) ask(ctx context.Context, path string, query url.Values, index uint64) (answer []byte, next uint64, err error) {
	// The agent adds up to a sixteenth of the time, so that not all come back at once.
	ctx, cancel := context.WithTimeout(ctx, c.s.Wait+c.s.Wait/16+10*time.Second)
	defer cancel()
	req, err := c.request(ctx, path, query, index)
	if err != nil {
		return nil, 0, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, 0, plain(err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("the answer broke off: %w", plain(err))
	case len(answer) > maxAnswer:
		return nil, 0, errors.New("the answer is larger than 16 MiB")
	case res.StatusCode != http.StatusOK:
		return nil, 0, fmt.Errorf("the agent answers %s%s", res.Status, reason(answer))
	}
	next, err = strconv.ParseUint(res.Header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		return nil, 0, errors.New("the answer has no X-Consul-Index; is this the API of Consul?")
	}
	return answer, next, nil
}

func (c *Client) request(ctx context.Context, path string, query url.Values, index uint64) (*http.Request, error) {
	q := url.Values{}
	for name, values := range query {
		q[name] = values
	}
	if index > 0 {
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", strconv.FormatInt(c.s.Wait.Milliseconds(), 10)+"ms")
	}
	if c.s.Stale {
		q.Set("stale", "")
	}
	if c.s.Datacenter != "" {
		q.Set("dc", c.s.Datacenter)
	}
	if c.s.Namespace != "" {
		q.Set("ns", c.s.Namespace)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.s.Address, "/")+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	if c.s.Token != "" {
		req.Header.Set("X-Consul-Token", c.s.Token)
	}
	return req, nil
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
