// Package etcd follows what stands below a prefix of etcd, and changes single keys by comparing first. It is the only
// package that knows etcd's client.
//
// Its guarantee: who follows is given whole contents, each of one revision, in the order of revisions, and hears within
// seconds that etcd can not be reached.
package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Settings of a Client.
type Settings struct {
	// Servers are URLs, http://host:port or https://host:port.
	Servers            []string
	Username, Password string
	TLS                *tls.Config
	// Timeout of one question.
	Timeout time.Duration
}

// Client talks to a cluster. Close it.
type Client struct {
	c       *clientv3.Client
	timeout time.Duration
	servers string
}

// Open returns a client. It connects when it is used, and before only to log in.
func Open(ctx context.Context, s Settings) (*Client, error) {
	c, err := clientv3.New(clientv3.Config{
		Endpoints: s.Servers, Username: s.Username, Password: s.Password, TLS: s.TLS,
		Context:     ctx,
		DialTimeout: s.Timeout,
		// A server that is gone without a word is found out by these.
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		Logger: zap.NewNop(),
	})
	cl := &Client{c: c, timeout: s.Timeout, servers: strings.Join(s.Servers, ",")}
	if err != nil {
		return nil, cl.explain("ask", err)
	}
	return cl, nil
}

// Close ends the connections.
func (c *Client) Close() { _ = c.c.Close() }

// KV is a key with its value and the revision that it was last changed in.
type KV struct {
	Key      string
	Value    []byte
	Revision int64
}

// Content is what stands below a prefix at a revision of the store, sorted by key.
type Content struct {
	Revision int64
	KVs      []KV
}

// maxContent bounds what is taken of a prefix.
const maxContent = 16 << 20

// Get reads what stands below a prefix.
func (c *Client) Get(ctx context.Context, prefix string) (*Content, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	res, err := c.c.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, c.explain("read "+prefix, err)
	}
	held := make(map[string]KV, len(res.Kvs))
	for _, kv := range res.Kvs {
		held[string(kv.Key)] = KV{string(kv.Key), kv.Value, kv.ModRevision}
	}
	return content(prefix, res.Header.Revision, held)
}

func content(prefix string, revision int64, held map[string]KV) (*Content, error) {
	made, size := &Content{Revision: revision, KVs: make([]KV, 0, len(held))}, 0
	for _, key := range slices.Sorted(maps.Keys(held)) {
		if size += len(held[key].Value); size > maxContent {
			return nil, fmt.Errorf("%s holds more than 16 MiB", prefix)
		}
		made.KVs = append(made.KVs, held[key])
	}
	return made, nil
}

// probeEvery is how often a quiet watch is held against the store: so a connection that is dead, or a store that was put
// back to an earlier state, is found out.
const probeEvery = 5 * time.Second

// Follow calls changed with the content below a prefix, and again after each change of it, until ctx is done or something
// goes wrong; confirmed, which may be nil, each time that the store says there is nothing new.
func (c *Client) Follow(ctx context.Context, prefix string, changed func(*Content), confirmed func()) error {
	now, err := c.Get(ctx, prefix)
	if err != nil {
		return err
	}
	held := make(map[string]KV, len(now.KVs))
	for _, kv := range now.KVs {
		held[kv.Key] = kv
	}
	changed(now)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	revision := now.Revision
	// Watch returns when the store has agreed, and where it is gone before, not at all: meanwhile it is asked whether it is there.
	var watch clientv3.WatchChan
	opened := make(chan clientv3.WatchChan, 1)
	go func() {
		opened <- c.c.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	}()
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	for {
		select {
		case watch = <-opened:
		case res, ok := <-watch:
			if !ok {
				return c.explain("watch "+prefix, errors.Join(errors.New("the watch ended"), ctx.Err()))
			}
			if err := res.Err(); err != nil {
				return c.explain("watch "+prefix, err)
			}
			revision = max(revision, res.Header.Revision)
			if len(res.Events) == 0 {
				continue
			}
			// Events of one revision are never parted.
			for _, e := range res.Events {
				if key := string(e.Kv.Key); e.Type == clientv3.EventTypeDelete {
					delete(held, key)
				} else {
					held[key] = KV{key, e.Kv.Value, e.Kv.ModRevision}
				}
			}
			next, err := content(prefix, res.Header.Revision, held)
			if err != nil {
				return err
			}
			changed(next)
		case <-probe.C:
			if err := c.probe(ctx, prefix, revision); err != nil {
				return err
			}
			if confirmed != nil {
				confirmed()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// probe asks the store whether it is there and still the one that is watched.
func (c *Client) probe(ctx context.Context, prefix string, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	res, err := c.c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	switch {
	case err != nil:
		return c.explain("read "+prefix, err)
	case res.Header.Revision < revision:
		return fmt.Errorf("etcd at %s is at revision %d and was at %d: it was put back to an earlier state", c.servers, res.Header.Revision, revision)
	}
	return nil
}

// Any stands for whatever revision a key has.
const Any int64 = -1

// ErrChanged says that a key has another revision than it was to have.
var ErrChanged = errors.New("the key was changed meanwhile")

// Put writes a key if it has the given revision, which is 0 for one that is not there, and returns its new one.
func (c *Client) Put(ctx context.Context, key string, value []byte, revision int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	txn := c.c.Txn(ctx)
	if revision != Any {
		txn = txn.If(clientv3.Compare(clientv3.ModRevision(key), "=", revision))
	}
	res, err := txn.Then(clientv3.OpPut(key, string(value))).Commit()
	switch {
	case err != nil:
		return 0, c.explain("write "+key, err)
	case !res.Succeeded:
		return 0, ErrChanged
	}
	return res.Header.Revision, nil
}

// Delete removes a key.
func (c *Client) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if _, err := c.c.Delete(ctx, key); err != nil {
		return c.explain("remove "+key, err)
	}
	return nil
}

// Compact has the store forget what was before a revision; whoever watches from there has to begin anew.
func (c *Client) Compact(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if _, err := c.c.Compact(ctx, revision); err != nil {
		return c.explain("compact the keys", err)
	}
	return nil
}

// explain says what could not be done, and why in words that an operator knows.
func (c *Client) explain(what string, err error) error {
	reason := err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded) || strings.Contains(reason, "DeadlineExceeded") || strings.Contains(reason, "context deadline exceeded"):
		reason = "no answer in time; is it running and reachable?"
	case errors.Is(err, rpctypes.ErrAuthFailed):
		reason = "the user name or the password is wrong"
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		reason = "the user may not do this"
	case errors.Is(err, rpctypes.ErrUserEmpty):
		reason = "it asks for a user name"
	}
	return fmt.Errorf("cannot %s of etcd at %s: %s", what, c.servers, reason)
}

// ClientTLS makes the settings of TLS from files, nil where none is named.
func ClientTLS(ca, cert, key string) (*tls.Config, error) {
	if ca == "" && cert == "" && key == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no PEM certificate", ca)
		}
	}
	if cert != "" {
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			return nil, fmt.Errorf("cert: %w", err)
		}
		// A certificate is replaced while a client lives: each connection takes what the files have then.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
	}
	return c, nil
}
